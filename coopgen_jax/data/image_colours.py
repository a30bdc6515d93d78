"""Pictures as a network reads them, in bytes: small enough to keep a training's in memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from coopgen_jax.data.image_states import pixels_in
from coopgen_jax.data.sources import left_out
from coopgen_jax.errors import UserError
from coopgen_jax.files import sha256_of
from coopgen_jax.models.pixels import PixelConfig, pixels_of


@dataclass(frozen=True)
class ImageColours:
    """The colours of the pictures that could be read.

    Attributes:
      colours: `[n, size, size, 3]` uint8, fitted and cut.
      places: `[n]` which of the files each is of, in order.
      keys: the sha256 of each one's file.
      broken: what is wrong with the others, a sentence each.
    """

    colours: np.ndarray
    places: np.ndarray
    keys: tuple[str, ...]
    broken: tuple[str, ...] = ()

    @property
    def notes(self) -> list[str]:
        """A sentence that counts the images that were left out and names the first, or nothing."""
        return left_out(self.broken, what="image")


@dataclass(frozen=True)
class CaptionedColours:
    """Images with their captions.

    Attributes:
      colours: `[I, size, size, 3]` uint8; as `ImageColours` has them.
      captions: `T` texts.
      image_of: `[T]` the number of each caption's image.
    """

    colours: np.ndarray
    captions: tuple[str, ...]
    image_of: np.ndarray


def colours_in(config: PixelConfig, image: Image.Image) -> np.ndarray:
    """Returns a picture's colours `[size, size, 3]` uint8; `normalised` makes its pixels of them.

    Raises:
      UserError: the picture is a strip, for one; see `pixels_of`.
    """
    return _in_bytes(pixels_of(_plain(config), image))


def _plain(config: PixelConfig) -> PixelConfig:
    return replace(config, mean=(0.0,) * 3, deviation=(1 / 255,) * 3)


def _in_bytes(pixels: np.ndarray) -> np.ndarray:
    return np.rint(pixels).astype(np.uint8)


def normalised(config: PixelConfig, colours: jax.Array) -> jax.Array:
    """Returns the pixels `[..., 3]` float32 of colours uint8, as `pixels_of` makes them."""
    mean, deviation = (
        jnp.asarray(row, jnp.float32).reshape((1,) * (colours.ndim - 1) + (3,))
        for row in (config.mean, config.deviation)
    )
    return (colours.astype(jnp.float32) / 255.0 - mean) / deviation


def read_image_colours(
    config: PixelConfig,
    paths: Sequence[Path],
    *,
    listener: Callable[[int, int], None] = lambda done, total: None,
) -> ImageColours:
    """Returns the colours of pictures in files of any format that Pillow reads.

    They are kept in memory, `3 size ** 2` bytes each: 150 kB at 224 pixels. A file that is missing
    or is no picture is left out, counted and named. `listener` is called after each: how many of
    how many have been read.
    """
    table = np.zeros((len(paths), config.size, config.size, 3), np.uint8)
    places: list[int] = []
    keys: list[str] = []
    broken: list[str] = []
    for number, path in enumerate(paths):
        try:
            table[len(places)] = _in_bytes(pixels_in(_plain(config), path))
            keys.append(sha256_of(path))
            places.append(number)
        except UserError as error:
            broken.append(f"{path.name}: {error}")
        listener(number + 1, len(paths))
    found = np.array(places, np.int64)
    return ImageColours(table[: len(places)], found, tuple(keys), tuple(broken))
