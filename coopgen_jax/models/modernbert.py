"""ModernBERT: a pre-norm encoder with rotary positions, most of whose layers see a window alone.

Warner et al., "Smarter, Better, Faster, Longer" (2024, arXiv 2412.13663). Every layer adds
attention and then a gated feed-forward network (GeGLU) to the stream. A layer's attention is
global, or local: then a token sees those at most half a window away. Both kinds have rotary
frequencies of their own. The first layer has no norm in front of its attention.

Shape letters: `B` texts, `S` tokens of a text, padded on the right, `L` layers, `E` width, `H`
heads, `Eh` width of a head, `V` vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from coopgen_jax.models.affine import affine, array, dense_shape, layer_norm, norm_shape, stacked
from coopgen_jax.models.encoder import ACTIVATIONS
from coopgen_jax.models.product import product
from coopgen_jax.models.transformer import rotate

Params = dict[str, Any]


@dataclass(frozen=True)
class ModernBertConfig:
    """The shape of a ModernBERT encoder.

    Attributes:
      vocab_size: `V`.
      width: `E`.
      heads: `H`, which divides `E`.
      ffn_width: inner width of the feed-forward layers.
      local: for each of the `L` layers, whether it sees a window alone.
      window: how far a token sees to either side in a local layer.
      global_theta: base of the rotary frequencies of global layers.
      local_theta: base of those of local layers.
      context: longest text, in tokens.
      norm_epsilon: what the layer norms add to the variance.
      activation: of the feed-forward layers.
      norm_bias: whether norms have biases.
      attention_bias: whether the projections of attention have biases.
      ffn_bias: whether those of the feed-forward layers have biases.
      dtype: of what is multiplied, "float32" or "bfloat16"; sums, norms, softmax and the stream
        that layers are added to are float32.
    """

    vocab_size: int
    width: int
    heads: int
    ffn_width: int
    local: tuple[bool, ...]
    window: int = 64
    global_theta: float = 160_000.0
    local_theta: float = 10_000.0
    context: int = 8192
    norm_epsilon: float = 1e-5
    activation: str = "gelu"
    norm_bias: bool = False
    attention_bias: bool = False
    ffn_bias: bool = False
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} is not a multiple of 2 x {self.heads} heads")
        if not self.local:
            raise ValueError("there are no layers")


def modernbert_shapes(config: ModernBertConfig) -> Params:
    """Returns the shapes of the parameters that `encode_modernbert` takes.

    `first` is the first layer, and `layers` holds the others, stacked on a leading axis.
    """
    width, inner = config.width, config.ffn_width
    norm = norm_shape(width, bias=config.norm_bias)
    first = {
        "qkv": dense_shape(width, 3 * width, bias=config.attention_bias),
        "output": dense_shape(width, width, bias=config.attention_bias),
        "ffn_norm": norm,
        "up": dense_shape(width, 2 * inner, bias=config.ffn_bias),
        "down": dense_shape(inner, width, bias=config.ffn_bias),
    }
    return {
        "embedding": array(config.vocab_size, width),
        "embedding_norm": norm,
        "first": first,
        "layers": stacked({**first, "attention_norm": norm}, len(config.local) - 1),
        "final_norm": norm,
    }


def encode_modernbert(
    config: ModernBertConfig, params: Params, tokens: jax.Array, mask: jax.Array
) -> jax.Array:
    """Returns the states `[B, S, E]` float32 of texts; those of padding mean nothing.

    Tokens `[B, S]` are int32, special ones included, and the mask is true at real ones.
    """
    length = tokens.shape[1]
    if length > config.context:
        raise ValueError(f"{length} tokens do not fit a context of {config.context}")
    x = params["embedding"][tokens]
    x = layer_norm(x, params["embedding_norm"], config.norm_epsilon)
    near = np.abs(np.arange(length)[:, None] - np.arange(length)[None]) <= config.window
    # What a global layer has, and what a local one has: which keys queries see, and their angles.
    seen = jnp.stack([jnp.ones_like(near), near])
    thetas = (config.global_theta, config.local_theta)
    angles = jnp.stack([_angles(config, theta, length) for theta in thetas])

    def layer(x: jax.Array, weights: Params, local: jax.Array) -> jax.Array:
        kind = local.astype(jnp.int32)
        visible = seen[kind][None] & mask[:, None, :]
        return _layer(config, weights, x, visible, angles[kind][None])

    def step(x: jax.Array, inputs: tuple) -> tuple[jax.Array, None]:
        return layer(x, *inputs), None

    local = jnp.asarray(config.local)
    x = layer(x, params["first"], local[0])
    x = jax.lax.scan(step, x, (params["layers"], local[1:]))[0]
    return layer_norm(x, params["final_norm"], config.norm_epsilon)


def _angles(config: ModernBertConfig, theta: float, length: int) -> jax.Array:
    """Returns the angles `[S, Eh / 2]` by which positions turn queries and keys."""
    head = config.width // config.heads
    frequencies = theta ** (-jnp.arange(0, head, 2, dtype=jnp.float32) / head)
    return jnp.arange(length, dtype=jnp.float32)[:, None] * frequencies[None]


def _layer(
    config: ModernBertConfig, layer: Params, x: jax.Array, visible: jax.Array, angles: jax.Array
) -> jax.Array:
    """Maps the stream `x` `[B, S, E]` on; queries see keys where `visible` `[B, S, S]` is true."""
    dtype, epsilon = config.dtype, config.norm_epsilon
    h = layer_norm(x, layer["attention_norm"], epsilon) if "attention_norm" in layer else x
    projected = affine(h, layer["qkv"], dtype).reshape(*x.shape[:2], 3, config.heads, -1)
    query, key = rotate(projected[:, :, 0], angles), rotate(projected[:, :, 1], angles)
    scores = product("bqhd,bkhd->bhqk", query, key, dtype) * query.shape[-1] ** -0.5
    weights = jax.nn.softmax(jnp.where(visible[:, None], scores, -1e9), axis=-1)
    mixed = product("bhqk,bkhd->bqhd", weights, projected[:, :, 2], dtype).reshape(x.shape)
    x = x + affine(mixed, layer["output"], dtype)
    h = layer_norm(x, layer["ffn_norm"], epsilon)
    inner, gate = jnp.split(affine(h, layer["up"], dtype), 2, axis=-1)
    return x + affine(ACTIVATIONS[config.activation](inner) * gate, layer["down"], dtype)
