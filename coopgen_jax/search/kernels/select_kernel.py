"""Selection of a wave as one Pallas kernel for TPUs, a grid step per tree.

`search.selection` says what is selected; this is the same walk without its price. Plain XLA makes
dozens of operations of every step of a walk, each waiting for the one before and each with a fixed
cost far above what it computes.

A node's expanded candidates are scored among all nodes, as those whose parent it is, and the others
in the row of its priors: no step gathers what is known of its children. The candidate chosen is the
least key among the best scores, and a key is its rank, then its child.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from coopgen_jax.parallel.mesh import on_every_device
from coopgen_jax.search.config import Halving, SearchConfig
from coopgen_jax.search.halving import VISITS, schedules
from coopgen_jax.search.kernels.folding import LANES, SUBLANES, block, folded, places, wide
from coopgen_jax.search.selection import (
    FRESH,
    IDLE,
    REVISIT,
    VIRTUAL_LOSS,
    WALKING,
    leaves_of,
)
from coopgen_jax.search.tree import Leaves, Tree

# Keys are compared as float32, which holds every integer below this.
NO_KEY = 1 << 24
# Bytes that one tree may take of a core's vector memory and of its scalar memory. A v5e has 16 MB
# and 1 MB of them, and two trees lie there, for one comes in while the other is searched.
ROOM, SCALAR_ROOM = 5 << 20, 384 << 10

Refs = dict[str, Any]


def _bits(nodes: int) -> int:
    """Returns how many bits of a key name a node; all of them set stand for none."""
    return nodes.bit_length()


def fits(tree: Tree, config: SearchConfig) -> bool:
    """Tells whether the kernels can hold trees of this size, and whether there are any."""
    nodes, candidates = tree.priors.shape[2:]
    width = wide(candidates)
    tables = 3 if tree.rewards is None else 4
    held = tables * 4 * width * (nodes + SUBLANES) <= ROOM
    keyed = width << _bits(nodes) <= NO_KEY
    # What is read as single numbers lies in a memory of its own, in tiles as well.
    numbers = 3 * SUBLANES * wide(nodes) + 2 * (config.wave + SUBLANES) * wide(config.depth + 2)
    return tree.visits.size > 0 and held and keyed and 4 * numbers <= SCALAR_ROOM


def _chunks(row: jax.Array) -> list[jax.Array]:
    return [row[:, at : at + LANES] for at in range(0, row.shape[1], LANES)]


def _at_rank(row: jax.Array, rank: jax.Array) -> jax.Array:
    """Returns the entry of a row of candidates at every node's rank, 0 where that is -1."""
    found = jnp.zeros(rank.shape, row.dtype)
    for number, chunk in enumerate(_chunks(row)):
        # Within one register a lane can read any other.
        here = jnp.take_along_axis(
            jnp.broadcast_to(chunk, rank.shape), rank & (LANES - 1), 1, mode="promise_in_bounds"
        )
        found = jnp.where(rank >> (LANES - 1).bit_length() == number, here, found)
    return found


def _over_all(reduce: Any, pair: Any, nodes: jax.Array, row: jax.Array) -> jax.Array:
    """Reduces over all nodes and over a row of candidates, to `[1, 1]`."""
    lanes = reduce(nodes, axis=0, keepdims=True)
    for chunk in _chunks(row):
        lanes = pair(lanes, chunk)
    return reduce(lanes, axis=1, keepdims=True)


def _first_best(scores: tuple[jax.Array, jax.Array], rank: jax.Array, nodes: int) -> jax.Array:
    """Returns the key of the best candidate, the lowest rank among equals.

    `scores` are those of the nodes and those of a row of candidates without a child, minus infinity
    where there is nothing to choose. `NO_KEY` where that is everywhere.
    """
    bits = _bits(nodes)
    node_scores, row_scores = scores
    best = _over_all(jnp.max, jnp.maximum, node_scores, row_scores)
    candidate = jax.lax.broadcasted_iota(jnp.int32, row_scores.shape, 1)
    node_keys = (rank << bits) + places(rank.shape)
    row_keys = (candidate << bits) + ((1 << bits) - 1)

    def keyed(scores: jax.Array, keys: jax.Array) -> jax.Array:
        chosen = (scores == best) & (scores > -jnp.inf)
        return jnp.where(chosen, keys.astype(jnp.float32), float(NO_KEY))

    keys = keyed(node_scores, node_keys), keyed(row_scores, row_keys)
    return _over_all(jnp.min, jnp.minimum, *keys)[0, 0].astype(jnp.int32)


