"""EfficientNet-Lite: a small convolutional network, whose pooled state describes an image.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (ICML 2019,
arXiv 1905.11946), of whose networks the Lite ones have ReLU6 for an activation and no
squeeze-and-excitation. A block widens its input, convolves each channel alone and narrows the
result (Sandler et al. 2018, arXiv 1801.04381). Batch norms have the statistics of their training.

Shape letters: `B` images, `E` width of the pooled state.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from coopgen_jax.models.affine import affine, array, dense_shape
from coopgen_jax.models.product import product

Params = dict[str, Any]


class Stage(NamedTuple):
    """Blocks of one width.

    Attributes:
      blocks: how many there are.
      kernel: height and width of the convolution of single channels.
      stride: of the first block's; the others have 1.
      widening: how many times its input's channels a block has inside.
      channels: of a block's result.
    """

    blocks: int
    kernel: int
    stride: int
    widening: int
    channels: int


@dataclass(frozen=True)
class EfficientNetConfig:
    """The shape of an EfficientNet-Lite.

    Attributes:
      stem: channels of the first convolution, 3 x 3 at a stride of 2.
      stages: what follows.
      width: `E`, channels of the last convolution.
      classes: numbers that the head returns.
      image_size: height and width of the images that it was trained on.
      norm_epsilon: what the batch norms add to the variance.
    """

    stem: int
    stages: tuple[Stage, ...]
    width: int
    classes: int
    image_size: int
    norm_epsilon: float = 1e-3


LITE0 = EfficientNetConfig(
    stem=32,
    stages=(
        Stage(1, 3, 1, 1, 16),
        Stage(2, 3, 2, 6, 24),
        Stage(2, 5, 2, 6, 40),
        Stage(3, 3, 2, 6, 80),
        Stage(3, 5, 1, 6, 112),
        Stage(4, 5, 2, 6, 192),
        Stage(1, 3, 1, 6, 320),
    ),
    width=1280,
    classes=1000,
    image_size=224,
)


class _Block(NamedTuple):
    """One block: its name in the tree of parameters, its shape, and whether its input is added."""

    name: str
    kernel: int
    stride: int
    widening: int
    inputs: int
    outputs: int

    @property
    def adds(self) -> bool:
        return self.stride == 1 and self.inputs == self.outputs


def _blocks(config: EfficientNetConfig) -> list[_Block]:
    blocks: list[_Block] = []
    channels = config.stem
    for stage in config.stages:
        for number in range(stage.blocks):
            stride = 1 if number else stage.stride
            name = f"block_{len(blocks)}"
            blocks.append(
                _Block(name, stage.kernel, stride, stage.widening, channels, stage.channels)
            )
            channels = stage.channels
    return blocks


def _convolution_shape(kernel: int, inputs: int, outputs: int) -> Params:
    """Returns the shapes of a convolution `[columns, rows, in, out]` and of the norm behind it."""
    norm = {name: array(outputs) for name in ("scale", "bias", "mean", "variance")}
    return {"kernel": array(kernel, kernel, inputs, outputs), "norm": norm}


def efficientnet_shapes(config: EfficientNetConfig) -> Params:
    """Returns the shapes of the parameters that `efficientnet` takes.

    They are those of the `stem`, of each block's `widen` (unless it widens nothing), `each` and
    `narrow`, of the `last` convolution and of the `head`.
    """
    shapes: Params = {"stem": _convolution_shape(3, 3, config.stem)}
    channels = config.stem
    for block in _blocks(config):
        inner, channels = block.widening * block.inputs, block.outputs
        own = {
            "each": _convolution_shape(block.kernel, 1, inner),
            "narrow": _convolution_shape(1, inner, block.outputs),
        }
        if block.widening > 1:
            own["widen"] = _convolution_shape(1, block.inputs, inner)
        shapes[block.name] = own
    shapes["last"] = _convolution_shape(1, channels, config.width)
    return {**shapes, "head": dense_shape(config.width, config.classes)}


def efficientnet(config: EfficientNetConfig, params: Params, pixels: jax.Array) -> jax.Array:
    """Returns the mean `[B, E]` float32 of the last states of images.

    Args:
      config: the network's shape.
      params: of the shapes of `efficientnet_shapes`.
      pixels: `[B, height, width, 3]` normalised colours, rows first.
    """
    epsilon = config.norm_epsilon
    x = _stem(pixels, params["stem"]["kernel"])
    x = jax.nn.relu6(_normalised(x, params["stem"]["norm"], epsilon))
    for block in _blocks(config):
        own, before = params[block.name], x
        if block.widening > 1:
            x = _mixed(x, own["widen"]["kernel"])
            x = jax.nn.relu6(_normalised(x, own["widen"]["norm"], epsilon))
        x = _each(x, own["each"]["kernel"], block.stride)
        x = jax.nn.relu6(_normalised(x, own["each"]["norm"], epsilon))
        x = _normalised(_mixed(x, own["narrow"]["kernel"]), own["narrow"]["norm"], epsilon)
        if block.adds:
            x = x + before
    x = _mixed(x, params["last"]["kernel"])
    x = jax.nn.relu6(_normalised(x, params["last"]["norm"], epsilon))
    return jnp.mean(x, axis=(1, 2))


def _stem(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x.astype(jnp.float32),
        kernel.astype(jnp.float32),
        (2, 2),
        "SAME",
        dimension_numbers=("NHWC", "WHIO", "NHWC"),
    )


def _mixed(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves states `[B, height, width, in]` by a kernel `[1, 1, in, out]`."""
    return product("bhwi,io->bhwo", x, kernel[0, 0], "float32")


def _each(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolves each channel of states alone, by a kernel `[columns, rows, 1, channels]`.

    It is the sum of the shifted states: XLA's processor backend takes 4 to 57 times as long for a
    convolution by groups.
    """
    columns, rows = kernel.shape[:2]
    heights, widths = (-(-size // stride) for size in x.shape[1:3])
    pads = [(0, 0)]
    for count, size, reach in zip((heights, widths), x.shape[1:3], (rows, columns), strict=True):
        total = max((count - 1) * stride + reach - size, 0)
        pads.append((total // 2, total - total // 2))
    x = jnp.pad(x, [*pads, (0, 0)])

    def shifted(row: int, column: int) -> jax.Array:
        below = slice(row, row + (heights - 1) * stride + 1, stride)
        beside = slice(column, column + (widths - 1) * stride + 1, stride)
        return x[:, below, beside] * kernel[column, row][None, None]

    return sum(
        (shifted(row, column) for row in range(rows) for column in range(columns)),
        start=jnp.zeros((), jnp.float32),
    )


def _normalised(x: jax.Array, norm: Params, epsilon: float) -> jax.Array:
    factor = norm["scale"] * jax.lax.rsqrt(norm["variance"] + epsilon)
    moved = norm["bias"] - norm["mean"] * factor
    return x * factor[None, None, None] + moved[None, None, None]


def class_logits(params: Params, states: jax.Array) -> jax.Array:
    """Returns the logits `[B, classes]` float32 of the classes that the network was trained on."""
    return affine(states, params["head"], "float32")
