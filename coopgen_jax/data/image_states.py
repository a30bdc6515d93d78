"""How a backbone describes images, computed once for each image and kept on disc.

An image is known by the sha256 of its file, so that it is not read again under another name or in
another list. A file that is missing or is no picture is left out, counted and named.
"""

import hashlib
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from coopgen_jax.data.sources import left_out
from coopgen_jax.errors import UserError
from coopgen_jax.files import replacing
from coopgen_jax.models.pixels import VERSION, PixelConfig, pixels_of
from coopgen_jax.models.pretrained.image_networks import LoadedBackbone, image_states

# So many images are kept in one file. A reading that was broken off goes on behind the last.
PART = 256

MISSING, UNREADABLE = "there is no such file", "it is not a picture that can be read"
# Pillow warns of what may be made to fill the memory, and refuses twice as much.
TOO_LARGE = (Image.DecompressionBombWarning, Image.DecompressionBombError)


@dataclass(frozen=True)
class ImageStates:
    """The states of the images that could be read.

    Attributes:
      states: `[n, E]` float32.
      places: `[n]` which of the files each is of, in order.
      keys: the sha256 of each one's file.
      broken: what is wrong with the others, a sentence each.
    """

    states: np.ndarray
    places: np.ndarray
    keys: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()

    @property
    def notes(self) -> list[str]:
        """A sentence that counts the images that were left out and names the first, or nothing."""
        return left_out(self.broken, what="image")


@dataclass(frozen=True)
class Captioned:
    """Images with their captions.

    Attributes:
      states: `[I, E]` the backbone's states of the images.
      captions: `T` texts.
      image_of: `[T]` the number of each caption's image.
      features: `[T, E']` the encoder's mean state of each caption, as `sentence_features` returns
        them; None to compute them. Several trainings can share what was computed once.
    """

    states: np.ndarray
    captions: tuple[str, ...]
    image_of: np.ndarray
    features: np.ndarray | None = None


def open_image(path: Path) -> Image.Image:
    """Returns the picture in a file.

    Raises:
      UserError: there is no such file, or it holds no picture, or only a part of one, or one of
        more pixels than Pillow's `Image.MAX_IMAGE_PIXELS`.
    """
    if not path.is_file():
        raise UserError(f"{path} is not a file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                # Until here only the head of the file was read.
                image.load()
                return image
    except TOO_LARGE as error:
        raise UserError(f"{path} {_too_large()}") from error
    # Of a damaged file Pillow's readers raise almost anything.
    except Exception as error:
        what = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} is not a picture that can be read ({what})") from error


def _too_large() -> str:
    return f"has more than {Image.MAX_IMAGE_PIXELS} pixels: make it smaller"


def pixels_in(config: PixelConfig, path: Path, *, longest: int | None = None) -> np.ndarray:
    """Returns the pixels of the picture in a file; see `pixels_of`.

    Raises:
      UserError: there is none that can be read; the sentence says why and does not name the file.
    """
    try:
        image = open_image(path)
    except UserError as error:
        if isinstance(error.__cause__, TOO_LARGE):
            raise UserError(f"it {_too_large()}") from error
        raise UserError(UNREADABLE if path.is_file() else MISSING) from error
    try:
        return pixels_of(config, image, longest=longest)
    except UserError:
        raise
    # Pillow converts lazily, and of damaged files raises almost anything.
    except Exception as error:
        raise UserError(UNREADABLE) from error


