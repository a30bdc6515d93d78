"""Which of a node's candidates the selection kernel goes on to.

A node's expanded candidates are scored among all nodes, as those whose parent it is, and the others
in the row of its priors: no step gathers what is known of its children. The candidate chosen is the
least key among the best scores; a key is its rank, then its child.

`Refs` are one tree's arrays by name: see `select_kernel.inputs`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from coopgen_jax.search.config import Halving, SearchConfig
from coopgen_jax.search.halving import VISITS
from coopgen_jax.search.kernels.folding import LANES, places
from coopgen_jax.search.selection import VIRTUAL_LOSS

# Keys are compared as float32, which holds every integer below this.
NO_KEY = 1 << 24

Refs = dict[str, Any]


class Size(NamedTuple):
    """How many nodes and candidates a tree has."""

    nodes: int
    candidates: int


class Edges(NamedTuple):
    """What is above every node, `[S, 128]` int32: its parent, its rank, and choices that wait."""

    parent: jax.Array
    rank: jax.Array
    waiting: jax.Array


def bits(nodes: int) -> int:
    """Returns how many bits of a key name a node; all of them set stand for none."""
    return nodes.bit_length()


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
    shift = bits(nodes)
    node_scores, row_scores = scores
    best = _over_all(jnp.max, jnp.maximum, node_scores, row_scores)
    candidate = jax.lax.broadcasted_iota(jnp.int32, row_scores.shape, 1)
    node_keys = (rank << shift) + places(rank.shape)
    row_keys = (candidate << shift) + ((1 << shift) - 1)

    def keyed(scores: jax.Array, keys: jax.Array) -> jax.Array:
        chosen = (scores == best) & (scores > -jnp.inf)
        return jnp.where(chosen, keys.astype(jnp.float32), float(NO_KEY))

    keys = keyed(node_scores, node_keys), keyed(row_scores, row_keys)
    return _over_all(jnp.min, jnp.minimum, *keys)[0, 0].astype(jnp.int32)


def _row(refs: Refs, name: str, node: jax.Array | int, candidates: int) -> jax.Array:
    """Returns a node's row of a table of candidates; what lies beyond them is 0."""
    row = refs[name][pl.ds(node, 1), :]
    within = jax.lax.broadcasted_iota(jnp.int32, row.shape, 1) < candidates
    return jnp.where(within, row, jnp.zeros_like(row))


def by_puct(
    refs: Refs, node: jax.Array, total: jax.Array, edges: Edges, config: SearchConfig, size: Size
) -> jax.Array:
    """Returns the key of the candidate of a node that PUCT chooses; see `selection.puct`.

    `total` are the node's visits, waiting choices included.
    """
    parent, rank, waiting = edges
    nodes, candidates = size
    visits, value_sum = refs["counts"][2], refs["value_sum"][...]
    prior = _row(refs, "priors", node, candidates)
    child = refs["children"][pl.ds(node, 1), :]
    node_prior = _at_rank(prior, rank)

    losses = VIRTUAL_LOSS * waiting.astype(jnp.float32)
    mean = value_sum / jnp.where(visits > 0, visits.astype(jnp.float32) + losses, 1.0)
    urgency: jax.Array | float = refs["urgency"][0, node] if "urgency" in refs else 0.0
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


def standing_of(refs: Refs, rank: jax.Array, size: Size) -> tuple[jax.Array, ...]:
    """Returns what a wave does not change of how the root's candidates are halved.

    These are the log priors and the values Q of the nodes, then of the row of candidates; a log
    prior is minus infinity where a candidate can never be chosen.
    """
    candidates = size.candidates
    parent, visits = refs["counts"][0], refs["counts"][2]
    prior, log_prior = (_row(refs, name, 0, candidates) for name in ("priors", "log_priors"))
    there = (parent == 0) & (visits > 0) & (_at_rank(prior, rank) > 0)
    node_log = jnp.where(there, _at_rank(log_prior, rank), -jnp.inf)
    row_log = jnp.where(prior > 0, log_prior, -jnp.inf)
    node_q = refs["value_sum"][...] / jnp.maximum(visits, 1)
    row_q = jnp.full(prior.shape, refs["root_mean"][0, 0])
    if "rewards" in refs:
        earned = _row(refs, "rewards", 0, candidates)
        node_q, row_q = node_q + _at_rank(earned, rank), row_q + earned
    return node_log, node_q, row_log, row_q


def by_halving(
    refs: Refs, lane: jax.Array, standing: tuple, edges: Edges, config: SearchConfig, size: Size
) -> jax.Array:
    """Returns the key of the root's candidate that a lane goes to; see `halving.candidate`."""
    assert isinstance(config.root, Halving)
    node_log, node_q, row_log, row_q = standing
    parent, rank, waiting = edges
    wanted = refs["wanted"][0, lane]
    recent = jnp.where(parent == 0, refs["counts"][3] + waiting, 0)
    most = jnp.max(recent.astype(jnp.float32), axis=0, keepdims=True)
    most = jnp.maximum(jnp.max(most, axis=1, keepdims=True), 0.0)
    scale = config.root.value_scale * (VISITS + most)
    node_scores = jnp.where(recent == wanted, node_log + scale * node_q, -jnp.inf)
    untried = (refs["children"][0:1, :] < 0) & (jnp.full(row_q.shape, wanted) == 0)
    row_scores = jnp.where(untried, row_log + scale * row_q, -jnp.inf)
    return _first_best((node_scores, row_scores), rank, size.nodes)
