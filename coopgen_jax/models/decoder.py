"""Prefill, extend and score of a decoder network: a `LanguageModel` out of a `DecoderConfig`."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from coopgen_jax.models.attention import SlotCache, attend_slots
from coopgen_jax.models.language_model import Bound, LanguageModel, Nodes, Prompt
from coopgen_jax.models.reading import read, read_in_chunks
from coopgen_jax.models.sharding import shard_cache
from coopgen_jax.models.slots import Capacity, Slots, allocate, take_layer, write
from coopgen_jax.models.transformer import (
    Attend,
    DecoderConfig,
    Params,
    embed,
    run_layers,
    tapped,
    unembed,
)


@dataclass(frozen=True)
class Decoder:
    """What the three functions of a language model are bound to; see `language_model`.

    Attributes:
      config: the network's shape.
      taps: the layers whose states come back.
      chunk: the most prompt tokens that are read at once.
      tensor: devices that share the weights.
    """

    config: DecoderConfig
    taps: tuple[int, ...] = ()
    chunk: int = 256
    tensor: int = 1


def language_model(
    config: DecoderConfig, taps: tuple[int, ...] = (), *, chunk: int = 256, tensor: int = 1
) -> LanguageModel:
    """Returns the language model of a decoder network; equal for equal arguments.

    Args:
      config: the network's shape.
      taps: layers whose states are wanted, each from 0 to `config.layers`.
      chunk: the most prompt tokens that `prefill` reads at once. Longer prompts are read piece by
        piece, so that the memory for attention scores grows with the prompt, not with its square.
      tensor: devices that share the network; its functions then run under `map_over_mesh`.

    Raises:
      ValueError: a tap is not a layer of the network, or there is nothing in a chunk.
    """
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}: it must be 1 or more")
    wrong = [tap for tap in taps if not 0 <= tap <= config.layers]
    if wrong:
        raise ValueError(
            f"tap {wrong[0]} is not a layer: the network has layers 0 to {config.layers}"
        )
    decoder = Decoder(config, taps, chunk, tensor)
    return LanguageModel(
        prefill=Bound(prefill, decoder),
        extend=Bound(extend, decoder),
        score=Bound(score, decoder),
        vocab_size=config.vocab_size,
        width=config.width,
        context=config.context,
        end_tokens=config.end_tokens,
        taps=taps,
        vocab_shards=1 if config.vocab_size % tensor else tensor,
        embeddings=Bound(embeddings, decoder),
    )


def embeddings(decoder: Decoder, params: Params) -> jax.Array:
    """Returns what tokens are read as, `[V, E]`; see `LanguageModel.embeddings`."""
    table: jax.Array = params["embedding"]
    return table


def prefill(
    decoder: Decoder, params: Params, prompt: Prompt, *, capacity: Capacity
) -> tuple[jax.Array, jax.Array, SlotCache]:
    """Reads the prompts; see `LanguageModel.prefill`."""
    config = decoder.config
    if prompt.tokens.shape[1] > decoder.chunk:
        last, hidden, (keys, values) = read_in_chunks(
            config, params, prompt, taps=decoder.taps, chunk=decoder.chunk
        )
    else:
        x, stream, streams, (keys, values) = read(
            config, params, prompt.tokens, prompt.mask, prompt.embeddings, prompt.embedded
        )
        last, hidden = stream[:, -1], tapped(config, params, x, streams, decoder.taps)

    def slots() -> Slots:
        return allocate(
            prompt.tokens.shape[0],
            capacity,
            (config.kv_heads, config.head_width),
            lead=(config.layers,),
            dtype=keys.dtype,
        )

    cache = SlotCache(
        prompt_keys=keys,
        prompt_values=values,
        prompt_mask=prompt.mask,
        keys=slots(),
        values=slots(),
    )
    return unembed(config, params, last), hidden, shard_cache(cache, decoder.tensor)


def extend(
    decoder: Decoder, params: Params, cache: SlotCache, nodes: Nodes
) -> tuple[jax.Array, jax.Array, SlotCache]:
    """Reads one token per node; see `LanguageModel.extend`.

    Besides the weights this touches the prompt, the trunk and the gathered paths, whatever the
    number of slots.
    """
    config = decoder.config
    batch, samples, wave = nodes.token.shape
    rows = (batch, samples * wave)
    prompt_length = jnp.sum(cache.prompt_mask, axis=-1, dtype=jnp.int32)
    before = prompt_length[:, None, None] + nodes.committed[:, :, None]
    positions = jnp.minimum(before + nodes.depth - 1, config.context - 1)
    embedding = None if nodes.embedding is None else nodes.embedding.reshape(*rows, -1)
    x, angles = embed(config, params, nodes.token.reshape(rows), positions.reshape(rows), embedding)

    assert cache.keys.trunk is not None, "a language model's cache has a trunk"
    trunk_length = cache.keys.trunk.shape[cache.keys.lead + 2]
    trunk_mask = jnp.arange(trunk_length)[None, None, :] < nodes.committed[:, :, None]
    path_mask = nodes.path >= 0

    def attend(number: jax.Array, regions: tuple) -> Attend:
        prompt_keys, prompt_values, trunk_keys, trunk_values = regions

        def path_of(slots: Slots) -> jax.Array:
            return take_layer(slots, number, nodes.path)

        return lambda query, key, value: attend_slots(
            query,
            key,
            value,
            prompt=(prompt_keys, prompt_values, cache.prompt_mask),
            trunk=(trunk_keys, trunk_values, trunk_mask),
            path=(path_of(cache.keys), path_of(cache.values), path_mask),
        )

    regions = (cache.prompt_keys, cache.prompt_values, cache.keys.trunk, cache.values.trunk)
    last, streams, entries = run_layers(config, params, x, angles, attend, regions)

    def by_node(array: jax.Array, lead: int = 0) -> jax.Array:
        return array.reshape(*array.shape[:lead], batch, samples, wave, *array.shape[lead + 2 :])

    keys, values = (by_node(entry, lead=1) for entry in entries)
    cache = replace(
        cache,
        keys=write(cache.keys, nodes.start, keys),
        values=write(cache.values, nodes.start, values),
    )
    hidden = tapped(config, params, x, streams, decoder.taps)
    logits = by_node(unembed(config, params, last))
    return logits, by_node(hidden), shard_cache(cache, decoder.tensor)


def score(
    decoder: Decoder, params: Params, prompt: Prompt, tokens: jax.Array, mask: jax.Array
) -> jax.Array:
    """Scores continuations; see `LanguageModel.score`."""
    config = decoder.config
    batch, samples, length = tokens.shape

    def repeated(array: jax.Array) -> jax.Array:
        return jnp.repeat(array, samples, axis=0)

    def joined(before: jax.Array, after: jax.Array) -> jax.Array:
        return jnp.concatenate([repeated(before), after.reshape(-1, *after.shape[2:])], axis=1)

    embeddings = embedded = None
    if prompt.embeddings is not None:
        blank = jnp.zeros((batch, samples, length, config.width), prompt.embeddings.dtype)
        embeddings = joined(prompt.embeddings, blank)
        at = prompt.mask if prompt.embedded is None else prompt.embedded
        embedded = joined(at, jnp.zeros((batch, samples, length), bool))
    _, last, _, _ = read(
        config,
        params,
        joined(prompt.tokens, tokens),
        joined(prompt.mask, mask),
        embeddings,
        embedded,
    )
    logits = unembed(config, params, last[:, -length - 1 : -1])
    log_probs = jax.nn.log_softmax(logits.reshape(batch, samples, length, -1))
    chosen = jnp.take_along_axis(log_probs, tokens[..., None], axis=-1)[..., 0]
    return jnp.where(mask, chosen, 0.0)
