"""Images in front of a text: features become vectors that a language model reads like tokens.

The captioner of Mokady, Hertz and Bermano (ClipCap, arXiv 2111.09734): a frozen network has seen
the image, and a small one turns its features into a prefix. So every decoder writes captions.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from coopgen_jax.models.reading import read
from coopgen_jax.models.transformer import DecoderConfig, Params


@dataclass(frozen=True)
class ImagePrefixConfig:
    """The shape of the network between features and prefix.

    Attributes:
      inputs: `F`, width of the features.
      tokens: `K`, vectors of a prefix.
      width: `E`, that of the language model.
      hidden: units of the hidden layer.
    """

    inputs: int
    tokens: int
    width: int
    hidden: int


class ImagePrefix(nn.Module):
    """One hidden layer of tanh; features are standardised by a stored mean and scale."""

    config: ImagePrefixConfig

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        """Maps features `[B, F]` to prefixes `[B, K, E]`."""
        shape = self.config
        centre = self.param("centre", nn.initializers.zeros, (shape.inputs,), jnp.float32)
        scale = self.param("scale", nn.initializers.ones, (shape.inputs,), jnp.float32)
        x = (features - centre[None]) * scale[None]
        x = jnp.tanh(nn.Dense(shape.hidden, name="hidden")(x))
        x = nn.Dense(shape.tokens * shape.width, name="output")(x)
        return x.reshape(len(x), shape.tokens, shape.width)


def init_image_prefix(key: jax.Array, config: ImagePrefixConfig) -> Any:
    """Returns random parameters; the standardisation changes nothing."""
    return ImagePrefix(config).init(key, jnp.zeros((1, config.inputs)))["params"]


def image_prefix(config: ImagePrefixConfig, params: Any, features: jax.Array) -> jax.Array:
    """Returns the prefixes `[B, K, E]` float32 of features `[B, F]`."""
    vectors: Any = ImagePrefix(config).apply({"params": params}, features.astype(jnp.float32))
    return jnp.asarray(vectors)


def read_behind(
    config: DecoderConfig, params: Params, vectors: jax.Array, tokens: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Reads rows of tokens `[B, S]`, padded on the right, behind vectors `[B, K, E]`.

    Returns:
      The last layer's stream `[B, K + S, E]`, and the tokens `[B, K + S]` with zeros in place of
      the vectors.
    """
    count = vectors.shape[1]
    behind = ((0, 0), (count, 0))
    there = jnp.pad(mask, behind, constant_values=True)
    whole = jnp.pad(tokens, behind)
    embedded = jnp.broadcast_to(jnp.arange(whole.shape[1])[None] < count, whole.shape)
    embeddings = jnp.pad(vectors, ((0, 0), (0, tokens.shape[1]), (0, 0)))
    _, stream, _, _ = read(config, params, whole, there, embeddings, embedded)
    return stream, whole
