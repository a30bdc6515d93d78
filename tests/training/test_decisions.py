"""What searches found as a loss: against NumPy, finite differences and the toy's enumeration."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads

from coopgen_jax.decoding.mcts.mcts_config import MCTSConfig
from coopgen_jax.decoding.mcts.root_children import root_children
from coopgen_jax.training.decisions import decision_table, searched_loss, was_searched
from coopgen_jax.training.losses import searched_value
from coopgen_jax.training.searched_texts import Found, SearchedText
from tests.decoding.mcts.slow_texts import END, TOY, advance, begin, search_config, tables_of
from tests.decoding.toy import prompt_of

CLASSES = ("low", "mid", "high")
TEXTS = [
    SearchedText(
        "a", "high", [4, 2], [0.1, 0.1, 0.8],
        [Found([4, 2, 7], [5, 2, 1], [0.9, 0.3, 0.5]), Found([2], [4], [0.7])],
    ),
    SearchedText("b", "low", [7], [0.6, 0.2, 0.2], [Found([7, 4], [1, 3], [0.2, 0.6])]),
]  # fmt: skip
rng = np.random.default_rng(0)
EMBEDDING = rng.normal(size=(9, 6)).astype(np.float32)
KEYS = rng.normal(size=(6, 4)).astype(np.float32)
# Places 0 to 2 belong to a labelled text, 3 and 4 to the first searched one, 5 to the second.
PLACES = np.array([[3, 4, 0, 0], [0, 1, 2, 0], [5, 0, 0, 0]])
INSIDE = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0]], bool)
QUERIES = rng.normal(size=(3, 4, 3, 5)).astype(np.float32)


def table():
    return jax.tree.map(jnp.asarray, decision_table(TEXTS, CLASSES, EMBEDDING, 3))


def by_hand() -> float:
    total = 0.0
    for row, text in ((0, TEXTS[0]), (2, TEXTS[1])):
        target = CLASSES.index(text.target)
        for at, found in enumerate(text.found):
            each = 0.0
            for token, visits, value in zip(found.tokens, found.visits, found.values, strict=True):
                key = EMBEDDING[token] @ KEYS
                logits = QUERIES[row, at, :, :-1] @ key + QUERIES[row, at, :, -1]
                p = np.exp(logits[target]) / np.exp(logits).sum()
                each -= visits * (value * np.log(p) + (1 - value) * np.log(1 - p))
            total += each / sum(found.visits) / len(text.found)
    return total


def test_the_loss_of_searches_is_the_cross_entropy_of_their_values():
    found = table()
    assert was_searched(found, PLACES, INSIDE).tolist() == [True, False, True]
    # A place that is looked up where there is no token counts for nothing.
    assert was_searched(found, np.full((1, 4), 3), np.zeros((1, 4), bool)).tolist() == [False]
    total, weight = jax.jit(searched_loss)(found, KEYS, QUERIES, PLACES, INSIDE)["searched_loss"]
    assert (float(total), float(weight)) == (pytest.approx(by_hand(), rel=1e-5), 2)
    assert found["embedding"].shape == (4, 6)  # token 0 fills up


def test_its_gradient_is_that_of_finite_differences():
    found = table()

    def loss(keys, queries):
        return searched_loss(found, keys, queries, PLACES, INSIDE)["searched_loss"][0]

    with jax.enable_x64(True):
        both = jnp.asarray(KEYS, jnp.float64), jnp.asarray(QUERIES, jnp.float64)
        check_grads(loss, both, order=1, modes=["rev"], atol=1e-6, rtol=1e-6)
    # What was not searched, and what no token stands at, has no part in it.
    slope = np.asarray(jax.grad(loss, 1)(KEYS, QUERIES))
    counted = np.zeros((3, 4), bool)
    counted[[0, 0, 2], [0, 1, 0]] = True
    assert (np.abs(slope).max(axis=(2, 3)) > 0).tolist() == counted.tolist()


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_a_value_is_where_its_loss_is_least(value):
    log_class = jax.nn.log_softmax(jnp.asarray([0.4, -1.0, 0.2]))
    p = float(jnp.exp(log_class[1]))
    wanted = -value * np.log(p) - (1 - value) * np.log(1 - p)
    assert float(searched_value(log_class, jnp.int32(1), value)) == pytest.approx(wanted, rel=1e-5)

    def at(logit):
        return searched_value(jax.nn.log_softmax(jnp.array([0.0, logit, 0.0])), 1, value)

    if 0 < value < 1:
        least = np.log(2 * value / (1 - value))
        assert float(jax.grad(at)(least)) == pytest.approx(0, abs=1e-6)
    else:
        assert np.isfinite(float(jax.grad(at)(3.0)))


TARGET = 1
TABLES = tables_of(5)
TABLES["logits"] *= 0.3  # a search that is to find everything must be able to look everywhere
PARAMS = jax.tree.map(jnp.asarray, TABLES)
PROMPTS = [[3, 2], [1, 4, 0], [2], [0, 0], [4, 1, 1]]


def judged(text) -> float:
    memory = 0
    for token in text:
        memory = int(TOY.read(memory, token))
    scores = np.exp(TABLES["scores"][memory].astype(float))
    return scores[TARGET] / scores.sum()


def exact(prompt, length: int) -> np.ndarray:
    """Returns for every first token the best that a text of at most so many tokens can end as."""
    best = np.zeros(TOY.vocab_size)
    for text in itertools.product(range(TOY.vocab_size), repeat=length):
        if END in text:
            text = text[: text.index(END) + 1]
        said = judged([*prompt, *(text[:-1] if text[-1] == END else text)])
        best[text[0]] = max(best[text[0]], said)
    return best


def distilled(length: int, simulations: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the values that a head with a query a prompt and a key a token learns from searches.

    Beside them are those of the searches, 0 for what was not tried, both `[prompts, V]`.
    """
    config = MCTSConfig(
        new_tokens=length,
        search=search_config(
            simulations=simulations, candidates=TOY.vocab_size, depth=length, reused_nodes=0,
            c_puct=2.0,
        ),
    )  # fmt: skip
    prompts, target = prompt_of(*PROMPTS), jnp.full(len(PROMPTS), TARGET)
    state = begin(prompts, PARAMS, target, config)
    _, tree = advance(jax.random.key(0), prompts, state, PARAMS, target, config)
    found = root_children(tree, np.asarray(target))
    texts, searched = [], np.zeros((len(PROMPTS), TOY.vocab_size))
    for row in range(len(PROMPTS)):
        entries = (array[row, 0].tolist() for array in (found.tokens, found.visits, found.values))
        texts.append(SearchedText("", "one", [0], [0.5, 0.5], [Found(*entries)]))
        searched[row, found.tokens[row, 0]] = found.values[row, 0]
    own = decision_table(texts, ("zero", "one"), np.eye(TOY.vocab_size), 0)
    own = jax.tree.map(jnp.asarray, own)
    keys, places = jnp.eye(TOY.vocab_size), jnp.arange(len(PROMPTS))[:, None]
    inside = jnp.ones_like(places, bool)
    optimiser = optax.adam(0.1)

    def loss(queries):
        return searched_loss(own, keys, queries, places, inside)["searched_loss"][0]

    @jax.jit
    def step(both, _):
        queries, state = both
        updates, state = optimiser.update(jax.grad(loss)(queries), state)
        return (optax.apply_updates(queries, updates), state), None

    queries = jnp.zeros((len(PROMPTS), 1, 2, TOY.vocab_size + 1))
    (queries, _), _ = jax.lax.scan(step, (queries, optimiser.init(queries)), length=1000)
    logits = queries[:, 0, :, :-1] + queries[:, 0, :, -1:]
    return np.asarray(jax.nn.softmax(logits, axis=1)[:, TARGET]), searched


def test_a_search_of_one_token_is_distilled_to_the_exact_values():
    learned, _ = distilled(1, 600)
    wanted = np.array([exact(prompt, 1) for prompt in PROMPTS])
    np.testing.assert_allclose(learned, wanted, atol=0.01)


def test_with_more_simulations_the_distilled_values_come_to_the_exact_ones():
    wanted = np.array([exact(prompt, 2) for prompt in PROMPTS])
    errors = []
    for simulations in (12, 200, 3000):
        learned, searched = distilled(2, simulations)
        tried = searched > 0
        np.testing.assert_allclose(learned[tried], searched[tried], atol=0.02)
        # It takes the token that the search does.
        picks = np.where(tried, learned, 0).argmax(axis=1)
        np.testing.assert_array_equal(picks, searched.argmax(axis=1))
        errors.append(np.abs(learned - wanted).mean())
    assert errors[0] > 1.3 * errors[1] > 1.7 * 1.3 * errors[2]
    picked = wanted[np.arange(len(PROMPTS)), picks]
    np.testing.assert_allclose(picked, wanted.max(axis=1), atol=0.05)
