"""What a search tells of its root's children, and a search along given texts."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coopgen_jax.decoding.mcts.along import along_of
from coopgen_jax.decoding.mcts.mcts_config import ByValues, MCTSConfig, Value
from coopgen_jax.decoding.mcts.root_children import root_children
from coopgen_jax.decoding.rules.shaping import Rules
from coopgen_jax.errors import UserError
from coopgen_jax.text_generation import generate
from tests.decoding.mcts.slow_texts import advance, begin, search_config, tables_of
from tests.decoding.toy import prompt_of
from tests.tiny_model import guide, model

PARAMS = jax.tree.map(jnp.asarray, tables_of(3))
PROMPTS, TARGET = prompt_of([3, 2], [1, 4, 0], [2]), jnp.asarray([1, 0, 1])
CONFIG = MCTSConfig(
    new_tokens=4,
    samples=2,
    search=search_config(simulations=12, wave=2, candidates=5, depth=3, reused_nodes=12),
)


def steps_of(config, count=3):
    state = begin(PROMPTS, PARAMS, TARGET, config)
    for _ in range(count):
        live = ~np.asarray(state.generation.finished)
        state, tree = advance(jax.random.key(0), PROMPTS, state, PARAMS, TARGET, config)
        yield live, tree


def backed_up(tree, node: int, target: int) -> tuple[float, int]:
    """Returns the sum and the number of the evaluations at and below a node, by recursion."""
    count = int(tree.credits[node])
    total = count * float(np.exp(tree.log_class[node, target]))
    for child in tree.children[node]:
        if child >= 0 and tree.visits[child] > 0:
            more, times = backed_up(tree, int(child), target)
            total, count = total + more, count + times
    return total, count


@pytest.mark.parametrize("alpha", [1.0, 0.4])
def test_a_childs_value_is_the_guides_mean_at_and_below_it(alpha):
    config = replace(CONFIG, value=Value(alpha=alpha))
    tried = 0
    for live, tree in steps_of(config):
        found = root_children(tree, np.asarray(TARGET))
        tree = jax.device_get(tree)
        for row, sample in zip(*np.nonzero(live), strict=True):
            one = jax.tree.map(lambda leaf, at=(row, sample): leaf[at], tree)
            for rank, child in enumerate(one.children[0]):
                if child < 0 or not one.visits[child]:
                    assert not found.visits[row, sample, rank]
                    assert not found.values[row, sample, rank]
                    continue
                tried += 1
                total, count = backed_up(one, int(child), int(TARGET[row]))
                assert found.tokens[row, sample, rank] == one.tokens[0, rank]
                assert found.visits[row, sample, rank] == one.visits[child] >= count
                assert found.values[row, sample, rank] == pytest.approx(total / count)
                if alpha == 1 and one.visits[child] == count:
                    own = one.value_sum[child] / one.visits[child]
                    assert found.values[row, sample, rank] == pytest.approx(own, rel=1e-5)
    assert tried > 30


DRAWN = MCTSConfig(
    new_tokens=5,
    choice=ByValues(mix_base=0.3),
    search=search_config(simulations=6, wave=2, candidates=4, depth=3, reused_nodes=4),
)
TEXTS = {"target": ["good", "bad", "good"], "batch_size": 2, "discriminator": guide()}
PROMPT_TEXTS = ["one", "another one", "three"]


def written(**more) -> tuple[list, list]:
    trees = []

    def listen(step):
        trees.append(jax.device_get((step.generation.length, step.tree)))

    texts = generate(model(), PROMPT_TEXTS, listener=listen, **TEXTS, **more)
    return [text.tokens for text in texts], trees


def test_along_its_own_texts_a_search_is_the_same():
    texts, trees = written(config=DRAWN, seed=3)
    again, same = written(config=DRAWN, seed=3, along=texts)
    assert again == texts
    for (lengths, one), (others, other) in zip(trees, same, strict=True):
        np.testing.assert_array_equal(lengths, others)
        jax.tree.map(np.testing.assert_array_equal, one, other)
    # Another seed draws other texts, and goes along the same ones.
    assert written(config=DRAWN, seed=4)[0] != texts
    assert written(config=DRAWN, seed=4, along=texts)[0] == texts


def test_along_texts_of_another_method_the_search_writes_theirs():
    rng = np.random.default_rng(0)
    texts = [rng.integers(1, 250, 5).tolist() for _ in PROMPT_TEXTS]
    texts[1] = [*texts[1][:2], 256]  # which ends it
    halved = replace(DRAWN, search=search_config(
        simulations=8, wave=2, candidates=5, depth=2, reused_nodes=3, considered=4
    ))  # fmt: skip
    for config in (DRAWN, halved):
        found, trees = written(config=config, along=texts)
        assert found == texts
        # Every token has had its search.
        assert all((tree.visits[:, 0, 0] > 1).all() for lengths, tree in trees[:2])


def test_a_short_text_may_complete_a_stop_string():
    stopped = replace(DRAWN, rules=Rules(stop=("b",)))
    texts = [[1, 2, 3, 4, 5], model().tokenizer.encode_batch(["ab"])[0], [256]]
    assert written(config=stopped, along=texts)[0] == texts
    with pytest.raises(UserError, match="text 1 to search along has 2 of 5 new tokens"):
        written(config=DRAWN, along=texts)


@pytest.mark.parametrize(
    ("config", "along", "sentence"),
    [
        (CONFIG, [[1]] * 3, "only a search that can write every token goes along given texts"),
        (DRAWN, [[1]] * 2, "2 texts to search along for 3 prompts: give one each"),
        (DRAWN, [[1] * 5, [1, 2], [1] * 5], "text 1 to search along has 2 of 5 new tokens and"),
        (DRAWN, [[1] * 5, [1] * 5, []], "text 2 to search along has 0 of 5 new tokens and"),
        (DRAWN, [[1] * 5, [9999, 256], [1] * 5], "text 1 to search along has the token 9999"),
        (DRAWN, [[1, 2, -1, 4, 5], [256], [1] * 5], "text 0 to search along has the token -1"),
    ],
)
def test_what_cannot_go_along_texts_says_so(config, along, sentence):
    with pytest.raises(UserError, match=sentence):
        generate(model(), PROMPT_TEXTS, config=config, along=along, **TEXTS)


def test_texts_to_go_along_are_filled_up_and_cut():
    found = along_of([[1, 2, 3], [4]], [1, 0, 1], 2)
    assert np.asarray(found).tolist() == [[4, 0], [1, 2], [4, 0]]
    assert along_of(None, [0], 2) is None
