"""Selection of a wave as one Pallas kernel for TPUs, a grid step per group of trees.

`search.selection` says what is selected; this is the same walk without its price. Plain XLA makes
dozens of operations of every step of a walk, each waiting for the one before and each with a fixed
cost far above what it computes.

Trees are searched side by side, a lane of each at a time, for a walk waits at every step.
"""

import functools
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from coopgen_jax.parallel.mesh import on_every_device
from coopgen_jax.search.config import Halving, SearchConfig
from coopgen_jax.search.halving import schedules
from coopgen_jax.search.kernels.folding import (
    ROOM,
    SCALAR_ROOM,
    SUBLANES,
    block,
    folded,
    group_of,
    places,
    scalar_bytes,
    wide,
)
from coopgen_jax.search.kernels.next_candidate import (
    NO_KEY,
    Edges,
    Refs,
    Size,
    bits,
    by_halving,
    by_puct,
    standing_of,
)
from coopgen_jax.search.selection import (
    FRESH,
    IDLE,
    REVISIT,
    WALKING,
    leaves_of,
)
from coopgen_jax.search.tree import Leaves, Tree


def _room(tree: Tree, config: SearchConfig) -> int:
    """Returns how many trees a core has room for at once; all axes but their last ones are rows."""
    nodes, candidates = tree.priors.shape[-2:]
    tables = 3 if tree.rewards is None else 4
    held = tables * 4 * wide(candidates) * (nodes + SUBLANES)
    # A backup's numbers are more than those of the walks, and as many where edges earn rewards.
    owed = 2 * scalar_bytes((config.wave, config.depth + 2))
    return min(ROOM // held, SCALAR_ROOM // (3 * scalar_bytes((2, nodes)) + owed))


def fits(tree: Tree, config: SearchConfig) -> bool:
    """Tells whether the kernels can hold trees of this size, and whether there are any."""
    nodes, candidates = tree.priors.shape[2:]
    keyed = wide(candidates) << bits(nodes) <= NO_KEY
    return tree.visits.size > 0 and keyed and _room(tree, config) > 0


def _pass_through(refs: Refs, node: jax.Array, count: jax.Array | int) -> jax.Array:
    """Counts a choice that waits below a node; returns the node's visits as they stood before."""
    passed = refs["passed"][node]
    refs["passed"][node] = passed + count
    return refs["known"][0, node] + passed


def _status(refs: Refs, node: jax.Array, depth: jax.Array) -> jax.Array:
    return jnp.where(
        (refs["known"][1, node] > 0) | (depth >= refs["settings"][0, 1]), REVISIT, WALKING
    )


def _step(refs: Refs, walk: tuple, edges: Edges, config: SearchConfig, size: Size) -> tuple:
    """Takes a walk through one tree a step further, if it has not ended; see `selection._walk`.

    The choices that wait are the walk's; those of `edges` are as they were before it.
    """
    shift = bits(size.nodes)
    ended, node, depth, chosen, first, total, waiting, trail = walk
    walking = ended == WALKING
    key = by_puct(refs, node, total, edges._replace(waiting=waiting), config, size)
    key = jnp.where((node == 0) & (first < NO_KEY), first, key)
    possible = key < NO_KEY
    child = key & ((1 << shift) - 1)
    descend = walking & possible & (child < size.nodes)
    below = jnp.where(descend, child, 0)
    likeliest = refs["priors"][pl.ds(node, 1), :][0, 0]
    blocked = jnp.where(likeliest > 0, IDLE, REVISIT)
    stopped = jnp.where(possible, FRESH, blocked)
    after = jnp.where(descend, _status(refs, below, depth + 1), stopped)
    total = _pass_through(refs, below, descend.astype(jnp.int32))
    here = places(waiting.shape) == jnp.where(descend, child, -1)
    column = jax.lax.broadcasted_iota(jnp.int32, trail.shape, 1)
    return (
        jnp.where(walking, after, ended),
        jnp.where(descend, child, node),
        depth + descend.astype(jnp.int32),
        jnp.where(walking & possible, key >> shift, chosen),
        first,
        total,
        waiting + here.astype(jnp.int32),
        jnp.where(column == jnp.where(descend, depth, -1), child, trail),
    )


def _begin(
    refs: Refs, lane: jax.Array, standing: tuple, edges: Edges, config: SearchConfig, size: Size
) -> tuple:
    """Returns a lane's walk at the root of one tree."""
    zero, first = jnp.int32(0), jnp.int32(NO_KEY)
    if standing:
        first = by_halving(refs, lane, standing, edges, config, size)
    started = jnp.where(refs["settings"][0, 0] > 0, _status(refs, zero, zero), IDLE)
    total = _pass_through(refs, zero, 1)
    trail = jnp.full((1, config.depth), -1, jnp.int32)
    return started, zero, zero, zero, first, total, edges.waiting, trail


def _end(refs: Refs, lane: jax.Array, walk: tuple, edges: Edges) -> Edges:
    """Writes down how a lane's walk ended, names a fresh leaf to its parent; returns the edges."""
    ended, node, depth, chosen, _, _, waiting, trail = walk
    fresh = ended == FRESH
    for item, value in enumerate((ended, node, chosen, depth)):
        refs["walks"][item, lane] = value
    # The node revisited is no ancestor of itself.
    above = jnp.where(ended == IDLE, 0, jnp.where(fresh, depth, depth - 1))
    column = jax.lax.broadcasted_iota(jnp.int32, trail.shape, 1)
    refs["paths"][pl.ds(lane, 1), :] = jnp.where(column < above, trail, -1)

    slot = refs["settings"][0, 2] + lane
    row = refs["children"][pl.ds(node, 1), :]
    candidate = jax.lax.broadcasted_iota(jnp.int32, row.shape, 1)
    named = jnp.where(candidate == jnp.where(fresh, chosen, -1), slot, row)
    refs["children"][pl.ds(node, 1), :] = named
    here = places(waiting.shape) == jnp.where(fresh, slot, -1)
    parent, rank = jnp.where(here, node, edges.parent), jnp.where(here, chosen, edges.rank)
    return Edges(parent, rank, waiting)


def _select(*given: Any, names: tuple[str, ...], config: SearchConfig, size: Size) -> None:
    """Selects a wave of each tree of a group; the kernel."""
    arrays, passed = given[: len(names)], given[len(names) :]
    trees: list[Refs] = [
        {name: ref.at[tree] for name, ref in zip(names, arrays, strict=True)} | {"passed": own}
        for tree, own in enumerate(passed)
    ]

    def clear(node: int, _: None) -> None:
        for refs in trees:
            refs["passed"][node] = 0

    jax.lax.fori_loop(0, size.nodes, clear, None, unroll=8)
    standings, before = [], []
    for refs in trees:
        refs["children"][...] = refs["children_before"][...]
        parent, rank = refs["counts"][0], refs["counts"][1]
        halved = isinstance(config.root, Halving)
        standings.append(standing_of(refs, rank, size) if halved else ())
        before.append(Edges(parent, rank, jnp.zeros_like(parent)))

    def lane(number: jax.Array, edges: tuple) -> tuple:
        begun = tuple(
            _begin(refs, number, standing, one, config, size)
            for refs, standing, one in zip(trees, standings, edges, strict=True)
        )

        def walking(walks: tuple) -> jax.Array:
            return functools.reduce(jnp.logical_or, [walk[0] == WALKING for walk in walks])

        def step(walks: tuple) -> tuple:
            # Written side by side, so that one tree's step fills the time another's waits.
            return tuple(
                _step(refs, walk, one, config, size)
                for refs, walk, one in zip(trees, walks, edges, strict=True)
            )

        walks = jax.lax.while_loop(walking, step, begun)
        return tuple(
            _end(refs, number, walk, one)
            for refs, walk, one in zip(trees, walks, edges, strict=True)
        )

    jax.lax.fori_loop(0, config.wave, lane, tuple(before))


def inputs(
    tree: Tree, active: jax.Array, limit: jax.Array, start: jax.Array, config: SearchConfig
) -> dict[str, jax.Array]:
    """Returns what the kernel reads, by name; trees have one leading axis."""
    trees = tree.visits.shape[0]
    settings = [active.astype(jnp.int32), limit, jnp.broadcast_to(start, (trees,))]
    # What fills them up is a child of the root without visits, which is never looked at.
    counts = [tree.parent, tree.rank, tree.visits]
    given = {
        "children_before": tree.children,
        "priors": tree.priors,
        "value_sum": folded(tree.value_sum),
        "settings": jnp.stack(settings, axis=1)[:, None],
        "known": jnp.stack([tree.visits, tree.terminal.astype(jnp.int32)], axis=1),
    }
    if config.first_play_urgency == "parent":
        given["urgency"] = (tree.value_sum / jnp.maximum(tree.visits, 1))[:, None]
    elif config.first_play_urgency == "value":
        given["urgency"] = tree.value[:, None]
    if tree.rewards is not None:
        given["rewards"] = tree.rewards
    if isinstance(config.root, Halving):
        counts.append(tree.visits - tree.earlier)
        prior = tree.priors[:, 0]
        table, considered = schedules(config, (prior > 0).sum(axis=1), prior.shape[1])
        # Few ranks and numbers: masking them costs less than a gather.
        first = start - 1 - config.reused_nodes
        now = jax.lax.dynamic_slice_in_dim(table, first, config.wave, axis=1)
        theirs = considered[:, None] == jnp.arange(1, 1 + table.shape[0])[None]
        given["wanted"] = jnp.where(theirs[:, :, None], now[None], 0).sum(axis=1)[:, None]
        given["root_mean"] = (tree.value_sum[:, 0] / jnp.maximum(tree.visits[:, 0], 1))[
            :, None, None
        ]
        # The device's own logarithm, as `halving` takes it.
        given["log_priors"] = jnp.log(jnp.where(prior > 0, prior, 1.0))[:, None]
    given["counts"] = folded(jnp.stack(counts, axis=1))
    return given


# What the kernel reads as numbers, one at a time; all else it reads as rows of a register.
_SCALARS = ("settings", "known", "urgency", "wanted", "root_mean", "walks")
_TABLES = ("children_before", "children", "priors", "rewards", "log_priors")


def _block(name: str, shape: tuple[int, ...], group: int) -> pl.BlockSpec:
    """Returns what a grid step sees of an array; tables come in rows as wide as registers."""
    if name in _TABLES:
        # What lies beyond the candidates is not in memory: it may be anything.
        shape = (*shape[:-1], wide(shape[-1]))
    return block(shape, group, pltpu.SMEM if name in _SCALARS else pltpu.VMEM)


def _called(
    tree: Tree,
    active: jax.Array,
    limit: jax.Array,
    start: jax.Array,
    *,
    config: SearchConfig,
    interpret: bool,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns children `[T, N, K]`, walks `[T, 4, W]` and paths `[T, W, D]` of `T` trees."""
    trees, nodes, candidates = tree.priors.shape
    given = inputs(tree, active, limit, start, config)
    made = {
        "children": (trees, nodes, candidates),
        "walks": (trees, 4, config.wave),
        "paths": (trees, config.wave, config.depth),
    }
    names = (*given, *made)
    group = group_of(trees, _room(tree, config))
    children, walks, paths = pl.pallas_call(
        partial(_select, names=names, config=config, size=Size(nodes, candidates)),
        grid=(trees // group,),
        in_specs=[_block(name, array.shape, group) for name, array in given.items()],
        out_specs=[_block(name, shape, group) for name, shape in made.items()],
        out_shape=[jax.ShapeDtypeStruct(shape, jnp.int32) for shape in made.values()],
        # One each, lest a tree's step wait for what another's writes.
        scratch_shapes=[pltpu.SMEM((nodes,), jnp.int32)] * group,
        input_output_aliases={0: 0},
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",)),
        name="select_wave",
        interpret=interpret,
    )(*given.values())
    return children, walks, paths


def select_waves(
    tree: Tree,
    active: jax.Array,
    limit: jax.Array,
    start: jax.Array,
    *,
    config: SearchConfig,
    interpret: bool = False,
) -> tuple[Tree, Leaves]:
    """Selects a wave of every tree: `selection.select_wave` over `[B, R]`, as one kernel.

    Args:
      tree: trees that `fits` says yes to.
      active: `[B, R]` bool.
      limit: `[B, R]` int32.
      start: `[]` int32.
      config: the search's settings.
      interpret: runs the kernel operation by operation, on a device that it cannot be compiled for.

    Returns:
      The trees whose `children` name the fresh leaves, and the leaves, with a `start` each.
    """
    shape = active.shape
    flat = jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:]), (tree, active, limit))
    call = on_every_device(partial(_called, config=config, interpret=interpret))
    children, walks, paths = call(*flat, start)
    walks = walks.reshape(*shape, *walks.shape[1:])
    paths = paths.reshape(*shape, *paths.shape[1:])

    def leaves(tree: Tree, walks: jax.Array, path: jax.Array) -> Leaves:
        return leaves_of(tree, tuple(walks), path, start)

    selected = jax.vmap(jax.vmap(leaves))(tree, walks, paths)
    return replace(tree, children=children.reshape(tree.children.shape)), selected