def _row(refs: Refs, name: str, node: jax.Array | int, candidates: int) -> jax.Array:
    """Returns a node's row of a table of candidates; what lies beyond them is 0."""
    row = refs[name][0, pl.ds(node, 1), :]
    within = jax.lax.broadcasted_iota(jnp.int32, row.shape, 1) < candidates
    return jnp.where(within, row, jnp.zeros_like(row))


def _puct(
    refs: Refs, node: jax.Array, total: jax.Array, place: tuple, config: SearchConfig, size: tuple
) -> jax.Array:
    """Returns the key of the candidate of a node that PUCT chooses; see `selection.puct`.

    `total` are the node's visits, waiting choices included; `place` are the nodes' parents, ranks
    and waiting choices; `size` are how many nodes and candidates there are.
    """
    parent, rank, waiting = place
    nodes, candidates = size
    visits, value_sum = refs["counts"][0, 2], refs["value_sum"][0]
    prior = _row(refs, "priors", node, candidates)
    child = refs["children"][0, pl.ds(node, 1), :]
    node_prior = _at_rank(prior, rank)

    losses = VIRTUAL_LOSS * waiting.astype(jnp.float32)
    mean = value_sum / jnp.where(visits > 0, visits.astype(jnp.float32) + losses, 1.0)
    urgency: jax.Array | float = refs["urgency"][0, 0, node] if "urgency" in refs else 0.0
    guess = jnp.full(prior.shape, urgency, jnp.float32)
    if "rewards" in refs:
        earned = _row(refs, "rewards", node, candidates)
        mean = jnp.minimum(mean, value_sum / jnp.maximum(visits, 1)) + _at_rank(earned, rank)
        guess = guess + earned
    child_visits = (1 + visits + waiting).astype(jnp.float32)
    spread = config.c_puct * jnp.sqrt(jnp.full((1, LANES), total).astype(jnp.float32))
    node_scores = mean + spread * (node_prior / child_visits)
    node_scores = jnp.where(
        (parent == node) & (visits > 0) & (node_prior > 0), node_scores, -jnp.inf
    )
    row_scores = guess + jnp.concatenate([spread] * len(_chunks(prior)), axis=1) * prior
    row_scores = jnp.where((prior > 0) & (child < 0), row_scores, -jnp.inf)
    return _first_best((node_scores, row_scores), rank, nodes)


def _standing(refs: Refs, rank: jax.Array, size: tuple) -> tuple[jax.Array, ...]:
    """Returns what a wave does not change of how the root's candidates are halved.

    These are the log priors and the values Q of the nodes, then of the row of candidates; a log
    prior is minus infinity where a candidate can never be chosen.
    """
    candidates = size[1]
    parent, visits = refs["counts"][0, 0], refs["counts"][0, 2]
    prior, log_prior = (_row(refs, name, 0, candidates) for name in ("priors", "log_priors"))
    there = (parent == 0) & (visits > 0) & (_at_rank(prior, rank) > 0)
    node_log = jnp.where(there, _at_rank(log_prior, rank), -jnp.inf)
    row_log = jnp.where(prior > 0, log_prior, -jnp.inf)
    node_q = refs["value_sum"][0] / jnp.maximum(visits, 1)
    row_q = jnp.full(prior.shape, refs["root_mean"][0, 0, 0])
    if "rewards" in refs:
        earned = _row(refs, "rewards", 0, candidates)
        node_q, row_q = node_q + _at_rank(earned, rank), row_q + earned
    return node_log, node_q, row_log, row_q


def _halved(
    refs: Refs, lane: jax.Array, standing: tuple, place: tuple, config: SearchConfig, size: tuple
) -> jax.Array:
    """Returns the key of the root's candidate that a lane goes to; see `halving.candidate`."""
    assert isinstance(config.root, Halving)
    node_log, node_q, row_log, row_q = standing
    parent, rank, waiting = place
    wanted = refs["wanted"][0, 0, lane]
    recent = jnp.where(parent == 0, refs["counts"][0, 3] + waiting, 0)
    most = jnp.max(recent.astype(jnp.float32), axis=0, keepdims=True)
    most = jnp.maximum(jnp.max(most, axis=1, keepdims=True), 0.0)
    scale = config.root.value_scale * (VISITS + most)
    node_scores = jnp.where(recent == wanted, node_log + scale * node_q, -jnp.inf)
    untried = (refs["children"][0, 0:1, :] < 0) & (jnp.full(row_q.shape, wanted) == 0)
    row_scores = jnp.where(untried, row_log + scale * row_q, -jnp.inf)
    return _first_best((node_scores, row_scores), rank, size[0])


