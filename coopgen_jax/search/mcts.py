"""Monte Carlo tree search, compiled: select a wave, evaluate it in one batched call, back it up.

The search knows no network and no text. `expand` is called once per wave, outside every `vmap`, so
that a cache carried in its state is written in place.

The parts have names (`jax.named_scope`) that stay in the compiled program: profiles and
`benchmarks/hlo.py` say by them what takes how long.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp

from coopgen_jax.parallel.platform import platform
from coopgen_jax.search.backup import backup
from coopgen_jax.search.config import Halving, SearchConfig
from coopgen_jax.search.halving import finalist
from coopgen_jax.search.selection import select_wave
from coopgen_jax.search.tree import Expansion, Leaves, Tree, insert

# The least value that a child counts as, so that a power of it is not zero.
LEAST_VALUE = 1e-30

State = TypeVar("State")


def _rows(function: Callable, *, shared: int = 0) -> Callable:
    """Maps a function of one tree over `[B, R]`; its last `shared` arguments have no such axes."""

    def mapped(*args: object) -> object:
        axes = (0,) * (len(args) - shared) + (None,) * shared
        return jax.vmap(jax.vmap(function, axes), axes)(*args)

    return mapped


def engine(tree: Tree, config: SearchConfig) -> tuple[Callable, Callable]:
    """Returns what selects a wave of trees `[B, R]`, and what backs it up, as the device has it.

    A TPU has kernels for trees that fit, elsewhere both are plain XLA; they give the same.
    """
    if platform() == "tpu":
        # Elsewhere nobody waits for Pallas to be imported.
        from coopgen_jax.search.kernels import backup_kernel, select_kernel

        if select_kernel.fits(tree, config):
            return partial(select_kernel.select_waves, config=config), backup_kernel.backup_waves
    return _rows(partial(select_wave, config=config), shared=1), _rows(backup)


def root_visits(tree: Tree) -> jax.Array:
    """Returns the visits of each root's candidates, `[B, R, K]` int32; 0 where not expanded."""
    child = tree.children[:, :, 0]
    visits = jnp.take_along_axis(tree.visits, jnp.maximum(child, 0), axis=2)
    return jnp.where(child >= 0, visits, 0)


def _lead(tree: Tree) -> jax.Array:
    """Returns by how many visits each root's first child leads the second, `[B, R]` int32."""
    visits = root_visits(tree)
    leader = jnp.argmax(visits, axis=2, keepdims=True)
    others = jnp.where(jnp.arange(visits.shape[2])[None, None] == leader, 0, visits)
    return visits.max(axis=2) - others.max(axis=2)


def search(
    tree: Tree,
    state: State,
    *,
    expand: Callable[[State, Tree, Leaves], tuple[State, Expansion]],
    active: jax.Array,
    config: SearchConfig,
    depth_limit: jax.Array | None = None,
) -> tuple[Tree, State, jax.Array]:
    """Spends `config.simulations` evaluations on every active row.

    Iteration `i` puts its leaves into slots `1 + reused_nodes + i * W` and on, in every row. What a
    row does depends on nothing but itself: a row that is inactive, or has stopped early, keeps its
    tree bit for bit while the others go on, and the loop ends with the last of them.

    Args:
      tree: trees with `config.nodes` nodes whose root has been planted or re-rooted and whose slots
        from `1 + reused_nodes` on are holes.
      state: the pytree that `expand` carries along: caches, discriminator states.
      expand: evaluates the leaves of a wave, `(state, tree, leaves) -> (state, expansion)`. It
        is also called for lanes that are not fresh and its answer there is ignored. The tree
        it is shown already names the fresh leaves as children, with no visits yet.
      active: `[B, R]` bool, true where a row is to be searched; a row without a root never is.
      config: the search's settings.
      depth_limit: `[B, R]` int32, 1 or more: the row's own depth at which a node is never expanded,
        where that is less than the config's; None for no such limit.

    Returns:
      The trees, the state, and `[B, R]` int32 how many simulations each row ran: by so much its
      root's visits have grown.
    """
    assert tree.visits.shape[2] == config.nodes, (tree.visits.shape, config.nodes)
    assert config.wave <= tree.priors.shape[3] <= config.candidates, tree.priors.shape
    assert active.shape == tree.visits.shape[:2], (active.shape, tree.visits.shape)
    limit = jnp.full(active.shape, config.depth, jnp.int32)
    if depth_limit is not None:
        limit = jnp.minimum(limit, depth_limit)
    waves = config.simulations // config.wave
    before = tree.visits[:, :, 0]
    active = active & (before > 0)
    tree = replace(tree, earlier=jnp.where(active[:, :, None], tree.visits, tree.earlier))
    select, credit = engine(tree, config)

    def unsettled(tree: Tree, live: jax.Array, wave: jax.Array) -> jax.Array:
        if config.visit_limit:
            # A root below which nothing has been read has nothing to choose, whatever its visits.
            settled = (root_visits(tree).max(axis=2) > 0) | tree.terminal[:, :, 0]
            live = live & ~(settled & (tree.visits[:, :, 0] >= config.visit_limit))
        if not config.stops_early:
            return live
        return live & (_lead(tree) <= (waves - wave) * config.wave)

    def more(carry: tuple) -> jax.Array:
        *_, live, wave = carry
        return (wave < waves) & live.any()

    def step(carry: tuple) -> tuple:
        tree, state, live, wave = carry
        start = 1 + config.reused_nodes + wave * config.wave
        with jax.named_scope("select"):
            tree, leaves = select(tree, live, limit, start)
            leaves = replace(leaves, start=start)
        with jax.named_scope("expand"):
            state, expansion = expand(state, tree, leaves)
        with jax.named_scope("backup"):
            tree = insert(tree, leaves, expansion)
            lanes = replace(leaves, start=jnp.broadcast_to(start, live.shape))
            tree = credit(tree, lanes, expansion.value)
        return tree, state, unsettled(tree, live, wave + 1), wave + 1

    first = jnp.int32(0)
    live = unsettled(tree, active, first)
    carry = (tree, state, live, first)
    with jax.named_scope("waves"):
        tree, state, *_ = jax.lax.while_loop(more, step, carry)
    return tree, state, tree.visits[:, :, 0] - before


