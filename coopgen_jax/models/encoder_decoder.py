"""Prefill, extend and score of an encoder-decoder: a `LanguageModel` out of a `T5Config`.

The prompt is a source, and what is written is the whole target. The source's cross-attention keys
and values are computed once for all of a prompt's samples. The decoder's own cache is that of every
decoder (`attention.SlotCache`): its prompt region holds the start token alone, and trunk and nodes
are the text.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from flax import struct

from coopgen_jax.errors import UserError
from coopgen_jax.models.attention import SlotCache
from coopgen_jax.models.decoder import Decoder, by_node, extend_cache, new_cache
from coopgen_jax.models.language_model import LanguageModel, Nodes, Prompt, log_probs_of
from coopgen_jax.models.relative import bias_before
from coopgen_jax.models.sharding import shard_cache, shard_heads
from coopgen_jax.models.slots import Capacity
from coopgen_jax.models.t5 import (
    Source,
    T5Config,
    attend_source,
    begun,
    by_head,
    encode,
    output,
    read_target,
    source_entries,
)
from coopgen_jax.models.transformer import STREAM, Cross, Params, vectors_of


@dataclass(frozen=True)
class EncoderDecoder(Decoder):
    """What the functions of a language model are bound to; see `encoder_decoder`."""

    config: T5Config


@struct.dataclass
class SourceCache:
    """What has been read of sources `[B, P]`, and of the texts that are written of them."""

    source: Source
    mask: jax.Array
    text: SlotCache


def encoder_decoder(
    config: T5Config, taps: tuple[int, ...] = (), *, chunk: int = 256, tensor: int = 1
) -> LanguageModel:
    """Returns the language model of an encoder-decoder; see `networks.language_model`.

    It has no taps: a prompt's states are the encoder's and a text's the decoder's, so that no head
    could read both as one text.
    """
    bound = EncoderDecoder(config, taps, chunk, tensor)
    if taps:
        raise UserError(
            "an encoder-decoder (T5) has no states that a head could read prompt and text by: take "
            "a discriminator that reads words, such as sentiment-minilm, or has a network of its "
            "own (causal, generative)"
        )
    return bound.bind(prefill, extend, score, encodes_prompt=True)


def _read(bound: EncoderDecoder, params: Params, prompt: Prompt) -> Source:
    config = bound.config
    given = (prompt.tokens, prompt.mask, prompt.embeddings, prompt.embedded)
    states = encode(config, params, *given, chunk=bound.chunk)
    return source_entries(config, params, states)


def prefill(
    bound: EncoderDecoder, params: Params, prompt: Prompt, *, capacity: Capacity
) -> tuple[jax.Array, jax.Array, SourceCache]:
    """Reads the sources, and the start token behind them; see `LanguageModel.prefill`."""
    config = bound.config
    batch, length = prompt.tokens.shape
    source = _read(bound, params, prompt)
    start = jnp.full((batch, 1, 1), config.start_token, jnp.int32)
    stream, (keys, values) = read_target(config, params, source, prompt.mask, start)
    text = new_cache(keys, values, jnp.ones((batch, 1), bool), capacity)
    cache = SourceCache(
        source=shard_heads(source, config.kv_heads, bound.tensor),
        mask=prompt.mask,
        text=shard_cache(text, config.kv_heads, bound.tensor),
    )
    hidden = jnp.zeros((batch, length, 0, config.width), jnp.float32)
    return output(config, params, stream[:, 0, 0]), hidden, cache


def extend(
    bound: EncoderDecoder, params: Params, cache: SourceCache, nodes: Nodes
) -> tuple[jax.Array, jax.Array, SourceCache]:
    """Reads one token per node; see `LanguageModel.extend`."""
    config = bound.config
    batch, samples, wave = nodes.token.shape
    rows = (batch, samples * wave)
    embedding = None if nodes.embedding is None else nodes.embedding.reshape(*rows, -1)
    x = vectors_of(params, nodes.token.reshape(rows), embedding).astype(STREAM)

    def cross(source: Source) -> Cross:
        return lambda query: attend_source(config, query, source, cache.mask)

    last, _, text = extend_cache(
        config,
        params,
        x,
        cache.text,
        nodes,
        scale=1.0,
        bias=_biases(config, params, nodes, cache.text),
        source=cache.source,
        cross=cross,
    )
    hidden = jnp.zeros((batch, samples, wave, 0, config.width), jnp.float32)
    logits = by_node(nodes, output(config, params, last))
    return logits, hidden, replace(cache, text=shard_cache(text, config.kv_heads, bound.tensor))


def _biases(
    config: T5Config, params: Params, nodes: Nodes, cache: SlotCache
) -> tuple[jax.Array, ...]:
    """Returns what nodes add to their scores of start token, trunk, path and themselves.

    The start token stands at 0, the trunk's from 1 on and a node at committed + depth.
    """
    place = nodes.committed[:, :, None] + nodes.depth
    trunk = jnp.arange(1, cache.trunk_length + 1)
    path = jnp.arange(1, nodes.path.shape[-1] + 1)
    distances = (
        place[..., None],
        place[..., None] - trunk[None, None, None, :],
        nodes.depth[..., None] - path[None, None, None, :],
        jnp.zeros((1, 1, 1, 1), jnp.int32),
    )
    return tuple(
        by_head(config, bias_before(params["relative"], distance, config.reach))
        for distance in distances
    )


def score(
    bound: EncoderDecoder, params: Params, prompt: Prompt, tokens: jax.Array, mask: jax.Array
) -> jax.Array:
    """Scores continuations; see `LanguageModel.score`."""
    config = bound.config
    source = _read(bound, params, prompt)
    stream, _ = read_target(config, params, source, prompt.mask, begun(config, tokens))
    return jnp.where(mask, log_probs_of(output(config, params, stream), tokens), 0.0)
