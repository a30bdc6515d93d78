"""The one place where a token is drawn."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from coopgen_jax.decoding.generation import entry_at
from coopgen_jax.decoding.rules.shaping import Rules, Seen


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
      rules: a watermark in them may take the place of the draw.
      keys: `[...]` typed keys; None takes the best score, the first among equals.
      scores: `[..., K]` unnormalised log-probabilities, shaped already.
      tokens: `[..., K]` int32 the tokens that they belong to; None where `K` is the vocabulary.
      seen: what stands in front of the token; None for draws that are never watermarked, such as
        those of roll-outs.

    Returns:
      The tokens `[...]` int32 and their log-probabilities `[...]` float32, NaN where nothing was
      drawn.
    """
    if keys is None:
        chosen = jnp.argmax(scores, axis=-1)
    elif seen is not None and rules.watermark is not None and rules.watermark.draw is not None:
        chosen = rules.watermark.draw(keys, scores, tokens, seen.tokens, seen.mask)
    else:
        chosen = per_key(jax.random.categorical, keys, scores)
    token = chosen if tokens is None else entry_at(tokens, chosen)
    if keys is None:
        log_p = jnp.full(chosen.shape, jnp.nan, jnp.float32)
    else:
        log_p = entry_at(jax.nn.log_softmax(scores), chosen)
    return token.astype(jnp.int32), log_p


def per_key(function: Callable, keys: jax.Array, *arrays: jax.Array) -> Any:
    """Maps a function of one key over `keys` `[...]` and arrays `[..., *]`."""
    for _ in keys.shape:
        function = jax.vmap(function)
    return function(keys, *arrays)
