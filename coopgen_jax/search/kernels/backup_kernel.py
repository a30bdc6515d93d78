"""Backup of a wave as one Pallas kernel for TPUs, a grid step per group of trees.

`search.backup` says what is credited. As plain XLA it is a scatter per leaf into every sum, each
waiting for the one before; here the sums of a tree are registers that every leaf is added to.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from coopgen_jax.parallel.mesh import on_every_device
from coopgen_jax.search.backup import owed
from coopgen_jax.search.kernels.folding import (
    SCALAR_ROOM,
    block,
    folded,
    group_of,
    places,
    scalar_bytes,
    unfolded,
)
from coopgen_jax.search.tree import Leaves, Tree


def _credit(
    credited: Any, amounts: Any, counts: Any, value_sum: Any, new_counts: Any, new_sum: Any
) -> None:
    """Credits the nodes of a group of trees with a wave's leaves; the kernel."""
    group, wave, reach = credited.shape
    index = places(value_sum.shape[1:])

    def credit(tree: int, leaf: jax.Array, sums: tuple) -> tuple:
        visits, credits, total = sums
        amount = jnp.full(index.shape, amounts[tree, leaf, 0])
        above = jnp.zeros(index.shape, jnp.int32)
        for item in range(reach):
            here = index == credited[tree, leaf, item]
            above = jnp.where(here, 1, above)
            if item and amounts.shape[2] > 1:
                amount = jnp.where(here, amounts[tree, leaf, item], amount)
        # Behind the path come the leaf itself and the root.
        itself = index == credited[tree, leaf, reach - 2]
        total = jnp.where(above > 0, total + amount, total)
        return visits + above, credits + itself.astype(jnp.int32), total

    def lane(leaf: jax.Array, sums: tuple) -> tuple:
        return tuple(credit(tree, leaf, one) for tree, one in enumerate(sums))

    before = tuple((counts[tree, 0], counts[tree, 1], value_sum[tree]) for tree in range(group))
    after = jax.lax.fori_loop(0, wave, lane, before)
    for tree, (visits, credits, total) in enumerate(after):
        new_counts[tree, 0] = visits
        new_counts[tree, 1] = credits
        new_sum[tree] = total


def _called(
    tree: Tree, credited: jax.Array, amounts: jax.Array, *, interpret: bool
) -> tuple[jax.Array, jax.Array]:
    """Returns visits and credits `[T, 2, S, 128]` and sums of values `[T, S, 128]`, folded."""
    counts = folded(jnp.stack([tree.visits, tree.credits], axis=1))
    value_sum = folded(tree.value_sum)
    trees = counts.shape[0]
    held = sum(scalar_bytes(array.shape[1:]) for array in (credited, amounts))
    group = group_of(trees, SCALAR_ROOM // held)
    sums = [block(array.shape, group) for array in (counts, value_sum)]
    given = [block(array.shape, group, pltpu.SMEM) for array in (credited, amounts)]
    made: tuple[jax.Array, jax.Array] = pl.pallas_call(
        _credit,
        grid=(trees // group,),
        in_specs=[*given, *sums],
        out_specs=sums,
        out_shape=[jax.ShapeDtypeStruct(array.shape, array.dtype) for array in (counts, value_sum)],
        input_output_aliases={2: 0, 3: 1},
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",)),
        name="backup_wave",
        interpret=interpret,
    )(credited, amounts, counts, value_sum)
    return made


def backup_waves(tree: Tree, leaves: Leaves, value: jax.Array, *, interpret: bool = False) -> Tree:
    """Credits the leaves of a wave of every tree: `backup.backup` over `[B, R]`, as one kernel.

    Args:
      tree: trees that `select_kernel.fits` says yes to.
      leaves: their leaves, with a `start` each.
      value: `[B, R, W]` float32, read where leaves are fresh.
      interpret: runs the kernel operation by operation, on a device that it cannot be compiled for.
    """
    shape = tree.visits.shape
    flat = jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:]), (tree, leaves, value))
    credited, amounts = jax.vmap(owed)(*flat)
    amounts = amounts if amounts.ndim == 3 else amounts[..., None]
    call = on_every_device(partial(_called, interpret=interpret))
    counts, value_sum = call(flat[0], credited, amounts)
    counts = unfolded(counts, shape[2])
    return replace(
        tree,
        visits=counts[:, 0].reshape(shape),
        credits=counts[:, 1].reshape(shape),
        value_sum=unfolded(value_sum, shape[2]).reshape(shape),
    )
