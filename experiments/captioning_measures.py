"""Measures of captions, image by image, and their intervals, for `experiments.captioning`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from coopgen_jax.evaluation.caption_metrics import bleu_counts, bleu_of_counts, cider_d, rouge_l
from coopgen_jax.evaluation.caption_words import caption_words
from coopgen_jax.evaluation.clip_vectors import all_similarities
from coopgen_jax.evaluation.metrics import self_bleu
from coopgen_jax.evaluation.retrieval import image_retrieval, text_retrieval

FOLDS = 5
DRAWS = 4000
# Captions that self-BLEU compares with each other.
ALIKE = 300
# Of either direction.
WAYS = {"text_to_image": image_retrieval, "image_to_text": text_retrieval}


@dataclass(frozen=True)
class Measured:
    """What is known of a method's captions, one a image, of `n` images in order.

    Attributes:
      each: by name of a figure, its value for every image, `[n]`, the mean over seeds.
      bleu: `[n, 10]` what BLEU sums up, the sum over seeds; None where there are no references.
      alike: self-BLEU-5, the mean over seeds.
      by_seed: for every seed the means over images.
    """

    each: dict[str, np.ndarray]
    bleu: np.ndarray | None
    alike: float
    by_seed: tuple[dict[str, float], ...]


def of_seed(
    captions: Sequence[str],
    vectors: dict[str, tuple[np.ndarray, np.ndarray]],
    references: Sequence[Sequence[str]] | None,
    human: Sequence[str] | None,
) -> Measured:
    """Returns the measures of one caption a image.

    Args:
      captions: of `n` images.
      vectors: by name of heads, unit vectors `[n, F]` of the captions and of the images. Figures of
        "judge" are called by the way alone, others by heads and way.
      references: captions of every image that people wrote; None for those of people themselves.
      human: one of them of every image, which a classifier is to tell; None not to ask it.
    """
    each: dict[str, np.ndarray] = {}
    for name, (texts, images) in vectors.items():
        for way, ranks in WAYS.items():
            found = ranks(all_similarities(texts, images), np.arange(len(images)))
            front = way if name == "judge" else f"{name}_{way}"
            each |= {f"{front}_{figure}": values for figure, values in found.items()}
    words = [caption_words(text) for text in captions]
    each["length"] = np.asarray([len(own) for own in words], float)
    counts = None
    if references is not None:
        known = [[caption_words(text) for text in own] for own in references]
        pairs = list(zip(words, known, strict=True))
        counts = np.asarray([bleu_counts(*pair) for pair in pairs])
        each["rouge_l"] = np.asarray([rouge_l(*pair) for pair in pairs])
        each["cider_d"] = cider_d(words, known)
    if human is not None:
        each["human"] = taken_for_human(captions, human)
    alike = self_bleu(list(captions), most=ALIKE)
    means = {name: float(values.mean()) for name, values in each.items()}
    if counts is not None:
        means["bleu_4"] = float(bleu_of_counts(counts.sum(axis=0))[3])
    return Measured(each, counts, alike, (means | {"self_bleu_5": alike},))


def pooled(parts: Sequence[Measured]) -> Measured:
    """Returns the measures of several seeds as one."""
    counts = [part.bleu for part in parts if part.bleu is not None]
    return Measured(
        {name: np.mean([part.each[name] for part in parts], axis=0) for name in parts[0].each},
        np.sum(counts, axis=0) if counts else None,
        float(np.mean([part.alike for part in parts])),
        tuple(means for part in parts for means in part.by_seed),
    )


def taken_for_human(captions: Sequence[str], human: Sequence[str]) -> np.ndarray:
    """Returns which captions a classifier takes for human ones, `[n]` of 0 and 1, a half for both.

    It is a logistic regression on tf-idf of words and pairs of words, fitted on both kinds of
    captions of other images: images are dealt into folds, and each is judged by the others. Of
    captions that nobody can tell it takes one half for human.

    Args:
      captions: one of every image.
      human: one of every image.
    """
    fold = np.arange(len(captions)) % min(FOLDS, len(captions))
    found = np.zeros(len(captions))
    for number in np.unique(fold):
        others, own = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        texts = [side[image] for side in (captions, human) for image in others]
        label = np.repeat([0, 1], len(others))
        fitted = make_pipeline(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\S+"),
            LogisticRegression(C=3.0, max_iter=1000),
        ).fit(texts, label)
        # A caption that both kinds have as often is taken for either.
        human_p = fitted.predict_proba([captions[image] for image in own])[:, 1].round(9)
        found[own] = np.heaviside(human_p - 0.5, 0.5)
    return found


class Draws:
    """Images drawn with replacement, the same for all figures, so that differences are paired."""

    def __init__(self, images: int) -> None:
        rng = np.random.default_rng(0)
        # How often every image is among the images of a draw.
        self.times = rng.multinomial(images, np.full(images, 1 / images), size=DRAWS)

    def means(self, values: np.ndarray) -> np.ndarray:
        """Returns the mean of every draw, `[DRAWS, ...]`."""
        return self.times @ values / len(values)

    def cell(self, values: np.ndarray) -> dict[str, Any]:
        """Returns the mean of values `[n]` with its 95 % interval."""
        return _cell(float(values.mean()), self.means(values))

    def ratio(self, values: np.ndarray, base: np.ndarray) -> dict[str, Any]:
        """Returns the ratio of two means with its 95 % interval, None where the base is 0."""
        drawn, below = self.means(values), self.means(base)
        if not base.mean() or not below.all():
            return {"value": None, "interval": None}
        return _cell(float(values.mean() / base.mean()), drawn / below)

    def bleu(self, counts: np.ndarray) -> dict[str, Any]:
        """Returns BLEU-4 of counts `[n, 10]` with its 95 % interval."""
        return _cell(
            float(bleu_of_counts(counts.sum(axis=0))[3]),
            bleu_of_counts(self.times @ counts)[:, 3],
        )


def _cell(value: float, drawn: np.ndarray) -> dict[str, Any]:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"value": value, "interval": [float(low), float(high)]}


def row_of(name: str, found: Measured, draws: Draws, base: Measured | None) -> dict[str, Any]:
    """Returns a method's row, with the ratios of its figures to those of a base."""
    row: dict[str, Any] = {"method": name, "seeds": len(found.by_seed)}
    row |= {figure: draws.cell(values) for figure, values in found.each.items()}
    if found.bleu is not None:
        row["bleu_4"] = draws.bleu(found.bleu)
    row["self_bleu_5"] = {"value": found.alike, "interval": None}
    if base is not None:
        row["ratio"] = {
            figure: draws.ratio(found.each[figure], base.each[figure])
            for figure in ("text_to_image_recall_1", "image_to_text_recall_1", "cider_d")
        }
    row["by_seed"] = list(found.by_seed)
    return row


def difference(one: Measured, other: Measured, draws: Draws) -> dict[str, Any]:
    """Returns how much more one method has of every figure than another, image by image."""
    return {
        figure: draws.cell(one.each[figure] - other.each[figure])
        for figure in ("text_to_image_recall_1", "image_to_text_recall_1", "rouge_l", "cider_d",
                       "human", "length")
        if figure in one.each
    }  # fmt: skip
