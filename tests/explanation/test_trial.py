"""Ratings of explanations against numbers by hand."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from coopgen_jax.explanation.trial import (
    agreement,
    changed_by_deletion,
    changed_by_insertion,
    precision_recall,
    strongest,
)

TRUTH = {"a": 5.0, "b": 4.0, "c": 3.0, "d": 2.0, "e": 1.0, "f": -3.0}


def test_the_strongest_words_are_above_nothing_and_in_order():
    assert strongest(TRUTH, 3) == ["a", "b", "c"]
    assert strongest(TRUTH, 99) == ["a", "b", "c", "d", "e"]
    assert strongest({"z": 1.0, "y": 1.0}, 2) == ["y", "z"]


def test_rank_correlation_is_on_the_words_of_the_truth_and_a_missing_word_weighs_nothing():
    found = {"a": 9.0, "b": 1.0, "c": 2.0, "x": 7.0}
    one = agreement(TRUTH, found, 5)
    rho, p = spearmanr([5, 4, 3, 2, 1], [9, 1, 2, 0, 0])
    assert (one.rho, one.p, one.n) == (pytest.approx(rho), pytest.approx(p), 5)
    half = 1.96 * np.sqrt((1 + rho**2 / 2) / 2)
    assert one.low == pytest.approx(np.tanh(np.arctanh(rho) - half))
    assert one.high == pytest.approx(np.tanh(np.arctanh(rho) + half))
    both = agreement(TRUTH, found, 5, union=True)
    assert both.n == 6
    assert both.rho == pytest.approx(spearmanr([5, 4, 3, 2, 1, 0], [9, 1, 2, 0, 0, 7])[0])


@pytest.mark.parametrize("found", [{}, {"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0, "e": 1.0}])
def test_an_explanation_without_an_order_has_no_correlation(found):
    one = agreement(TRUTH, found, 5)
    assert (one.rho, one.p, one.low, one.high) == (0.0, 1.0, -1.0, 1.0)


def test_perfect_agreement_is_finite():
    one = agreement(TRUTH, TRUTH, 5)
    assert one.rho == pytest.approx(1.0) and np.isfinite([one.low, one.high]).all()


def test_precision_and_recall_count_the_first_words():
    found = {"a": 4.0, "x": 3.0, "c": 2.0, "y": 1.0}
    rows = precision_recall(TRUTH, found, 3, (1, 2, 4, 10))
    assert [row["precision"] for row in rows] == [1.0, 0.5, 0.5, 0.5]
    assert [row["recall"] for row in rows] == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3])


def box(texts):
    """Class 1 where there are more suns than rains, else class 0."""
    many = np.array([text.lower().count("sun") > text.count("rain") for text in texts])
    return np.stack([~many, many], axis=-1).astype(float)


TEXTS = ["Sun and wind", "sun sun and rain", "rain alone", "nothing"]


def test_words_are_put_out_the_strongest_first():
    ranked = [["rain"], ["wind", "sun"]]
    # "wind" goes first and changes nothing; "sun" is gone at once from all of its places. Class 0
    # stays class 0 without rain.
    assert changed_by_deletion(box, TEXTS, ranked, (0, 1, 2)) == [0.0, 0.25, 0.5]


def test_words_of_the_other_class_are_put_in():
    ranked = [["rain", "storm"], ["sun", "light"]]
    assert changed_by_insertion(box, TEXTS, ranked, (0, 1)) == [0.0, 0.75]
    floor = [["x", "y"], ["z", "w"]]
    assert changed_by_insertion(box, TEXTS, floor, (0, 2)) == [0.0, 0.0]
