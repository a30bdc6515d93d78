"""Whether captions tell their images from others, and how well they fit them, under a fixed CLIP.

Retrieval as in Chaffin, Kijak and Claveau 2024 (arXiv 2402.13936): every caption looks for its
image, and every image for its caption, among those of the evaluation. The CLIP is no part of any
training that is evaluated, and has seen other images than the one that rewarded.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from coopgen_jax.data.fingerprint import fingerprint
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.caption_words import caption_words
from coopgen_jax.evaluation.clip_scores import clip_s, ref_clip_s
from coopgen_jax.evaluation.clip_vectors import ClipVectors, all_similarities
from coopgen_jax.evaluation.metrics import bootstrap_interval
from coopgen_jax.evaluation.retrieval import image_retrieval, retrieval_figures, text_retrieval
from coopgen_jax.evaluation.significance import correct, signed_rank

Captions = Mapping[str, Sequence[str]]
NAMED = 3


def counted(found: Sequence[str], what: str) -> str:
    """Returns a sentence that counts images and names the first."""
    some = f"{', '.join(found[:NAMED])}{', ...' * (len(found) > NAMED)}"
    return f"{len(found)} image{'s' * (len(found) > 1)} {what} ({some})"


def caption_retrieval(
    methods: Mapping[str, Captions],
    clip: ClipVectors,
    images: Mapping[str, np.ndarray],
    references: Captions | None = None,
    *,
    against: str | None = None,
) -> dict[str, Any]:
    """Returns how captions and images find one another, and CLIP-S, for every method.

    The gallery is the same for all methods: the images that each of them has a caption of and that
    have a vector. Ties count as the mean over their orders (`retrieval.ranked`); equal captions
    are such. A caption without words finds its image by chance alone, no image finds it, and its
    CLIP-S is 0.

    Args:
      methods: by name of a method the captions of each image, of which the first counts.
      clip: the scorer.
      images: the unit vector `[F]` of each image.
      references: human captions of images; RefCLIP-S is that of the images that have some.
      against: the method that the others are tested against; None for the first.

    Returns:
      `gallery`, its number of images; `notes` of what is missing, and of what the scorer was
      trained on; and `methods`: for each by its name `retrieval`, which has `images`,
      `image_to_text` and `text_to_image`, each with `recall_1`, `recall_5`, `recall_10` and
      `reciprocal_rank` (their mean is MRR), `clip_s` and, with references, `ref_clip_s`. All are
      `{"value", "interval"}`, intervals 95 % by bootstrap over images. `paired`, in `retrieval`,
      has Wilcoxon's p of the reciprocal ranks against the other method, `image_to_text_p` and
      `text_to_image_p`, also corrected for the number of methods by Holm's rule.

    Raises:
      UserError: the gallery has fewer than two images.
    """
    gallery = _gallery(methods, images)
    if len(gallery) < 2:
        raise UserError(
            "fewer than 2 images have a picture and a caption of every method: retrieval needs "
            "others to tell an image from"
        )
    seen = np.stack([images[image] for image in gallery])
    known = [image for image in gallery if references and references.get(image)]
    human = _references(clip, references or {}, known)
    there = set(known)
    counts = [image in there for image in gallery]
    found, ranks = {}, {}
    for name, captions in methods.items():
        texts = [captions[image][0] for image in gallery]
        found[name], ranks[name] = _figures(texts, clip, seen, human, counts)
    _compare(found, ranks, next(iter(methods)) if against is None else against)
    notes = [*_missing(methods, images, gallery), _seen_before(clip, references or {}, known)]
    return {"gallery": len(gallery), "notes": notes, "methods": found}


def _gallery(methods: Mapping[str, Captions], images: Mapping[str, np.ndarray]) -> list[str]:
    first = next(iter(methods.values()), {})
    return [
        image
        for image in first
        if image in images and all(captions.get(image) for captions in methods.values())
    ]


def _references(
    clip: ClipVectors, references: Captions, known: Sequence[str]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns vectors `[M, K, F]` of the references of images, and which there are, `[M, K]`."""
    if not known:
        return None
    most = max(len(references[image]) for image in known)
    counted = np.array([np.arange(most) < len(references[image]) for image in known])
    vectors = clip.texts([clip.prefix + text for image in known for text in references[image]])
    table = np.zeros((*counted.shape, vectors.shape[-1]), np.float32)
    table[counted] = vectors
    return table, counted


