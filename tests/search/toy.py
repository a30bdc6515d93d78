"""The toy language as the networks that a search calls, compiled once per config."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from coopgen_jax.models.slots import Slots, move
from coopgen_jax.parallel.platform import made_for
from coopgen_jax.search import (
    Expansion,
    Halving,
    Leaves,
    Puct,
    SearchConfig,
    Tree,
    new_tree,
    plant,
    reroot,
    search,
)
from coopgen_jax.search.kernels import backup_kernel, select_kernel
from tests.oracle import Language

ROOTS = np.arange(6).reshape(3, 2)


def config_of(
    *,
    considered: int = 0,
    value_scale: float = 0.5,
    early_stop: bool = False,
    visit_limit: int = 0,
    **settings: object,
) -> SearchConfig:
    """Returns a search's settings, with the root's among them."""
    root: Puct | Halving = Puct(early_stop=early_stop, visit_limit=visit_limit)
    if considered:
        root = Halving(considered, value_scale)
    defaults = {"simulations": 48, "depth": 12, "reused_nodes": 9, "root": root}
    return SearchConfig(**defaults | settings)


@contextmanager
def interpreted() -> Iterator[None]:
    """Has searches use a TPU's kernels, one operation after another on this device."""
    select = mock.Mock(wraps=partial(select_kernel.select_waves, interpret=True))
    credit = mock.Mock(wraps=partial(backup_kernel.backup_waves, interpret=True))
    with (
        made_for("tpu"),
        mock.patch.object(select_kernel, "select_waves", select),
        mock.patch.object(backup_kernel, "backup_waves", credit),
    ):
        yield
    assert select.called and credit.called, "the kernels were not used"


class State(NamedTuple):
    """What the toy networks carry.

    cache: the automaton's state per node, as a language model's cache would be.
    visits: `[waves, B, R, N]` the tree's visits before each of the first 64 waves.
    leaves: what those waves asked for, `[waves, ...]`.
    wave: `[]` how many waves have run.
    """

    cache: Slots
    visits: jax.Array
    leaves: Leaves
    wave: jax.Array


def _expansion(tables: dict, states: jax.Array) -> Expansion:
    there = [name for name in Expansion.__dataclass_fields__ if tables[name] is not None]
    return Expansion(**{name: tables[name][states] for name in there})


@partial(jax.jit, static_argnames="config")
def _begin(tables: dict, roots: jax.Array, config: SearchConfig) -> tuple[Tree, Slots]:
    rewarded = tables["rewards"] is not None
    tree = new_tree(*roots.shape, config.nodes, config.candidates, 2, rewards=rewarded)
    tree = plant(tree, _expansion(tables, roots[:, :, None]))
    cache = jnp.zeros((*roots.shape, config.nodes), jnp.int32).at[:, :, 0].set(roots)
    return tree, Slots(cache, None)


@partial(jax.jit, static_argnames=("config", "kernels"))
def _search(
    tables: dict, tree: Tree, cache: Slots, active: jax.Array, config: SearchConfig, kernels: bool
) -> tuple[Tree, State, jax.Array]:
    def expand(state: State, tree: Tree, leaves: Leaves) -> tuple[State, Expansion]:
        cached = state.cache.nodes
        parents = jnp.take_along_axis(cached, leaves.parent, axis=2)
        states = tables["step"][parents, leaves.token]
        nodes = jax.lax.dynamic_update_slice_in_dim(cached, states, leaves.start, 2)
        record = jax.tree.map(lambda all, one: all.at[state.wave].set(one), state.leaves, leaves)
        visits = state.visits.at[state.wave].set(tree.visits)
        state = State(replace(state.cache, nodes=nodes), visits, record, state.wave + 1)
        return state, _expansion(tables, states)

    waves = min(config.simulations // config.wave, 64)
    whole = jnp.full((waves, *active.shape, config.wave), -1)
    leaves = Leaves(
        start=whole[:, 0, 0, 0],
        fresh=whole > 0,
        node=whole,
        parent=whole,
        rank=whole,
        token=whole,
        depth=whole,
        path=jnp.full((*whole.shape, config.depth), -1),
        log_likelihood=jnp.zeros(whole.shape),
    )
    visits = jnp.zeros((waves, *tree.visits.shape), jnp.int32)
    state = State(cache, visits, leaves, jnp.int32(0))
    with interpreted() if kernels else nullcontext():
        return search(tree, state, expand=expand, active=active, config=config)


@partial(jax.jit, static_argnames="kept")
def _reroot(tree: Tree, cache: Slots, rank: jax.Array, kept: int) -> tuple[Tree, Slots, jax.Array]:
    tree, source = reroot(tree, rank, kept=kept)
    return tree, move(cache, source), source


class Toy:
    """Searches of one language under one config, with a TPU's kernels or without."""

    def __init__(self, language: Language, config: SearchConfig, *, kernels: bool = False):
        self.config, self.kernels = config, kernels
        self.tables = language.tables(config.candidates) | {"step": language.step.astype(np.int32)}

    def begin(self, roots: np.ndarray) -> tuple[Tree, Slots]:
        """Plants trees at automaton states `[B, R]`."""
        return _begin(self.tables, roots.astype(np.int32), config=self.config)

    def search(
        self, tree: Tree, cache: Slots, active: np.ndarray | None = None
    ) -> tuple[Tree, State, jax.Array]:
        active = np.ones(tree.visits.shape[:2], bool) if active is None else active
        return _search(self.tables, tree, cache, active, config=self.config, kernels=self.kernels)

    def reroot(self, tree: Tree, cache: Slots, rank: np.ndarray) -> tuple[Tree, Slots, jax.Array]:
        return _reroot(tree, cache, rank, kept=self.config.reused_nodes)


def row(tree: Tree, batch: int, sample: int = 0) -> Tree:
    """Returns one tree on the host, without the axes `B` and `R`."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[batch, sample], tree)
