"""Scores of a text's tokens for a key: what its mark makes large."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from coopgen_jax.decoding.rules.keys import green_below, shifted, token_words, window_seed
from coopgen_jax.decoding.rules.watermark import Watermark
from coopgen_jax.decoding.rules.watermark_key import WatermarkKey

# Words of so many (message, token) pairs are computed together by NumPy.
_BLOCK = 1 << 18
# And so many in one step of a JAX program; a power of two.
_CACHED = 1 << 14


def tokens_to_score(ids: np.ndarray, window: int, *, windows_once: bool = False) -> np.ndarray:
    """Returns `[T]` bool, the tokens to score: behind a whole window, a pair's first place each.

    Args:
      ids: `[T]` whole numbers.
      window: `h`, the number of tokens in front that a token's mark depends on.
      windows_once: scores a token only where its window is new in the text.
    """
    ids = np.asarray(ids, np.int64)
    mask = np.zeros(len(ids), bool)
    count = len(ids) - window
    if count < 1:
        return mask
    # Windows are numbered one token after another, so that a pair is always one number.
    _, ids = np.unique(ids, return_inverse=True)
    pair, size = ids[:count], int(ids.max()) + 1
    for place in range(1, window + (not windows_once)):
        _, pair = np.unique(pair * size + ids[place : place + count], return_inverse=True)
    _, first = np.unique(pair, return_index=True)
    mask[window + first] = True
    return mask


def tournament_weights(layers: int) -> np.ndarray:
    """Returns `[layers]` int64, from 10 for the first layer down to 1 (SynthID's weighted mean)."""
    return np.rint(np.linspace(10, 1, layers)).astype(np.int64)


def scores_of(key: WatermarkKey, ids: np.ndarray, messages: Sequence[int]) -> np.ndarray:
    """Returns the scores `[M, T]` of a text's tokens for some messages, in float64.

    They are NaN for the first tokens, which have no whole window.

    Args:
      key: what the text may be marked with.
      ids: `[T]` the text's tokens.
      messages: `[M]` which messages, each below `V`.
    """
    h = key.watermark.window
    ids, moves = np.asarray(ids).astype(np.uint32), np.asarray(messages, np.uint32)
    scores = np.full((len(moves), len(ids)), np.nan)
    if len(ids) <= h:
        return scores
    windows = np.lib.stride_tricks.sliding_window_view(ids, h + 1)
    block = max(_BLOCK // max(len(moves), 1), 1)
    secret = np.asarray(key.secret, np.uint32)
    for start in range(0, len(windows), block):
        part = windows[start : start + block]
        seed = window_seed(secret, part[:, :h])
        words = _words(seed, part[:, h], moves, key.vocab_size)
        values = _token_scores(key.watermark, words, np)
        scores[:, h + start : h + start + len(part)] = values
    return scores


def _words(seed: tuple[Any, Any], token: Any, messages: Any, vocab_size: int) -> Any:
    """Returns the words `[M, T]` of tokens `[T]` behind seeds `[T]`, of NumPy or JAX."""
    one, two = seed
    index = shifted(token[None, :], messages[:, None], vocab_size)
    return token_words((one[None, :], two[None, :]), index)


def _token_scores(watermark: Watermark, words: Any, xp: Any) -> Any:
    """Returns the scores of words `[...]` in float64 of NumPy or float32 of JAX."""
    real = np.float64 if xp is np else np.float32
    if watermark.scheme == "greenlist":
        return (words < np.uint32(green_below(watermark.gamma))).astype(real)
    if watermark.scheme == "tournament":
        weights = tournament_weights(watermark.layers)
        total = (words ^ words).astype(np.uint32)
        for digit in range(int(weights.max()).bit_length()):
            # Bits whose weights have this binary digit are counted together.
            bits = sum(1 << int(layer) for layer in np.flatnonzero(weights >> digit & 1))
            ones = words & np.uint32(bits)
            count = xp.bitwise_count(ones) if xp is np else jax.lax.population_count(ones)
            total = total + (count.astype(np.uint32) << np.uint32(digit))
        return total.astype(real)
    return -xp.log((words.astype(real) + real(0.5)) * real(2.0**-32))


@partial(jax.jit, static_argnames=("watermark", "vocab_size", "lanes", "summed"))
def block_scores(
    secret: jax.Array,
    windows: jax.Array,
    there: jax.Array,
    first: jax.Array,
    *,
    watermark: Watermark,
    vocab_size: int,
    lanes: int,
    summed: bool,
) -> jax.Array:
    """Returns scores `[lanes, T]` of messages from `first` on, or their sums `[lanes]`, float32.

    Of windows with their tokens `[T, h + 1]`, of which `there` `[T]` are scored. `T` and `lanes`
    are powers of two.
    """
    h = watermark.window
    # Those past the last message are not used, and need only be in range.
    messages = (first + jnp.arange(lanes, dtype=jnp.uint32)) % np.uint32(vocab_size)
    seed = window_seed(secret, windows[:, :h])

    def part(some: jax.Array) -> jax.Array:
        words = _words(seed, windows[:, h], some, vocab_size)
        scores = jnp.where(there[None, :], _token_scores(watermark, words, jnp), 0.0)
        return scores.sum(axis=1) if summed else scores

    # A few messages at a time stay in a processor's cache: 3 times as fast as all together.
    rows = min(max(_CACHED // len(windows), 1), lanes)
    found = jax.lax.map(part, messages.reshape(-1, rows))
    return found.reshape(lanes, *found.shape[2:])
