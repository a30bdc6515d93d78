"""Decoder networks of the GPT-2 and Llama families, as one block applied layer by layer.

GPT-2: layer norms, learned positions, biases, GELU. Llama (and Qwen2, Mistral, SmolLM, TinyLlama):
RMS norms, rotary positions, grouped-query attention, gated SiLU. The T5 family is made of the same
block, which then attends to a source as well; see `t5`.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from coopgen_jax.errors import UserError
from coopgen_jax.models.attention import flat_heads
from coopgen_jax.models.product import are_bits, numbers, rows_times
from coopgen_jax.models.rematerialisation import of_weights, rematerialise
from coopgen_jax.parallel.platform import activation_dtype

# What layers are added up in, for every dtype of the rest: rounded to bfloat16 behind each one,
# the default model's perplexity is 2 to 3 % higher.
STREAM = jnp.float32

Params = dict[str, Any]
# (query [B, Q, H, Eh], key [B, Q, G, Eh], value [B, Q, G, Eh]) -> attended [B, Q, H, Eh]
Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
# query [B, Q, H, Eh] -> what it attends to in a source [B, Q, H, Eh]
Cross = Callable[[jax.Array], jax.Array]


@dataclass(frozen=True)
class DecoderConfig:
    """The shape of a decoder network.

    Attributes:
      vocab_size: `V`.
      layers: `L`.
      width: `E`.
      heads: `H`.
      kv_heads: `G`, which divides `H`.
      head_width: `Eh`.
      ffn_width: width of the feed-forward layer.
      context: longest text.
      norm: the norm of the layers, "rms" or "layer".
      norm_epsilon: what the norms add to the variance.
      activation: of the feed-forward layer.
      gated: whether the feed-forward layer is gated.
      positions: how positions are read, "rotary", "learned" or "relative".
      rope_theta: base of the rotary frequencies.
      rope_scaling: sorted key and value pairs of the "linear" or "llama3" stretching of them, empty
        for none.
      qkv_bias: whether the projections of queries, keys and values have biases.
      output_bias: whether the attention's output projection has a bias.
      ffn_bias: whether the feed-forward layer's projections have biases.
      tied: whether the output layer is the embedding.
      end_tokens: ids that end a text.
      dtype: of weights and of what is multiplied by them, "float32" or "bfloat16", and on an
        accelerator of activations (`platform.activation_dtype`); sums of products, norms,
        softmax and the stream that layers are added to are always float32.
    """

    vocab_size: int
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    ffn_width: int
    context: int
    norm: Literal["rms", "layer"]
    norm_epsilon: float
    activation: Literal["silu", "gelu", "gelu_tanh", "relu"]
    gated: bool
    positions: Literal["rotary", "learned", "relative"]
    rope_theta: float = 10000.0
    rope_scaling: tuple[tuple[str, float | str], ...] = ()
    qkv_bias: bool = False
    output_bias: bool = False
    ffn_bias: bool = False
    tied: bool = True
    end_tokens: tuple[int, ...] = ()
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in ("vocab_size", "layers", "width", "heads", "kv_heads", "head_width", "context"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)!r}: it must be 1 or more")
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.kv_heads} key heads do not divide {self.heads} query heads")
        if self.positions == "rotary" and self.head_width % 2:
            raise ValueError(f"heads of width {self.head_width} cannot be rotated: it is odd")


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": nn.silu,
    "gelu": partial(nn.gelu, approximate=False),
    "gelu_tanh": partial(nn.gelu, approximate=True),
    "relu": nn.relu,
}


def norm(config: DecoderConfig, name: str | None = None) -> nn.Module:
    """Returns the family's norm, computed in float32."""
    kind = nn.RMSNorm if config.norm == "rms" else nn.LayerNorm
    return kind(epsilon=config.norm_epsilon, dtype=jnp.float32, name=name)


def rope_frequencies(config: DecoderConfig) -> jax.Array:
    """Returns the rotary frequencies `[Eh / 2]` in radians per position.

    "linear" divides them all by a factor; "llama3" divides those whose wavelength is longer than
    the original context and blends in between (Llama 3.1 model card).
    """
    exponent = jnp.arange(0, config.head_width, 2, dtype=jnp.float32) / config.head_width
    frequencies = config.rope_theta**-exponent
    scaling = dict(config.rope_scaling)
    if not scaling:
        return frequencies
    factor = float(scaling["factor"])
    if scaling["rope_type"] == "linear":
        return frequencies / factor
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    turns = float(scaling["original_max_position_embeddings"]) * frequencies / (2 * jnp.pi)
    keep = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
    return frequencies * (keep + (1 - keep) / factor)


def rotate(x: jax.Array, angles: jax.Array) -> jax.Array:
    """Rotates `x` `[B, Q, heads, Eh]` by `angles` `[B, Q, Eh / 2]`, halves paired (RoFormer)."""
    cos, sin = jnp.cos(angles)[:, :, None, :], jnp.sin(angles)[:, :, None, :]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)


