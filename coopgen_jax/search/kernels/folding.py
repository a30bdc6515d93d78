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


def wide(size: int) -> int:
    """Returns the least multiple of a register's lanes that a row of so many numbers fits in."""
    return -(-size // LANES) * LANES


def folded(values: jax.Array, blank: int = 0) -> jax.Array:
    """Folds a number per node, `[..., N]`, into `[..., S, 128]`; `blank` fills it up."""
    nodes = values.shape[-1]
    edges = [(0, 0)] * (values.ndim - 1) + [(0, -nodes % (LANES * SUBLANES))]
    return jnp.pad(values, edges, constant_values=blank).reshape(*values.shape[:-1], -1, LANES)


def unfolded(values: jax.Array, nodes: int) -> jax.Array:
    """Returns the numbers `[..., N]` that `folded` made `[..., S, 128]` of."""
    return values.reshape(*values.shape[:-2], -1)[..., :nodes]


def places(shape: tuple[int, ...]) -> jax.Array:
    """Returns the nodes' indices as `folded` lays them, `[S, 128]`."""
    row = jax.lax.broadcasted_iota(jnp.int32, shape, 0)
    return row * LANES + jax.lax.broadcasted_iota(jnp.int32, shape, 1)


def block(shape: tuple[int, ...], space: Any = pltpu.VMEM) -> pl.BlockSpec:
    """Returns the part of one tree of an array with a leading axis of trees."""
    return pl.BlockSpec(
        (1, *shape[1:]), lambda tree: (tree, *[0] * (len(shape) - 1)), memory_space=space
    )
