"""Rules on given words, against loops over texts."""

import jax.numpy as jnp
import numpy as np
import pytest

from coopgen_jax.decoding.rules.words import add_bias, forbid, forbid_ends, force


def test_biases_of_one_token_add_up():
    logits = jnp.zeros((2, 4))
    got = add_bias(logits, ((1, 2.0), (3, -0.5), (1, 1.0)))
    np.testing.assert_array_equal(got, [[0, 3, 0, -0.5]] * 2)
    assert add_bias(logits, ()) is logits


@pytest.mark.parametrize("seed", range(10))
def test_what_would_complete_a_word_is_ruled_out(seed):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 3, (2, 3, 6))
    mask = rng.random((2, 3, 6)) < 0.6
    words = tuple(tuple(rng.integers(0, 4, rng.integers(1, 5)).tolist()) for _ in range(4))
    got = np.asarray(forbid(jnp.zeros((2, 3, 4)), jnp.asarray(tokens), jnp.asarray(mask), words))
    for at in np.ndindex(2, 3):
        text = tokens[at][mask[at]].tolist()
        for token in range(4):
            bad = any((*text, token)[-len(word) :] == word for word in words)
            assert np.isneginf(got[at][token]) == bad, (text, token, words)
            assert bad or got[at][token] == 0


def test_a_word_begins_with_no_token_that_is_not_there():
    """Neither what is masked nor the room in front of a short text is part of a word."""
    logits, words = jnp.zeros((3, 3)), ((0, 0, 1),)
    tokens = jnp.asarray([[0, 0], [0, 0], [2, 0]])
    mask = jnp.asarray([[True, True], [False, True], [True, True]])
    got = np.asarray(forbid(logits, tokens, mask, words))
    assert np.isneginf(got[:, 1]).tolist() == [True, False, False]
    nothing = jnp.zeros((3, 0), jnp.int32)
    assert np.isfinite(forbid(logits, nothing, nothing.astype(bool), words)).all()
    assert np.isneginf(forbid(logits, nothing, nothing.astype(bool), ((2,),))).sum() == 3


def test_a_short_text_has_no_end():
    logits, short = jnp.zeros((2, 5)), jnp.asarray([True, False])
    got = forbid_ends(logits, short, (3, 4))
    np.testing.assert_array_equal(np.isneginf(got), [[0, 0, 0, 1, 1], [0] * 5])
    completing = jnp.asarray([[True, False, False, False, False]] * 2)
    got = forbid_ends(logits, short, (4,), completing)
    np.testing.assert_array_equal(np.isneginf(got), [[1, 0, 0, 0, 1], [0] * 5])
    assert np.isfinite(forbid_ends(logits, short, ())).all()


def test_one_token_is_left_where_it_is_forced():
    logits = jnp.asarray([[-jnp.inf, 1.0, 2.0]] * 3)
    given = jnp.asarray([[5.0, 6.0, 7.0]] * 3)
    got = force(logits, jnp.asarray([0, 1, 2]), (2, 0), given)
    infinity = -np.inf
    wanted = [[infinity, infinity, 7], [5, infinity, infinity], [infinity, 1, 2]]
    np.testing.assert_array_equal(got, wanted)
    assert force(logits, jnp.asarray([0, 1, 2]), (), given) is logits
