"""Rules on one distribution over the vocabulary: repetition and truncation."""

import jax
import jax.numpy as jnp

from coopgen_jax import parallel


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


def truncate(
    logits: jax.Array, *, top_k: int = 0, top_p: float = 1.0, shards: int = 1
) -> jax.Array:
    """Keeps the likeliest tokens of `logits` `[..., V]`, the rest become minus infinity.

    Args:
      logits: unnormalised log-probabilities.
      top_k: how many to keep, 0 for all; the lower id first among equals.
      top_p: nucleus (Holtzman et al., 2020): the smallest set of likeliest tokens whose
        probability, after `top_k`, reaches this; at least one token stays.
      shards: over how many devices the vocabulary is split; see `parallel.top_k`.

    Returns:
      Logits whose softmax is the renormalised, truncated distribution.
    """
    vocab = logits.shape[-1]
    if top_k <= 0 and top_p >= 1.0:
        return logits
    count = vocab if top_k <= 0 else min(top_k, vocab)
    best, tokens = parallel.top_k(logits, count, shards=shards)
    probs = jax.nn.softmax(best, axis=-1)
    before = jnp.cumsum(probs, axis=-1) - probs
    kept = jnp.where(before < top_p, best, -jnp.inf).at[..., 0].set(best[..., 0])
    rows = jnp.arange(logits.size // vocab)[:, None]
    flat = jnp.full((logits.size // vocab, vocab), -jnp.inf, logits.dtype)
    flat = flat.at[rows, tokens.reshape(-1, count)].set(kept.reshape(-1, count))
    return flat.reshape(logits.shape)
