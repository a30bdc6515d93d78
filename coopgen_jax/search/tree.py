"""The search tree: arrays per node, and the functions that grow, credit and re-root it.

A node's index is its slot in every cache. Slot 0 is the root, slots 1 to `kept` hold what outlived
the last re-rooting, the rest is for the nodes of the search under way; slots not in use are holes
(no visits). A parent's index is always lower than its children's.
"""

from dataclasses import fields, replace
from functools import partial

import jax
import jax.numpy as jnp
from flax import struct


@struct.dataclass
class Tree:
    """One tree per row.

    parent: `[B, R, N]` int32 the parent's index; -1 at the root and in holes.
    rank: `[B, R, N]` int32 which of its parent's candidates a node is; -1 at the root and in holes.
    token: `[B, R, N]` int32 the node's token; -1 in holes and at a root that is a whole prompt.
    depth: `[B, R, N]` int32 depth below the root.
    tokens: `[B, R, N, K]` int32 candidate tokens, by falling prior, then by token id.
    priors: `[B, R, N, K]` float32 their priors, not renormalised; 0 where there is no candidate.
    log_probs: `[B, R, N, K]` float32 their log-probabilities under the plain language model.
    children: `[B, R, N, K]` int32 the child's index, -1 where a candidate is not expanded.
    visits: `[B, R, N]` int32 evaluations in the subtree, the node's own counts 1; 0 in holes.
    earlier: `[B, R, N]` int32 how many visits a node had when the search under way began.
    value_sum: `[B, R, N]` float32 the sum of the values of those evaluations, each with the rewards
      of the edges between the node and what was evaluated; that of the edge above it is no part.
    value: `[B, R, N]` float32 the node's own evaluation.
    credits: `[B, R, N]` int32 how often that evaluation has been credited: once, and once more with
      every revisit.
    log_likelihood: `[B, R, N]` float32 sum of the log priors from the root (0) down to the node.
    log_class: `[B, R, N, C]` float32 the discriminator's log p(class | text).
    terminal: `[B, R, N]` bool, true where the text has ended.
    rewards: `[B, R, N, K]` float32 what going on to each candidate earns, added to all that is
      valued below it; None where no edge earns anything.
    """

    parent: jax.Array
    rank: jax.Array
    token: jax.Array
    depth: jax.Array
    tokens: jax.Array
    priors: jax.Array
    log_probs: jax.Array
    children: jax.Array
    visits: jax.Array
    earlier: jax.Array
    value_sum: jax.Array
    value: jax.Array
    credits: jax.Array
    log_likelihood: jax.Array
    log_class: jax.Array
    terminal: jax.Array
    rewards: jax.Array | None = None


@struct.dataclass
class Leaves:
    """What one wave wants evaluated.

    A lane is fresh (a new node), a revisit (an existing node is credited with its own value once
    more) or idle (it changes nothing: the row is inactive or the walk was blocked). All lanes are
    evaluated; the answer for lanes that are not fresh is ignored.

    start: `[]` int32 slot of lane 0; lane `w` owns slot `start + w`, a hole unless fresh.
    fresh: `[B, R, W]` bool, true where a new node is made.
    node: `[B, R, W]` int32 `start + w` if fresh, the node revisited, or -1 if idle.
    parent: `[B, R, W]` int32 the new node's parent, 0 unless fresh.
    rank: `[B, R, W]` int32 which of its parent's candidates the new node is, -1 unless fresh.
    token: `[B, R, W]` int32 the new node's token, 0 unless fresh.
    depth: `[B, R, W]` int32 the new node's depth, 1 unless fresh.
    path: `[B, R, W, D]` int32 ancestors of `node` below the root: entry `d` is the one at depth
      `d + 1`, -1 where there is none.
    log_likelihood: `[B, R, W]` float32 sum of log priors down to the new node, 0 unless fresh.
    """

    start: jax.Array
    fresh: jax.Array
    node: jax.Array
    parent: jax.Array
    rank: jax.Array
    token: jax.Array
    depth: jax.Array
    path: jax.Array
    log_likelihood: jax.Array


