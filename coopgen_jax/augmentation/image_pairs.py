"""Out-of-context pairs: for every caption another image that fits it, after NewsCLIPpings.

Luo, Darrell and Rohrbach, "NewsCLIPpings: Automatic Generation of Out-of-Context Multimodal Media"
(2021, arXiv 2104.05893). Text and image stay as they are; what is false is that they belong
together.

Captions are first dealt into parts: by fold, which no image leaves, by what says how similar images
are, and by hardness. Each part is matched within itself (`balanced_matching`), so that in every
part each image and each caption is as often true as false, and no image is shown in two folds.

`n` captions of `I` images; vectors have width `F`, scenes width `E`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np

from coopgen_jax.augmentation.balanced_matching import UNUSED, balanced_matching
from coopgen_jax.augmentation.named_entities import PEOPLE
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.similar_images import Comparison, similar_images

# By what a false image is similar to the caption, or to its true image.
MEASURES = ("text-text", "image-text", "image-image", "person", "scene")
# Those that need to know what captions name.
NAMING = ("person", "scene")
# By hardness, the share of the nearest images of a part that are passed over.
HARDNESS = {"hard": 0.0, "medium": 0.05, "easy": 0.25}


@dataclass(frozen=True, eq=False)
class CaptionedVectors:
    """What is known of captions and images.

    Attributes:
      texts: `[n, F]` unit vectors of the captions.
      images: `[I, F]` unit vectors of the images, of the same CLIP.
      image_of: `[n]` int, the image of each caption; each image has one or more.
      scenes: `[I, E]` unit vectors of what a backbone sees, for scene.
      kinds: `[n]` the kinds of the entities that each caption names, for person and scene.
    """

    texts: np.ndarray
    images: np.ndarray
    image_of: np.ndarray
    scenes: np.ndarray | None = None
    kinds: Sequence[frozenset[str]] | None = None


@dataclass(frozen=True)
class PairSettings:
    """How pairs are made.

    Attributes:
      by: what says how similar images are, of `MEASURES`; captions are dealt evenly over several,
        which is the merged collection.
      hardness: of `HARDNESS`; captions are dealt evenly over several.
      candidates: images that a caption may be matched to, from the hardness's first rank on.
      folds: folds of images; pairs stay within one.
      image_ceiling: images whose vectors have a higher cosine are near-duplicates, and no pair; 1
        lets all pass.
      text_ceiling: the same of the caption and any caption of the image.
      seed: of everything random.
    """

    by: tuple[str, ...] = ("text-text",)
    hardness: tuple[str, ...] = tuple(HARDNESS)
    candidates: int = 20
    folds: int = 5
    image_ceiling: float = 0.95
    text_ceiling: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (("by", MEASURES), ("hardness", HARDNESS)):
            given = getattr(self, name)
            if not given or not set(given) <= set(known):
                raise UserError(
                    f"{name} is {' '.join(given) or 'empty'}: give one or more of "
                    f"{', '.join(known)}"
                )
        for name in ("candidates", "folds"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: give 1 or more")

    def bands_alike(self, images: int) -> bool:
        """Returns whether parts of so many images are too small for bands that differ."""
        part = images / (self.folds * len(self.by) * len(self.hardness))
        return len(self.hardness) > 1 and self.candidates > (1 - HARDNESS["easy"]) * part


@dataclass(frozen=True, eq=False)
class ImagePairs:
    """`m` captions, each true of its image and false of another, by caption.

    Attributes:
      caption: `[m]` int, each at most once.
      image: `[m]` int, the true image.
      false_image: `[m]` int, the false one.
      score: `[m]` float32, the similarity by which the false image was found.
      by: `[m]` int, which of the settings' measures.
      hardness: `[m]` int, which of the settings' hardness.
      fold: `[m]` int.
    """

    caption: np.ndarray
    image: np.ndarray
    false_image: np.ndarray
    score: np.ndarray
    by: np.ndarray
    hardness: np.ndarray
    fold: np.ndarray


def make_image_pairs(known: CaptionedVectors, settings: PairSettings) -> ImagePairs:
    """Returns the pairs; captions that fit no other image, or not in balance, have none.

    Person: a caption of the image names an entity of a kind that the caption names, and is similar
    to it. Scene: no caption of either image names a person, and the images' scenes are similar.

    Raises:
      ValueError: person or scene is asked for without kinds, or scene without scenes.
      UserError: there are fewer than two images in a fold for each part, or no pair at all.
    """
    _check(known, settings)
    rng = np.random.default_rng(settings.seed)
    images = len(known.images)
    folds = np.empty(images, np.int64)
    folds[rng.permutation(images)] = np.arange(images) % settings.folds
    fits = np.stack([_eligible(known, measure) for measure in settings.by])
    found = []
    for fold in range(settings.folds):
        rows = rng.permutation(np.flatnonzero(folds[known.image_of] == fold))
        cells = _deal(fits[:, rows], len(settings.hardness))
        for cell in range(len(settings.by) * len(settings.hardness)):
            by, hardness = divmod(cell, len(settings.hardness))
            part = np.sort(rows[cells == cell])
            chosen, scores = _match(known, part, settings, by, hardness)
            used = chosen != UNUSED
            size = int(used.sum())
            numbers = (np.full(size, number) for number in (by, hardness, fold))
            found.append((part[used], chosen[used], scores[used], *numbers))
    caption, false, score, *where = (np.concatenate(column) for column in zip(*found, strict=True))
    if not len(caption):
        raise UserError(
            "no caption fits another image: give more images, higher ceilings for near-duplicates, "
            f"or another measure than {', '.join(settings.by)}"
        )
    order = np.argsort(caption)
    columns = (caption, known.image_of[caption], false, score, *where)
    return ImagePairs(*(column[order] for column in columns))


def _check(known: CaptionedVectors, settings: PairSettings) -> None:
    if known.kinds is None and set(settings.by) & set(NAMING):
        raise ValueError("person and scene need the kinds of the entities that captions name")
    if known.scenes is None and "scene" in settings.by:
        raise ValueError("scene needs vectors of the scenes of images")
    parts = len(settings.by) * len(settings.hardness)
    least = 2 * parts * settings.folds
    if len(known.images) < least:
        raise UserError(
            f"there are {len(known.images)} images for {settings.folds} folds of {parts} parts, "
            f"which need {least}: give more images, fewer folds, measures or hardnesses"
        )


def _eligible(known: CaptionedVectors, measure: str) -> np.ndarray:
    """Returns which captions a measure can be asked for, `[n]` bool."""
    if measure not in NAMING or known.kinds is None:
        return np.ones(len(known.image_of), bool)
    if measure == "person":
        return np.array([bool(kinds) for kinds in known.kinds], bool)
    naming = np.array([not kinds.isdisjoint(PEOPLE) for kinds in known.kinds], bool)
    return ~np.isin(known.image_of, known.image_of[naming])


def _deal(fits: np.ndarray, hardnesses: int) -> np.ndarray:
    """Returns the part of every caption, `[rows]`, -1 for none: of those that it fits the emptiest.

    `fits` is `[measures, rows]`. So a measure that few captions fit has most of them.
    """
    filled = np.zeros(len(fits) * hardnesses, np.int64)
    cells = np.full(fits.shape[1], -1)
    for row, own in enumerate(np.repeat(fits, hardnesses, axis=0).T):
        if own.any():
            cells[row] = np.where(own, filled, np.iinfo(np.int64).max).argmin()
            filled[cells[row]] += 1
    return cells


def _match(
    known: CaptionedVectors, part: np.ndarray, settings: PairSettings, by: int, hardness: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the false images of a part's captions, -1 for none, and how similar each is."""
    pool = np.unique(known.image_of[part])
    others = len(pool) - 1
    if others < 1:
        return np.full(len(part), UNUSED), np.zeros(len(part), np.float32)
    passed = int(HARDNESS[settings.hardness[hardness]] * others)
    # In a small part the last images are as far away as can be.
    first = max(0, min(passed, others - settings.candidates))
    ranks = range(first + 1, first + 1 + settings.candidates)
    found, scores = _search(known, part, pool, settings, settings.by[by], ranks)
    image_of = np.searchsorted(pool, known.image_of[part])
    chosen = balanced_matching(found, scores, image_of)
    score = np.where(found == chosen[:, None], scores, -inf).max(axis=1)
    used = chosen != UNUSED
    return np.where(used, pool[chosen], UNUSED), np.where(used, score, 0.0).astype(np.float32)


