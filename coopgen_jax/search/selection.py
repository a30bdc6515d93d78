"""Selection: PUCT with first-play urgency, and waves of leaves under virtual loss.

Everything here is written for one tree, without the axes `B` and `R`.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp

from coopgen_jax.search import halving
from coopgen_jax.search.config import Halving, SearchConfig
from coopgen_jax.search.tree import Leaves, Tree

# How many visits of value zero a choice counts as that still waits for its value.
VIRTUAL_LOSS = 1.0

# How a walk ends, or that it has not.
WALKING, FRESH, REVISIT, IDLE = range(4)


def puct(tree: Tree, node: jax.Array, virtual: jax.Array, *, config: SearchConfig) -> jax.Array:
    """Scores a node's candidates: Q + c * prior * sqrt(N) / (1 + n).

    PPL-MCTS (Chaffin et al., 2022), equation 5.1 of the thesis version; the rule is that of
    AlphaZero (Silver et al., 2018). N and n are the visits of the node and of the child, choices
    still waiting for their value included. Q is the child's mean value, in which such a choice
    counts as a visit of value zero (virtual loss); of a child without visits it is the first-play
    urgency.

    Where edges earn rewards, Q is the candidate's reward and that. Both distributions are known at
    the node, so that what an unvisited candidate earns is no guess, and one that earns little is
    not tried for its parent's sake. Rewards can make means negative: there a waiting choice leaves
    the mean alone, for visits of value zero would raise it.

    The scores `[K]` are minus infinity where there is no candidate and where the child is itself
    waiting for its value. `virtual` `[N]` are the choices of this wave that went through each node.
    """
    child, prior = tree.children[node], tree.priors[node]
    there = child >= 0
    child = jnp.maximum(child, 0)
    visits = jnp.where(there, tree.visits[child], 0)
    waiting = jnp.where(there, virtual[child], 0)
    visited = visits > 0

    urgency = jnp.float32(0)
    if config.first_play_urgency == "parent":
        urgency = tree.value_sum[node] / jnp.maximum(tree.visits[node], 1)
    elif config.first_play_urgency == "value":
        urgency = tree.value[node]
    losses = VIRTUAL_LOSS * waiting.astype(jnp.float32)
    counted = jnp.where(visited, visits.astype(jnp.float32) + losses, 1.0)
    mean = tree.value_sum[child] / counted
    if tree.rewards is None:
        q = jnp.where(visited, mean, urgency)
    else:
        mean = jnp.minimum(mean, tree.value_sum[child] / jnp.maximum(visits, 1))
        q = jnp.where(visited, mean, urgency) + tree.rewards[node]

    parent_visits = (tree.visits[node] + virtual[node]).astype(jnp.float32)
    child_visits = (1 + visits + waiting).astype(jnp.float32)
    # Divided first, equal ratios tie exactly, in whichever order a compiler multiplies the rest.
    exploration = config.c_puct * jnp.sqrt(parent_visits) * (prior / child_visits)
    return jnp.where((prior > 0) & (visited | ~there), q + exploration, -jnp.inf)


def _walk(
    tree: Tree,
    virtual: jax.Array,
    active: jax.Array,
    limit: jax.Array,
    number: jax.Array,
    config: SearchConfig,
) -> tuple:
    """Walks down from the root by the highest score, the lowest rank among equals.

    Where the root is halved, its candidate is that of simulation `number`, if there is one.

    Returns:
      How the walk ended, the node it stood on, its depth, the rank chosen there, and the walk's
      trail `[D]`, the nodes below the root that it stood on.
    """

    def status(node: jax.Array, depth: jax.Array) -> jax.Array:
        return jnp.where(tree.terminal[node] | (depth >= limit), REVISIT, WALKING)

    first = jnp.int32(-1)
    if isinstance(config.root, Halving):
        first = halving.candidate(tree, virtual, number, config=config)

    def step(walk: tuple) -> tuple:
        _, node, depth, _, trail = walk
        scores = puct(tree, node, virtual, config=config)
        rank = jnp.argmax(scores).astype(jnp.int32)
        rank = jnp.where((node == 0) & (first >= 0), first, rank)
        child = tree.children[node, rank]
        possible = scores[rank] > -jnp.inf
        descend = possible & (child >= 0)
        # A node without any candidate is treated as the end of a text.
        blocked = jnp.where(tree.priors[node, 0] > 0, IDLE, REVISIT)
        stopped = jnp.where(possible, FRESH, blocked)
        below = jnp.maximum(child, 0)
        ended = jnp.where(descend, status(below, depth + 1), stopped)
        trail = jnp.where(descend & (jnp.arange(config.depth) == depth), child, trail)
        node = jnp.where(descend, child, node)
        return ended, node, depth + descend.astype(jnp.int32), rank, trail

    zero = jnp.int32(0)
    started = jnp.where(active, status(zero, zero), IDLE)
    start = (started, zero, zero, zero, jnp.full(config.depth, -1, jnp.int32))
    with jax.named_scope("walk"):
        return jax.lax.while_loop(lambda walk: walk[0] == WALKING, step, start)


def leaves_of(
    tree: Tree, walks: tuple[jax.Array, ...], path: jax.Array, start: jax.Array
) -> Leaves:
    """Returns the leaves that a wave's walks through one tree ended in.

    `walks` are how each ended, the node it stood on, the rank chosen there and its depth, each
    `[W]`; `path` `[W, D]` are the ancestors of their leaves.
    """
    ended, node, rank, depth = walks
    fresh, idle = ended == FRESH, ended == IDLE
    slot = start + jnp.arange(ended.shape[0], dtype=jnp.int32)
    prior = jnp.where(fresh, tree.priors[node, rank], 1.0)
    return Leaves(
        start=start,
        fresh=fresh,
        node=jnp.where(fresh, slot, jnp.where(idle, -1, node)),
        parent=jnp.where(fresh, node, 0),
        rank=jnp.where(fresh, rank, -1),
        token=jnp.where(fresh, tree.tokens[node, rank], 0),
        depth=jnp.where(fresh, depth + 1, 1),
        path=path,
        log_likelihood=jnp.where(fresh, tree.log_likelihood[node] + jnp.log(prior), 0.0),
    )


def select_wave(
    tree: Tree, active: jax.Array, limit: jax.Array, start: jax.Array, *, config: SearchConfig
) -> tuple[Tree, Leaves]:
    """Selects the `W` leaves of a wave, one after another.

    A choice adds a virtual visit to every node on its walk until the wave has been evaluated, and
    its new node is neither chosen again nor descended into. A walk ends in a candidate that is not
    expanded (the leaf is fresh); in a terminal node, a node at the depth cap, or a node without
    candidates (a revisit); or in a node all of whose candidates wait for their value, which only
    happens where there are fewer candidates than leaves (the lane is idle; the virtual visits of
    its walk stand, so that the next lane looks elsewhere).

    A walk leaves the root by PUCT or by sequential halving, as the config says. Where the tree is
    not `active` all lanes are idle. A node at the depth `limit` is never expanded, and the slots
    from `start` on, that of lane 0, are holes.

    Returns:
      The tree whose `children` name the fresh leaves, and the leaves.
    """
    nodes = tree.visits.shape[0]

    def lane(carry: tuple, slot: jax.Array) -> tuple[tuple, tuple]:
        children, virtual = carry
        seen = replace(tree, children=children)
        number = slot - 1 - config.reused_nodes
        ended, node, depth, rank, trail = _walk(seen, virtual, active, limit, number, config)
        fresh, idle = ended == FRESH, ended == IDLE

        children = children.at[jnp.where(fresh, node, nodes), rank].set(slot, mode="drop")
        passed = jnp.concatenate([jnp.zeros(1, jnp.int32), trail])
        virtual = virtual.at[jnp.where(passed < 0, nodes, passed)].add(1, mode="drop")

        at_end = jnp.arange(config.depth) == depth - 1
        path = jnp.where(idle | (at_end & ~fresh), -1, trail)
        return (children, virtual), (ended, node, rank, depth, path)

    slots = start + jnp.arange(config.wave, dtype=jnp.int32)
    carry = (tree.children, jnp.zeros(nodes, jnp.int32))
    with jax.named_scope("lanes"):
        (children, _), (*walks, path) = jax.lax.scan(lane, carry, slots)
    return replace(tree, children=children), leaves_of(tree, tuple(walks), path, start)