def visit_logits(visits: jax.Array, tau: jax.Array | float) -> tuple[jax.Array, jax.Array]:
    """Returns logits of the distribution n^(1 / tau) / sum n^(1 / tau) over a root's candidates.

    The temperature tau is a scalar or `[B, R]`; for the visits see `root_visits`.

    Returns:
      The logits `[B, R, K]`, minus infinity without visits, and where `[B, R]` there is such a
      distribution: where tau is above 0 and any candidate has visits.
    """
    tau = jnp.broadcast_to(jnp.asarray(tau, jnp.float32), visits.shape[:2])
    some = visits.max(axis=2) > 0
    sampled = (tau > 0) & some
    ratio = visits / jnp.maximum(visits.max(axis=2, keepdims=True), 1)
    logits = jnp.log(ratio) / jnp.where(sampled, tau, 1.0)[:, :, None]
    return jnp.where(some[:, :, None], logits, 0.0), sampled


def value_logits(tree: Tree, log_p: jax.Array, power: float) -> jax.Array:
    """Returns logits of the distribution p(v) Q(v)^power / sum over a whole vocabulary.

    It is the improved policy of Danihelka et al. (ICLR 2022, section 4), with `power` log Q as its
    transformation of the values: Q is a child's mean value, and of a token without visits the mix
    of equation 33, (root's own value + N * mean of the visited children by p) / (1 + N), where the
    children have N visits together. Where p is what texts come from and Q the probability of a
    class, it is near p(v | class). Without visits it is p. Values are 0 or more, without rewards,
    and `log_p` `[B, R, V]` is normalised.
    """
    visits = root_visits(tree)
    child = jnp.maximum(tree.children[:, :, 0], 0)
    value = jnp.take_along_axis(tree.value_sum, child, axis=2) / jnp.maximum(visits, 1)
    tokens = tree.tokens[:, :, 0]
    prior = jnp.where(visits > 0, jnp.exp(jnp.take_along_axis(log_p, tokens, axis=2)), 0.0)
    mass, count = prior.sum(axis=2), visits.sum(axis=2)
    mean = (prior * value).sum(axis=2) / jnp.where(mass > 0, mass, 1.0)
    mixed = (tree.value[:, :, 0] + count * mean) / (1 + jnp.where(mass > 0, count, 0))
    log_value, log_mixed = (jnp.log(jnp.maximum(q, LEAST_VALUE)) for q in (value, mixed))
    change = jnp.where(visits > 0, power * (log_value - log_mixed[:, :, None]), 0.0)
    return _rows(lambda row, at, amount: row.at[at].add(amount))(log_p, tokens, change)


def best_child(tree: Tree, *, config: SearchConfig) -> jax.Array:
    """Returns the rank `[B, R]` int32 of each root's best child.

    That is the finalist where the root is halved, elsewhere the child with the most visits, the
    lowest rank among equals; 0 where no child was visited.
    """
    if isinstance(config.root, Halving):
        finalists: jax.Array = _rows(partial(finalist, config=config))(tree)
        return finalists
    return jnp.argmax(root_visits(tree), axis=2).astype(jnp.int32)