def _search(
    known: CaptionedVectors,
    part: np.ndarray,
    pool: np.ndarray,
    settings: PairSettings,
    measure: str,
    ranks: Sequence[int],
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images of the pool, by number in it, at ranks of similarity, and how similar."""
    true = known.image_of[part]
    written = np.flatnonzero(np.isin(known.image_of, pool))
    size, many, keys = (_rounded(len(rows)) for rows in (part, pool, written))
    own = _padded(np.searchsorted(pool, true), size, -1)
    # What is filled up is of an image that there is not.
    image = _padded(np.arange(len(pool)), many, many)
    writer = _padded(np.searchsorted(pool, known.image_of[written]), keys, many)
    texts = _padded(known.texts[written], keys, 0)
    asked = _padded(known.texts[part], size, 0)
    seen = Comparison(_padded(known.images[true], size, 0), _padded(known.images[pool], many, 0),
                      image)  # fmt: skip
    said = Comparison(asked, texts, writer)
    kinds = None
    if measure in ("text-text", "person"):
        compared = said
        if measure == "person":
            bits = _bits(known.kinds or ())
            kinds = _padded(bits[part], size, 0), _padded(bits[written], keys, 0)
    elif measure == "image-text":
        compared = Comparison(asked, seen.keys, image)
    elif measure == "image-image" or known.scenes is None:
        compared = seen
    else:
        scenes = known.scenes
        compared = Comparison(_padded(scenes[true], size, 0), _padded(scenes[pool], many, 0), image)
    ceilings = (settings.image_ceiling, settings.text_ceiling)
    # Cosines of equal vectors may be 1 and a little more.
    unlike = [(one, top if top < 1 else inf) for one, top in zip((seen, said), ceilings,
              strict=True)]  # fmt: skip
    found, scores = similar_images(compared, own, many, ranks=ranks, unlike=unlike, kinds=kinds)
    return found[: len(part)], scores[: len(part)]


def _bits(kinds: Sequence[frozenset[str]]) -> np.ndarray:
    """Returns the kinds of every caption as bits, `[n]` int32."""
    names = sorted(set().union(*kinds))
    return np.array([sum(1 << names.index(kind) for kind in own) for own in kinds], np.int32)


def _rounded(count: int) -> int:
    """Returns a number from `count` to a quarter more: parts of like sizes share a compilation."""
    step = 1 << max(0, count.bit_length() - 3)
    return -(-count // step) * step


def _padded(array: np.ndarray, size: int, value: int) -> np.ndarray:
    wider = [(0, size - len(array))] + [(0, 0)] * (array.ndim - 1)
    return np.pad(array, wider, constant_values=value)
