"""The T5 family: an encoder reads a source, and a decoder that attends to it writes a text.

Raffel et al. (JMLR 2020, arXiv 1910.10683), section 2.1: pre-norm blocks, RMS norms, relative
positions (`relative`) and scores that are not scaled. T5 has a ReLU and one matrix for embedding
and output, whose logits are scaled by E^-0.5; T5 1.1, FLAN-T5 and mT5 have a gated GELU and an
output layer of their own.

A decoder's text begins with its start token, which it reads in front of the first token.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from coopgen_jax.models.attention import attend_causal
from coopgen_jax.models.product import numbers
from coopgen_jax.models.relative import bias_around, bias_before
from coopgen_jax.models.transformer import (
    STREAM,
    Block,
    Cross,
    DecoderConfig,
    Dense,
    Params,
    final_norm,
    norm,
    run_layers,
    unembed,
    vectors_of,
)
from coopgen_jax.parallel.platform import activation_dtype

# Cross-attention keys and values of every decoder layer, each `[L, B, P, G * Eh]`.
Source = tuple[jax.Array, jax.Array]


@dataclass(frozen=True)
class T5Config(DecoderConfig):
    """The shape of a network of the T5 family; what a `DecoderConfig` says is the decoder's.

    Attributes:
      encoder_layers: how many layers read the source; they are as wide as the decoder's.
      start_token: what the decoder reads in front of a text.
      buckets: of relative positions.
      reach: the distance from which all share the last of them.
      scaled: whether logits are multiplied by E^-0.5.
    """

    encoder_layers: int = 1
    start_token: int = 0
    buckets: int = 32
    reach: int = 128
    scaled: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("encoder_layers", 1), ("buckets", 4), ("start_token", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be {least} or more")
        if self.reach <= self.buckets // 2:
            raise ValueError(
                f"positions reach {self.reach} tokens: give more than {self.buckets // 2}, which "
                "have buckets of their own"
            )
        if self.positions != "relative":
            raise ValueError(f"positions are {self.positions!r}: T5's are relative")


def init_t5(key: jax.Array, config: T5Config) -> Params:
    """Returns randomly initialised parameters.

    The decoder's lie as `init_decoder`'s, with `cross_norm`, `cross_query`, `cross_key`,
    `cross_value` and `cross_output` in every layer, and beside them `relative` `[buckets, H]`.
    Under "encoder" are the encoder's `layers`, `relative` and `final_norm`.
    """
    names = ("embedding", "head", "relative", "layers", "encoder relative", "encoder layers")
    keys = dict(zip(names, jax.random.split(key, len(names)), strict=True))
    x = jnp.zeros((1, 1, config.width))

    def layer(key: jax.Array, cross: Cross | None) -> Params:
        made: Params = Block(config).init(key, x, None, lambda query, *_: query, cross)["params"]
        if cross is not None:
            parts = ("cross_key", "cross_value")
            for part, one in zip(parts, jax.random.split(key, 2), strict=True):
                made[part] = _entry(config).init(one, x)["params"]
        for name in ("query", "cross_query"):
            if name in made:  # the scores are not scaled, so that these are
                made[name] = jax.tree.map(lambda leaf: leaf * config.head_width**-0.5, made[name])
        return made

    def stack(key: jax.Array, count: int, cross: Cross | None) -> Params:
        return jax.vmap(lambda one: layer(one, cross))(jax.random.split(key, count))

    def normal(name: str, rows: int, columns: int, deviation: float) -> jax.Array:
        return deviation * jax.random.normal(keys[name], (rows, columns), jnp.float32)

    width, root = config.width, config.width**-0.5
    last = norm(config).init(key, x)["params"]
    params: Params = {
        "embedding": normal("embedding", config.vocab_size, width, 1.0 if config.scaled else root),
        "relative": normal("relative", config.buckets, config.heads, root),
        "layers": stack(keys["layers"], config.layers, lambda query: query),
        "final_norm": last,
        "encoder": {
            "relative": normal("encoder relative", config.buckets, config.heads, root),
            "layers": stack(keys["encoder layers"], config.encoder_layers, None),
            "final_norm": last,
        },
    }
    if not config.tied:
        params["head"] = normal("head", config.vocab_size, width, root)
    return params


def _entry(config: T5Config) -> Dense:
    """Returns what makes cross-attention keys, or values, of an encoder's states."""
    return Dense(config.kv_heads * config.head_width, use_bias=False, dtype=config.dtype)


def by_head(config: T5Config, bias: jax.Array) -> jax.Array:
    """Returns a bias `[..., S, H]` as scores are laid out: `[..., G, H / G, S]`."""
    turned = jnp.moveaxis(bias, -1, -2)
    return turned.reshape(*turned.shape[:-2], config.kv_heads, -1, turned.shape[-1])


