"""From a picture to the numbers that a vision network reads: turned, fitted, cut and normalised."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from coopgen_jax.errors import UserError

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "lanczos": Image.Resampling.LANCZOS,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}

# Grey values of 16 bits, in whichever order of bytes, and those of 32 bits.
SIXTEEN_BITS, THIRTY_TWO_BITS = ("I;16", "I;16L", "I;16B", "I;16N"), ("I", "F")
# What is kept of pixels is made anew where this number has changed.
VERSION = 2

# Of a longer strip, scaled until its short side fits, nearly nothing would be left.
LONGEST_STRIP = 50


@dataclass(frozen=True)
class PixelConfig:
    """How a picture is prepared.

    Attributes:
      size: height and width of what the network reads.
      shortest: length that the shorter side is scaled to before a square is cut out of the middle;
        None to stretch both sides to `size`.
      resampling: a key of `FILTERS`.
      mean: of each colour from 0 to 1, which is subtracted.
      deviation: of each colour, which the rest is divided by.
    """

    size: int
    shortest: int | None = None
    resampling: str = "bicubic"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    deviation: tuple[float, float, float] = (0.5, 0.5, 0.5)


def pixels_of(config: PixelConfig, image: Image.Image, *, longest: int | None = None) -> np.ndarray:
    """Returns a picture's normalised colours `[size, size, 3]` float32, rows first.

    It is turned upright as its EXIF entry says, where that can be read, and what is not coloured
    becomes so. What is transparent lies on white, as transformers has it, and of 16 bits the upper
    eight count. Its longer side is scaled to `longest` pixels first, if that is given: Idefics3
    scales a picture twice.

    Raises:
      UserError: the picture is more than 50 times as long as wide, or its values have 32 bits.
    """
    image = _coloured(_upright(image))
    size = (config.size, config.size)
    if max(image.size) > LONGEST_STRIP * min(image.size):
        raise UserError(
            f"a picture of {image.width} x {image.height} pixels is a strip: cut it to at most "
            f"{LONGEST_STRIP} times its width"
        )
    if longest is not None:
        image = image.resize(_even_size(image.size, longest), FILTERS[config.resampling])
    if config.shortest is None:
        image = image.resize(size, FILTERS[config.resampling])
    else:
        short = min(image.size)
        # A long side is cut to a whole number, as the networks' own preparation does.
        width, height = (max(1, config.shortest * side // short) for side in image.size)
        image = _middle(image.resize((width, height), FILTERS[config.resampling]), config.size)
    colours = np.asarray(image, np.float32) / 255.0
    mean, deviation = (np.asarray(row, np.float32) for row in (config.mean, config.deviation))
    normalised: np.ndarray = (colours - mean) / deviation
    return normalised


def _coloured(image: Image.Image) -> Image.Image:
    """Returns a picture in red, green and blue of 8 bits, on white where it is transparent."""
    if image.mode in THIRTY_TWO_BITS:
        raise UserError(
            "its grey values have 32 bits, of which none is known to be white: save it with 8 bits"
        )
    if image.mode in SIXTEEN_BITS:
        # Pillow would make white of everything above 255.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def _even_size(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """Returns the size whose longer side is `longest`, and whose shorter one is even."""
    width, height = size
    ratio = width / height
    short = int(longest / ratio) if width >= height else int(longest * ratio)
    short = max(1, short + short % 2)
    return (longest, short) if width >= height else (short, longest)


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    # Of a damaged entry Pillow's reader raises almost anything; the picture itself is sound.
    except Exception:
        return image


def _middle(image: Image.Image, size: int) -> Image.Image:
    """Returns the square in the middle, black where it reaches beyond the picture."""
    left, top = ((side - size) // 2 for side in image.size)
    return image.crop((left, top, left + size, top + size))
