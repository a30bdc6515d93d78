"""Rules against repetition."""

import jax
import jax.numpy as jnp


def repetition_penalty(
    logits: jax.Array, tokens: jax.Array, mask: jax.Array, penalty: float
) -> jax.Array:
    """Makes the tokens that have been seen less likely.

    The penalty of CTRL (Keskar et al., 2019, section 4.1) in the form of the transformers library:
    a positive logit `[..., V]` is divided by it, a negative one multiplied; 1 leaves them. Of the
    `tokens` `[..., S]` those in the `mask` count, repetitions once.
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
    2.5, there for trigrams). The logits `[..., V]` become minus infinity; an `n` of 0 leaves them.
    The text is those of the `tokens` `[..., S]` that are in the `mask`; the others leave no gap.
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