def _walk(
    refs: Refs, first: jax.Array, place: tuple, config: SearchConfig, size: tuple
) -> tuple[jax.Array, ...]:
    """Walks down from the root, as `selection._walk` does; `first` is the root's key if it has one.

    Returns:
      How the walk ended, the node it stood on, its depth, the rank chosen there; then the waiting
      choices of all nodes and the walk's trail, `[1, D]`.
    """
    bits = _bits(size[0])
    parent, rank, waiting = place
    index = places(parent.shape)
    limit = refs["settings"][0, 0, 1]
    column = jax.lax.broadcasted_iota(jnp.int32, (1, config.depth), 1)

    def status(node: jax.Array, depth: jax.Array) -> jax.Array:
        terminal = refs["known"][0, 1, node] % 2 == 1
        return jnp.where(terminal | (depth >= limit), REVISIT, WALKING)

    def pass_through(node: jax.Array, count: jax.Array) -> jax.Array:
        # Read before this walk is counted: a node is scored as it stood.
        passed = refs["passed"][node]
        refs["passed"][node] = passed + count
        return refs["known"][0, 0, node] + passed

    def step(walk: tuple) -> tuple:
        _, node, depth, _, total, waiting, trail = walk
        key = _puct(refs, node, total, (parent, rank, waiting), config, size)
        key = jnp.where((node == 0) & (first < NO_KEY), first, key)
        chosen = jnp.where(key < NO_KEY, key >> bits, 0)
        child = key & ((1 << bits) - 1)
        possible = key < NO_KEY
        descend = possible & (child < size[0])
        below = jnp.where(descend, child, 0)
        blocked = jnp.where(refs["known"][0, 1, node] >= 2, IDLE, REVISIT)
        stopped = jnp.where(possible, FRESH, blocked)
        ended = jnp.where(descend, status(below, depth + 1), stopped)
        total = pass_through(below, descend.astype(jnp.int32))
        waiting = waiting + (index == jnp.where(descend, child, -1)).astype(jnp.int32)
        trail = jnp.where(column == jnp.where(descend, depth, -1), child, trail)
        node = jnp.where(descend, child, node)
        return ended, node, depth + descend.astype(jnp.int32), chosen, total, waiting, trail

    zero = jnp.int32(0)
    started = jnp.where(refs["settings"][0, 0, 0] > 0, status(zero, zero), IDLE)
    total = pass_through(zero, jnp.int32(1))
    trail = jnp.full((1, config.depth), -1, jnp.int32)
    start = (started, zero, zero, zero, total, waiting, trail)
    ended, node, depth, chosen, _, waiting, trail = jax.lax.while_loop(
        lambda walk: walk[0] == WALKING, step, start
    )
    return ended, node, depth, chosen, waiting, trail


def _select(*given: Any, names: tuple[str, ...], config: SearchConfig, size: tuple) -> None:
    """Selects one tree's wave; the kernel."""
    refs: Refs = dict(zip(names, given, strict=True))
    nodes = size[0]
    refs["children"][...] = refs["children_before"][...]

    def clear(node: int, _: None) -> None:
        refs["passed"][node] = 0

    jax.lax.fori_loop(0, nodes, clear, None)
    parent, rank = refs["counts"][0, 0], refs["counts"][0, 1]
    index = places(parent.shape)
    halved = isinstance(config.root, Halving)
    standing = _standing(refs, rank, size) if halved else ()
    column = jax.lax.broadcasted_iota(jnp.int32, (1, config.depth), 1)
    candidate = jax.lax.broadcasted_iota(jnp.int32, (1, wide(size[1])), 1)

    def lane(number: jax.Array, place: tuple) -> tuple:
        first = jnp.int32(NO_KEY)
        if halved:
            first = _halved(refs, number, standing, place, config, size)
        ended, node, depth, chosen, waiting, trail = _walk(refs, first, place, config, size)
        fresh = ended == FRESH
        for item, value in enumerate((ended, node, chosen, depth)):
            refs["walks"][0, item, number] = value
        # The node revisited is no ancestor of itself.
        above = jnp.where(ended == IDLE, 0, jnp.where(fresh, depth, depth - 1))
        refs["paths"][0, pl.ds(number, 1), :] = jnp.where(column < above, trail, -1)

        slot = refs["settings"][0, 0, 2] + number
        row = refs["children"][0, pl.ds(node, 1), :]
        named = jnp.where(candidate == jnp.where(fresh, chosen, -1), slot, row)
        refs["children"][0, pl.ds(node, 1), :] = named
        here = index == jnp.where(fresh, slot, -1)
        parent, rank, _ = place
        return jnp.where(here, node, parent), jnp.where(here, chosen, rank), waiting

    jax.lax.fori_loop(0, config.wave, lane, (parent, rank, jnp.zeros_like(parent)))


