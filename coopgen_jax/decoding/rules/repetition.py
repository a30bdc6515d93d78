"""Rules on what may follow a text: against repetition, against words, for forced tokens."""

import jax
import jax.numpy as jnp
import numpy as np


def check_repetition(penalty: float, ngram: int) -> None:
    """Raises ValueError where the two rules against repetition are out of their range."""
    if not 0 < penalty < float("inf"):
        raise ValueError(f"repetition_penalty is {penalty}: give 1 or more")
    if ngram < 0 or ngram == 1:
        raise ValueError(f"no_repeat_ngram is {ngram}: give 0 (no rule), or 2 or more")


def repetition_penalty(
    logits: jax.Array, tokens: jax.Array, mask: jax.Array, penalty: float
) -> jax.Array:
    """Makes the tokens that have been seen less likely.

    The penalty of CTRL (Keskar et al., 2019, section 4.1) in the form of the transformers library:
    a positive logit is divided by it, a negative one multiplied.

    Args:
      logits: `[..., V]` float32.
      tokens: `[..., S]` int32 tokens seen; repetitions count once.
      mask: `[..., S]` bool, true where a token counts.
      penalty: 1 leaves the logits as they are.

    Returns:
      `[..., V]` penalised logits.
    """
    if penalty == 1.0:
        return logits
    vocab = logits.shape[-1]
    seen = jnp.take_along_axis(logits, tokens, axis=-1)
    lowered = jnp.where(seen > 0, seen / penalty, seen * penalty)
    rows = logits.reshape(-1, vocab)
    at = jnp.where(mask, tokens, vocab).reshape(len(rows), -1)
    row = jnp.arange(len(rows))[:, None]
    return rows.at[row, at].set(lowered.reshape(at.shape), mode="drop").reshape(logits.shape)


def no_repeat_ngram(logits: jax.Array, tokens: jax.Array, mask: jax.Array, n: int) -> jax.Array:
    """Rules out every token that would complete an n-gram which the text has had before.

    The blocking of repeated n-grams of Paulus, Xiong and Socher (2018, arXiv 1705.04304, section
    2.5, there for trigrams).

    Args:
      logits: `[..., V]` float32.
      tokens: `[..., S]` int32 the text so far, in order.
      mask: `[..., S]` bool, true where a token is part of it; what is left out leaves no gap.
      n: length of the n-grams; 0 leaves the logits as they are.

    Returns:
      `[..., V]` logits, minus infinity where a token is ruled out.
    """
    length, vocab = tokens.shape[-1], logits.shape[-1]
    if n == 0 or length < n:
        return logits
    order = jnp.argsort(~mask, axis=-1, stable=True)
    text = jnp.take_along_axis(tokens, order, axis=-1)
    count = mask.sum(axis=-1, keepdims=True)
    starts = length - n + 1
    ends = jnp.broadcast_to(jnp.arange(starts) + n, (*tokens.shape[:-1], starts))
    repeats = ends <= count
    for place in range(n - 1):
        last = jnp.maximum(count - (n - 1) + place, 0)
        wanted = jnp.take_along_axis(text, last, axis=-1)
        repeats = repeats & (text[..., place : place + starts] == wanted)
    rows = logits.reshape(-1, vocab)
    at = jnp.where(repeats, text[..., n - 1 :], vocab).reshape(len(rows), -1)
    row = jnp.arange(len(rows))[:, None]
    return rows.at[row, at].set(-jnp.inf, mode="drop").reshape(logits.shape)


def no_bad_words(
    logits: jax.Array, tokens: jax.Array, mask: jax.Array, words: tuple[tuple[int, ...], ...]
) -> jax.Array:
    """Rules out every token that would complete one of some sequences of tokens.

    Args:
      logits: `[..., V]` float32.
      tokens: `[..., S]` int32 the text so far, in order.
      mask: `[..., S]` bool, true where a token is part of it; what is left out leaves no gap.
      words: the sequences, none of them empty.

    Returns:
      `[..., V]` logits, minus infinity where a token is ruled out.
    """
    if not words:
        return logits
    vocab = logits.shape[-1]
    rows = logits.reshape(-1, vocab)
    text, real = (array.reshape(len(rows), array.shape[-1]) for array in (tokens, mask))
    text = jnp.take_along_axis(text, jnp.argsort(~real, axis=-1, stable=True), axis=-1)
    before = max(map(len, words)) - 1
    # In front of its beginning stands what no token is.
    text = jnp.pad(text, ((0, 0), (before, 0)), constant_values=-1)
    places = real.sum(axis=-1, keepdims=True) + jnp.arange(before)[None, :]
    tail = jnp.take_along_axis(text, places, axis=-1)
    wanted = np.full((len(words), before), -2)
    for beginning, word in zip(wanted, words, strict=True):
        beginning[before - len(word) + 1 :] = word[:-1]
    matches = (wanted == -2)[None] | (tail[:, None, :] == jnp.asarray(wanted)[None])
    last = jnp.asarray([word[-1] for word in words])[None, :]
    at = jnp.where(jnp.all(matches, axis=-1), last, vocab)
    row = jnp.arange(len(rows))[:, None]
    return rows.at[row, at].set(-jnp.inf, mode="drop").reshape(logits.shape)


def force(logits: jax.Array, step: jax.Array, forced: tuple[int, ...]) -> jax.Array:
    """Leaves one token alone where a text has to begin with given ones.

    Args:
      logits: `[..., V]` float32.
      step: `[...]` int32 tokens that have been written.
      forced: what texts begin with; free behind it.

    Returns:
      `[..., V]` logits, those of a forced token zero and of all others minus infinity.
    """
    if not forced:
        return logits
    wanted = jnp.asarray(forced)[jnp.minimum(step, len(forced) - 1)]
    only = jnp.where(jax.nn.one_hot(wanted, logits.shape[-1], dtype=bool), 0.0, -jnp.inf)
    return jnp.where((step < len(forced))[..., None], only, logits)
