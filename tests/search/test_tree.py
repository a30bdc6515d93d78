import jax
import numpy as np
import pytest

from coopgen_jax.search import best_child, root_visits
from tests.oracle import Language, Search, assert_same
from tests.search.toy import ROOTS, Toy, config_of, row


@pytest.mark.parametrize(
    ("wave", "kept", "considered", "rewarded"),
    [
        (1, 0, 0, False),
        (1, 5, 0, False),
        (4, 60, 0, False),
        (1, 5, 4, False),
        (4, 60, 6, False),
        (1, 5, 0, True),
        (4, 60, 0, True),
    ],
)
def test_search_goes_on_from_a_kept_subtree_like_the_oracle(wave, kept, considered, rewarded):
    config = config_of(candidates=6, reused_nodes=kept, wave=wave, depth=5, considered=considered)
    language = Language(4, 6, rewarded=rewarded)
    toy = Toy(language, config)
    tree, cache = toy.begin(ROOTS)
    oracles = {at: Search(language, config, ROOTS[at]) for at in np.ndindex(*ROOTS.shape)}
    overflowed, ended = 0, []
    for _ in range(4):
        tree, state, ran = toy.search(tree, cache)
        # Not always the most visited child: what is kept is neither everything nor a chain.
        order = np.argsort(-np.asarray(root_visits(tree)), axis=2, kind="stable")
        rank = np.where(np.arange(6).reshape(3, 2) % 2 == 0, order[..., 0], order[..., 1])
        chosen = np.asarray(best_child(tree, config=config))
        tree, cache, source = toy.reroot(tree, state.cache, rank)
        for at, oracle in oracles.items():
            if at in ended:
                assert ran[at] == 0 and not np.asarray(tree.visits)[at].any()
                continue
            oracle.run(config.simulations // config.wave)
            assert chosen[at] == oracle.best()
            if rank[at] not in oracle.root.children:
                ended.append(at)
                continue
            size = len(oracle.root.children[rank[at]].subtree())
            moved = oracle.reroot(rank[at])
            overflowed += size > len(moved)
            assert np.asarray(source)[at][list(moved)].tolist() == list(moved.values())
            assert not np.asarray(source)[at][len(moved) :].any()
            assert_same(row(tree, *at), oracle)
    assert (overflowed > 0) == (kept < 60)
    assert 0 < len(ended) < len(oracles), "the end of a text is to be met by some rows"


def test_a_root_that_was_never_expanded_leaves_an_empty_row_that_a_search_skips():
    config = config_of(**{"candidates": 6, "reused_nodes": 5, "depth": 5})
    toy = Toy(Language(4, 6), config)
    tree, cache = toy.begin(ROOTS)
    tree, cache, _ = toy.reroot(tree, cache, np.array([[0, -1], [5, 0], [-1, 2]]))
    after, _, ran = toy.search(tree, cache)
    assert not np.asarray(ran).any() and not np.asarray(after.visits).any()
    assert (np.asarray(after.children) == -1).all()


def test_a_terminal_root_is_credited_with_its_own_value_only():
    config = config_of(**{"candidates": 6, "reused_nodes": 5, "depth": 5})
    language = Language(4, 6)
    toy = Toy(language, config)
    ends = np.full(ROOTS.shape, language.states + 1)
    planted = toy.begin(ends)
    tree, _, ran = toy.search(*planted)
    assert (np.asarray(ran) == config.simulations).all()
    one, before = row(tree, 0), row(planted[0], 0)
    assert one.visits[0] == 49 and one.value_sum[0] == 49 * language.value[ends[0, 0]]
    assert one.visits[1:].sum() == 0
    jax.tree.map(np.testing.assert_array_equal, one.children, before.children)
