"""Rules on given words: biases, bad words, least length, and forced tokens."""

import jax
import jax.numpy as jnp
import numpy as np


def add_bias(logits: jax.Array, bias: tuple[tuple[int, float], ...]) -> jax.Array:
    """Adds to the logits `[..., V]` of some tokens; one that is named twice gets the sum."""
    if not bias:
        return logits
    tokens, values = zip(*bias, strict=True)
    return logits.at[..., jnp.asarray(tokens)].add(jnp.asarray(values, logits.dtype))


def forbid(
    logits: jax.Array, tokens: jax.Array, mask: jax.Array, words: tuple[tuple[int, ...], ...]
) -> jax.Array:
    """Rules out every token that would complete one of some sequences of tokens, none empty.

    The logits `[..., V]` become minus infinity. The text is those of the `tokens` `[..., S]` that
    are in the `mask`; the others leave no gap.
    """
    if not words:
        return logits
    vocab = logits.shape[-1]
    rows = logits.reshape(-1, vocab)
    text, real = (array.reshape(len(rows), array.shape[-1]) for array in (tokens, mask))
    text = jnp.take_along_axis(text, jnp.argsort(~real, axis=-1, stable=True), axis=-1)
    before = max(map(len, words)) - 1
    # In front of a text stands what is no token.
    text = jnp.pad(text, ((0, 0), (before, 0)), constant_values=-1)
    places = real.sum(axis=-1, keepdims=True) + jnp.arange(before)[None, :]
    tail = jnp.take_along_axis(text, places, axis=-1)
    wanted = np.full((len(words), before), -2)
    for prefix, word in zip(wanted, words, strict=True):
        prefix[before - len(word) + 1 :] = word[:-1]
    matches = (wanted == -2)[None] | (tail[:, None, :] == jnp.asarray(wanted)[None])
    last = jnp.asarray([word[-1] for word in words])[None, :]
    at = jnp.where(jnp.all(matches, axis=-1), last, vocab)
    row = jnp.arange(len(rows))[:, None]
    return rows.at[row, at].set(-jnp.inf, mode="drop").reshape(logits.shape)


def forbid_ends(
    logits: jax.Array,
    short: jax.Array,
    ends: tuple[int, ...],
    completing: jax.Array | None = None,
) -> jax.Array:
    """Rules out, by minus infinity, every token that would end a text which is too `short` `[...]`.

    The `ends` do, and tokens that are `completing` `[..., V]` a stop string, None for none.
    """
    over = jnp.isin(jnp.arange(logits.shape[-1]), jnp.asarray(ends, jnp.int32))
    over = jnp.broadcast_to(over, logits.shape)
    if completing is not None:
        over = over | completing
    return jnp.where(short[..., None] & over, -jnp.inf, logits)


def force(
    logits: jax.Array, length: jax.Array, forced: tuple[int, ...], given: jax.Array
) -> jax.Array:
    """Leaves one token alone where a text of `length` `[...]` tokens has to begin with given ones.

    It keeps its logit of `given` `[..., V]`, whatever other rules said of it; the others become
    minus infinity.
    """
    if not forced:
        return logits
    wanted = jnp.asarray(forced)[jnp.minimum(length, len(forced) - 1)]
    only = jnp.where(jax.nn.one_hot(wanted, logits.shape[-1], dtype=bool), given, -jnp.inf)
    return jnp.where((length < len(forced))[..., None], only, logits)