def flat(x: jax.Array) -> jax.Array:
    """Returns `x` `[..., E]` as `[n, E]`.

    A kernel's gradient adds up over all leading axes. Over one it is a plain product; over several
    XLA's processor backend first writes what came in, transposed, which takes as long.
    """
    return x.reshape(-1, x.shape[-1])


class Dense(nn.Module):
    """A dense layer whose kernel is `[out, in]`: a processor multiplies few rows by it faster.

    Where its params have `lora_down` and `lora_up` too, their product is added to the kernel; see
    `models.lora`.
    """

    features: int
    use_bias: bool
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `x` `[..., in]` to `[..., out]`."""
        init = nn.initializers.lecun_normal(in_axis=-1, out_axis=-2)
        kernel = self.param("kernel", init, (self.features, x.shape[-1]), jnp.float32)
        leading, x = x.shape[:-1], flat(x)
        times = partial(rows_times, dtype=self.dtype)
        y = times(x, kernel)
        if self.has_variable("params", "lora_down"):
            down: Any = self.get_variable("params", "lora_down")
            up: Any = self.get_variable("params", "lora_up")
            y = y + times(times(x, down), up)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
            y = y + bias.astype(jnp.float32)[None, :]
        return of_weights(y.astype(activation_dtype(self.dtype))).reshape(*leading, self.features)


class Block(nn.Module):
    """One pre-norm layer: attention, then a feed-forward network, each added to the stream.

    Where there is a source, its attention to it stands between the two.
    """

    config: DecoderConfig

    @nn.compact
    def __call__(
        self, x: jax.Array, angles: jax.Array | None, attend: Attend, cross: Cross | None = None
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Maps the stream `x` `[B, Q, E]` on by one layer.

        Rotary angles are `[B, Q, Eh / 2]`, or None without rotary positions.

        Returns:
          The stream, and the layer's new keys and values as they are cached, each
          `[B, Q, G * Eh]`.
        """
        c = self.config
        dtype = activation_dtype(c.dtype)
        dense = partial(Dense, dtype=c.dtype)

        def heads(name: str, count: int, h: jax.Array) -> jax.Array:
            projected = dense(count * c.head_width, use_bias=c.qkv_bias, name=name)(h)
            return projected.reshape(*h.shape[:-1], count, c.head_width)

        h = norm(c, "attention_norm")(x).astype(dtype)
        query = heads("query", c.heads, h)
        key, value = heads("key", c.kv_heads, h), heads("value", c.kv_heads, h)
        if angles is not None:
            query, key = rotate(query, angles), rotate(key, angles)
        attended = attend(query, key, value).reshape(*x.shape[:-1], c.heads * c.head_width)
        x = x + dense(c.width, use_bias=c.output_bias, name="output")(attended)

        if cross is not None:
            h = norm(c, "cross_norm")(x).astype(dtype)
            attended = cross(heads("cross_query", c.heads, h)).reshape(attended.shape)
            x = x + dense(c.width, use_bias=c.output_bias, name="cross_output")(attended)

        h = norm(c, "ffn_norm")(x).astype(dtype)
        up = dense(c.ffn_width, use_bias=c.ffn_bias, name="up")(h)
        activation = ACTIVATIONS[c.activation]
        if c.gated:
            up = activation(dense(c.ffn_width, use_bias=c.ffn_bias, name="gate")(h)) * up
        else:
            up = activation(up)
        x = x + dense(c.width, use_bias=c.ffn_bias, name="down")(up)
        return x, (flat_heads(key), flat_heads(value))


