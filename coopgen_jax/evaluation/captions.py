"""How well captions are written: figures against references, and how alike the captions are."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.caption_metrics import (
    LONGEST,
    bleu_counts,
    bleu_of_counts,
    cider_d,
    rouge_l,
)
from coopgen_jax.evaluation.caption_retrieval import caption_retrieval, counted
from coopgen_jax.evaluation.caption_words import caption_words
from coopgen_jax.evaluation.clip_vectors import ClipVectors
from coopgen_jax.evaluation.metrics import bootstrap_interval, percentile_interval, self_bleu
from coopgen_jax.evaluation.retrieval import CUTS
from coopgen_jax.evaluation.significance import correct, signed_rank
from coopgen_jax.evaluation.tables import figure_cell, p_value
from coopgen_jax.evaluation.texts import BLEU_TEXTS, check_names

Captions = Mapping[str, Sequence[str]]
Metric = Callable[[Sequence[str], Sequence[Sequence[str]]], dict[str, Any]]
# Of every figure: its heading, and how a number of it looks.
CAPTION_FIGURES = {
    **{f"bleu_{n}": (f"BLEU-{n}", "{:.3f}") for n in range(1, LONGEST + 1)},
    "rouge_l": ("ROUGE-L", "{:.3f}"),
    "cider_d": ("CIDEr-D", "{:.3f}"),
    "meteor_java": ("METEOR 1.5", "{:.3f}"),
    "meteor_nltk": ("NLTK's METEOR", "{:.3f}"),
    "scene_graph_f1": ("scene-graph F1", "{:.3f}"),
    "self_bleu_5": ("5-self-BLEU", "{:.3f}"),
    "different": ("different captions", "{:.3f}"),
    "shared": ("captions of several images", "{:.3f}"),
    "vocabulary": ("different words", "{:.0f}"),
    "length": ("words", "{:.1f}"),
    "clip_s": ("CLIP-S", "{:.3f}"),
    "ref_clip_s": ("RefCLIP-S", "{:.3f}"),
}
WAYS = {"text_to_image": "text to image", "image_to_text": "image to text"}
RANKS = {**{f"recall_{cut}": f"R@{cut}" for cut in CUTS}, "reciprocal_rank": "MRR"}


def evaluate_captions(
    methods: Mapping[str, Captions],
    references: Captions | None = None,
    *,
    metrics: Mapping[str, Metric] | None = None,
    clip: ClipVectors | None = None,
    images: Mapping[str, np.ndarray] | None = None,
    against: str | None = None,
    self_bleu_texts: int = BLEU_TEXTS,
) -> dict[str, Any]:
    """Returns the figures of captions that methods have written.

    Captions are split into words, and scored, as `caption_words` and `caption_metrics` say. With
    references the images of a method are those that have both a caption and references; CIDEr-D
    takes its n-gram frequencies from their references. An empty caption scores 0.

    Args:
      methods: by name of a method the captions of each image, of which the first counts.
      references: the captions of each image that people wrote; None leaves out what compares with
        them.
      metrics: further figures of captions against references, each by its name: functions from the
        captions, one of each image, and their references to `{"value", "interval"}`, such as
        `meteor.nltk_meteor`.
      clip: the scorer of `caption_retrieval`, None for no retrieval.
      images: what `caption_retrieval` takes, the unit vector `[F]` of each image.
      against: the method that the others are tested against; None for the first.
      self_bleu_texts: captions that self-BLEU compares with each other, the first ones. Its time
        grows with their square.

    Returns:
      `against`, `gallery` (of `caption_retrieval`), `notes`, and `methods`: for each a dict with
      its `method`, its number of `images`, `notes` of what was left out, and as `{"value",
      "interval"}` `bleu_1` to 4, `rouge_l`, `cider_d` and those of `metrics`, which need
      references; `self_bleu_5`,
      `different` (the share of captions that are unlike all earlier ones), `shared` (the share
      that another image has too), `vocabulary` (different words) and `length` in words; and what
      `caption_retrieval` has. Intervals are 95 %, by bootstrap over images; `self_bleu_5` and
      those behind it, but for the length, have none. `paired` has the `images` in common with the
      other method and Wilcoxon's p of CIDEr-D on them, `cider_d_p`, also corrected for the number
      of methods by Holm's rule.

    Raises:
      UserError: two methods share a name, `against` is not among them, a method has no caption of
        an image with references, or the gallery has fewer than two images.
    """
    against = check_captions(methods, references, against)
    rows, scores = [], {}
    for name, captions in methods.items():
        row, scores[name] = _figures(name, captions, references, self_bleu_texts, metrics or {})
        rows.append(row)
    others = [row for row in rows if row["method"] != against and references is not None]
    for row in others:
        one, other = scores[row["method"]], scores[against]
        common = [image for image in one if image in other]
        row["paired"] = {"images": len(common)}
        if common:
            pairs = ([of_image[image] for image in common] for of_image in (one, other))
            row["paired"]["cider_d_p"] = signed_rank(*pairs)
    correct([row["paired"] for row in others], "cider_d_p")
    report: dict[str, Any] = {"against": against, "notes": [], "methods": rows}
    if clip is not None:
        found = caption_retrieval(methods, clip, images or {}, references, against=against)
        report |= {"gallery": found["gallery"], "notes": found["notes"]}
        for row in rows:
            row |= found["methods"][row["method"]]
    return report


def check_captions(
    methods: Mapping[str, Captions], references: Captions | None, against: str | None
) -> str:
    """Returns whom the others are tested against; raises UserError as `evaluate_captions` does."""
    for name, captions in methods.items():
        if not _compared(captions, references):
            raise UserError(
                f"no image of {name} has references: both files must call the images by the same "
                "names"
            )
    return check_names(list(methods), against)


def _compared(captions: Captions, references: Captions | None) -> list[str]:
    """Returns the images that count: all without references, else those that have some."""
    return [image for image in captions if references is None or references.get(image)]


def _figures(
    name: str,
    captions: Captions,
    references: Captions | None,
    self_bleu_texts: int,
    metrics: Mapping[str, Metric],
) -> tuple[dict[str, Any], dict[str, float]]:
    """Returns a method's row, and CIDEr-D by image."""
    images = _compared(captions, references)
    texts = [captions[image][0] for image in images]
    words = [caption_words(text) for text in texts]
    row: dict[str, Any] = {
        "method": name,
        "images": len(images),
        "notes": _notes(captions, references, images),
    }
    each = {"length": np.asarray([len(own) for own in words], float)}
    cider: dict[str, float] = {}
    if references is not None:
        known = [[caption_words(text) for text in references[image]] for image in images]
        counts = np.asarray([bleu_counts(*pair) for pair in zip(words, known, strict=True)])
        for n, value in enumerate(bleu_of_counts(counts.sum(axis=0)), start=1):
            row[f"bleu_{n}"] = {"value": float(value), "interval": _bleu_interval(counts, n)}
        each["rouge_l"] = np.asarray([rouge_l(*pair) for pair in zip(words, known, strict=True)])
        each["cider_d"] = cider_d(words, known)
        cider = dict(zip(images, each["cider_d"].tolist(), strict=True))
        human = [references[image] for image in images]
        row |= {figure: metric(texts, human) for figure, metric in metrics.items()}
    for figure, values in each.items():
        interval = list(bootstrap_interval(values))
        row[figure] = {"value": float(values.mean()), "interval": interval}
    alike = self_bleu(texts, most=self_bleu_texts)
    for figure, value in {"self_bleu_5": alike, **_sameness(words)}.items():
        row[figure] = {"value": value, "interval": None}
    return row, cider