def encode(
    config: T5Config,
    params: Params,
    tokens: jax.Array,
    mask: jax.Array,
    embeddings: jax.Array | None = None,
    embedded: jax.Array | None = None,
    *,
    chunk: int = 256,
) -> jax.Array:
    """Returns the encoder's states `[B, P, E]` of sources after its final norm.

    Each source `[B, P]` is without gaps; padding on either side changes nothing. At most `chunk`
    tokens attend to the source at once, so that the memory for scores grows with a long source, not
    with its square.
    """
    x = vectors_of(params, tokens, embeddings, embedded)
    encoder = params["encoder"]
    key_at = jnp.arange(tokens.shape[1])
    visible = mask[:, None, :]

    def bias_of(query_at: jax.Array) -> jax.Array:
        around = bias_around(encoder["relative"], key_at[None, :] - query_at[:, None], config.reach)
        return jnp.moveaxis(by_head(config, around), 0, -2)[None]

    whole = bias_of(key_at) if len(key_at) <= chunk else None

    def attended(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        def some(query: jax.Array, bias: jax.Array) -> jax.Array:
            return attend_causal(query, key, value, visible, scale=1.0, bias=bias)

        if whole is not None:
            return some(query, whole)
        pad = -len(key_at) % chunk
        padded = jnp.pad(query, [(0, 0), (0, pad), (0, 0), (0, 0)])
        parts = jnp.moveaxis(padded.reshape(len(query), -1, chunk, *query.shape[2:]), 1, 0)
        starts = jnp.arange(0, len(key_at), chunk)
        found: jax.Array = jax.lax.map(
            lambda part: some(part[0], bias_of(part[1] + jnp.arange(chunk))), (parts, starts)
        )
        return jnp.moveaxis(found, 0, 1).reshape(padded.shape)[:, : len(key_at)]

    layers = replace(config, layers=config.encoder_layers)
    dtype = activation_dtype(config.dtype)
    last, _, _ = run_layers(layers, encoder, x.astype(STREAM), None, lambda *_: attended)
    return final_norm(config, encoder, last).astype(dtype)


def source_entries(config: T5Config, params: Params, states: jax.Array) -> Source:
    """Returns what every decoder layer attends to of a source's states `[B, P, E]`."""

    def entries(layer: Params) -> Source:
        layer = jax.tree.map(numbers, layer)

        def projected(name: str) -> jax.Array:
            made: Any = _entry(config).apply({"params": layer[name]}, states)
            return made

        return projected("cross_key"), projected("cross_value")

    layers = params["layers"]
    if isinstance(layers, tuple):
        keys, values = zip(*map(entries, layers), strict=True)
        return jnp.stack(keys), jnp.stack(values)
    return jax.lax.map(entries, {name: layers[name] for name in ("cross_key", "cross_value")})


def read_target(
    config: T5Config, params: Params, source: Source, mask: jax.Array, tokens: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Reads the tokens `[B, R, S]` that are written of sources, the start token in front.

    Returns:
      The last layer's stream `[B, R, S, E]`, and the keys and values of the texts themselves, each
      `[L, B * R, S, G * Eh]`.
    """
    batch, samples, length = tokens.shape
    x = params["embedding"][tokens.reshape(-1, length)].astype(STREAM)
    place = jnp.arange(length)
    before = bias_before(params["relative"], place[:, None] - place[None, :], config.reach)
    bias = jnp.moveaxis(by_head(config, before), 0, -2)[None]
    visible = (place[:, None] >= place[None, :])[None]

    def attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        return attend_causal(query, key, value, visible, scale=1.0, bias=bias)

    def cross(regions: Source) -> Cross:
        def across(query: jax.Array) -> jax.Array:
            # A source is shared by its texts and never repeated.
            rows = query.reshape(batch, samples * length, *query.shape[2:])
            return attend_source(config, rows, regions, mask).reshape(query.shape)

        return across

    last, _, entries = run_layers(config, params, x, None, lambda *_: attend, source, cross)
    return last.reshape(*tokens.shape, -1), entries


def attend_source(config: T5Config, query: jax.Array, layer: Source, mask: jax.Array) -> jax.Array:
    """Attention of queries `[B, Q, H, Eh]` to one layer's entries of a source `[B, P, G * Eh]`."""
    key, value = (
        entries.reshape(*mask.shape, config.kv_heads, config.head_width) for entries in layer
    )
    return attend_causal(query, key, value, mask[:, None, :], scale=1.0)


def output(config: T5Config, params: Params, x: jax.Array) -> jax.Array:
    """Returns the logits `[..., V]` in float32 of the last layer's stream `x` `[..., E]`."""
    logits = unembed(config, params, x)
    return logits * config.width**-0.5 if config.scaled else logits


def read_pair(
    config: T5Config,
    params: Params,
    source: jax.Array,
    source_mask: jax.Array,
    target: jax.Array,
) -> jax.Array:
    """Returns the logits of targets, each token's behind those in front of it (teacher forcing).

    Differentiable in the parameters. The loss of a pair is -log softmax(logits)[target], where the
    target has a token. The end token stands behind each source `[B, P]`, padded on either side, and
    each target `[B, S]`, padded behind it with any valid token.

    Returns:
      `[B, S, V]` float32: `[:, s]` is of `target[:, s]`.
    """
    entries = source_entries(config, params, encode(config, params, source, source_mask))
    stream, _ = read_target(config, params, entries, source_mask, begun(config, target[:, None]))
    return output(config, params, stream[:, 0])


def begun(config: T5Config, tokens: jax.Array) -> jax.Array:
    """Returns tokens `[..., S]` moved one place on, the start token in front of them."""
    start = jnp.full_like(tokens[..., :1], config.start_token)
    return jnp.concatenate([start, tokens[..., :-1]], axis=-1)
