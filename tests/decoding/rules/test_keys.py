"""Pseudo-random words: Threefry as published, the same bits from NumPy and from JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.random import threefry_2x32

from coopgen_jax.decoding.rules.keys import (
    green_below,
    shifted,
    threefry,
    token_words,
    window_seed,
)

SECRET = np.asarray([1, 2**32 - 1, 77, 2**31], np.uint32)


def words(*values):
    return tuple(np.asarray([value], np.uint32) for value in values)


# The known answers of the authors' library for 20 rounds.
KNOWN = [
    ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
]


@pytest.mark.parametrize(("key", "counter", "wanted"), KNOWN)
def test_words_are_the_known_answers_of_threefry(key, counter, wanted):
    found = threefry(words(*key), words(*counter))
    assert tuple(int(word[0]) for word in found) == wanted
    of_jax = threefry_2x32(jnp.uint32(key), jnp.uint32(counter))
    assert tuple(of_jax.tolist()) == wanted


@pytest.mark.parametrize("length", [0, 1, 4, 8])
def test_numpy_and_jax_find_the_same_bits(length):
    rng = np.random.default_rng(length)
    window = rng.integers(0, 50_000, (3, 7, length)).astype(np.uint32)
    tokens = rng.integers(0, 50_000, (3, 7)).astype(np.uint32)
    seed = window_seed(SECRET, window)
    assert [word.shape for word in seed] == [(3, 7), (3, 7)] and seed[0].dtype == np.uint32
    compiled = jax.jit(
        lambda secret, window, tokens: token_words(window_seed(secret, window), tokens)
    )
    found = compiled(jnp.asarray(SECRET), jnp.asarray(window), jnp.asarray(tokens))
    np.testing.assert_array_equal(found, token_words(seed, tokens))


def test_a_word_depends_on_every_token_of_the_window_on_their_order_and_on_the_secret():
    windows = np.asarray([[1, 2, 3], [3, 2, 1], [1, 2, 4], [0, 2, 3]], np.uint32)
    token = np.full(4, 9, np.uint32)
    found = token_words(window_seed(SECRET, windows), token)
    for place in range(4):
        other = SECRET.copy()
        other[place] ^= 1
        found = np.append(found, token_words(window_seed(other, windows[:1]), token[:1]))
    assert len(set(found.tolist())) == 8


def test_words_are_uniform_and_messages_shift_them():
    vocab = 1000
    window = np.arange(400, dtype=np.uint32).reshape(200, 2)
    tokens = np.broadcast_to(np.arange(vocab, dtype=np.uint32), (200, vocab))
    seed = tuple(word[:, None] for word in window_seed(SECRET, window))
    found = token_words(seed, tokens) / 2**32
    # 200,000 words: the standard error of a mean is 6.5e-4, of a share at most 1.1e-3.
    assert abs(found.mean() - 0.5) < 4 * 6.5e-4
    for share in (0.1, 0.25, 0.5, 0.9):
        assert abs((found < share).mean() - share) < 4 * 1.1e-3
    assert abs(np.corrcoef(found[:, 1:].ravel(), found[:, :-1].ravel())[0, 1]) < 4 / np.sqrt(2e5)
    message = np.full(1, 998, np.uint32)
    moved = token_words(seed, shifted(tokens, message, vocab)) / 2**32
    np.testing.assert_array_equal(moved, np.roll(found, -998, axis=1))


def test_a_share_of_the_words_is_green():
    assert green_below(0.25) == 2**30 and green_below(0.5) == 2**31
    assert (green_below(1e-30), green_below(1 - 1e-16)) == (1, 2**32 - 1)
