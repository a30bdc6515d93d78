"""The BERT family: a bidirectional encoder that reads whole texts.

Post-norm transformer blocks (Devlin et al. 2019, arXiv 1810.04805), one Linen module scanned over
parameters stacked on a leading layer axis. RoBERTa (Liu et al. 2019, arXiv 1907.11692) counts its
positions from another number, and DistilBERT (Sanh et al. 2019, arXiv 1910.01108) has no token
types; their blocks are the same. The functions here are pure: configuration, parameters
and arrays in, arrays out.

Shape letters: `B` texts, `S` word pieces of a text, padded on the right, `L` layers, `E` width,
`H` heads, `Eh` width of a head, `V` vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from coopgen_jax.models.product import product
from coopgen_jax.models.rematerialisation import of_weights, rematerialise
from coopgen_jax.parallel.platform import activation_dtype

Params = Any

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_new": partial(jax.nn.gelu, approximate=True),
    "gelu_pytorch_tanh": partial(jax.nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
}


@dataclass(frozen=True)
class EncoderConfig:
    """The shape of an encoder of the BERT family.

    Attributes:
      vocab_size: `V`, word pieces.
      layers: `L`.
      width: `E`.
      heads: `H`, which divides `E`.
      ffn_width: inner width of the feed-forward layers.
      context: longest text, in word pieces.
      norm_epsilon: what the layer norms add to the variance.
      activation: a key of `ACTIVATIONS`.
      offset: number of a text's first position; the table has rows for `offset + context`.
      token_types: rows of the table of token types, of which the first is used; 0 for no table.
      dtype: of what is multiplied, "float32" or "bfloat16"; sums of products, norms and softmax
        are always float32.
    """

    vocab_size: int
    layers: int
    width: int
    heads: int
    ffn_width: int
    context: int = 512
    norm_epsilon: float = 1e-12
    activation: str = "gelu"
    offset: int = 0
    token_types: int = 2
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of {self.heads} heads")
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"unknown activation {self.activation!r}: choose one of {', '.join(ACTIVATIONS)}"
            )


class Block(nn.Module):
    """Self-attention and feed-forward, each added to its input and normalised after the sum."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """Maps `x` `[B, S, E]` with `mask` `[B, S]` to `[B, S, E]`."""
        config = self.config
        batch, length, width = x.shape
        dtype = activation_dtype(config.dtype)
        times = partial(product, dtype=dtype)
        dense = dense_of(config.dtype)

        def heads(name: str) -> jax.Array:
            projected = dense(width, name=name)(x).reshape(batch, length, config.heads, -1)
            return projected.transpose(0, 2, 1, 3)

        query, key, value = heads("query"), heads("key"), heads("value")
        scores = times("bhqd,bhkd->bhqk", query, key)
        scores = jnp.where(mask[:, None, None, :], scores * query.shape[-1] ** -0.5, -1e9)
        weights = jax.nn.softmax(scores, axis=-1)
        mixed = times("bhqk,bhkd->bhqd", weights, value).transpose(0, 2, 1, 3)
        attended = dense(width, name="output")(mixed.reshape(batch, length, width))
        x = norm_of(config.norm_epsilon, "attention_norm")(x + attended).astype(dtype)
        inner = ACTIVATIONS[config.activation](dense(config.ffn_width, name="up")(x))
        x = norm_of(config.norm_epsilon, "ffn_norm")(x + dense(width, name="down")(inner))
        return x.astype(dtype)


def dense_of(dtype: str) -> Callable[..., nn.Dense]:
    """Returns what makes the dense layers of a network whose products have a dtype.

    They map states `[B, S, in]`, and begin with weights as BERT draws them.
    """
    return partial(
        nn.Dense,
        # The product rounds what it is given, and so a gradient of the weights is not rounded.
        dtype=jnp.float32,
        kernel_init=nn.initializers.normal(stddev=0.02),
        dot_general=partial(_dot_general, dtype),
    )


def _dot_general(dtype: str, x: jax.Array, kernel: jax.Array, *_: Any, **__: Any) -> jax.Array:
    """Multiplies states `[B, S, in]` by a kernel `[in, out]`, as `nn.Dense` asks for it."""
    return of_weights(product("bsi,io->bso", x, kernel, dtype))


def norm_of(epsilon: float, name: str | None = None) -> nn.LayerNorm:
    """Returns a layer norm that computes in float32."""
    # The fast variance E[x^2] - E[x]^2 loses digits that an epsilon of 1e-12 does not cover for.
    return nn.LayerNorm(epsilon=epsilon, dtype=jnp.float32, use_fast_variance=False, name=name)


def init_encoder(key: jax.Array, config: EncoderConfig) -> Params:
    """Returns random parameters, as BERT draws them: normal with deviation 0.02, zero biases.

    The tree is `{"embedding": {"word" [V, E], "position" [offset + context, E], "type" [types, E]},
    "embedding_norm": {"scale", "bias"}, "layers": {...}}`; `"layers"` holds the dense layers
    `query`, `key`, `value`, `output`, `up`, `down` (`kernel` `[L, in, out]`, `bias` `[L, out]`) and
    the norms `attention_norm` and `ffn_norm` (`scale`, `bias` `[L, E]`).
    """
    *table_keys, layer_key = jax.random.split(key, 4)
    sizes = {
        "word": config.vocab_size,
        "position": config.offset + config.context,
        "type": config.token_types,
    }
    embedding = {
        name: 0.02 * jax.random.normal(table_key, (rows, config.width), jnp.float32)
        for table_key, (name, rows) in zip(table_keys, sizes.items(), strict=True)
        if rows
    }
    example = jnp.zeros((1, 1, config.width))

    def layer(one_key: jax.Array) -> Params:
        return Block(config).init(one_key, example, jnp.ones((1, 1), bool))["params"]

    return {
        "embedding": embedding,
        "embedding_norm": {"scale": jnp.ones(config.width), "bias": jnp.zeros(config.width)},
        "layers": jax.vmap(layer)(jax.random.split(layer_key, config.layers)),
    }


def encode(config: EncoderConfig, params: Params, tokens: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns the states `[B, S, E]` of texts after the last layer; those of padding mean nothing.

    Word pieces `[B, S]` are int32, special ones included, and the mask is true at real ones.
    """
    length = tokens.shape[1]
    if length > config.context:
        raise ValueError(f"{length} word pieces do not fit a context of {config.context}")
    table = params["embedding"]
    fixed = table["position"][config.offset : config.offset + length]
    if config.token_types:
        fixed = fixed + table["type"][:1]
    x: Any = norm_of(config.norm_epsilon).apply(
        {"params": params["embedding_norm"]}, table["word"][tokens] + fixed[None]
    )
    block = Block(config)

    def step(x: jax.Array, layer: Params) -> tuple[Any, None]:
        return block.apply({"params": layer}, x, mask), None

    run = rematerialise(step, scanned=True)
    return jax.lax.scan(run, x.astype(activation_dtype(config.dtype)), params["layers"])[0]


def mean_pool(hidden: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns the mean `[B, E]` float32 of the states `[B, S, E]` at a text's real pieces.

    It is zero for a text without a piece.
    """
    weights = mask.astype(jnp.float32)[:, :, None]
    total = jnp.sum(hidden.astype(jnp.float32) * weights, axis=1)
    return total / jnp.maximum(jnp.sum(weights, axis=1), 1.0)
