"""Captioned images of a command: its files, and what a network is to read of their images."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from coopgen_jax.cli.train_progress import now_and_then, tell
from coopgen_jax.data.image_captions import read_image_captions
from coopgen_jax.data.image_colours import CaptionedColours, ImageColours, read_image_colours
from coopgen_jax.data.image_states import Captioned, ImageStates, read_image_states
from coopgen_jax.data.sources import left_out
from coopgen_jax.errors import UserError
from coopgen_jax.models.pixels import PixelConfig
from coopgen_jax.models.pretrained.image_networks import LoadedBackbone
from coopgen_jax.models.pretrained.packaged import cache_folder


def captioned_files(what: Any) -> tuple[Path, Path]:
    """Returns the files of training and validation captions.

    Raises:
      UserError: there is no such file or folder, or no file to validate on is named.
    """
    data = Path(what.data).expanduser()
    if not data.exists():
        raise UserError(f"--data {data} is neither a file nor a folder here")
    training = data / "train.csv" if data.is_dir() else data
    if what.validation is not None:
        return training, Path(what.validation).expanduser()
    if not data.is_dir():
        raise UserError("--validation must be given where --data is a file")
    return training, data / "validation.csv"


def both_captioned(
    what: Any, backbone: LoadedBackbone, files: tuple[Path, Path]
) -> tuple[Captioned, Captioned]:
    """Returns the captioned images of two files, and tells how many images are in both.

    Raises:
      UserError: a file is of no use, or fewer than two of its images can be read.
    """
    (seen, *rows), (others, *other_rows) = _both(what, partial(see, what, backbone), files)
    return Captioned(seen.states, *rows), Captioned(others.states, *other_rows)


def both_coloured(
    what: Any, pixels: PixelConfig, files: tuple[Path, Path]
) -> tuple[CaptionedColours, CaptionedColours]:
    """Returns the colours of the captioned images of two files; see `both_captioned`."""
    told = now_and_then(what)

    def read(paths: Sequence[Path]) -> ImageColours:
        def report(done: int, total: int) -> None:
            told(done, total, lambda: f"{done} of {total} images read")

        return read_image_colours(pixels, paths, listener=report)

    (seen, *rows), (others, *other_rows) = _both(what, read, files)
    return CaptionedColours(seen.colours, *rows), CaptionedColours(others.colours, *other_rows)


def _both(what: Any, read: Callable[[Sequence[Path]], Any], files: tuple[Path, Path]) -> Any:
    found = [_captioned(what, read, file) for file in files]
    trained, keys = (set(seen.keys) for seen, *_ in found)
    if trained & keys:
        tell(what, f"{len(trained & keys)} of {len(keys)} validation images are trained on too: "
             "what is measured on them says nothing of new images")  # fmt: skip
    return found


def _captioned(
    what: Any, read: Callable[[Sequence[Path]], Any], file: Path
) -> tuple[Any, tuple[str, ...], np.ndarray]:
    """Returns what is read of the images of a file, their captions and whose each caption is.

    Tells of the images that cannot be read.
    """
    beside = file.parent / "images"
    folder = what.images or (beside if beside.is_dir() else file.parent)
    found = read_image_captions(file, folder=folder)
    for note in left_out(found.broken):
        tell(what, f"{file}: {note}")
    names = list(found.captions)
    seen = read([folder / name for name in names])
    for note in seen.notes:
        tell(what, f"{file}: {note}")
    if len(seen.places) < 2:
        raise UserError(f"{file} has fewer than 2 images that can be read: give others beside them")
    captions = [found.captions[names[place]] for place in seen.places]
    numbers = [number for number, own in enumerate(captions) for _ in own]
    texts = tuple(text for own in captions for text in own)
    return seen, texts, np.array(numbers, np.int32)


def see(what: Any, backbone: LoadedBackbone, paths: Sequence[Path]) -> ImageStates:
    """Returns the states of images, which are kept for other runs, and shows the progress."""
    told = now_and_then(what)
    return read_image_states(
        backbone,
        paths,
        folder=what.states or cache_folder() / "image-states",
        listener=lambda done, total: told(done, total, lambda: f"{done} of {total} images read"),
    )
