"""Judgements of prefixes against judging each anew, and figures worked out by hand."""

import numpy as np
import pytest

from coopgen_jax.discriminators.host.function import host_function
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.discriminator_accuracy import (
    all_beginnings,
    by_length,
    figures,
    fit_temperature,
    judge_prefixes,
    no_opinion,
)
from tests.tiny_model import guide, model

TEXTS = ["so good", "a", "bad film it is", "xyz"]


def p_long(text: str) -> float:
    return len(text) / (1 + len(text))


def test_every_prefix_is_judged_as_the_text_that_it_is():
    asked = []

    def judge(texts):
        asked.extend(texts)
        return [p_long(text) for text in texts]

    loaded = host_function(judge, classes=("short", "long"), tokenizer=model().tokenizer)
    heard = []
    found = judge_prefixes(
        model(), loaded, TEXTS, longest=9, batch=3, listener=lambda *x: heard.append(x)
    )
    assert found.shape == (4, 9, 2) and heard == [(2, 4), (4, 4)]
    for row, text in zip(found, TEXTS, strict=True):
        ids = model().tokenizer.encode(f" {text}")[:9]
        for at in range(9):
            if at >= len(ids):
                assert np.isnan(row[at]).all()
                continue
            prefix = model().tokenizer.decode(ids[: at + 1])
            assert np.exp(row[at, 1]) == pytest.approx(p_long(prefix), abs=1e-5)
    assert " so go" in asked


def test_a_texts_judgement_does_not_depend_on_those_beside_it():
    alone = [judge_prefixes(model(), guide(), [text], longest=16, batch=1)[0] for text in TEXTS]
    np.testing.assert_allclose(
        judge_prefixes(model(), guide(), TEXTS, longest=16, batch=4), alone, rtol=1e-4, atol=1e-4
    )


P = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7]])
LABELS = np.array([0, 1, 1, 1])


def test_figures_are_worked_out_by_hand():
    found = figures(np.log(P), LABELS)
    assert found["texts"] == 4 and found["accuracy"] == 0.75
    # Recall and precision of class 0: 1 and 1/2; of class 1: 2/3 and 1.
    assert found["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    # Each confidence, 0.9, 0.6, 0.8 and 0.7, stands in a bin of its own.
    assert found["calibration_error"] == pytest.approx((0.1 + 0.6 + 0.2 + 0.3) / 4)
    assert found["brier"] == pytest.approx(2 * (0.01 + 0.36 + 0.04 + 0.09) / 4)
    assert found["interval"][0] < 0.75 < found["interval"][1]
    assert found["brier_interval"][0] < found["brier"] < found["brier_interval"][1]
    assert found["saturated"] == 0
    sure = figures(np.log([[0.9995, 0.0005], [0.5, 0.5]]), np.array([0, 0]))
    assert sure["saturated"] == 0.5


def test_only_texts_that_are_long_enough_count():
    log_class = np.full((3, 4, 2), np.nan)
    for row, length in enumerate((1, 2, 4)):
        log_class[row, :length] = np.log([0.4, 0.6])
        log_class[row, length - 1] = np.log([0.7, 0.3])
    found = by_length(log_class, np.array([0, 0, 1]), (1, 2, 3, 4))
    assert {name: row["texts"] for name, row in found.items()} == {
        "1": 3, "2": 2, "3": 1, "4": 1, "whole": 3
    }  # fmt: skip
    assert found["1"]["accuracy"] == pytest.approx(2 / 3)
    assert found["whole"]["accuracy"] == pytest.approx(2 / 3)
    assert found["3"]["accuracy"] == 1


def test_every_prefix_has_the_class_or_the_shares_of_its_text():
    log_class = np.log(np.full((2, 3, 2), 0.5))
    log_class[0, 1:] = np.nan
    labels, shares = np.array([1, 0]), np.array([[0.3, 0.7], [0.9, 0.1]])
    assert all_beginnings(log_class, labels)[1].tolist() == [1, 0, 0, 0]
    np.testing.assert_array_equal(all_beginnings(log_class, shares)[1], shares[[0, 1, 1, 1]])


def test_the_temperature_that_was_divided_by_is_found_again():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (4000, 3))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    labels = (p.cumsum(-1) > rng.random((4000, 1))).argmax(-1)
    assert fit_temperature(np.log(p), labels) == pytest.approx(1, abs=0.06)
    sharper = 2.5 * np.log(p)
    assert fit_temperature(sharper, labels) == pytest.approx(2.5, abs=0.15)
    # Shares of classes are labels too, and what is impossible counts where it has a share alone.
    assert fit_temperature(sharper, p) == pytest.approx(2.5, abs=1e-3)
    assert fit_temperature(sharper, np.eye(3)[labels]) == fit_temperature(sharper, labels)
    ruled_out = np.where(np.eye(3)[labels] > 0, sharper, -np.inf)
    assert np.isfinite(fit_temperature(ruled_out, labels))
    weights = np.repeat([1.0, 0.0], [4000, 4000])
    both = np.concatenate([sharper, 9 * sharper]), np.concatenate([labels, labels])
    assert fit_temperature(*both, weights) == fit_temperature(sharper, labels)
    before, after = (figures(x - np.log(np.exp(x).sum(-1, keepdims=True)), labels)
                     for x in (sharper, sharper / 2.5))  # fmt: skip
    assert after["calibration_error"] < before["calibration_error"] / 2


def test_confidence_in_texts_without_a_class_is_worked_out_by_hand():
    labelled, neutral = np.log([[0.9, 0.1], [0.3, 0.7]]), np.log([[0.6, 0.4], [0.2, 0.8]])
    found = no_opinion(labelled, neutral, ("bad", "good"))
    # Of four pairs the labelled text has the larger confidence in three: .9, .9 and .7 over .6.
    assert found == pytest.approx(
        {"texts": 2, "confidence": 0.7, "labelled_confidence": 0.8, "auroc": 0.75}
    )
    # What is given to "neither" is no confidence.
    said = np.log([[0.1, 0.8, 0.1], [0.5, 0.3, 0.2]])
    found = no_opinion(said[1:], said[:1], ("bad", "neither", "good"))
    assert (found["confidence"], found["auroc"]) == (pytest.approx(0.1), 1)


def test_mistakes_are_told():
    with pytest.raises(UserError, match="there are no texts to judge"):
        judge_prefixes(model(), guide(), [])