@partial(jax.jit, static_argnums=1)
def init_decoder(key: jax.Array, config: DecoderConfig) -> Params:
    """Returns randomly initialised parameters; every layer's leaves are stacked on an `L` axis."""
    names = ("embedding", "positions", "head", "layers")
    keys = dict(zip(names, jax.random.split(key, len(names)), strict=True))
    x = jnp.zeros((1, 1, config.width))
    angles = jnp.zeros((1, 1, config.head_width // 2)) if config.positions == "rotary" else None

    def layer(layer_key: jax.Array) -> Params:
        return Block(config).init(layer_key, x, angles, lambda query, key, value: query)["params"]

    normal = nn.initializers.normal(0.02)
    params: Params = {
        "embedding": normal(keys["embedding"], (config.vocab_size, config.width), jnp.float32),
        "layers": jax.vmap(layer)(jax.random.split(keys["layers"], config.layers)),
        "final_norm": norm(config).init(key, x)["params"],
    }
    if config.positions == "learned":
        params["positions"] = normal(keys["positions"], (config.context, config.width), jnp.float32)
    if not config.tied:
        params["head"] = normal(keys["head"], (config.vocab_size, config.width), jnp.float32)
    return params


def vectors_of(
    params: Params,
    tokens: jax.Array,
    embeddings: jax.Array | None,
    embedded: jax.Array | None = None,
) -> jax.Array:
    """Returns the vectors of tokens; `embeddings` stand in their place where `embedded` is true.

    Without `embedded` they stand everywhere.
    """
    # The barrier ties the table to the tokens. Without it XLA converts the table of a bfloat16
    # network to float32 in front of a loop, all of it, for the few rows that the loop reads.
    table, tokens = jax.lax.optimization_barrier((params["embedding"], tokens))
    x: jax.Array = table[tokens]
    if embeddings is None:
        return x
    return embeddings if embedded is None else jnp.where(embedded[..., None], embeddings, x)


def embed(
    config: DecoderConfig,
    params: Params,
    tokens: jax.Array,
    positions: jax.Array,
    embeddings: jax.Array | None = None,
    embedded: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array | None]:
    """Returns the stream `[B, Q, E]` of tokens `[B, Q]`, and their rotary angles or None.

    Vectors `embeddings` `[B, Q, E]` stand in for tokens where `embedded` `[B, Q]` is true. An
    encoder-decoder has another way to read.
    """
    if config.positions == "relative":
        raise UserError(
            "this needs a network that reads prompt and text as one sequence, and the model is an "
            "encoder-decoder (T5): give one of the GPT-2 or Llama families"
        )
    x = vectors_of(params, tokens, embeddings, embedded).astype(STREAM)
    if config.positions == "learned":
        return x + params["positions"][positions].astype(STREAM), None
    angles = positions[..., None].astype(jnp.float32) * rope_frequencies(config)[None, None, :]
    return x, angles


def _all_but_numbers(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive is not jax.lax.bitcast_convert_type_p


def run_layers(
    config: DecoderConfig,
    params: Params,
    x: jax.Array,
    angles: jax.Array | None,
    attend: Callable[[jax.Array, Any], Attend],
    regions: Any = (),
    cross: Callable[[Any], Cross | None] = lambda regions: None,
) -> tuple[jax.Array, jax.Array, tuple[jax.Array, jax.Array]]:
    """Runs all layers over the stream `x` `[B, Q, E]` of embedded tokens.

    Stacked layers are scanned, separate ones (`layer_layout.separate_layers`) run one after the
    other. Either way only what is new is returned, so that no stack of caches is written anew.
    Every leaf of `regions`, which is what is cached, has a leading `L` axis. `attend` is given a
    layer's number `[]` and its regions, and `cross` its regions.

    Returns:
      The stream after the last layer, the stream after every layer `[L, B, Q, E]`, and the new keys
      and values, each `[L, B, Q, G * Eh]`.
    """

    def layer(x: jax.Array, inputs: Any) -> Any:
        layer_params, number, layer_regions = inputs
        layer_params = jax.tree.map(numbers, layer_params)
        own, across = attend(number, layer_regions), cross(layer_regions)
        x, entries = Block(config).apply({"params": layer_params}, x, angles, own, across)
        return x, (x, entries)

    layers, places = params["layers"], jnp.arange(config.layers)
    run = rematerialise(layer, scanned=not isinstance(layers, tuple))
    if any(map(are_bits, jax.tree.leaves(layers))):
        # What is read of bits is read again for a gradient, not kept for all layers.
        run = jax.checkpoint(run, policy=_all_but_numbers, prevent_cse=False)
    if not isinstance(layers, tuple):
        with jax.named_scope("layers"):
            x, (streams, entries) = jax.lax.scan(run, x, (layers, places, regions))
        return x, streams, entries
    outputs = []
    for number, layer_params in enumerate(layers):
        one = jax.tree.map(operator.itemgetter(number), (places, regions))
        x, output = run(x, (layer_params, *one))
        outputs.append(output)
    streams, entries = jax.tree.map(lambda *leaves: jnp.stack(leaves), *outputs)
    return x, streams, entries


def tapped(
    config: DecoderConfig,
    params: Params,
    embedded: jax.Array,
    streams: jax.Array,
    taps: tuple[int, ...],
) -> jax.Array:
    """Returns the states at `taps`: `[B, Q, J, E]` float32, numbered as `LanguageModel.taps` is."""
    states = [
        final_norm(config, params, streams[-1])
        if tap == config.layers
        else (streams[tap - 1] if tap else embedded)
        for tap in taps
    ]
    if not states:
        return jnp.zeros((*embedded.shape[:-1], 0, config.width), jnp.float32)
    return jnp.stack(states, axis=-2).astype(jnp.float32)


def final_norm(config: DecoderConfig, params: Params, x: jax.Array) -> jax.Array:
    """Normalises the stream after the last layer."""
    normalised: Any = norm(config).apply({"params": params["final_norm"]}, x)
    return normalised


def output_factors(
    config: DecoderConfig, params: Params, x: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns what the logits are the product of: states `[..., E]` and the output layer `[V, E]`.

    The last layer's stream `x` is `[..., E]`; both are of the network's number format.
    """
    h = final_norm(config, params, x).astype(config.dtype)
    return h, params["embedding" if config.tied else "head"].astype(h.dtype)


def unembed(config: DecoderConfig, params: Params, x: jax.Array) -> jax.Array:
    """Returns the logits `[..., V]` in float32 of the last layer's stream `x` `[..., E]`."""
    h, head = output_factors(config, params, x)
    logits = rows_times(flat(h), head, config.dtype)
    return logits.reshape(*h.shape[:-1], -1)
