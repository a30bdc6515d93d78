"""Captions' metrics, against the numbers of pycocoevalcap on the same captions.

`coco_scores.json` holds what pycocoevalcap 1.2 says, its Java tokeniser included.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from coopgen_jax.evaluation.caption_metrics import (
    bleu_counts,
    bleu_of_counts,
    cider_d,
    rouge_l,
)
from coopgen_jax.evaluation.caption_words import caption_words

SCORES = json.loads((Path(__file__).parent / "coco_scores.json").read_text(encoding="utf-8"))
IMAGES = SCORES["images"]
SETS = {
    "sentences": {
        "captions": [image["caption_words"] for image in IMAGES.values()],
        "references": [image["reference_words"] for image in IMAGES.values()],
        "bleu": SCORES["bleu"],
        "rouge_l": [image["rouge_l"] for image in IMAGES.values()],
        "cider_d": [image["cider_d"] for image in IMAGES.values()],
    },
    "random words": {
        **SCORES["random"],
        "captions": [text.split() for text in SCORES["random"]["captions"]],
        "references": [[x.split() for x in xs] for xs in SCORES["random"]["references"]],
    },
}


@pytest.mark.parametrize("image", list(IMAGES))
def test_words_are_those_of_the_penn_treebank_tokeniser(image):
    of_image = IMAGES[image]
    assert caption_words(of_image["caption"]) == of_image["caption_words"]
    assert list(map(caption_words, of_image["references"])) == of_image["reference_words"]


@pytest.mark.parametrize("name", list(SETS))
def test_bleu_is_that_of_pycocoevalcap(name):
    given = SETS[name]
    counts = [
        bleu_counts(*pair) for pair in zip(given["captions"], given["references"], strict=True)
    ]
    found = bleu_of_counts(np.sum(counts, axis=0))
    np.testing.assert_allclose(found, given["bleu"], rtol=1e-12)
    assert found[-1] > 0.05


@pytest.mark.parametrize("name", list(SETS))
def test_rouge_l_is_that_of_pycocoevalcap(name):
    given = SETS[name]
    found = [rouge_l(*pair) for pair in zip(given["captions"], given["references"], strict=True)]
    np.testing.assert_allclose(found, given["rouge_l"], rtol=1e-12)


@pytest.mark.parametrize("name", list(SETS))
def test_cider_d_is_that_of_pycocoevalcap(name):
    given = SETS[name]
    found = cider_d(given["captions"], given["references"])
    np.testing.assert_allclose(found, given["cider_d"], rtol=1e-9, atol=1e-12)
    assert found.max() > 1


def test_empty_captions_score_nothing():
    references = [["a", "dog"], ["the", "wet", "dog"]]
    assert rouge_l([], references) == 0
    assert cider_d([[], ["a", "dog"]], [references, references])[0] == 0
    assert not bleu_of_counts(bleu_counts([], references)).any()


def test_bleu_of_rows_is_that_of_each():
    given = SETS["random words"]
    counts = np.asarray(
        [bleu_counts(*pair) for pair in zip(given["captions"], given["references"], strict=True)]
    )
    each = bleu_of_counts(counts)
    assert each.shape == (30, 4)
    np.testing.assert_allclose(each[3], bleu_of_counts(counts[3]), rtol=1e-12)


def test_one_image_has_no_cider():
    """Without other images no n-gram says anything."""
    assert cider_d([["a", "dog"]], [[["a", "dog"]]])[0] == 0
