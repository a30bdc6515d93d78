"""How well captions are written: figures against references, and how alike the captions are."""

from collections.abc import Mapping, Sequence
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
from coopgen_jax.evaluation.caption_words import caption_words
from coopgen_jax.evaluation.metrics import bootstrap_interval, percentile_interval, self_bleu
from coopgen_jax.evaluation.significance import correct, signed_rank
from coopgen_jax.evaluation.tables import figure_cell, p_value
from coopgen_jax.evaluation.texts import BLEU_TEXTS, check_names

# Of every figure: its heading, and how a number of it looks.
CAPTION_FIGURES = {
    **{f"bleu_{n}": (f"BLEU-{n}", "{:.3f}") for n in range(1, LONGEST + 1)},
    "rouge_l": ("ROUGE-L", "{:.3f}"),
    "cider_d": ("CIDEr-D", "{:.3f}"),
    "self_bleu_5": ("5-self-BLEU", "{:.3f}"),
    "different": ("different captions", "{:.3f}"),
    "length": ("words", "{:.1f}"),
}
NAMED = 3


def evaluate_captions(
    methods: Mapping[str, Mapping[str, Sequence[str]]],
    references: Mapping[str, Sequence[str]],
    *,
    against: str | None = None,
    self_bleu_texts: int = BLEU_TEXTS,
) -> dict[str, Any]:
    """Returns the figures of captions that methods have written.

    Captions are split into words, and scored, as `caption_words` and `caption_metrics` say. The
    images of a method are those that have both a caption and references; CIDEr-D takes its n-gram
    frequencies from their references. An empty caption scores 0.

    Args:
      methods: by name of a method the captions of each image, of which the first counts.
      references: the captions of each image that people wrote.
      against: the method that the others are tested against; None for the first.
      self_bleu_texts: captions that self-BLEU compares with each other, the first ones. Its time
        grows with their square.

    Returns:
      `against`, and `methods`: for each a dict with its `method`, its number of `images`, `notes`
      of what was left out, and as `{"value", "interval"}` `bleu_1` to 4, `rouge_l`, `cider_d`,
      `self_bleu_5`, `different` (the share of captions that are unlike all earlier ones) and
      `length` in words. Intervals are 95 %, by bootstrap over images; self-BLEU and the share have
      none. `paired` has the `images` in common with the other method and Wilcoxon's p of CIDEr-D
      on them, `cider_d_p`, also corrected for the number of methods by Holm's rule.

    Raises:
      UserError: two methods share a name, `against` is not among them, or a method has no caption
        of an image with references.
    """
    against = check_names(list(methods), against)
    rows, scores = [], {}
    for name, captions in methods.items():
        row, scores[name] = _figures(name, captions, references, self_bleu_texts)
        rows.append(row)
    others = [row for row in rows if row["method"] != against]
    for row in others:
        one, other = scores[row["method"]], scores[against]
        common = [image for image in one if image in other]
        row["paired"] = {"images": len(common)}
        if common:
            pairs = ([of_image[image] for image in common] for of_image in (one, other))
            row["paired"]["cider_d_p"] = signed_rank(*pairs)
    correct([row["paired"] for row in others], "cider_d_p")
    return {"against": against, "methods": rows}


def _figures(
    name: str,
    captions: Mapping[str, Sequence[str]],
    references: Mapping[str, Sequence[str]],
    self_bleu_texts: int,
) -> tuple[dict[str, Any], dict[str, float]]:
    """Returns a method's row, and CIDEr-D by image."""
    images = [image for image in captions if references.get(image)]
    if not images:
        raise UserError(
            f"no image of {name} has references: both files must call the images by the same names"
        )
    texts = [captions[image][0] for image in images]
    words = [caption_words(text) for text in texts]
    known = [[caption_words(text) for text in references[image]] for image in images]
    row: dict[str, Any] = {
        "method": name,
        "images": len(images),
        "notes": _notes(captions, references, images),
    }
    counts = np.asarray([bleu_counts(*pair) for pair in zip(words, known, strict=True)])
    for n, value in enumerate(bleu_of_counts(counts.sum(axis=0)), start=1):
        row[f"bleu_{n}"] = {"value": float(value), "interval": _bleu_interval(counts, n)}
    cider = cider_d(words, known)
    each = {
        "rouge_l": np.asarray([rouge_l(*pair) for pair in zip(words, known, strict=True)]),
        "cider_d": cider,
        "length": np.asarray([len(own) for own in words], float),
    }
    for figure, values in each.items():
        interval = list(bootstrap_interval(values))
        row[figure] = {"value": float(values.mean()), "interval": interval}
    different = len(set(map(tuple, words))) / len(words)
    row["different"] = {"value": different, "interval": None}
    alike = self_bleu(texts, most=self_bleu_texts)
    row["self_bleu_5"] = {"value": alike, "interval": None}
    return row, dict(zip(images, cider.tolist(), strict=True))


def _bleu_interval(counts: np.ndarray, n: int) -> list[float]:
    """Returns the interval of BLEU-n where images are drawn, of `bleu_counts` of every image."""
    value = float(bleu_of_counts(counts.sum(axis=0))[n - 1])
    if len(counts) < 2 or not np.ptp(counts, axis=0).any():
        return [value, value]

    def of_sample(*columns: np.ndarray, axis: int = -1) -> np.ndarray:
        sums = np.stack([column.sum(axis=axis) for column in columns], axis=-1)
        return bleu_of_counts(sums)[..., n - 1]

    return list(percentile_interval(tuple(counts.T), of_sample))


def _notes(
    captions: Mapping[str, Sequence[str]],
    references: Mapping[str, Sequence[str]],
    images: Sequence[str],
) -> list[str]:
    """Returns a sentence for everything that was left out or is missing, with its number."""
    counted = {
        "without references, left out": [image for image in captions if not references.get(image)],
        "with references but without caption": [
            image for image in references if not captions.get(image)
        ],
        "with a caption without words, which scores 0": [
            image for image in images if not caption_words(captions[image][0])
        ],
        "with several captions, of which the first counts": [
            image for image in images if len(captions[image]) > 1
        ],
    }
    return [
        f"{len(found)} image{'s' * (len(found) > 1)} {what} ({', '.join(found[:NAMED])}"
        f"{', ...' * (len(found) > NAMED)})"
        for what, found in counted.items()
        if found
    ]


def caption_cells(report: dict[str, Any]) -> list[list[str]]:
    """Returns a report of `evaluate_captions` as rows of words: a figure a row, the methods across.

    The last row is p of CIDEr-D, where there are several methods.
    """
    rows = report["methods"]
    table = [["", *(row["method"] for row in rows)], ["images", *(str(r["images"]) for r in rows)]]
    for name, (heading, form) in CAPTION_FIGURES.items():
        table.append([heading, *(figure_cell(row[name], form) for row in rows)])
    if len(rows) > 1:
        found = (row.get("paired", {}).get("cider_d_p_holm") for row in rows)
        table.append(["p (CIDEr-D)", *map(p_value, found)])
    return table
