"""Backup: what the leaves of a wave were worth, credited to every node above them."""

from dataclasses import replace

import jax
import jax.numpy as jnp

from coopgen_jax.search.tree import Leaves, Tree


def _earned(tree: Tree, node: jax.Array) -> jax.Array:
    """Returns the rewards of the edges into nodes of one tree; 0 for the root and for -1."""
    assert tree.rewards is not None
    below = node > 0
    node = jnp.maximum(node, 0)
    earned = tree.rewards[jnp.maximum(tree.parent[node], 0), jnp.maximum(tree.rank[node], 0)]
    return jnp.where(below, earned, 0.0)


def _amounts(tree: Tree, leaves: Leaves, value: jax.Array) -> jax.Array:
    """Returns what a wave's leaves bring to the nodes above them.

    Without rewards that is the value, `[W]`, for all of them. With them a node is brought the value
    and the rewards of the edges between it and the leaf, so that `[W, D + 2]` amounts go to the
    path, to the leaf itself and to the root.
    """
    if tree.rewards is None:
        return value
    on_path, last = _earned(tree, leaves.path), _earned(tree, leaves.node)
    risen: jax.Array = jax.lax.cumsum(on_path, axis=1, reverse=True)
    # The edge into a node is its parent's to earn: a node is brought what was earned below it.
    below = jnp.concatenate([risen[:, 1:], jnp.zeros_like(risen[:, :1])], axis=1)
    returned = (value + last)[:, None]
    return jnp.concatenate([returned + below, value[:, None], returned + risen[:, :1]], axis=1)


def owed(tree: Tree, leaves: Leaves, value: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns whom a wave's leaves credit and with how much; for one tree.

    The nodes `[W, D + 2]` are a leaf's path, the leaf itself if it is revisited, and the root;
    where there is none it is `N`. The amounts are theirs, or `[W]` where all of a leaf's are equal.
    """
    nodes = tree.visits.shape[0]
    value = jnp.where(leaves.fresh, value, tree.value[jnp.maximum(leaves.node, 0)])
    itself = jnp.where(leaves.fresh, -1, leaves.node)
    root = jnp.where(leaves.node > 0, 0, -1)
    credited = jnp.concatenate([leaves.path, itself[:, None], root[:, None]], axis=1)
    return jnp.where(credited < 0, nodes, credited), _amounts(tree, leaves, value)


def backup(tree: Tree, leaves: Leaves, value: jax.Array) -> Tree:
    """Credits every node above the leaves of a wave with their values; for one tree.

    With rewards a node is credited with a leaf's value and the rewards on the way down to it, none
    of them discounted: its mean is that of PPO-MCTS (Liu et al., COLM 2024, arXiv 2309.15028) with
    gamma 1. The reward of an edge is no part of the node below it, so that a subtree is worth the
    same whichever root it hangs from.

    Leaves are credited one after another, so that sums do not depend on the order in which a
    device happens to add. A fresh leaf itself has been credited by `insert`; their values `[W]` are
    read where they are fresh.
    """
    credited, amounts = owed(tree, leaves, value)

    def credit(sums: tuple, lane: tuple) -> tuple:
        visits, value_sum = sums
        index, amount = lane
        visits = visits.at[index].add(1, mode="drop")
        return (visits, value_sum.at[index].add(amount, mode="drop")), None

    sums = (tree.visits, tree.value_sum)
    with jax.named_scope("lanes"):
        (visits, value_sum), _ = jax.lax.scan(credit, sums, (credited, amounts))
    credits = tree.credits.at[credited[:, -2]].add(1, mode="drop")
    return replace(tree, visits=visits, value_sum=value_sum, credits=credits)
