"""What `experiments.captioning` reads: images, halves, what networks make of captions, heads."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict
from safetensors.numpy import load_file, save_file

import coopgen_jax as cg
from coopgen_jax.data.image_states import Captioned
from coopgen_jax.data.labelled import half_of
from coopgen_jax.data.sources import left_out
from coopgen_jax.discriminators.clip_heads import head_vectors
from coopgen_jax.evaluation.sentence_features import sentence_features
from coopgen_jax.files import replacing
from coopgen_jax.models.pretrained.image_networks import LoadedBackbone
from coopgen_jax.models.pretrained.loaded_model import LoadedEncoder

# Captions whose states are kept in one file, and word pieces that are read of one.
PART = 2048
LONGEST = 64


@dataclass(frozen=True)
class Scene:
    """All images, those that are trained on in front of the gallery.

    Attributes:
      names: of the files.
      states: `[n, E]` the backbone's.
      captions: of every image.
      caption_states: of every image, `[captions, E']`, the encoder's.
      groups: numbers of images: "a" and "b", the halves that are trained on; "tuning", images of
        half B that no captioner is trained on; "gallery", the images of the validation file.
    """

    names: tuple[str, ...]
    states: np.ndarray
    captions: tuple[tuple[str, ...], ...]
    caption_states: tuple[np.ndarray, ...]
    groups: dict[str, np.ndarray]

    def pairs(self, *groups: str) -> list[tuple[int, str]]:
        """Returns the captions of groups, each with its image's number."""
        return [(image, text) for image in self.of(*groups) for text in self.captions[image]]

    def of(self, *groups: str) -> list[int]:
        """Returns the numbers of the images of groups, in their order."""
        return [int(image) for group in groups for image in self.groups[group]]

    def captioned(self, *groups: str) -> Captioned:
        """Returns the images and captions of groups, as `train_clip` takes them."""
        images = self.of(*groups)
        own = [number for number, image in enumerate(images) for _ in self.captions[image]]
        return Captioned(
            self.states[images],
            tuple(text for _, text in self.pairs(*groups)),
            np.asarray(own, np.int32),
            np.concatenate([self.caption_states[image] for image in images]),
        )


def groups_of(training: Sequence[str], gallery: Sequence[str], tuning: int) -> dict[str, Any]:
    """Returns the groups of `Scene` for the names of images, of which the gallery's come last.

    An image is in half A where the SHA-1 of its name begins with an even digit. The `tuning` images
    of half B are those whose SHA-1 is the largest.
    """
    halves = {
        name: [number for number, image in enumerate(training) if half_of(image) == name]
        for name in "AB"
    }
    by_hash = sorted(
        halves["B"], key=lambda number: hashlib.sha1(training[number].encode()).hexdigest()
    )
    aside = sorted(by_hash[len(by_hash) - tuning :])
    found = {
        "a": halves["A"],
        "b": [number for number in halves["B"] if number not in set(aside)],
        "tuning": aside,
        "gallery": range(len(training), len(training) + len(gallery)),
    }
    return {name: np.asarray(numbers, np.int64) for name, numbers in found.items()}


def read_scene(
    data: Path, work: Path, backbone: LoadedBackbone, encoder: LoadedEncoder, *, tuning: int
) -> Scene:
    """Returns the images of a folder; what the networks make of them is kept in another one."""
    files = [
        cg.read_image_captions(data / f"{split}.csv", folder=data / "images")
        for split in ("train", "validation")
    ]
    names, captions = [], []
    for file in files:
        print(*left_out(file.broken), sep="\n", end="")
        names.append(list(file.captions))
        captions.append(list(file.captions.values()))
    whole = [name for part in names for name in part]
    seen = cg.read_image_states(
        backbone,
        [data / "images" / name for name in whole],
        folder=work / "image_states",
        listener=lambda done, total: print(f"{done} of {total} images read", flush=True),
    )
    print(*seen.notes, sep="\n", end="")
    kept = set(seen.places.tolist())
    training, gallery = (
        [name for number, name in enumerate(part, start=first) if number in kept]
        for part, first in zip(names, (0, len(names[0])), strict=True)
    )
    own = [texts for part in captions for texts in part]
    own = [own[place] for place in seen.places]
    flat = caption_states(encoder, [text for texts in own for text in texts], work)
    ends = np.cumsum([len(texts) for texts in own])
    return Scene(
        tuple(whole[place] for place in seen.places),
        seen.states,
        tuple(own),
        tuple(np.split(flat, ends[:-1])),
        groups_of(training, gallery, tuning),
    )


def caption_states(encoder: LoadedEncoder, captions: Sequence[str], work: Path) -> np.ndarray:
    """Returns the encoder's states of captions `[n, E']`, kept in a folder part by part."""
    folder = work / "caption_states"
    folder.mkdir(parents=True, exist_ok=True)
    found = [np.zeros((0, encoder.config.width), np.float32)]
    for begin in range(0, len(captions), PART):
        part = list(captions[begin : begin + PART])
        text = "\n".join([encoder.sha256, encoder.config.dtype, *part])
        path = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.safetensors"
        if not path.exists():
            states = sentence_features(encoder, part, longest=LONGEST)
            with replacing(path) as (unfinished,):
                save_file({"states": states}, unfinished)
            print(f"{begin + len(part)} of {len(captions)} captions read", flush=True)
        found.append(load_file(path)["states"])
    return np.concatenate(found)


@dataclass(frozen=True)
class Heads:
    """Trained heads, which bring images and captions into one space.

    Attributes:
      params: as their folder has them.
      encoder: what reads captions.
      identity: the sha256 of their file.
    """

    params: dict[str, Any]
    encoder: LoadedEncoder
    identity: str

    @property
    def temperature(self) -> float:
        """What the cosines were divided by in their training."""
        return float(np.exp(-self.params["log_scale"]))

    def images(self, states: np.ndarray) -> np.ndarray:
        """Returns unit vectors `[n, F]` of images' states."""
        return np.asarray(head_vectors(self.params["image"], states))

    def texts(self, states: np.ndarray) -> np.ndarray:
        """Returns unit vectors `[n, F]` of captions' states."""
        return np.asarray(head_vectors(self.params["text"], states))

    def reader(self, batch: int) -> Callable[[Sequence[str]], np.ndarray]:
        """Returns what embeds captions, so many at once."""
        return lambda captions: self.texts(
            sentence_features(self.encoder, captions, longest=LONGEST, batch=batch)
        )


def load_heads(folder: Path, encoder: LoadedEncoder) -> Heads:
    """Returns the heads of a folder of `train_clip`."""
    digest = hashlib.sha256((folder / "head.safetensors").read_bytes()).hexdigest()
    return Heads(load_params(folder), encoder, digest)


def load_params(folder: Path) -> dict[str, Any]:
    """Returns the parameters that `save_head` has written."""
    flat = load_file(folder / "head.safetensors")
    return unflatten_dict({name: leaf.astype(np.float32) for name, leaf in flat.items()}, sep=".")