def _figures(
    texts: Sequence[str],
    clip: ClipVectors,
    images: np.ndarray,
    human: tuple[np.ndarray, np.ndarray] | None,
    known: Sequence[bool],
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns a method's figures, and by the way of looking the reciprocal ranks of images."""
    silent = np.array([not caption_words(text) for text in texts])
    bare = clip.texts(texts)
    cosines = all_similarities(bare, images)
    cosines[silent] = -np.inf
    own = np.arange(len(texts))
    each = {
        "image_to_text": text_retrieval(cosines, own),
        "text_to_image": image_retrieval(cosines, own),
    }
    figures = {way: retrieval_figures(values) for way, values in each.items()}
    row: dict[str, Any] = {"retrieval": {"images": len(images), **figures}}
    said = clip.texts([clip.prefix + text for text in texts]) if clip.prefix else bare
    # The cosine of a vector of zeros is 0.
    said = np.where(silent[:, None], 0.0, said)
    scores = {"clip_s": np.asarray(clip_s(jnp.asarray(said), jnp.asarray(images)))}
    if human is not None:
        at = np.flatnonzero(known)
        given = (jnp.asarray(array) for array in (said[at], images[at], *human))
        scores["ref_clip_s"] = np.asarray(ref_clip_s(*given))
    for name, values in scores.items():
        interval = list(bootstrap_interval(values))
        row[name] = {"value": float(values.mean()), "interval": interval}
    return row, {way: values["reciprocal_rank"] for way, values in each.items()}


def _compare(
    found: Mapping[str, dict[str, Any]], ranks: Mapping[str, Mapping[str, Any]], against: str
) -> None:
    """Adds to the figures of all other methods how likely so different ranks are by chance."""
    others = [name for name in found if name != against]
    for name in others:
        found[name]["retrieval"]["paired"] = {
            f"{way}_p": signed_rank(ranks[name][way], ranks[against][way]) for way in ranks[name]
        }
    for way in ranks[against]:
        correct([found[name]["retrieval"]["paired"] for name in others], f"{way}_p")


def _missing(
    methods: Mapping[str, Captions], images: Mapping[str, np.ndarray], gallery: Sequence[str]
) -> list[str]:
    """Returns sentences about captions whose images are not in the gallery."""
    notes = []
    inside = set(gallery)
    for name, captions in methods.items():
        unseen = [image for image in captions if image not in images]
        alone = [image for image in captions if image in images and image not in inside]
        for found, what in (
            (unseen, "without a picture that can be read, left out of retrieval"),
            (alone, "that another method has no caption of, left out of retrieval"),
        ):
            if found:
                notes.append(f"{name}: {counted(found, what)}")
    return notes


def _seen_before(clip: ClipVectors, references: Captions, known: Sequence[str]) -> str:
    """Returns a sentence about which of the images the scorer was trained on.

    An image is one of them where all its references are among the captions of that training: short
    captions are written of several images.
    """
    if clip.rows is None:
        return f"which images {clip.name} was trained on is unknown"
    if not known:
        return (
            f"whether {clip.name} was trained on these images is unknown: references would tell "
            "by their captions"
        )
    seen = [image for image in known if np.isin(fingerprint(references[image]), clip.rows).all()]
    # What was tuned here began as a CLIP that has seen other images.
    how = "tuned" if clip.tuned else "trained"
    if not seen and clip.tuned:
        return (
            f"{clip.name} was tuned on none of the {len(known)} images that have references; which "
            "images the CLIP that it began as was trained on is unknown"
        )
    if not seen:
        return f"{clip.name} was trained on none of the {len(known)} images that have references"
    return (
        f"{clip.name} was {how} on {counted(seen, f'of the {len(known)} that have references')}:"
        " its figures of them are too high, take a CLIP that was trained on others"
    )
