"""The one place where a token is drawn."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from coopgen_jax.decoding.generation import entry_at
from coopgen_jax.decoding.rules.shaping import Rules, Seen
from coopgen_jax.decoding.rules.watermark import Mark, Watermark, tournament
from coopgen_jax.parallel.mesh import top_k


def draw(
    rules: Rules,
    keys: jax.Array | None,
    scores: jax.Array,
    tokens: jax.Array | None = None,
    *,
    seen: Seen | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Draws a token from the softmax of some scores, in every row.

    Args:
      rules: a watermark of theirs may take the place of the draw.
      keys: `[...]` typed keys; None takes the best score, the first among equals.
      scores: `[..., K]` unnormalised log-probabilities, shaped already.
      tokens: `[..., K]` int32 the tokens that they belong to; None where `K` is the vocabulary.
      seen: what stands in front of the token; None for draws that are never watermarked, such as
        those of roll-outs.

    Returns:
      The tokens `[...]` int32 and their log-probabilities `[...]` float32, NaN where nothing was
      drawn. Of a watermarked draw it is that over secrets, for given the secret nothing is random;
      permute-and-flip, which draws from another distribution, has NaN.
    """
    mark = None if seen is None else seen.mark
    if keys is None:
        chosen = place_of_largest(scores)
    elif mark is not None and rules.watermark is not None and rules.watermark.draws:
        if rules.watermark.scheme == "tournament" and tokens is None:
            # A tournament is held among the tokens that truncation has left.
            scores, tokens = top_k(scores, min(rules.top_k, scores.shape[-1]))
        chosen = marked_draw(rules.watermark, keys, scores, tokens, mark)
    else:
        chosen = per_key(categorical, keys, scores)
    token = chosen if tokens is None else entry_at(tokens, chosen)
    if keys is None:
        log_p = jnp.full(chosen.shape, jnp.nan, jnp.float32)
    else:
        log_p = log_drawn(rules, scores, chosen, seen)
    return token.astype(jnp.int32), log_p


def log_drawn(rules: Rules, scores: jax.Array, rank: jax.Array, seen: Seen | None) -> jax.Array:
    """Returns with which log-probability `[...]` the entry `rank` of scores `[..., K]` is drawn.

    It is NaN where permute-and-flip draws: from another distribution than that of the scores.
    """
    watermark = None if seen is None or seen.mark is None else rules.watermark
    if watermark is not None and watermark.scheme == "permute-flip":
        return jnp.full(rank.shape, jnp.nan, jnp.float32)
    return entry_at(jax.nn.log_softmax(scores), rank)


def marked_draw(
    watermark: Watermark,
    keys: jax.Array,
    scores: jax.Array,
    tokens: jax.Array | None,
    mark: Mark,
) -> jax.Array:
    """Returns the ranks `[...]` that a scheme chooses in place of draws from the scores' softmax.

    Tokens that are left unmarked are drawn by the same words of the texts' own `keys` `[...]`: with
    Gumbel noise, which is a draw from the softmax. `scores` `[..., K]` are log-probabilities of
    `tokens` `[..., K]`, None where `K` is the vocabulary.
    """
    there = mark.there[..., None]
    if watermark.scheme == "tournament":
        won = tournament(scores, mark.words(tokens), layers=watermark.layers)
        return per_key(categorical, keys, jnp.where(there, won, scores))
    words = mark.words(tokens, keys)
    uniform = jnp.minimum((words.astype(jnp.float32) + 0.5) * 2.0**-32, 1 - 2.0**-24)
    # With r = 1 - uniform, the largest r^(1/p) is the largest log p - log(-log r).
    argument = -jnp.log1p(-uniform)
    if watermark.scheme == "permute-flip":
        # Its noise is exponential: -log of a uniform number.
        argument = jnp.where(there, uniform, argument)
    return place_of_largest(scores - jnp.log(argument))


def categorical(key: jax.Array, scores: jax.Array) -> jax.Array:
    """Returns a draw from the softmax of scores `[K]`, the same as `jax.random.categorical`'s."""
    return place_of_largest(jax.random.gumbel(key, scores.shape, scores.dtype) + scores)


def place_of_largest(scores: jax.Array) -> jax.Array:
    """Returns the places `[...]` int32 of the largest scores `[..., K]`, the first among equals.

    Without a NaN it is `jnp.argmax`, which XLA computes number by number on a processor, in two
    reductions that it computes many at a time: of a vocabulary that takes a sixteenth of the time.
    """
    largest = jnp.max(scores, axis=-1, keepdims=True)
    place = jax.lax.broadcasted_iota(jnp.int32, scores.shape, scores.ndim - 1)
    # With a NaN, all are as large as the largest, and the first one is taken.
    return jnp.min(jnp.where(scores < largest, scores.shape[-1], place), axis=-1)


def per_key(function: Callable, keys: jax.Array, *arrays: jax.Array) -> Any:
    """Maps a function of one key over `keys` `[...]` and arrays `[..., *]`."""
    for _ in keys.shape:
        function = jax.vmap(function)
    return function(keys, *arrays)
