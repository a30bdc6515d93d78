"""The kernels of a search, interpreted on a processor, and compiled for TPUs that are not there."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coopgen_jax.parallel.platform import made_for
from coopgen_jax.search import SearchConfig, best_child, mcts, new_tree
from coopgen_jax.search.backup import backup
from coopgen_jax.search.kernels.backup_kernel import backup_waves
from coopgen_jax.search.kernels.folding import GROUP, group_of
from coopgen_jax.search.kernels.select_kernel import fits, select_waves
from coopgen_jax.search.selection import select_wave
from tests.oracle import Language, Search, assert_same
from tests.search.toy import ROOTS, Toy, config_of, row
from tests.search.tpu_checks import CHECKS
from tests.tpu import last_line_of, needs_libtpu, slow_but

# Size of the vocabulary, whether edges earn rewards, and settings.
CASES: dict[str, tuple[int, bool, dict]] = {
    "paper": (12, False, {"candidates": 5}),
    "parent wave": (
        7, False, {"candidates": 8, "wave": 4, "first_play_urgency": "parent", "depth": 5},
    ),
    "starved wave": (3, False, {"candidates": 8, "wave": 8, "depth": 4}),
    "starved halving": (3, False, {"candidates": 8, "wave": 8, "considered": 8, "depth": 4}),
    "value rewards": (
        8, True, {"candidates": 8, "wave": 4, "first_play_urgency": "value", "c_puct": 8.0},
    ),
    "halved rewards": (
        9, True, {"candidates": 8, "wave": 4, "considered": 5, "value_scale": 0.05},
    ),
    "wide rows": (140, False, {"candidates": 133, "wave": 12, "c_puct": 9.0}),
}  # fmt: skip
MORE: dict[str, tuple[int, bool, dict]] = {
    "shallow": (4, False, {"candidates": 4, "depth": 1, "reused_nodes": 0}),
    "value": (16, False, {"candidates": 6, "first_play_urgency": "value", "depth": 5}),
    "wide wave": (20, False, {"candidates": 16, "wave": 16, "c_puct": 0.2}),
    "halved wave": (12, False, {"candidates": 8, "wave": 8, "considered": 8, "depth": 6}),
    "one considered": (6, False, {"candidates": 6, "considered": 1}),
    "rewards": (6, True, {"candidates": 5, "first_play_urgency": "parent", "depth": 4}),
    "many nodes": (9, False, {"candidates": 6, "wave": 6, "reused_nodes": 1100}),
}


@pytest.mark.parametrize(
    "case", [*CASES, *(pytest.param(case, marks=pytest.mark.slow) for case in MORE)]
)
def test_every_wave_is_the_oracle_s_and_plain_xla_s(case):
    vocab, rewarded, settings = (CASES | MORE)[case]
    config = config_of(**settings)
    language = Language(1, vocab, rewarded=rewarded)
    toy = Toy(language, config, kernels=True)
    tree, state, ran = toy.search(*toy.begin(ROOTS))
    for b, r in np.ndindex(*ROOTS.shape):
        oracle = Search(language, config, ROOTS[b, r])
        history = oracle.run(config.simulations // config.wave)
        np.testing.assert_array_equal(np.asarray(state.visits)[:, b, r], history)
        assert_same(row(tree, b, r), oracle)
        assert ran[b, r] == oracle.root.visits - 1
        assert best_child(tree, config=config)[b, r] == oracle.best()
    plain = Toy(language, config)
    found = plain.search(*plain.begin(ROOTS))
    jax.tree.map(np.testing.assert_array_equal, (tree, state, ran), found)


def over_rows(function):
    return jax.vmap(jax.vmap(function))


@pytest.mark.parametrize("case", ["value rewards", "starved halving"])
def test_trees_at_rest_and_trees_with_limits_are_selected_alike(case):
    vocab, rewarded, settings = CASES[case]
    config = config_of(**settings)
    # Five trees, so that each is a group of its own; one is grown for half of the budget only.
    grown = replace(config, simulations=24, reused_nodes=config.nodes - 25)
    toy = Toy(Language(2, vocab, rewarded=rewarded), grown)
    tree, _, _ = toy.search(*toy.begin(np.arange(5)[:, None]))
    tree = replace(tree, earlier=tree.visits.at[1].set(0))
    active = jnp.array([[True], [True], [False], [True], [True]])
    limit = jnp.array([[4], [1], [3], [2], [3]], jnp.int32)
    start = jnp.int32(1 + config.reused_nodes)
    one = partial(select_wave, start=start, config=config)
    expected = jax.jit(over_rows(one))(tree, active, limit)
    found = jax.jit(partial(select_waves, config=config, interpret=True))(
        tree, active, limit, start
    )
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    selected, leaves = expected
    assert (leaves.node[2] < 0).all() and (leaves.depth[1] == 1).all() and leaves.fresh.any()
    assert (leaves.node[~leaves.fresh] >= 0).any(), "nothing is revisited"

    # Values of many sizes, whose sum depends on the order.
    rng = np.random.default_rng(0)
    size = 10.0 ** rng.integers(-4, 5, leaves.node.shape)
    value = jnp.asarray(rng.normal(size=leaves.node.shape) * size, jnp.float32)
    selected = replace(selected, value=selected.value * np.float32(1 / 3))
    expected = jax.jit(over_rows(backup))(selected, leaves, value)
    found = jax.jit(partial(backup_waves, interpret=True))(selected, leaves, value)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert (found.value_sum != selected.value_sum).any() and (found.credits != tree.credits).any()


def test_a_row_that_stops_keeps_its_tree():
    config = config_of(candidates=6, wave=4, c_puct=4.0, early_stop=True)
    active = np.array([[True, False], [True, True], [False, True]])
    found = []
    for kernels in (True, False):
        toy = Toy(Language(3, 6), config, kernels=kernels)
        found.append(toy.search(*toy.begin(ROOTS), active))
    jax.tree.map(np.testing.assert_array_equal, *found)
    assert len(set(np.asarray(found[0][2])[active].tolist())) > 1, "all rows stop together"


def shapes(batch: int, config: SearchConfig) -> object:
    size = (config.nodes, config.candidates, 2)
    return jax.eval_shape(partial(new_tree, batch, 1, *size))


def test_only_a_tpu_has_kernels_and_only_for_trees_that_fit():
    config = SearchConfig()
    assert mcts.engine(shapes(2, config), config)[1] is not backup_waves
    for kind, kernels in (("tpu", True), ("gpu", False), ("cpu", False)):
        with made_for(kind):
            assert (mcts.engine(shapes(2, config), config)[1] is backup_waves) == kernels
    assert not fits(shapes(0, config), config)
    for more in ({"simulations": 30_000}, {"candidates": 50_000}, {"depth": 50_000}):
        large = replace(config, **more)
        assert not fits(shapes(2, large), large), more


def test_a_group_divides_the_trees():
    assert [group_of(trees, 99) for trees in (1, 4, 6, 7, 64)] == [1, GROUP, 3, 1, GROUP]
    assert group_of(8, 3) == 2 and group_of(8, 1) == 1


FAST = ("default on v5e",)


@needs_libtpu
@pytest.mark.parametrize("check", slow_but(FAST, CHECKS))
def test_a_tpu_s_compiler_takes_them(check):
    assert last_line_of("tests.search.tpu_checks", check) == check