def _inputs(
    tree: Tree, active: jax.Array, limit: jax.Array, start: jax.Array, config: SearchConfig
) -> dict[str, jax.Array]:
    """Returns what the kernel reads, by name; trees have one leading axis."""
    trees = tree.visits.shape[0]
    flags = tree.terminal.astype(jnp.int32) + 2 * (tree.priors[:, :, 0] > 0)
    settings = [active.astype(jnp.int32), limit, jnp.broadcast_to(start, (trees,))]
    counts = [folded(tree.parent, -1), folded(tree.rank, -1), folded(tree.visits)]
    given = {
        "children_before": tree.children,
        "priors": tree.priors,
        "value_sum": folded(tree.value_sum),
        "settings": jnp.stack(settings, axis=1)[:, None],
        "known": jnp.stack([tree.visits, flags], axis=1),
    }
    if config.first_play_urgency == "parent":
        given["urgency"] = (tree.value_sum / jnp.maximum(tree.visits, 1))[:, None]
    elif config.first_play_urgency == "value":
        given["urgency"] = tree.value[:, None]
    if tree.rewards is not None:
        given["rewards"] = tree.rewards
    if isinstance(config.root, Halving):
        counts.append(folded(tree.visits - tree.earlier))
        prior = tree.priors[:, 0]
        lane = jnp.arange(config.wave, dtype=jnp.int32)
        table, considered = schedules(config, (prior > 0).sum(axis=1), prior.shape[1])
        number = start - 1 - config.reused_nodes + lane
        given["wanted"] = table[considered - 1][:, number][:, None]
        given["root_mean"] = (tree.value_sum[:, 0] / jnp.maximum(tree.visits[:, 0], 1))[
            :, None, None
        ]
        # The device's own logarithm, as `halving` takes it.
        given["log_priors"] = jnp.log(jnp.where(prior > 0, prior, 1.0))[:, None]
    given["counts"] = jnp.stack(counts, axis=1)
    return given


# What the kernel reads as numbers, one at a time; all else it reads as rows of a register.
_SCALARS = ("settings", "known", "urgency", "wanted", "root_mean", "walks")
_TABLES = ("children_before", "children", "priors", "rewards", "log_priors")


def _block(name: str, shape: tuple[int, ...]) -> pl.BlockSpec:
    """Returns what a grid step sees of an array; tables come in rows as wide as registers."""
    if name in _TABLES:
        # What lies beyond the candidates is not in memory: it may be anything.
        shape = (*shape[:-1], wide(shape[-1]))
    return block(shape, pltpu.SMEM if name in _SCALARS else pltpu.VMEM)


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
    given = _inputs(tree, active, limit, start, config)
    made = {
        "children": (trees, nodes, candidates),
        "walks": (trees, 4, config.wave),
        "paths": (trees, config.wave, config.depth),
    }
    names = (*given, *made, "passed")
    children, walks, paths = pl.pallas_call(
        partial(_select, names=names, config=config, size=(nodes, candidates)),
        grid=(trees,),
        in_specs=[_block(name, array.shape) for name, array in given.items()],
        out_specs=[_block(name, shape) for name, shape in made.items()],
        out_shape=[jax.ShapeDtypeStruct(shape, jnp.int32) for shape in made.values()],
        scratch_shapes=[pltpu.SMEM((nodes,), jnp.int32)],
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
