"""Rules against repetition."""

import jax
import jax.numpy as jnp


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
