"""A baseline that tells pairs out of context: logistic regressions on the vectors of a CLIP.

One reads text and image, one the text alone and one the image alone. The latter two test the
collection: where they are better than chance, something but the match tells true from false.

`m` captions, each with a true and a false image; vectors have width `F`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from coopgen_jax.augmentation.image_pairs import ImagePairs
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.clustered_auc import clustered_auc

# The inverse of the regressions' penalty, on features of variance 1.
STRENGTH = 0.01
STEPS = 1000


def features_of(texts: np.ndarray, images: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the features of each detector, by what it reads, of `[m, F]` texts and images.

    A regression is linear: what text and image have in common stands in their products, whose sum
    is the cosine.
    """
    products = texts * images
    cosine = products.sum(axis=1, keepdims=True)
    return {
        "text and image": np.concatenate([texts, images, products, cosine], axis=1),
        "text": texts,
        "image": images,
    }


def detect_mismatches(
    pairs: ImagePairs, texts: np.ndarray, images: np.ndarray, *, train_captions: int = 20_000
) -> dict[str, np.ndarray]:
    """Returns the logits with which detectors hold the pairs for false, cross-fitted by fold.

    Each fold is scored by regressions that were trained on the others, which share no image and no
    caption with it.

    Args:
      pairs: the captions and their images.
      texts: `[n, F]` unit vectors of all captions.
      images: `[I, F]` unit vectors of all images.
      train_captions: captions that a regression is trained on, at most, evenly taken.

    Returns:
      By what a detector reads `[2, m]`: of the true and of the false images.

    Raises:
      UserError: all pairs are in one fold.
    """
    folds = np.unique(pairs.fold)
    if len(folds) < 2:
        raise UserError("all pairs are in one fold: detectors need others to be trained on")
    said = texts[pairs.caption]
    both = [features_of(said, images[shown]) for shown in (pairs.image, pairs.false_image)]
    logits = {name: np.zeros((2, len(said)), np.float32) for name in both[0]}
    for fold in folds:
        inside = pairs.fold == fold
        trained = np.flatnonzero(~inside)
        trained = trained[:: -(-len(trained) // train_captions)]
        labels = np.repeat([0, 1], len(trained))
        for name, found in logits.items():
            rows = np.concatenate([side[name][trained] for side in both])
            penalised = LogisticRegression(C=STRENGTH, max_iter=STEPS)
            detector = make_pipeline(StandardScaler(), penalised).fit(rows, labels)
            for side, table in enumerate(both):
                found[side, inside] = detector.decision_function(table[name][inside])
    return logits


def detector_report(
    pairs: ImagePairs,
    logits: Mapping[str, np.ndarray],
    by: Sequence[str],
    hardness: Sequence[str],
) -> list[dict[str, Any]]:
    """Returns how well detectors tell pairs, together, by hardness, and by measure and hardness.

    Args:
      pairs: the pairs.
      logits: what `detect_mismatches` returns.
      by: the names of the measures.
      hardness: the names of the hardnesses.

    Returns:
      For each part `by` and `hardness`, None where all are together, `captions`, and by what a
      detector reads `auc` with its `interval` (`clustered_auc`; the captions of one image are a
      cluster), and `accuracy`, the share of pairs on the right side of a logit of 0, half of those
      on it.
    """
    groups: list[tuple[int | None, int | None]] = [(None, None)]
    groups += [(None, band) for band in range(len(hardness))]
    if len(by) > 1:
        groups += [(one, band) for one in range(len(by)) for band in range(len(hardness))]
    rows = []
    for one, band in groups:
        inside = np.ones(len(pairs.caption), bool)
        if one is not None:
            inside &= pairs.by == one
        if band is not None:
            inside &= pairs.hardness == band
        if not inside.any():
            continue
        row: dict[str, Any] = {
            "by": None if one is None else by[one],
            "hardness": None if band is None else hardness[band],
            "captions": int(inside.sum()),
            "detectors": {},
        }
        for name, found in logits.items():
            scores = found[:, inside].ravel()
            false = np.repeat([False, True], inside.sum())
            area, interval = clustered_auc(scores, false, np.tile(pairs.image[inside], 2))
            right = np.where(scores == 0, 0.5, (scores > 0) == false)
            row["detectors"][name] = {
                "auc": area, "interval": list(interval), "accuracy": float(right.mean()),
            }  # fmt: skip
        rows.append(row)
    return rows