@struct.dataclass
class Expansion:
    """What the networks say of `W` nodes; of a root, `W` is 1.

    tokens, priors, log_probs, log_class, terminal, rewards: `[B, R, W, ...]` as in a `Tree`.
    value: `[B, R, W]` float32 what the search is to maximise.
    """

    tokens: jax.Array
    priors: jax.Array
    log_probs: jax.Array
    log_class: jax.Array
    value: jax.Array
    terminal: jax.Array
    rewards: jax.Array | None = None


def _blank(name: str) -> int:
    """Returns what a hole holds in the named field."""
    return -1 if name in ("parent", "rank", "token", "children") else 0


def new_tree(
    batch: int, samples: int, nodes: int, candidates: int, classes: int, *, rewards: bool = False
) -> Tree:
    """Returns trees of holes: `B`, `R`, `N`, `K` and `C` in this order, with `rewards` or none."""
    items = dict.fromkeys(("tokens", "priors", "log_probs", "children", "rewards"), (candidates,))
    items["log_class"] = (classes,)
    real = ("priors", "log_probs", "value_sum", "value", "log_likelihood", "log_class", "rewards")
    dtypes = dict.fromkeys(real, jnp.float32) | {"terminal": jnp.bool_}

    def holes(name: str) -> jax.Array:
        shape = (batch, samples, nodes, *items.get(name, ()))
        return jnp.full(shape, _blank(name), dtypes.get(name, jnp.int32))

    names = [field.name for field in fields(Tree) if rewards or field.name != "rewards"]
    return Tree(**{name: holes(name) for name in names})


def _arrays(record: Tree | Expansion) -> dict[str, jax.Array]:
    found = {field.name: getattr(record, field.name) for field in fields(record)}
    return {name: array for name, array in found.items() if array is not None}


def _written(tree: Tree, start: jax.Array | int, values: dict, fresh: jax.Array | None) -> Tree:
    """Writes `values` `[B, R, W, ...]` of the named fields from slot `start` on."""
    updates = {}
    for name, value in values.items():
        field = getattr(tree, name)
        value = value.astype(field.dtype)
        if fresh is not None:
            mask = fresh.reshape(*fresh.shape, *[1] * (value.ndim - fresh.ndim))
            value = jnp.where(mask, value, jnp.asarray(_blank(name), field.dtype))
        updates[name] = jax.lax.dynamic_update_slice_in_dim(field, value, start, 2)
    return replace(tree, **updates)


def _evaluated(expansion: Expansion) -> dict:
    """Returns the fields of a node that its expansion decides."""
    values = _arrays(expansion)
    once = jnp.ones_like(expansion.value, jnp.int32)
    return values | {"value_sum": expansion.value, "visits": once, "credits": once}


def plant(tree: Tree, expansion: Expansion) -> Tree:
    """Makes node 0 of every row a root, evaluated once, in trees of holes."""
    assert expansion.value.shape == (*tree.visits.shape[:2], 1), expansion.value.shape
    return _written(tree, 0, _evaluated(expansion), None)


def insert(tree: Tree, leaves: Leaves, expansion: Expansion) -> Tree:
    """Writes the fresh leaves, each visited once; selection has named them to their parents."""
    assert expansion.value.shape == leaves.fresh.shape, expansion.value.shape
    names = ("parent", "rank", "token", "depth", "log_likelihood")
    values = _evaluated(expansion) | {name: getattr(leaves, name) for name in names}
    return _written(tree, leaves.start, values, leaves.fresh)


