"""The kernels of a search, interpreted on a processor, and compiled for TPUs that are not there."""

import jax
import numpy as np
import pytest

from coopgen_jax.search import best_child
from tests.oracle import Language, Search, assert_same
from tests.search.toy import ROOTS, Toy, config_of, row

# Size of the vocabulary, whether edges earn rewards, and settings.
CASES: dict[str, tuple[int, bool, dict]] = {
    "paper": (12, False, {"candidates": 5}),
    "shallow": (4, False, {"candidates": 4, "depth": 1, "reused_nodes": 0}),
    "parent wave": (
        7,
        False,
        {"candidates": 8, "wave": 4, "first_play_urgency": "parent", "depth": 5},
    ),
    "value": (16, False, {"candidates": 6, "first_play_urgency": "value", "depth": 5}),
    "starved wave": (3, False, {"candidates": 8, "wave": 8, "depth": 4}),
    "wide wave": (20, False, {"candidates": 16, "wave": 16, "c_puct": 0.2}),
    "halved wave": (12, False, {"candidates": 8, "wave": 8, "considered": 8, "depth": 6}),
    "starved halving": (3, False, {"candidates": 8, "wave": 8, "considered": 8, "depth": 4}),
    "one considered": (6, False, {"candidates": 6, "considered": 1}),
    "rewards": (6, True, {"candidates": 5, "first_play_urgency": "parent", "depth": 4}),
    "value rewards": (
        8,
        True,
        {"candidates": 8, "wave": 4, "first_play_urgency": "value", "c_puct": 8.0},
    ),
    "halved rewards": (
        9,
        True,
        {"candidates": 8, "wave": 4, "considered": 5, "value_scale": 0.05},
    ),
    "wide rows": (140, False, {"candidates": 133, "wave": 12, "c_puct": 9.0}),
}


@pytest.mark.parametrize("case", CASES)
def test_every_wave_is_the_oracle_s_and_plain_xla_s(case):
    vocab, rewarded, settings = CASES[case]
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
