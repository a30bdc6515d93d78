"""The images that are most similar to each of many queries: exact search by blocks, on the device.

Every query is compared with every key, so that no index is built and nothing is approximate. Of the
table of similarities only a block of queries is in memory at a time.

`Q` queries look among `I` images, which are known by `N` keys of width `F`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

# Bytes of similarities that are in memory at a time.
BYTES = 2**27


@dataclass(frozen=True, eq=False)
class Comparison:
    """Queries and keys that are compared by their inner product.

    Attributes:
      queries: `[Q, F]` unit vectors.
      keys: `[N, F]` unit vectors.
      images: `[N]` int, from 0, which image each key is of. An image is as similar as the most
        similar of its keys; without a key it is as similar to nothing.
    """

    queries: np.ndarray
    keys: np.ndarray
    images: np.ndarray


def similar_images(
    by: Comparison,
    own: np.ndarray,
    images: int,
    *,
    ranks: Sequence[int],
    unlike: Sequence[tuple[Comparison, float]] = (),
    kinds: tuple[np.ndarray, np.ndarray] | None = None,
    block: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images at the given ranks of similarity to every query, and how similar they are.

    Of equally similar images the one with the smaller number comes first.

    Args:
      by: what is compared.
      own: `[Q]` int, the image that is never among a query's ranks, -1 for none.
      images: how many images there are, `I`.
      ranks: which of the images, from 1, the most similar.
      unlike: other comparisons of the same queries and images, each with a ceiling: an image whose
        similarity is above it is left out, as a near-duplicate.
      kinds: bits of the queries `[Q]` and of the keys `[N]` of `by`, int32: a key counts for a
        query that it shares a bit with. None lets all keys count.
      block: queries compared at a time; None for as many as `BYTES` hold.

    Returns:
      `[Q, ranks]` int32, -1 where a query has fewer images; and `[Q, ranks]` float32, -inf there.

    Raises:
      ValueError: a rank is below 1, or there is none.
    """
    places = np.asarray(list(ranks), np.int32) - 1
    if not len(places) or places.min() < 0:
        raise ValueError(f"ranks are {tuple(ranks)}: give numbers from 1")
    highest = int(places.max()) + 1
    # Rounded up, so that few programs are compiled.
    most = min(1 << (highest - 1).bit_length(), images)
    queries = len(by.queries)
    all_keys = sum(len(one.keys) for one in (by, *(other for other, _ in unlike)))
    block = min(block or max(1, BYTES // (4 * (all_keys + images))), max(queries, 1))
    bits = kinds or (np.ones(queries, np.int32), np.ones(len(by.keys), np.int32))
    tables = [(by.queries, by.keys, by.images)]
    tables += [(other.queries, other.keys, other.images) for other, _ in unlike]
    ceilings = np.asarray([np.inf, *(ceiling for _, ceiling in unlike)], np.float32)
    found, scores = [np.zeros((0, len(places)), np.int32)], [np.zeros((0, len(places)), np.float32)]
    for begin in range(0, queries, block):
        part = slice(begin, begin + block)
        # The last block is filled up, so that all blocks share one compilation.
        short = block - len(by.queries[part])
        rows = [np.pad(np.asarray(table[0][part]), [(0, short), (0, 0)]) for table in tables]
        nearest, how = _nearest(
            rows,
            np.pad(own[part], (0, short), constant_values=-1),
            np.pad(bits[0][part], (0, short)),
            [table[1] for table in tables],
            [table[2] for table in tables],
            bits[1],
            ceilings,
            np.minimum(places, most - 1),
            images=images,
            most=most,
        )
        there = (places[None] < most) & (np.asarray(how)[: block - short] > -np.inf)
        found.append(np.where(there, np.asarray(nearest)[: block - short], -1))
        scores.append(np.where(there, np.asarray(how)[: block - short], -np.inf))
    return np.concatenate(found), np.concatenate(scores)


@partial(jax.jit, static_argnames=("images", "most"))
def _nearest(
    queries: list[jax.Array],
    own: jax.Array,
    query_bits: jax.Array,
    keys: list[jax.Array],
    numbers: list[jax.Array],
    key_bits: jax.Array,
    ceilings: jax.Array,
    places: jax.Array,
    *,
    images: int,
    most: int,
) -> tuple[jax.Array, jax.Array]:
    """Returns the numbers and the similarities of one block, each `[block, ranks]`."""

    def best(at: int, allowed: jax.Array | None) -> jax.Array:
        scores = jnp.matmul(keys[at], queries[at].T, precision=jax.lax.Precision.HIGHEST)
        if allowed is not None:
            scores = jnp.where(allowed, scores, -jnp.inf)
        return jax.ops.segment_max(scores, numbers[at], num_segments=images).T

    found = best(0, (key_bits[:, None] & query_bits[None, :]) != 0)
    found = jnp.where(jnp.arange(images)[None, :] == own[:, None], -jnp.inf, found)
    for at in range(1, len(keys)):
        found = jnp.where(best(at, None) > ceilings[at], -jnp.inf, found)
    scores, nearest = jax.lax.top_k(found, most)
    return nearest[:, places], scores[:, places]
