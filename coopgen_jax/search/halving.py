"""Sequential halving: which of a root's candidates the next simulation is spent on.

Danihelka, Guez, Schrittwieser and Silver, "Policy improvement by planning with Gumbel" (ICLR 2022),
without the noise: the same tree gives the same token. In a new tree the candidates compared are the
likeliest ones; where a subtree was kept, its values count from the start. Everything here is
written for one tree, without the axes `B` and `R`.
"""

import jax
import jax.numpy as jnp

from coopgen_jax.search.config import Halving, SearchConfig
from coopgen_jax.search.tree import Tree

# c_visit of the paper: how many visits the scale of the values starts from.
VISITS = 50


def schedule(considered: int, simulations: int) -> list[int]:
    """Returns, for every simulation, how many visits the candidate that it goes to has had.

    All `considered` candidates are visited equally often, then the better half of them, and so on
    down to two; every round has about the same share of the simulations (section 3, figure 1).
    """
    if considered == 1:
        return list(range(simulations))
    rounds = (considered - 1).bit_length()
    visits, left = [0] * considered, considered
    wanted: list[int] = []
    while len(wanted) < simulations:
        for _ in range(max(1, simulations // (rounds * left))):
            wanted += visits[:left]
            visits[:left] = [count + 1 for count in visits[:left]]
        left = max(2, left // 2)
    return wanted[:simulations]


def schedules(
    config: SearchConfig, there: jax.Array, candidates: int
) -> tuple[jax.Array, jax.Array]:
    """Returns the schedules of 1, 2, ... candidates, and how many of those `there` are compared.

    A root may have fewer candidates than are to be compared, and `candidates` are its most.
    """
    assert isinstance(config.root, Halving)
    most = min(config.root.considered, candidates)
    table = [schedule(considered, config.simulations) for considered in range(1, most + 1)]
    return jnp.asarray(table), jnp.clip(there, 1, most)


def _scores(tree: Tree, visits: jax.Array, *, root: Halving) -> jax.Array:
    """Scores the root's candidates `[K]`: log prior + value_scale * (50 + most visits) * Q.

    Equation 8 of the paper, the prior's logarithm as the logit. Q is a child's mean value, and the
    root's where it has none, and the reward of the edge to it; it may lie outside [0, 1], for it is
    scaled and not normalised. `visits` `[K]` are those of this search.
    """
    child = tree.children[0]
    evaluated = jnp.where(child < 0, 0, tree.visits[jnp.maximum(child, 0)])
    mean = tree.value_sum[jnp.maximum(child, 0)] / jnp.maximum(evaluated, 1)
    q = jnp.where(evaluated > 0, mean, tree.value_sum[0] / jnp.maximum(tree.visits[0], 1))
    if tree.rewards is not None:
        q = q + tree.rewards[0]
    log_prior = jnp.log(jnp.where(tree.priors[0] > 0, tree.priors[0], 1.0))
    return log_prior + root.value_scale * (VISITS + visits.max()) * q


def _visits(tree: Tree) -> jax.Array:
    """Returns the visits of the root's candidates since the search began, `[K]` int32."""
    child = jnp.maximum(tree.children[0], 0)
    return jnp.where(tree.children[0] < 0, 0, tree.visits[child] - tree.earlier[child])


def candidate(
    tree: Tree, virtual: jax.Array, number: jax.Array, *, config: SearchConfig
) -> jax.Array:
    """Returns the rank of the root's candidate that a simulation goes to, `[]` int32.

    It is the best of those with as many visits as the schedule says for this `number` of the
    search; -1 where there is none, because all of them wait for their value. The `virtual` choices
    `[N]` of this wave that went through each node count as visits.
    """
    assert isinstance(config.root, Halving)
    child = tree.children[0]
    below = jnp.maximum(child, 0)
    visits = _visits(tree) + jnp.where(child < 0, 0, virtual[below])
    free = (tree.priors[0] > 0) & ((child < 0) | (tree.visits[below] > 0))
    table, considered = schedules(config, (tree.priors[0] > 0).sum(), child.shape[0])
    eligible = free & (visits == table[considered - 1, number])
    scores = jnp.where(eligible, _scores(tree, visits, root=config.root), -jnp.inf)
    return jnp.where(eligible.any(), jnp.argmax(scores), -1).astype(jnp.int32)


def finalist(tree: Tree, *, config: SearchConfig) -> jax.Array:
    """Returns the rank of the candidate that halving ends with, `[]` int32.

    Of those with the most visits in this search it is the one with the best score, the lowest rank
    among equals; 0 where none was visited.
    """
    assert isinstance(config.root, Halving)
    visits = _visits(tree)
    last = (visits == visits.max()) & (visits > 0)
    scores = jnp.where(last, _scores(tree, visits, root=config.root), -jnp.inf)
    return jnp.argmax(scores).astype(jnp.int32)
