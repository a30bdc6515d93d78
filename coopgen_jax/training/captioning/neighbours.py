"""Similar images for a contrastive reward: exact search by blocks, by global id."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from coopgen_jax.errors import UserError

# Ranks that the thesis keeps of the five nearest: nearer images make rewards so negative that
# training collapses without an offset.
RANKS = (4, 5)
# Bytes of similarities that are in memory at a time.
BYTES = 2**27


def mine_neighbours(
    queries: np.ndarray,
    query_ids: np.ndarray,
    keys: np.ndarray,
    key_ids: np.ndarray,
    *,
    ranks: Sequence[int] = RANKS,
    block: int | None = None,
) -> np.ndarray:
    """Returns the images at the given ranks of similarity to every query, `[Q, ranks]` int.

    An image is as similar as the most similar of its keys, which may be captions or the image
    itself. A query's own image is never among the ranks, wherever it stands: it is left out by its
    global id. Of equally similar images the one with the smaller id comes first. The search is
    exact; every query is compared with every key.

    Args:
      queries: `[Q, F]` unit embeddings.
      query_ids: `[Q]` global id of each query's image.
      keys: `[N, F]` unit embeddings.
      key_ids: `[N]` global id of each key's image; several keys may have one.
      ranks: which of the others, from 1, the most similar.
      block: queries compared at a time; None for as many as `BYTES` hold.

    Raises:
      ValueError: a rank is below 1, or there is none.
      UserError: a query has fewer other images than the highest rank.
    """
    ranks = tuple(ranks)
    if not ranks or min(ranks) < 1:
        raise ValueError(f"ranks are {ranks}: give numbers from 1")
    images, number = np.unique(np.asarray(key_ids), return_inverse=True)
    own = np.searchsorted(images, query_ids)
    known = (own < len(images)) & (images[np.minimum(own, len(images) - 1)] == query_ids)
    own = np.where(known, own, -1)
    least = len(images) - int(known.any())
    if least < max(ranks):
        raise UserError(
            f"rank {max(ranks)} of similar images is asked for, and there are {least} others: give "
            "lower ranks or more images"
        )
    block = block or max(1, BYTES // (4 * len(keys)))
    places = np.asarray(ranks) - 1
    found = [np.zeros((0, len(ranks)), images.dtype)]
    for begin in range(0, len(queries), block):
        part = slice(begin, begin + block)
        # The last block is filled up, so that all blocks share one compilation.
        short = min(block, len(queries)) - len(queries[part])
        rows = np.pad(np.asarray(queries[part]), [(0, short), (0, 0)])
        mine = np.pad(own[part], (0, short), constant_values=-1)
        nearest = _nearest(rows, mine, keys, number, images=len(images), most=max(ranks))
        found.append(images[np.asarray(nearest)[: len(rows) - short][:, places]])
    return np.concatenate(found)


@partial(jax.jit, static_argnames=("images", "most"))
def _nearest(
    queries: jax.Array,
    own: jax.Array,
    keys: jax.Array,
    number: jax.Array,
    *,
    images: int,
    most: int,
) -> jax.Array:
    """Returns the numbers of the `most` most similar other images, `[Q, most]`."""
    scores = jnp.matmul(keys, queries.T, precision=jax.lax.Precision.HIGHEST)
    best = jax.ops.segment_max(scores, number, num_segments=images).T
    best = jnp.where(jnp.arange(images)[None, :] == own[:, None], -jnp.inf, best)
    return jax.lax.top_k(best, most)[1]
