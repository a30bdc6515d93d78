import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coopgen_jax.search import SearchConfig, best_child, new_tree, root_visits
from coopgen_jax.search.config import Halving, Puct
from coopgen_jax.search.mcts import visit_logits
from tests.oracle import Language, Search, assert_same
from tests.search.toy import ROOTS, Toy, config_of, row

# Size of the vocabulary and settings. "starved wave" has fewer tokens than lanes.
CASES: dict[str, tuple[int, dict]] = {
    "paper": (12, {"candidates": 5}),
    "one candidate": (6, {"candidates": 1}),
    "shallow": (4, {"candidates": 4, "depth": 1, "reused_nodes": 0}),
    "capped": (5, {"candidates": 5, "depth": 3, "c_puct": 1.0}),
    "parent": (20, {"candidates": 6, "first_play_urgency": "parent"}),
    "wave": (12, {"candidates": 8, "wave": 4}),
    "wide wave": (12, {"candidates": 12, "wave": 12}),
    "starved wave": (3, {"candidates": 8, "wave": 8, "depth": 4}),
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
    "halved wave": (9, {"candidates": 8, "wave": 4, "considered": 5, "value_scale": 0.05}),
}
SEARCHED = [(case, False) for case in CASES] + [(case, True) for case in REWARDED]


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
            assert best_child(tree, config=config)[b, r] == oracle.best()


@pytest.mark.parametrize(
    "case",
    [
        "wave",
        "wide wave",
        "starved wave",
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
    config = config_of(
        candidates=6, wave=4, c_puct=4.0, considered=considered, early_stop=not considered
    )
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
    config = config_of(candidates=6, wave=wave, c_puct=4.0, early_stop=True)
    language = Language(5, 6, rewarded=wave == 4)
    toy = Toy(language, config)
    stops = []
    for roots in ROOTS + 6 * np.arange(4)[:, None, None]:
        tree, _, _ = toy.search(*toy.begin(roots))
        chosen = best_child(tree, config=config)
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
    config = config_of(candidates=6, wave=wave, reused_nodes=40, c_puct=0.5, visit_limit=37)
    language = Language(5, 8)
    toy = Toy(language, config)
    counts = []

    def run(oracle: Search) -> int:
        before, done = oracle.root.visits, 0
        while oracle.root.visits < config.visit_limit and done < config.simulations // wave:
            oracle.run(1, first=done)
            done += 1
        return oracle.root.visits - before

    for roots in ROOTS + 6 * np.arange(3)[:, None, None]:
        tree, state, first = toy.search(*toy.begin(roots))
        rank = best_child(tree, config=config)
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
    config = config_of(candidates=2, wave=1, visit_limit=4)
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
            depth=length,
            reused_nodes=0,
            c_puct=2.0,
            considered=considered,
        )
        toy = Toy(language, config)
        tree, _, _ = toy.search(*toy.begin(roots))
        chosen = best_child(tree, config=config)
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


def test_visits_are_a_distribution_of_any_temperature():
    config = config_of(**CASES["paper"][1])
    toy = Toy(Language(8, 12), config)
    tree, _, _ = toy.search(*toy.begin(ROOTS))
    visits = np.asarray(root_visits(tree))
    assert (visits[1, 0] > 0).sum() >= 3
    for tau in (1.0, 0.5, 2.0):
        logits, sampled = visit_logits(root_visits(tree), tau)
        expected = visits ** (1 / tau) / (visits ** (1 / tau)).sum(axis=-1, keepdims=True)
        np.testing.assert_allclose(jax.nn.softmax(logits), expected, rtol=1e-5)
        assert sampled.all()


def test_the_best_child_is_the_lowest_rank_among_equals():
    tree, config = new_tree(1, 2, 5, 4, 2), config_of(candidates=4)
    tree = tree.replace(
        children=tree.children.at[0, 0, 0].set(jnp.array([-1, 1, 2, 3])),
        visits=tree.visits.at[0, 0].set(jnp.array([12, 3, 4, 4, 0])),
    )
    np.testing.assert_array_equal(best_child(tree, config=config), [[2, 0]])
    logits, sampled = visit_logits(root_visits(tree), jnp.array([[1e-4, 1.0]]))
    # Of a root without visits nothing can be drawn.
    np.testing.assert_array_equal(sampled, [[True, False]])
    np.testing.assert_allclose(jax.nn.softmax(logits[0, 0]), [0, 0, 0.5, 0.5], atol=1e-6)
    assert not visit_logits(root_visits(tree), 0.0)[1].any()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"simulations": 0}, "simulations is 0"),
        ({"wave": 0}, "wave is 0"),
        ({"depth": 0}, "depth is 0"),
        ({"candidates": 0}, "candidates is 0"),
        ({"reused_nodes": -1}, "reused_nodes is -1"),
        ({"visit_limit": -1}, "visit_limit is -1"),
        ({"visit_limit": 1}, "visit_limit is 1"),
        ({"considered": -1}, "considered is -1"),
        ({"considered": 51}, "a node has 50 candidates"),
        ({"considered": 4, "wave": 8, "simulations": 8}, "halving compares only 4 candidates"),
        ({"considered": 4, "value_scale": float("inf")}, "value_scale is inf"),
        ({"wave": 64, "simulations": 64}, "lower wave or raise candidates"),
        ({"simulations": 30, "wave": 4}, "use 32 simulations"),
        ({"simulations": 2, "wave": 4}, "use 4 simulations"),
        ({"c_puct": float("nan")}, "c_puct is nan"),
        ({"first_play_urgency": "one"}, "first_play_urgency is 'one'"),
    ],
)
def test_a_bad_config_is_refused_in_one_sentence(settings, sentence):
    defaults = {"candidates": 50, "simulations": 32, "depth": 16, "reused_nodes": 32}
    with pytest.raises(ValueError, match=sentence):
        config_of(**defaults | settings)


def test_nodes_are_the_root_the_kept_and_the_new():
    assert SearchConfig(simulations=24, wave=4, reused_nodes=7).nodes == 32


def test_halving_never_stops_early():
    assert SearchConfig().stops_early
    halved = SearchConfig(root=Halving(4))
    assert not halved.stops_early
    assert dataclasses.replace(halved, root=Puct()).stops_early
