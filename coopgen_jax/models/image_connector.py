"""From the patches of an image to vectors that a language model reads: Idefics3 and SmolVLM.

Laurençon et al., "Building and better understanding vision-language models" (2024, arXiv
2408.12637), and Marafioti et al., "SmolVLM" (2025, arXiv 2504.05299). A SigLIP tower reads the
image, squares of neighbouring patches are joined to one state ("pixel shuffle"), and a linear layer
gives it the language model's width. The tower has no pooling.

Shape letters: `B` images, `S` patches, `K` vectors of an image, `E` width of the language model.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from coopgen_jax.models.affine import affine
from coopgen_jax.models.vision import VisionConfig, init_vision, tower_states

Params = dict[str, Any]


@dataclass(frozen=True)
class ConnectedVisionConfig:
    """The shape of a vision tower with its connector.

    Attributes:
      vision: the tower, which is `attentive`: a SigLIP's, whose pooling is not read.
      factor: rows and columns of patches that become one vector.
      width: `E`.
    """

    vision: VisionConfig
    factor: int
    width: int

    def __post_init__(self) -> None:
        if not self.vision.attentive:
            raise ValueError("the tower is a CLIP's: a connector reads a SigLIP's")
        if self.factor < 1 or self.side % self.factor:
            raise ValueError(
                f"{self.side} rows of patches are not a multiple of {self.factor}, which become one"
            )

    @property
    def side(self) -> int:
        """How many rows of patches an image has, and how many columns."""
        return self.vision.image_size // self.vision.patch_size

    @property
    def vectors(self) -> int:
        """`K`, vectors of an image."""
        return (self.side // self.factor) ** 2


def init_connected_vision(key: jax.Array, config: ConnectedVisionConfig) -> Params:
    """Returns random parameters.

    The tree is `{"vision": ..., "connector": {"kernel" [factor * factor * tower's width, E]}}`; see
    `vision.init_vision`, whose `pool` is missing.
    """
    own, other = jax.random.split(key)
    vision = init_vision(own, config.vision)
    del vision["pool"]
    joined = config.factor**2 * config.vision.tower.width
    kernel = 0.02 * jax.random.normal(other, (joined, config.width), jnp.float32)
    return {"vision": vision, "connector": {"kernel": kernel}}


def pixel_shuffle(states: jax.Array, factor: int) -> jax.Array:
    """Joins squares of neighbouring patches.

    Args:
      states: `[B, S, W]` of the patches of square images, row by row.
      factor: rows and columns of a square.

    Returns:
      `[B, S / factor ** 2, factor ** 2 * W]`: the states of a square one behind another, row by
      row, and the squares row by row.
    """
    batch, count, width = states.shape
    side = round(count**0.5) // factor
    squares = states.reshape(batch, side, factor, side, factor, width)
    return squares.transpose(0, 1, 3, 2, 4, 5).reshape(batch, side**2, factor**2 * width)


def connected_vectors(
    config: ConnectedVisionConfig, params: Params, pixels: jax.Array
) -> jax.Array:
    """Returns the vectors `[B, K, E]` float32 of images; see `vision.see` for their pixels."""
    states = tower_states(config.vision, params["vision"], pixels)
    joined = pixel_shuffle(states, config.factor)
    return affine(joined, params["connector"], config.vision.tower.dtype)
