"""Detectors of pairs out of context, on vectors of a known structure."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from coopgen_jax.augmentation.image_pairs import CaptionedVectors, PairSettings, make_image_pairs
from coopgen_jax.augmentation.mismatch_detector import (
    STRENGTH,
    detect_mismatches,
    detector_report,
    features_of,
)
from coopgen_jax.errors import UserError

SETTINGS = PairSettings(("text-text", "image-image"), ("hard", "easy"), 5, folds=3)


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def known():
    """Captions are near to their images; a few images are near to everything."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(150, 8))
    images[:15, 0] += 4
    image_of = np.repeat(np.arange(150), 2)
    texts = images[image_of] + 0.7 * rng.normal(size=(300, 8))
    return CaptionedVectors(unit(texts), unit(images), image_of)


def test_text_alone_and_image_alone_are_at_chance_and_both_are_not(known):
    pairs = make_image_pairs(known, SETTINGS)
    logits = detect_mismatches(pairs, known.texts, known.images)
    rows = detector_report(pairs, logits, SETTINGS.by, SETTINGS.hardness)
    named = [(row["by"], row["hardness"]) for row in rows]
    assert named[:3] == [(None, None), (None, "hard"), (None, "easy")] and len(rows) == 7
    assert sum(row["captions"] for row in rows[1:3]) == rows[0]["captions"] == len(pairs.caption)
    for row in rows:
        for reads in ("text", "image"):
            # Every caption and image stands on both sides of its fold.
            assert row["detectors"][reads]["auc"] == pytest.approx(0.5, abs=1e-6)
            assert row["detectors"][reads]["accuracy"] == pytest.approx(0.5, abs=1e-6)
    both = rows[0]["detectors"]["text and image"]
    assert both["auc"] > 0.6 and both["interval"][0] > 0.5


def test_an_unbalanced_collection_is_found_by_the_image_alone(known):
    """The false image of every caption is now one of the few that are near to everything."""
    pairs = make_image_pairs(known, SETTINGS)
    rng = np.random.default_rng(1)
    nearest = replace(pairs, false_image=rng.integers(0, 15, len(pairs.image)))
    logits = detect_mismatches(nearest, known.texts, known.images)
    row = detector_report(nearest, logits, SETTINGS.by, SETTINGS.hardness)[0]
    assert row["detectors"]["image"]["auc"] > 0.8
    assert row["detectors"]["text"]["auc"] == pytest.approx(0.5, abs=1e-6)


def test_a_fold_is_scored_by_what_was_trained_on_the_others(known):
    """The regression of one fold by hand, with features of mean 0 and variance 1."""
    pairs = make_image_pairs(known, SETTINGS)
    logits = detect_mismatches(pairs, known.texts, known.images)["text and image"]
    inside = pairs.fold == 1
    tables = []
    for shown in (pairs.image, pairs.false_image):
        text, image = known.texts[pairs.caption], known.images[shown]
        cosine = np.array([[one @ other] for one, other in zip(text, image, strict=True)])
        tables.append(np.hstack([text, image, text * image, cosine]))
    rows = np.vstack([table[~inside] for table in tables])
    mean, spread = rows.mean(axis=0), rows.std(axis=0)
    labels = [0] * (~inside).sum() + [1] * (~inside).sum()
    fitted = LogisticRegression(C=STRENGTH, max_iter=1000).fit((rows - mean) / spread, labels)
    for side, table in enumerate(tables):
        wanted = fitted.decision_function((table[inside] - mean) / spread)
        np.testing.assert_allclose(logits[side, inside], wanted, atol=1e-3)
    report = detector_report(pairs, {"x": logits}, SETTINGS.by, SETTINGS.hardness)
    hard = pairs.hardness == 0
    scores, false = logits[:, hard].ravel(), [0] * hard.sum() + [1] * hard.sum()
    assert report[1]["detectors"]["x"]["auc"] == pytest.approx(roc_auc_score(false, scores))
    right = np.mean((scores > 0) == np.array(false))
    assert report[1]["detectors"]["x"]["accuracy"] == pytest.approx(right)


def test_fewer_captions_can_be_trained_on_and_one_fold_cannot_be_tested(known):
    pairs = make_image_pairs(known, SETTINGS)
    few = detect_mismatches(pairs, known.texts, known.images, train_captions=20)
    all_of_them = detect_mismatches(pairs, known.texts, known.images, train_captions=300)
    assert not np.allclose(few["text and image"], all_of_them["text and image"])
    one = replace(pairs, fold=np.zeros_like(pairs.fold))
    with pytest.raises(UserError, match="in one fold"):
        detect_mismatches(one, known.texts, known.images)


def test_products_sum_to_the_cosine():
    rng = np.random.default_rng(0)
    texts, images = unit(rng.normal(size=(4, 3))), unit(rng.normal(size=(4, 3)))
    found = features_of(texts, images)
    both = found["text and image"]
    assert both.shape == (4, 10)
    np.testing.assert_allclose(both[:, 6:9].sum(axis=1), both[:, 9], atol=1e-6)
    np.testing.assert_array_equal(found["image"], images)
