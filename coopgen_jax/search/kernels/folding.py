"""How the kernels of a search hold what is known of a tree: folded, a number per node.

`[N]` numbers lie as `[S, 128]`, S a multiple of 8, so that those of up to 1024 nodes fill one of a
TPU's vector registers and an operation on all of them is one instruction.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

LANES, SUBLANES = 128, 8
# Trees that are searched side by side at most.
GROUP = 4
# Bytes that trees may take of a core's vector memory and of its scalar memory. A v5e has 16 MB and
# 1 MB of them, and twice as many trees lie there, for others come in while some are searched.
ROOM, SCALAR_ROOM = 5 << 20, 384 << 10


def wide(size: int) -> int:
    """Returns the least multiple of a register's lanes that a row of so many numbers fits in."""
    return -(-size // LANES) * LANES


def scalar_bytes(shape: tuple[int, ...]) -> int:
    """Returns what numbers `[rows, columns]` take of scalar memory, which is filled in tiles."""
    rows, columns = shape
    return 4 * wide(columns) * (-(-rows // SUBLANES) * SUBLANES)


def folded(values: jax.Array) -> jax.Array:
    """Folds a number per node, `[..., N]`, into `[..., S, 128]`; zeros fill it up."""
    nodes = values.shape[-1]
    edges = [(0, 0)] * (values.ndim - 1) + [(0, -nodes % (LANES * SUBLANES))]
    return jnp.pad(values, edges).reshape(*values.shape[:-1], -1, LANES)


def unfolded(values: jax.Array, nodes: int) -> jax.Array:
    """Returns the numbers `[..., N]` that `folded` made `[..., S, 128]` of."""
    return values.reshape(*values.shape[:-2], -1)[..., :nodes]


def places(shape: tuple[int, ...]) -> jax.Array:
    """Returns the nodes' indices as `folded` lays them, `[S, 128]`."""
    row = jax.lax.broadcasted_iota(jnp.int32, shape, 0)
    return row * LANES + jax.lax.broadcasted_iota(jnp.int32, shape, 1)


def group_of(trees: int, most: int) -> int:
    """Returns how many trees a grid step takes: the largest divisor of theirs up to `GROUP`.

    One tree's work is a chain whose links take long and leave most of a core idle; that of others
    is done meanwhile. `most` is how many there is room for.
    """
    return max(group for group in range(1, min(GROUP, max(1, most)) + 1) if trees % group == 0)


def block(shape: tuple[int, ...], group: int, space: Any = pltpu.VMEM) -> pl.BlockSpec:
    """Returns the part of a group of trees of an array with a leading axis of trees."""
    return pl.BlockSpec(
        (group, *shape[1:]), lambda step: (step, *[0] * (len(shape) - 1)), memory_space=space
    )
