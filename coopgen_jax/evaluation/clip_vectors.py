"""What makes vectors of images and of captions: a loaded CLIP, or heads on a frozen backbone.

Both kinds look alike from here. An image goes in as the state by which a backbone describes it
(`data.image_states`), so that it is read once for all that score it.
"""

import hashlib
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from coopgen_jax.data.fingerprint import read_fingerprint
from coopgen_jax.discriminators.clip_heads import head_vectors
from coopgen_jax.discriminators.loading import load_clip_heads
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.clip_scores import CLIP_S_PREFIX
from coopgen_jax.evaluation.sentence_features import sentence_features
from coopgen_jax.models.affine import affine
from coopgen_jax.models.clip import text_vectors, unit
from coopgen_jax.models.pretrained.image_networks import (
    LoadedBackbone,
    LoadedClip,
    load_backbone,
    load_clip,
)

# Texts read at once, and the step of their padded lengths: few programs are compiled.
BATCH, STEP = 64, 16


@dataclass(frozen=True, eq=False)
class ClipVectors:
    """A scorer: what makes unit vectors of images and of captions.

    Attributes:
      name: what it was loaded by.
      sha256: of its weights; of heads that of the heads alone.
      backbone: loads what describes images for it, as `read_image_states` takes it.
      images: from the backbone's states `[n, E]` to unit vectors `[n, F]` float32.
      texts: from strings to unit vectors `[m, F]` float32; equal strings have equal vectors.
      prefix: what CLIP-S puts in front of a caption: `CLIP_S_PREFIX` of a CLIP, nothing of what
        was trained here, on bare captions.
      rows: fingerprint of the captions that it was trained on, None where nobody knows them.
      temperature: what it divides cosines by, in front of a softmax.
      tuned: whether it began as a CLIP that was trained elsewhere, on images that nobody knows.
    """

    name: str
    sha256: str
    backbone: Callable[[], LoadedBackbone]
    images: Callable[[np.ndarray], np.ndarray]
    texts: Callable[[Sequence[str]], np.ndarray]
    prefix: str = ""
    rows: np.ndarray | None = None
    temperature: float = 0.01
    tuned: bool = False


def load_clip_vectors(name_or_path: str | Path, *, dtype: str = "float32") -> ClipVectors:
    """Loads a CLIP, a SigLIP, or the heads or the CLIP that `coopgen train clip` wrote.

    Args:
      name_or_path: the folder of a training, or what `load_clip` takes.
      dtype: of a CLIP's products, see `load_clip`; heads compute in float32.

    Raises:
      UserError: there is no such scorer, or its files are damaged or of another kind.
    """
    folder = Path(name_or_path).expanduser()
    trained = (folder / "card.json").is_file()
    if trained and not (folder / "config.json").is_file():
        return _of_heads(str(name_or_path), folder)
    found = clip_vectors(load_clip(name_or_path, dtype=dtype))
    # A CLIP that was trained on here has read bare captions, which are known.
    rows = read_fingerprint(folder)
    return replace(found, prefix="", rows=rows, tuned=True) if trained else found


def clip_vectors(clip: LoadedClip) -> ClipVectors:
    """Returns the scorer that a loaded CLIP or SigLIP is."""
    config, params = clip.config, clip.params
    vision = params["vision"]
    backbone = LoadedBackbone(
        config.vision, vision, clip.pixels, clip.name, clip.sha256, clip.licence
    )

    def images(states: np.ndarray) -> np.ndarray:
        found = jnp.asarray(states, jnp.float32)
        if not config.vision.attentive:
            found = affine(found, params["image_projection"], config.vision.tower.dtype)
        return np.asarray(unit(found))

    read = jax.jit(partial(text_vectors, config))

    def texts(strings: Sequence[str]) -> np.ndarray:
        tokens, mask = map(np.asarray, clip.tokens(strings))
        order = np.argsort(mask.sum(axis=1), kind="stable")
        found = np.zeros((len(strings), config.width), np.float32)
        for first in range(0, len(order), BATCH):
            rows = order[first : first + BATCH]
            longest = int(mask[rows].sum(axis=1).max())
            length = min(-(-longest // STEP) * STEP, config.text.context)
            wider = max(0, length - tokens.shape[1])
            batch = [
                np.pad(array[rows, :length], ((0, BATCH - len(rows)), (0, wider)))
                for array in (tokens, mask)
            ]
            found[rows] = np.asarray(read(params, *batch))[: len(rows)]
        return found

    return ClipVectors(
        clip.name, clip.sha256, lambda: backbone, images, partial(_each_once, texts),
        CLIP_S_PREFIX, temperature=_temperature(params["logit_scale"]),
    )  # fmt: skip


def _of_heads(name: str, folder: Path) -> ClipVectors:
    heads = load_clip_heads(folder)

    def backbone() -> LoadedBackbone:
        try:
            known, sha256 = heads.card["backbone"], heads.card["backbone_sha256"]
        except KeyError as error:
            raise UserError(f"{folder}'s card lacks {error}: train the heads anew") from error
        loaded = load_backbone(known)
        inputs = heads.params["image"]["centre"].shape[0]
        if loaded.width != inputs:
            raise UserError(
                f"{name} reads {inputs} numbers of an image and the backbone {known} gives "
                f"{loaded.width}: train the heads anew"
            )
        if loaded.sha256 != sha256:
            warnings.warn(
                f"{name} was trained on another copy of the backbone {known}: its vectors of "
                "images may be wrong",
                stacklevel=2,
            )
        return loaded

    def images(states: np.ndarray) -> np.ndarray:
        return np.asarray(head_vectors(heads.params["image"], jnp.asarray(states, jnp.float32)))

    def texts(strings: Sequence[str]) -> np.ndarray:
        states = sentence_features(heads.encoder, strings, longest=heads.longest)
        return np.asarray(head_vectors(heads.params["text"], jnp.asarray(states)))

    sha256 = hashlib.sha256((folder / "head.safetensors").read_bytes()).hexdigest()
    return ClipVectors(
        name, sha256, backbone, images, partial(_each_once, texts), "", read_fingerprint(folder),
        _temperature(heads.params["log_scale"]),
    )  # fmt: skip


def _temperature(log_scale: jax.Array) -> float:
    """Returns what cosines are divided by, from the logarithm of what they are multiplied by."""
    return math.exp(-float(np.asarray(log_scale).reshape(())))


def _each_once(read: Callable[[Sequence[str]], np.ndarray], strings: Sequence[str]) -> np.ndarray:
    """Reads every different string once: rounding depends on what a string is read beside."""
    different = {string: number for number, string in enumerate(dict.fromkeys(strings))}
    return read(list(different))[[different[string] for string in strings]]


def all_similarities(texts: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Returns the cosines `[T, I]` of unit vectors, float32.

    Rows that are equal have equal cosines to the last bit, as ties in a ranking need.
    """
    (own, place), (others, column) = (
        np.unique(np.asarray(vectors, np.float32), axis=0, return_inverse=True)
        for vectors in (texts, images)
    )
    return (own @ others.T)[place.reshape(-1, 1), column.reshape(1, -1)]
