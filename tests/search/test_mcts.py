import dataclasses
import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coopgen_jax.search import SearchConfig, choose, new_tree, root_visits
from tests.oracle import Language, Search, assert_same
from tests.search.toy import Toy, row

ROOTS = np.arange(6).reshape(3, 2)

# Size of the vocabulary and settings. "starved wave" has fewer tokens than lanes.
CASES: dict[str, tuple[int, dict]] = {
    "paper": (12, {"candidates": 5}),
    "one candidate": (6, {"candidates": 1}),
    "shallow": (4, {"candidates": 4, "depth": 1, "kept": 0}),
    "capped": (5, {"candidates": 5, "depth": 3, "c_puct": 1.0}),
    "parent": (20, {"candidates": 6, "first_play_urgency": "parent", "renormalise": True}),
    "wave": (12, {"candidates": 8, "wave": 4}),
    "wide wave": (12, {"candidates": 12, "wave": 12, "virtual_loss": 0.0}),
    "starved wave": (3, {"candidates": 8, "wave": 8, "depth": 4}),
    "siblings": (12, {"candidates": 8, "wave": 4, "policy": "siblings"}),
    "starved siblings": (5, {"candidates": 4, "wave": 4, "policy": "siblings", "depth": 3}),
    "descend": (12, {"candidates": 8, "wave": 4, "policy": "descend", "stride": 3}),
    "descend alone": (6, {"candidates": 3, "policy": "descend", "depth": 5, "c_puct": 1.0}),
    "crowded descend": (3, {"candidates": 4, "wave": 4, "policy": "descend", "depth": 4}),
    "value": (16, {"candidates": 6, "first_play_urgency": "value", "depth": 5}),
    "parent wave": (7, {"candidates": 8, "wave": 4, "first_play_urgency": "parent", "depth": 5}),
    "halved": (12, {"candidates": 8, "considered": 8}),
    "halved wave": (12, {"candidates": 8, "wave": 8, "considered": 8, "depth": 6}),
    "halved by a third": (9, {"candidates": 8, "wave": 4, "considered": 5, "value_scale": 0.05}),
    "starved halving": (3, {"candidates": 8, "wave": 8, "considered": 8, "depth": 4}),
    "two compared": (6, {"candidates": 6, "wave": 2, "considered": 2, "depth": 3}),
    "one considered": (6, {"candidates": 6, "considered": 1}),
}
# Those whose edges earn rewards too.
REWARDED: dict[str, tuple[int, dict]] = {
    "zero": (8, {"candidates": 6}),
    "parent": (6, {"candidates": 5, "first_play_urgency": "parent", "depth": 4}),
    "value": (8, {"candidates": 6, "first_play_urgency": "value", "depth": 5}),
    "value wave": (8, {"candidates": 8, "wave": 4, "first_play_urgency": "value", "c_puct": 8.0}),
    "descend": (7, {"candidates": 6, "wave": 4, "policy": "descend", "stride": 3}),
    "halved wave": (9, {"candidates": 8, "wave": 4, "considered": 5, "value_scale": 0.05}),
}
SEARCHED = [(case, False) for case in CASES] + [(case, True) for case in REWARDED]


def config_of(**settings: object) -> SearchConfig:
    defaults = {"simulations": 48, "depth": 12, "kept": 9, "early_stop": False}
    return SearchConfig(**defaults | settings)


