"""Prefill, extend and score of a decoder network: a `LanguageModel` out of a `DecoderConfig`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from coopgen_jax.models.attention import SlotCache, attend_slots
from coopgen_jax.models.language_model import Bound, LanguageModel, Nodes, Prompt, log_probs_of
from coopgen_jax.models.reading import read, read_in_chunks
from coopgen_jax.models.sharding import shard_cache
from coopgen_jax.models.slots import Capacity, Slots, allocate, filled_up, take_layer, write
from coopgen_jax.models.transformer import (
    Attend,
    Cross,
    DecoderConfig,
    Params,
    embed,
    run_layers,
    tapped,
    unembed,
)
from coopgen_jax.parallel.platform import on_accelerator, platform


def embeddings(params: Params) -> jax.Array:
    """Returns what tokens are read as, `[V, E]`; see `LanguageModel.embeddings`."""
    return params["embedding"]


@dataclass(frozen=True)
class Decoder:
    """What the functions of a language model are bound to; see `networks.language_model`."""

    config: DecoderConfig
    taps: tuple[int, ...]
    chunk: int
    tensor: int

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise ValueError(f"chunk is {self.chunk}: it must be 1 or more")

    def bind(
        self, prefill: Callable, extend: Callable, score: Callable, *, encodes_prompt: bool = False
    ) -> LanguageModel:
        """Returns the language model of three functions that have this record in front."""
        config = self.config
        return LanguageModel(
            prefill=Bound(prefill, self),
            extend=Bound(extend, self),
            score=Bound(score, self),
            vocab_size=config.vocab_size,
            width=config.width,
            context=config.context,
            end_tokens=config.end_tokens,
            taps=self.taps,
            vocab_shards=1 if config.vocab_size % self.tensor else self.tensor,
            embeddings=embeddings,
            encodes_prompt=encodes_prompt,
        )


def language_model(
    config: DecoderConfig, taps: tuple[int, ...] = (), *, chunk: int = 256, tensor: int = 1
) -> LanguageModel:
    """Returns the language model of a decoder network; see `networks.language_model`.

    Longer prompts than `chunk` are read piece by piece, so that the memory for attention scores
    grows with the prompt, not with its square.
    """
    decoder = Decoder(config, taps, chunk, tensor)
    wrong = [tap for tap in taps if not 0 <= tap <= config.layers]
    if wrong:
        raise ValueError(
            f"tap {wrong[0]} is not a layer: the network has layers 0 to {config.layers}"
        )
    return decoder.bind(prefill, extend, score)


def with_last_states(config: DecoderConfig) -> LanguageModel:
    """Returns the language model that gives the states after the final norm, its one tap."""
    return language_model(config, taps=(config.layers,))


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
    cache = new_cache(keys, values, prompt.mask, capacity)
    return (
        unembed(config, params, last),
        hidden,
        shard_cache(cache, config.kv_heads, decoder.tensor),
    )


def new_cache(keys: jax.Array, values: jax.Array, mask: jax.Array, capacity: Capacity) -> SlotCache:
    """Returns a cache behind a prompt, whose keys and values are `[L, B, P, G * Eh]`."""
    layers, batch, _, width = keys.shape

    def slots() -> Slots:
        return allocate(batch, filled_up(capacity), (width,), lead=(layers,), dtype=keys.dtype)

    return SlotCache(keys, values, mask, slots(), slots())


def extend(
    decoder: Decoder, params: Params, cache: SlotCache, nodes: Nodes
) -> tuple[jax.Array, jax.Array, SlotCache]:
    """Reads one token per node; see `LanguageModel.extend`."""
    config = decoder.config
    batch, samples, wave = nodes.token.shape
    rows = (batch, samples * wave)
    prompt_length = jnp.sum(cache.prompt_mask, axis=-1, dtype=jnp.int32)
    before = prompt_length[:, None, None] + nodes.committed[:, :, None]
    positions = jnp.minimum(before + nodes.depth - 1, config.context - 1)
    embedding = None if nodes.embedding is None else nodes.embedding.reshape(*rows, -1)
    x, angles = embed(config, params, nodes.token.reshape(rows), positions.reshape(rows), embedding)
    last, streams, cache = extend_cache(config, params, x, cache, nodes, angles=angles)
    hidden = by_node(nodes, tapped(config, params, x, streams, decoder.taps))
    logits = by_node(nodes, unembed(config, params, last))
    return logits, hidden, shard_cache(cache, config.kv_heads, decoder.tensor)


def by_node(nodes: Nodes, array: jax.Array, lead: int = 0) -> jax.Array:
    """Returns an array `[*lead, B, R * W, ...]` as `[*lead, B, R, W, ...]`."""
    return array.reshape(*array.shape[:lead], *nodes.token.shape, *array.shape[lead + 2 :])


def extend_cache(
    config: DecoderConfig,
    params: Params,
    x: jax.Array,
    cache: SlotCache,
    nodes: Nodes,
    *,
    angles: jax.Array | None = None,
    scale: float | None = None,
    bias: Sequence[jax.Array] | None = None,
    source: Any = (),
    cross: Callable[[Any], Cross | None] = lambda regions: None,
) -> tuple[jax.Array, jax.Array, SlotCache]:
    """Runs all layers over the nodes' vectors `x` `[B, R * W, E]`; see `run_layers`.

    Besides the weights this touches the prompt, the trunk and the gathered paths, whatever the
    number of slots; or all slots, see `_reads_all_slots`, on a TPU in one kernel. `scale` and
    `bias` are those of `attend_slots`; `cross` is given one layer's part of `source`.

    Returns:
      The stream after the last layer and after every layer, and the cache with the nodes in it.
    """
    trunk_mask = jnp.arange(cache.trunk_length)[None, None, :] < nodes.committed[:, :, None]
    slots = cache.keys.nodes.shape[cache.keys.lead + 2]
    whole = bias is None and _reads_all_slots(nodes, slots)
    if whole:
        path_mask = jax.nn.one_hot(nodes.path, slots, dtype=bool).any(axis=-2)
    else:
        path_mask = nodes.path >= 0
    kernel = None
    if whole and platform() == "tpu":
        # Elsewhere nobody waits for Pallas to be imported.
        from coopgen_jax.models.wave_attention import kernel_for

        kernel = kernel_for(config, cache, nodes, path_mask, scale)

    def attend(number: jax.Array, regions: tuple) -> Attend:
        prompt, trunk, entries, _ = regions
        if kernel is not None:
            return lambda *own: kernel(own, regions[:3], number)
        if not whole:
            entries = [take_layer(s, number, nodes.path) for s in (cache.keys, cache.values)]
        return lambda query, key, value: attend_slots(
            query,
            key,
            value,
            prompt=(*prompt, cache.prompt_mask),
            trunk=(*trunk, trunk_mask),
            path=(*entries, path_mask),
            scale=scale,
            bias=bias,
        )

    def across(regions: tuple) -> Cross | None:
        return cross(regions[-1])

    prompt = (cache.prompt_keys, cache.prompt_values)
    above = (cache.keys.nodes, cache.values.nodes) if whole else ()
    regions = (prompt, (cache.keys.trunk, cache.values.trunk), above, source)
    last, streams, entries = run_layers(config, params, x, angles, attend, regions, across)
    keys, values = (by_node(nodes, entry, lead=1) for entry in entries)
    cache = replace(
        cache,
        keys=write(cache.keys, nodes.start, keys),
        values=write(cache.values, nodes.start, values),
    )
    return last, streams, cache


def _reads_all_slots(nodes: Nodes, slots: int) -> bool:
    """Tells whether nodes attend to all slots under a mask, rather than to gathered paths.

    An accelerator multiplies by slots that it reads in place; what it gathers it reads, writes and
    reads again, and multiplies node by node.
    """
    *_, wave, depth = nodes.path.shape
    return on_accelerator() and 3 * wave * depth >= slots


def score(
    decoder: Decoder, params: Params, prompt: Prompt, tokens: jax.Array, mask: jax.Array
) -> jax.Array:
    """Scores continuations; see `LanguageModel.score`."""
    config = decoder.config
    batch, samples, length = tokens.shape

    def joined(before: jax.Array, after: jax.Array) -> jax.Array:
        repeated = jnp.repeat(before, samples, axis=0)
        return jnp.concatenate([repeated, after.reshape(-1, *after.shape[2:])], axis=1)

    embeddings = embedded = None
    if prompt.embeddings is not None:
        blank = jnp.zeros((batch, samples, length, config.width), prompt.embeddings.dtype)
        embeddings = joined(prompt.embeddings, blank)
        at = prompt.mask if prompt.embedded is None else prompt.embedded
        embedded = joined(at, jnp.zeros((batch, samples, length), bool))
    texts, real = joined(prompt.tokens, tokens), joined(prompt.mask, mask)
    _, last, _, _ = read(config, params, texts, real, embeddings, embedded)
    logits = unembed(config, params, last[:, -length - 1 : -1])
    chosen = log_probs_of(logits.reshape(batch, samples, length, -1), tokens)
    return jnp.where(mask, chosen, 0.0)
