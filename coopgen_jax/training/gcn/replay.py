"""A replay memory of the generator's texts of earlier rounds, as a ring of rows.

A discriminator that only sees the last round's texts forgets the mistakes of earlier ones (Scialom
et al. 2020, arXiv 2006.04643, keep past generators for the same reason).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct


@struct.dataclass
class Replay:
    """Rows of earlier rounds.

    Attributes:
      rows: pytree of `[N, ...]`.
      count: `[]` int32 how many were ever added; the last `N` of them are there.
    """

    rows: Any
    count: jax.Array


def empty(rows: Any, size: int) -> Replay:
    """Returns a memory of `size` rows shaped as `rows`, with nothing in it."""
    return Replay(
        jax.tree.map(lambda leaf: jnp.zeros((size, *leaf.shape[1:]), leaf.dtype), rows),
        jnp.int32(0),
    )


def remember(replay: Replay, rows: Any) -> Replay:
    """Adds rows `[M, ...]`, the last `N` of them where they are more, in place of the oldest."""
    size, new = len(jax.tree.leaves(replay.rows)[0]), len(jax.tree.leaves(rows)[0])
    kept = min(size, new)
    at = (replay.count + jnp.arange(new - kept, new)) % max(size, 1)
    return Replay(
        jax.tree.map(
            lambda leaf, own: leaf.at[at].set(own[new - kept :].astype(leaf.dtype)),
            replay.rows,
            rows,
        ),
        replay.count + new,
    )


def draw(key: jax.Array, replay: Replay, rows: Any, *, count: int, share: float) -> Any:
    """Returns `count` rows, each with probability `share` of earlier rounds and else of this one.

    Of this round's `rows` `[M, ...]` none comes twice before all have come. Where nothing is
    remembered, all are of them.
    """
    size, new = len(jax.tree.leaves(replay.rows)[0]), len(jax.tree.leaves(rows)[0])
    order, whether, which = jax.random.split(key, 3)
    turns = -(-count // new)
    orders = jax.vmap(lambda k: jax.random.permutation(k, new))(jax.random.split(order, turns))
    now = jax.tree.map(lambda leaf: leaf[orders.reshape(-1)[:count]], rows)
    if not size or not share:
        return now
    there = jnp.minimum(replay.count, size)
    at = jax.random.randint(which, (count,), 0, jnp.maximum(there, 1))
    past = jax.random.bernoulli(whether, share, (count,)) & (there > 0)

    def either(old: jax.Array, own: jax.Array) -> jax.Array:
        return jnp.where(past.reshape(-1, *[1] * (own.ndim - 1)), old[at], own)

    return jax.tree.map(either, replay.rows, now)