@pytest.mark.parametrize(("case", "rewarded"), SEARCHED)
def test_every_wave_is_the_oracle_s(case, rewarded):
    vocab, settings = (REWARDED if rewarded else CASES)[case]
    config = config_of(**settings)
    for seed in range(2):
        language = Language(seed, vocab, rewarded=rewarded)
        toy = Toy(language, config)
        tree, state, ran = toy.search(*toy.begin(ROOTS))
        for b, r in np.ndindex(*ROOTS.shape):
            oracle = Search(language, config, ROOTS[b, r])
            history = oracle.run(config.simulations // config.wave)
            np.testing.assert_array_equal(np.asarray(state.visits)[:, b, r], history)
            assert_same(row(tree, b, r), oracle)
            assert ran[b, r] == oracle.root.visits - 1
            assert choose(tree, config=config)[0][b, r] == oracle.best()


@pytest.mark.parametrize(
    "case",
    [
        "wave",
        "wide wave",
        "starved wave",
        "siblings",
        "starved siblings",
        "descend",
        "crowded descend",
        "parent wave",
        "halved wave",
        "starved halving",
    ],
)
def test_waves_keep_the_invariants(case):
    vocab, settings = CASES[case]
    config = config_of(**settings)
    toy = Toy(Language(7, vocab), config)
    tree, state, ran = toy.search(*toy.begin(ROOTS))
    leaves = jax.tree.map(np.asarray, state.leaves)
    np.testing.assert_array_equal(ran, (leaves.node >= 0).sum(axis=(0, 3)))
    if case == "starved wave":
        assert (leaves.node < 0).any(), "no lane is idle"
    # No leaf of a wave hangs below another leaf of that wave.
    start = leaves.start[:, None, None, None]
    assert (leaves.parent < start).all() and (leaves.path < start[..., None]).all()
    for b, r in np.ndindex(*ROOTS.shape):
        one = row(tree, b, r)
        used, fresh, node = one.visits > 0, leaves.fresh[:, b, r], leaves.node[:, b, r]
        assert used.sum() == 1 + fresh.sum()
        assert one.visits[0] == 1 + ran[b, r]
        places = list(zip(one.parent[used], one.rank[used], strict=True))
        assert len(set(places)) == len(places)
        assert not one.terminal[one.parent[used][1:]].any()
        assert one.depth.max() <= config.depth
        mean = one.value_sum[used] / one.visits[used]
        assert (mean >= one.value[used].min()).all() and (mean <= one.value[used].max()).all()
        revisits = np.bincount(node[~fresh & (node >= 0)], minlength=config.nodes)
        below = np.where(one.children >= 0, one.visits[one.children], 0).sum(axis=1)
        np.testing.assert_array_equal(one.visits, used + below + revisits)


@pytest.mark.parametrize("considered", [0, 5])
def test_a_row_does_not_depend_on_its_neighbours(considered):
    config = config_of(candidates=6, wave=4, considered=considered, early_stop=True, c_puct=4.0)
    toy = Toy(Language(3, 6), config)
    active = np.array([[True, False], [True, True], [False, True]])
    begun = toy.begin(ROOTS)
    tree, _, ran = toy.search(*begun, active)
    ran = np.asarray(ran)
    together = len(set(ran[active].tolist())) == 1
    assert together == bool(considered), "only halving spends its whole budget in every row"
    assert not ran[~active].any()
    for b, r in np.ndindex(*ROOTS.shape):
        expected = row(begun[0], b, r)
        if active[b, r]:
            alone, _, count = toy.search(*toy.begin(ROOTS[b : b + 1, r : r + 1]))
            expected = row(alone, 0)
            assert count[0, 0] == ran[b, r]
        jax.tree.map(np.testing.assert_array_equal, row(tree, b, r), expected)


@pytest.mark.parametrize("wave", [1, 4])
def test_early_stop_freezes_a_row_and_changes_no_choice(wave):
    config = config_of(candidates=6, wave=wave, early_stop=True, c_puct=4.0)
    language = Language(5, 6, rewarded=wave == 4)
    toy = Toy(language, config)
    stops = []
    for roots in ROOTS + 6 * np.arange(4)[:, None, None]:
        tree, _, _ = toy.search(*toy.begin(roots))
        chosen, _ = choose(tree, config=config)
        for b, r in np.ndindex(*roots.shape):
            oracle = Search(language, config, roots[b, r])
            waves, done = config.simulations // wave, 0
            while done < waves and oracle.lead() <= (waves - done) * wave:
                oracle.run(1, first=done)
                done += 1
            assert_same(row(tree, b, r), oracle)
            stops.append(done < waves)
            oracle.run(waves - done, first=done)
            assert chosen[b, r] == oracle.best()
    assert 0 < sum(stops) < len(stops), "nothing stops early, or everything does"


@pytest.mark.parametrize("wave", [1, 4])
def test_what_was_kept_counts_towards_enough(wave):
    config = config_of(candidates=6, wave=wave, kept=40, c_puct=0.5, enough=37)
    language = Language(5, 8)
    toy = Toy(language, config)
    counts = []

    def run(oracle: Search) -> int:
        before, done = oracle.root.visits, 0
        while oracle.root.visits < config.enough and done < config.simulations // wave:
            oracle.run(1, first=done)
            done += 1
        return oracle.root.visits - before

    for roots in ROOTS + 6 * np.arange(3)[:, None, None]:
        tree, state, first = toy.search(*toy.begin(roots))
        rank, _ = choose(tree, config=config)
        tree, _, second = toy.search(*toy.reroot(tree, state.cache, rank)[:2])
        for b, r in np.ndindex(*roots.shape):
            oracle = Search(language, config, roots[b, r])
            assert first[b, r] == run(oracle)
            oracle.reroot(int(rank[b, r]))
            assert second[b, r] == run(oracle)
            assert_same(row(tree, b, r), oracle)
            counts.append(int(second[b, r]))
    assert len(set(counts)) > 2 and min(counts) < 18


def test_a_root_with_enough_visits_and_no_child_is_searched():
    config = config_of(candidates=2, wave=1, enough=4)
    toy = Toy(Language(5, 8), config)
    tree, state = toy.begin(ROOTS)
    # As below a node at the deepest level, which is evaluated again and never has children.
    often = dataclasses.replace(tree, visits=tree.visits.at[:, :, 0].set(9))
    tree, _, spent = toy.search(often, state)
    assert (spent == jnp.where(tree.terminal[:, :, 0], 0, 1)).all()
    assert (root_visits(tree).sum(axis=-1) == spent).all()


@pytest.mark.parametrize(("considered", "rewarded"), [(0, False), (3, False), (0, True)])
def test_with_a_growing_budget_the_text_becomes_the_best_one(considered, rewarded):
    vocab, length = 3, 3
    language = Language.of_strings(11, vocab, 1 + length, rewarded)
    roots = np.array([[1], [2], [3]])

    def end(root: int, text: tuple[int, ...]) -> int:
        for token in text:
            root = language.step[root, token]
        return root

    def earned(root: int, text: tuple[int, ...]) -> float:
        states = [end(root, text[:n]) for n in range(length)]
        return sum(language.reward[states, text]) if rewarded else 0.0

    texts = list(itertools.product(range(vocab), repeat=length))
    best = []
    for root in roots[:, 0]:
        values = [language.value[end(root, text)] + earned(root, text) for text in texts]
        best.append(texts[int(np.argmax(values))])
        # The budget that is needed grows with the inverse square of the best text's lead.
        language.value[end(root, best[-1])] += 0.125
    found = []
    for simulations in (6, 4096):
        config = config_of(
            simulations=simulations,
            candidates=3,
            considered=considered,
            depth=length,
            kept=0,
            c_puct=2.0,
        )
        toy = Toy(language, config)
        tree, _, _ = toy.search(*toy.begin(roots))
        chosen = choose(tree, config=config)[0]
        found.append([])
        for b in range(len(roots)):
            one, node, text = row(tree, b), 0, ()
            while (one.children[node] >= 0).any():
                child = one.children[node]
                rank = np.argmax(np.where(child >= 0, one.visits[child], 0))
                node = child[rank if node else chosen[b, 0]]
                text += (int(one.token[node]),)
            found[-1].append(text)
    missed = [text != wanted for text, wanted in zip(found[0], best, strict=True)]
    # What the next token earns is known before anything is tried.
    assert any(missed) if rewarded else all(missed)
    assert found[1] == best


def test_choices_are_drawn_as_often_as_their_log_proposal_says():
    draws = 8000
    config = config_of(**CASES["paper"][1])
    toy = Toy(Language(8, 12), config)
    tree, _, _ = toy.search(*toy.begin(ROOTS))
    visits = np.asarray(root_visits(tree))[1, 0]
    assert (visits > 0).sum() >= 3
    many = jax.tree.map(lambda leaf: np.repeat(np.asarray(leaf)[1:2, :1], draws, axis=1), tree)
    keys = jax.random.split(jax.random.key(0), (1, draws))
    for tau in (1.0, 0.5, 2.0):
        rank, log_p = jax.tree.map(
            np.asarray, jax.jit(partial(choose, config=config))(many, key=keys, tau=tau)
        )
        expected = visits ** (1 / tau) / (visits ** (1 / tau)).sum()
        np.testing.assert_allclose(np.exp(log_p[0]), expected[rank[0]], rtol=1e-5)
        frequency = np.bincount(rank[0], minlength=len(visits)) / draws
        assert (np.abs(frequency - expected) <= 4 * np.sqrt(expected / draws)).all()


def test_argmax_takes_the_lowest_rank_among_equals_and_has_no_proposal():
    tree, config = new_tree(1, 2, 5, 4, 2), config_of(candidates=4)
    tree = tree.replace(
        children=tree.children.at[0, 0, 0].set(jnp.array([-1, 1, 2, 3])),
        visits=tree.visits.at[0, 0].set(jnp.array([12, 3, 4, 4, 0])),
    )
    keys = jax.random.split(jax.random.key(0), (1, 2))
    for rank, log_p in (
        choose(tree, config=config),
        choose(tree, config=config, key=keys, tau=0.0),
    ):
        np.testing.assert_array_equal(rank, [[2, 0]])
        assert np.isnan(log_p).all()
    rank, log_p = choose(tree, config=config, key=keys, tau=jnp.array([[1e-4, 1.0]]))
    assert rank[0, 0] in (2, 3) and np.isclose(log_p[0, 0], np.log(0.5))
    assert rank[0, 1] == 0 and np.isnan(log_p[0, 1])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"simulations": 0}, "simulations is 0"),
        ({"wave": 0}, "wave is 0"),
        ({"depth": 0}, "depth is 0"),
        ({"candidates": 0}, "candidates is 0"),
        ({"kept": -1}, "kept is -1"),
        ({"enough": -1}, "enough is -1"),
        ({"enough": 1}, "enough is 1"),
        ({"stride": 0}, "stride is 0"),
        ({"considered": -1}, "considered is -1"),
        ({"considered": 51}, "a node has 50 candidates"),
        ({"considered": 4, "enough": 20}, "enough needs considered 0"),
        ({"considered": 4, "wave": 8, "simulations": 8}, "halving compares only 4 candidates"),
        ({"considered": 4, "policy": "siblings"}, "policy 'siblings' needs considered 0"),
        ({"value_scale": float("inf")}, "value_scale is inf"),
        ({"policy": "deep"}, "policy is 'deep'"),
        ({"wave": 64, "simulations": 64}, "lower wave or raise candidates"),
        ({"simulations": 30, "wave": 4}, "use 32 simulations"),
        ({"simulations": 2, "wave": 4}, "use 4 simulations"),
        ({"c_puct": float("nan")}, "c_puct is nan"),
        ({"virtual_loss": -1.0}, "virtual_loss is -1.0"),
        ({"first_play_urgency": "one"}, "first_play_urgency is 'one'"),
    ],
)
def test_a_bad_config_is_refused_in_one_sentence(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        SearchConfig(**settings)


def test_nodes_are_the_root_the_kept_and_the_new():
    assert SearchConfig(simulations=24, wave=4, kept=7).nodes == 32


def test_halving_never_stops_early():
    assert SearchConfig().stops_early
    assert not SearchConfig(considered=4).stops_early


def test_a_search_keeps_the_settings_it_is_given():
    halved = SearchConfig(considered=8, early_stop=True)
    assert halved.early_stop
    assert dataclasses.replace(halved, considered=0).stops_early