def _revalue(tree: Tree, value: jax.Array, *, depth: int) -> Tree:
    nodes = tree.visits.shape[0]
    above = jnp.where(tree.parent < 0, nodes, tree.parent)
    change = jnp.where(tree.visits > 0, tree.credits * (value - tree.value), 0.0)

    def rise(_: int, carry: tuple) -> tuple:
        total, rising = carry
        rising = jnp.zeros(nodes).at[above].add(rising, mode="drop")
        return total + rising, rising

    total, _ = jax.lax.fori_loop(0, depth, rise, (change, change))
    return replace(tree, value=value, value_sum=tree.value_sum + total)


def revalue(tree: Tree, value: jax.Array, *, depth: int) -> Tree:
    """Gives nodes other values, as if they had been evaluated so, and all above them other sums.

    What dropped nodes brought to the nodes above them stays as it was. The new values `[B, R, N]`
    are read where a node is no hole, and `depth` is that of the deepest node at most.
    """
    assert value.shape == tree.value.shape, value.shape
    return jax.vmap(jax.vmap(partial(_revalue, depth=depth)))(tree, value)


def _reroot(tree: Tree, child_rank: jax.Array, *, kept: int) -> tuple[Tree, jax.Array]:
    nodes = tree.visits.shape[0]
    index = jnp.arange(nodes)
    root = jnp.where(child_rank < 0, -1, tree.children[0, jnp.maximum(child_rank, 0)])

    # Pointer doubling: every node ends at the new root if it is below it, else at the old root.
    above = jnp.where(index == root, root, jnp.maximum(tree.parent, 0))
    for _ in range((nodes - 1).bit_length()):
        above = above[above]
    below = (above == root) & (index != root)

    visits, best = jax.lax.top_k(jnp.where(below, tree.visits, 0), kept)
    best = jnp.sort(jnp.where(visits > 0, best, nodes))
    source = jnp.concatenate([jnp.where(root < 0, nodes, root)[None], best])
    renamed = jnp.full(nodes + 1, -1).at[source].set(jnp.arange(1 + kept)).at[nodes].set(-1)

    there = source < nodes
    source = jnp.where(there, source, 0)
    moved = {name: array[source] for name, array in _arrays(tree).items()}
    # Index -1 reads the last entry of `renamed`, which is -1: what was absent stays absent.
    moved["parent"] = renamed[moved["parent"]].at[0].set(-1)
    moved["rank"] = moved["rank"].at[0].set(-1)
    moved["children"] = renamed[moved["children"]]
    moved["depth"] = moved["depth"] - moved["depth"][0]
    moved["log_likelihood"] = moved["log_likelihood"] - moved["log_likelihood"][0]
    for name, values in moved.items():
        old = getattr(tree, name)
        mask = there.reshape(-1, *[1] * (values.ndim - 1))
        blank = jnp.asarray(_blank(name), old.dtype)
        held = jnp.where(mask, values, blank).astype(old.dtype)
        moved[name] = jnp.full_like(old, blank).at[: 1 + kept].set(held)
    return Tree(**moved), source


def reroot(tree: Tree, child_rank: jax.Array, *, kept: int) -> tuple[Tree, jax.Array]:
    """Makes a child of each root the new root and keeps the most visited nodes below it.

    The `kept` most visited descendants (the lower index first among equals) move to slots 1 to
    `kept`, in the order of their old indices. A parent has strictly more visits than its child, so
    no node is kept without its ancestors. What is dropped becomes an unexpanded candidate again,
    while the nodes above it keep the visits and values that it brought. Depths and likelihoods are
    those below the new root, which keeps its token. Where `child_rank` `[B, R]` is -1 or names a
    candidate that was never expanded, the whole row becomes holes, the root included, and a search
    leaves it so.

    Returns:
      The trees, and `source` `[B, R, 1 + kept]`: which old slot each of the first slots came from
      (0 where the slot is now a hole), as `models.slots.move` takes it.
    """
    assert child_rank.shape == tree.visits.shape[:2], child_rank.shape
    assert kept < tree.visits.shape[2], (kept, tree.visits.shape)
    return jax.vmap(jax.vmap(partial(_reroot, kept=kept)))(tree, child_rank)