def read_image_states(
    backbone: LoadedBackbone,
    paths: Sequence[Path],
    *,
    folder: Path | None = None,
    batch: int = 16,
    listener: Callable[[int, int], None] = lambda done, total: None,
) -> ImageStates:
    """Returns the states by which a backbone describes images.

    Args:
      backbone: the network.
      paths: files of pictures, in any format that Pillow reads.
      folder: where the states are kept for the next time, None to keep them nowhere.
      batch: images read at once.
      listener: called after each batch: how many of how many images have been read.

    Raises:
      UserError: the folder cannot be written.
    """
    keys, broken = _keys(paths)
    known = _Kept(folder, backbone, frozenset(keys.values()))
    missing = {key: number for number, key in reversed(keys.items()) if key not in known.states}
    new = sorted(missing.values())
    network = jax.jit(image_states, static_argnums=0)
    for start in range(0, len(new), PART):
        part = new[start : start + PART]
        found: dict[str, np.ndarray] = {}
        for images in _batches(backbone.pixels, paths, part, batch, broken):
            numbers = list(images)
            full = list(images.values()) + [images[numbers[0]]] * (batch - len(numbers))
            states = network(backbone.config, backbone.params, jnp.asarray(np.stack(full)))
            rows = np.asarray(states, np.float32)
            found |= {keys[number]: row for number, row in zip(numbers, rows, strict=False)}
            listener(start + min(len(part), part.index(numbers[-1]) + 1), len(new))
        known.add(found)
    places = [number for number, key in keys.items() if key in known.states]
    # Copies of a broken file are broken as well.
    faults = {keys[number]: fault for number, fault in broken.items() if number in keys}
    broken |= {number: faults[key] for number, key in keys.items() if key in faults}
    table = np.zeros((len(places), backbone.width), np.float32)
    for row, number in enumerate(places):
        table[row] = known.states[keys[number]]
    sentences = tuple(f"{paths[number].name}: {broken[number]}" for number in sorted(broken))
    known_keys = tuple(keys[number] for number in places)
    return ImageStates(table, np.array(places, np.int64), known_keys, sentences)


def _keys(paths: Sequence[Path]) -> tuple[dict[int, str], dict[int, str]]:
    """Returns the sha256 of every file that is there, and what is wrong with the others."""
    keys, broken = {}, {}
    for number, path in enumerate(paths):
        try:
            keys[number] = hashlib.sha256(path.read_bytes()).hexdigest()
        except FileNotFoundError:
            broken[number] = MISSING
        # The latter of what can be no name of a file.
        except (OSError, ValueError) as error:
            broken[number] = getattr(error, "strerror", None) or str(error)
    return keys, broken


def _batches(
    config: PixelConfig,
    paths: Sequence[Path],
    numbers: Sequence[int],
    batch: int,
    broken: dict[int, str],
) -> Iterator[dict[int, np.ndarray]]:
    """Yields the pixels of images by number; notes in `broken` which are no pictures."""
    images: dict[int, np.ndarray] = {}
    for number in numbers:
        try:
            images[number] = pixels_in(config, paths[number])
        except UserError as error:
            broken[number] = str(error)
        if len(images) == batch:
            yield images
            images = {}
    if images:
        yield images


class _Kept:
    """The states that are known of one backbone, by the sha256 of the images that are wanted."""

    def __init__(
        self, folder: Path | None, backbone: LoadedBackbone, wanted: frozenset[str]
    ) -> None:
        text = f"{backbone.sha256} {backbone.pixels} {backbone.config} {VERSION}"
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        self.folder = folder and folder / f"images-{digest}"
        self.states: dict[str, np.ndarray] = {}
        if self.folder is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise UserError(f"the states cannot be kept in {self.folder}: {error}") from error
        for path in sorted(self.folder.glob("*.safetensors")):
            there = _part(path, backbone.width)
            self.states |= {key: there[key] for key in there.keys() & wanted}

    def add(self, found: dict[str, np.ndarray]) -> None:
        """Notes states, in a file of their own where there is a folder."""
        self.states |= found
        if self.folder is None or not found:
            return
        digest = hashlib.sha256("".join(found).encode()).hexdigest()[:16]
        keys = np.stack([np.frombuffer(bytes.fromhex(key), np.uint8) for key in found])
        # Under its name in full: two processes that read alike write alike.
        with replacing(self.folder / f"{digest}.safetensors") as (unfinished,):
            save_file({"keys": keys, "states": np.stack(list(found.values()))}, unfinished)


def _part(path: Path, width: int) -> dict[str, np.ndarray]:
    """Returns what a file holds; nothing where it is damaged: its images are then read again."""
    try:
        table: dict[str, Any] = load_file(path)
        keys, states = table["keys"], table["states"]
    except (OSError, SafetensorError, KeyError):
        return {}
    fits = keys.shape == (len(states), 32) and states.shape == (len(keys), width)
    if not fits or not np.isfinite(states).all():
        return {}
    return {key.tobytes().hex(): row for key, row in zip(keys, states, strict=True)}
