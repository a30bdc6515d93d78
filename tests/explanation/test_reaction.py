"""The insertion test, on a classifier whose weights are known."""

import numpy as np
import pytest

from coopgen_jax.explanation.reaction import asked, inserted, log_odds, reactions

WEIGHTS = {"sun": 2.0, "rain": -1.5}
TEXTS = ["the house stands", "paper and stone", "a sun over water", "some more words here", " "]


def box(texts):
    score = np.array([sum(WEIGHTS.get(word, 0.0) for word in text.split()) for text in texts])
    p = 1 / (1 + np.exp(-score))
    return np.stack([1 - p, p], axis=-1)


def test_a_word_moves_a_linear_classifier_by_its_weight():
    found = reactions(box, TEXTS, ["sun", "rain", "paper"], uses=4)
    means = [[one.mean for one in own] for own in found]
    np.testing.assert_allclose(means, [[-2, 2], [1.5, -1.5], [0, 0]], atol=1e-9)
    assert [[one.moves for one in own] for own in found] == [[0, 1], [1, 0], [0, 0]]
    assert found[0][1].low == pytest.approx(2.0)


def test_where_words_act_together_the_interval_tells():
    def both(texts):
        p = np.array([0.9 if {"sun", "water"} <= set(text.split()) else 0.5 for text in texts])
        return np.stack([1 - p, p], axis=-1)

    texts = ["water here", *["nothing here"] * 9]
    ((_, found),) = reactions(both, texts, ["sun"], uses=10)
    assert found.mean == pytest.approx(np.log(9) / 10)
    error = np.log(9) * np.sqrt((1 / 10) * (9 / 10) * (10 / 9)) / np.sqrt(10)
    assert found.high - found.mean == pytest.approx(1.96 * error)
    assert not found.moves


def test_texts_are_drawn_and_asked_for_in_batches():
    sizes = []

    def counting(texts):
        sizes.append(len(texts))
        assert all(text.strip() for text in texts)
        return box(texts)

    reactions(counting, TEXTS, ["sun", "rain"], uses=50, batch=3)
    assert sizes == [3, 1, 3, 3, 2], "four texts that have words, and each of two terms in each"
    assert asked(box, TEXTS).shape == (5, 2)


def test_terms_are_put_in_a_block_at_a_time(monkeypatch):
    terms = ["sun", "rain", "paper", "stone", "sun"]
    monkeypatch.setattr("coopgen_jax.explanation.reaction.BLOCK", 2)
    found = reactions(box, TEXTS, terms, uses=3)
    assert [own[1].mean for own in found] == pytest.approx([2.0, -1.5, 0.0, 0.0, 2.0], abs=1e-9)


@pytest.mark.parametrize(("place", "text"), [(0.0, "sun a b"), (0.5, "a sun b"), (0.99, "a b sun")])
def test_a_term_stands_between_words(place, text):
    assert inserted("a b", "sun", place) == text


def test_all_else_of_a_text_stays_as_it_is():
    def breaks(texts):
        p = np.array([min(0.1 + 0.2 * text.count("\n"), 0.9) for text in texts])
        return np.stack([1 - p, p], axis=-1)

    texts = ["one\n\ntwo  three", "\nfour"]
    for found in reactions(breaks, texts, ["sun"], uses=2)[0]:
        assert found.mean == pytest.approx(0.0) and not found.moves
    for place in (0.0, 0.4, 0.7, 0.99):
        assert inserted(texts[0], "sun", place).replace("sun", "").split() == texts[0].split()
        assert inserted(texts[0], "sun", place).count("\n\n") == 1
    assert inserted("", "sun", 0.0) == "sun"
    assert reactions(box, TEXTS, []) == []


def test_log_odds_are_finite():
    found = log_odds(np.array([[0.0, 1.0], [0.2, 0.8]]))
    assert np.isfinite(found).all()
    assert found[1] == pytest.approx([np.log(0.25), np.log(4)])
