"""Reading of whole sequences by a decoder network, at once or in chunks, without a slot cache."""

from functools import partial

import jax
import jax.numpy as jnp

from coopgen_jax.models.attention import attend_causal, by_heads, flat_heads
from coopgen_jax.models.language_model import Prompt
from coopgen_jax.models.transformer import (
    Attend,
    DecoderConfig,
    Params,
    embed,
    run_layers,
    tapped,
)
from coopgen_jax.parallel.platform import activation_dtype


def positions_of(mask: jax.Array) -> jax.Array:
    """Returns the position of every token in a padded row: `[B, S]`, 0 at its first real token."""
    return jnp.maximum(jnp.cumsum(mask.astype(jnp.int32), axis=-1) - 1, 0)


def read(
    config: DecoderConfig,
    params: Params,
    tokens: jax.Array,
    mask: jax.Array,
    embeddings: jax.Array | None = None,
    embedded: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array, tuple[jax.Array, jax.Array]]:
    """Reads whole sequences `[B, S]` without a cache.

    Returns:
      The embedded tokens, the last layer's stream, every layer's stream, and all keys and values,
      as `run_layers` gives them.
    """
    x, angles = embed(config, params, tokens, positions_of(mask), embeddings, embedded)
    length = mask.shape[-1]
    # Which query (second axis) may see which real token (third).
    visible = jnp.tril(jnp.ones((length, length), bool))[None] & mask[:, None, :]

    def attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        return attend_causal(query, key, value, visible)

    last, streams, entries = run_layers(config, params, x, angles, lambda *_: attend)
    return x, last, streams, entries


def read_in_chunks(
    config: DecoderConfig, params: Params, prompt: Prompt, *, taps: tuple[int, ...], chunk: int
) -> tuple[jax.Array, jax.Array, tuple[jax.Array, jax.Array]]:
    """Reads prompts `[B, P]` `chunk` tokens at a time.

    Returns:
      The last layer's stream at the last token `[B, E]`, the states at the taps `[B, P, J, E]`, and
      all keys and values `[L, B, P, G * Eh]`.
    """
    batch, length = prompt.tokens.shape
    pad = -length % chunk
    whole = length + pad

    def padded(array: jax.Array) -> jax.Array:
        return jnp.pad(array, [(0, 0), (pad, 0), *[(0, 0)] * (array.ndim - 2)])

    mask = padded(prompt.mask)
    given = (padded(prompt.tokens), positions_of(mask))
    given += jax.tree.map(padded, (prompt.embeddings, prompt.embedded))
    entry = (config.layers, batch, whole, config.kv_heads * config.head_width)
    empty = jnp.zeros(entry, activation_dtype(config.dtype))

    def piece(array: jax.Array, start: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice_in_dim(array, start, chunk, 1)

    def step(cached: tuple, start: jax.Array) -> tuple:
        here = jax.tree.map(partial(piece, start=start), given)
        x, angles = embed(config, params, *here)
        query_at, key_at = start + jnp.arange(chunk), jnp.arange(whole)
        visible = (key_at[None, :] <= query_at[:, None])[None] & mask[:, None, :]

        def attend(number: jax.Array, regions: tuple) -> Attend:
            def joined(before: jax.Array, own: jax.Array) -> jax.Array:
                added = jax.lax.dynamic_update_slice_in_dim(before, flat_heads(own), start, 1)
                return by_heads(added, own)

            return lambda query, key, value: attend_causal(
                query, joined(regions[0], key), joined(regions[1], value), visible
            )

        last, streams, entries = run_layers(config, params, x, angles, attend, cached)
        cached = jax.tree.map(
            lambda before, own: jax.lax.dynamic_update_slice_in_dim(before, own, start, 2),
            cached,
            entries,
        )
        return cached, (last[:, -1], tapped(config, params, x, streams, taps))

    lasts: jax.Array
    states: jax.Array
    cached, (lasts, states) = jax.lax.scan(step, (empty, empty), jnp.arange(0, whole, chunk))
    hidden = jnp.moveaxis(states, 0, 1).reshape(batch, whole, *states.shape[3:])
    return lasts[-1], hidden[:, pad:], jax.tree.map(lambda array: array[:, :, pad:], cached)