def _sameness(words: Sequence[Sequence[str]]) -> dict[str, float]:
    """Returns how alike captions, one an image, are as lists of words."""
    times = Counter(map(tuple, words))
    return {
        "different": len(times) / len(words),
        "shared": sum(count for count in times.values() if count > 1) / len(words),
        "vocabulary": float(len(set(chain.from_iterable(words)))),
    }


def _bleu_interval(counts: np.ndarray, n: int) -> list[float]:
    """Returns the interval of BLEU-n where images are drawn, of `bleu_counts` of every image."""
    value = float(bleu_of_counts(counts.sum(axis=0))[n - 1])
    if len(counts) < 2 or not np.ptp(counts, axis=0).any():
        return [value, value]

    def of_sample(*columns: np.ndarray, axis: int = -1) -> np.ndarray:
        sums = np.stack([column.sum(axis=axis) for column in columns], axis=-1)
        return bleu_of_counts(sums)[..., n - 1]

    return list(percentile_interval(tuple(counts.T), of_sample))


def _notes(captions: Captions, references: Captions | None, images: Sequence[str]) -> list[str]:
    """Returns a sentence for everything that was left out or is missing, with its number."""
    human = {} if references is None else references
    missing = {
        "without references, left out": [
            image for image in captions if references is not None and not human.get(image)
        ],
        "with references but without caption": [
            image for image in human if not captions.get(image)
        ],
        "with a caption without words, which scores 0": [
            image for image in images if not caption_words(captions[image][0])
        ],
        "with several captions, of which the first counts": [
            image for image in images if len(captions[image]) > 1
        ],
    }
    return [counted(found, what) for what, found in missing.items() if found]


def caption_cells(report: dict[str, Any]) -> list[list[str]]:
    """Returns a report of `evaluate_captions` as rows of words: a figure a row, the methods across.

    Figures that no method has are left out. The last row is p of CIDEr-D, where there are several
    methods.
    """
    rows = report["methods"]
    table = [["", *(row["method"] for row in rows)], ["images", *(str(r["images"]) for r in rows)]]
    for name, (heading, form) in CAPTION_FIGURES.items():
        if any(name in row for row in rows):
            table.append([heading, *(figure_cell(row.get(name), form) for row in rows)])
    if "gallery" in report:
        table.append(["images to choose among", *[str(report["gallery"])] * len(rows)])
        for way, said in WAYS.items():
            for name, heading in RANKS.items():
                found = (row["retrieval"][way][name] for row in rows)
                cells = (figure_cell(figure, "{:.3f}") for figure in found)
                table.append([f"{heading}, {said}", *cells])
            if len(rows) > 1:
                paired = (row["retrieval"].get("paired", {}) for row in rows)
                values = (own.get(f"{way}_p_holm") for own in paired)
                table.append([f"p (MRR, {said})", *map(p_value, values)])
    if any("paired" in row for row in rows):
        values = (row.get("paired", {}).get("cider_d_p_holm") for row in rows)
        table.append(["p (CIDEr-D)", *map(p_value, values)])
    return table
