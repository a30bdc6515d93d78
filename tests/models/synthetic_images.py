"""Three pictures that are the same everywhere: waves, a disc on a checkerboard, and a ramp."""

import numpy as np
from PIL import Image

SIZE = 224
ROWS, COLUMNS = np.mgrid[:SIZE, :SIZE]


def _picture(*colours: np.ndarray) -> Image.Image:
    return Image.fromarray(np.stack(colours, axis=-1).astype(np.uint8))


def _waves() -> Image.Image:
    waves = [127 + 120 * np.sin(ROWS / own + COLUMNS / 17) for own in (5.0, 11.0, 23.0)]
    return _picture(*(np.round(wave) for wave in waves))


def _disc() -> Image.Image:
    board = 90 + 100 * ((ROWS // 16 + COLUMNS // 16) % 2)
    inside = (ROWS - 100) ** 2 + (COLUMNS - 130) ** 2 < 60**2
    colours = ((230, 120), (90, 120), (30, 130))
    return _picture(*(np.where(inside, disc, board * other // 255) for disc, other in colours))


def _ramp() -> Image.Image:
    return _picture(ROWS, COLUMNS, (ROWS + 2 * COLUMNS) % 256)


IMAGES = {"waves": _waves(), "disc": _disc(), "ramp": _ramp()}
