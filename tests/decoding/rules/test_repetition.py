"""Rules on one distribution, against numbers worked out by hand and a slow loop."""

import jax.numpy as jnp
import numpy as np
import pytest

from coopgen_jax.decoding.mcts.mcts_config import MCTSConfig
from coopgen_jax.decoding.methods.sampling import SamplingConfig
from coopgen_jax.decoding.rules.repetition import no_repeat_ngram, repetition_penalty
from coopgen_jax.decoding.rules.words import forbid, force


def test_penalty_divides_positive_and_multiplies_negative_logits_once():
    logits = jnp.asarray([[2.0, -1.0, 0.5, 4.0]])
    tokens = jnp.asarray([[0, 1, 0, 3]])
    mask = jnp.asarray([[True, True, True, False]])
    got = repetition_penalty(logits, tokens, mask, 2.0)
    np.testing.assert_array_equal(got, [[1.0, -2.0, 0.5, 4.0]])


def test_penalty_of_one_changes_nothing():
    logits = jnp.asarray([[2.0, -1.0]])
    tokens, mask = jnp.asarray([[0]]), jnp.asarray([[True]])
    assert repetition_penalty(logits, tokens, mask, 1.0) is logits


def test_penalty_row_by_row_equals_a_loop():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 3, 7)).astype(np.float32)
    tokens = rng.integers(0, 7, (2, 3, 5))
    mask = rng.random((2, 3, 5)) < 0.6
    expected = logits.copy()
    for at in np.ndindex(2, 3):
        for token in {int(t) for t, m in zip(tokens[at], mask[at], strict=True) if m}:
            value = logits[*at, token]
            expected[*at, token] = value / np.float32(1.3) if value > 0 else value * np.float32(1.3)
    got = repetition_penalty(jnp.asarray(logits), jnp.asarray(tokens), jnp.asarray(mask), 1.3)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_no_ngram_is_written_twice_as_a_loop_says(n):
    rng = np.random.default_rng(n)
    logits = rng.normal(size=(3, 4, 3)).astype(np.float32)
    tokens = rng.integers(0, 2, (3, 4, 12))
    mask = rng.random((3, 4, 12)) < 0.7
    mask[0, 0], mask[0, 1] = False, np.arange(12) < n - 2  # texts too short for a rule
    expected = logits.copy()
    for at in np.ndindex(3, 4):
        text = [int(t) for t, real in zip(tokens[at], mask[at], strict=True) if real]
        grams = {tuple(text[i : i + n]) for i in range(len(text) - n + 1)}
        for token in range(3):
            if len(text) >= n - 1 and (*text[len(text) - n + 1 :], token) in grams:
                expected[*at, token] = -np.inf
    assert np.isinf(expected).any()
    got = no_repeat_ngram(jnp.asarray(logits), jnp.asarray(tokens), jnp.asarray(mask), n)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("config", [MCTSConfig, SamplingConfig])
@pytest.mark.parametrize("n", [-1, 1])
def test_an_ngram_of_one_token_is_no_rule(config, n):
    with pytest.raises(ValueError, match=f"no_repeat_ngram is {n}"):
        config().with_settings(no_repeat_ngram=n)


def test_no_rule_changes_nothing():
    logits, tokens = jnp.zeros((2, 3)), jnp.zeros((2, 5), jnp.int32)
    assert no_repeat_ngram(logits, tokens, jnp.ones((2, 5), bool), 0) is logits
    assert no_repeat_ngram(logits, tokens[:, :1], jnp.ones((2, 1), bool), 2) is logits


def test_no_bad_word_is_completed_as_a_loop_says():
    rng = np.random.default_rng(5)
    words = ((2,), (0, 1), (1, 1, 0), (0, 0, 0, 1))
    logits = rng.normal(size=(3, 40, 3)).astype(np.float32)
    tokens = rng.integers(0, 2, (3, 40, 6))
    mask = rng.random((3, 40, 6)) < 0.6
    mask[0, 0] = False
    expected, ruled = logits.copy(), set()
    for at in np.ndindex(3, 40):
        text = [int(t) for t, real in zip(tokens[at], mask[at], strict=True) if real]
        for word in words:
            if tuple(text[len(text) - len(word) + 1 :]) == word[:-1] and len(text) >= len(word) - 1:
                expected[*at, word[-1]] = -np.inf
                ruled.add(word)
    assert ruled == set(words)
    got = forbid(jnp.asarray(logits), jnp.asarray(tokens), jnp.asarray(mask), words)
    np.testing.assert_array_equal(got, expected)
    none = jnp.zeros((2, 0), jnp.int32)
    got = forbid(jnp.zeros((2, 3)), none, none.astype(bool), ((0, 1), (2,)))
    np.testing.assert_array_equal(got, [[0, 0, -np.inf]] * 2)


def test_a_forced_token_is_the_only_one_until_all_are_written():
    logits = jnp.asarray([[1.0, 2.0, 3.0]] * 3)
    got = force(logits, jnp.asarray([0, 1, 2]), (2, 0), logits)
    infinity = np.inf
    np.testing.assert_array_equal(
        got, [[-infinity, -infinity, 3], [1, -infinity, -infinity], [1, 2, 3]]
    )
