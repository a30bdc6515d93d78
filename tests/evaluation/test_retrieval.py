"""Retrieval figures, against counting over every order of ties."""

import itertools

import numpy as np
import pytest

from coopgen_jax.evaluation.retrieval import (
    image_retrieval,
    ranked,
    retrieval_figures,
    text_retrieval,
)


def by_orders(row: np.ndarray, own: np.ndarray, cut: int) -> tuple[float, float]:
    """Recall and reciprocal rank, the mean over all orders of the elements."""
    hits, ranks = [], []
    for order in itertools.permutations(range(len(row))):
        placed = sorted(order, key=lambda place: -row[place])  # sorting keeps the order of ties
        rank = 1 + next(rank for rank, place in enumerate(placed) if own[place])
        hits.append(rank <= cut)
        ranks.append(1 / rank)
    return float(np.mean(hits)), float(np.mean(ranks))


def test_ties_count_as_the_mean_over_their_orders():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 3, (40, 6)).astype(float)
    own = rng.random((40, 6)) < 0.3
    own[np.arange(40), rng.integers(0, 6, 40)] = True
    for cut in (1, 2, 5):
        found = ranked(scores, own, cuts=(cut,))
        for query in range(40):
            recall, reciprocal = by_orders(scores[query], own[query], cut)
            assert found[f"recall_{cut}"][query] == pytest.approx(recall, abs=1e-9)
            assert found["reciprocal_rank"][query] == pytest.approx(reciprocal, abs=1e-9)


def test_a_scorer_without_an_opinion_gets_what_chance_gets():
    same, image_of = np.zeros((20, 20)), np.arange(20)
    for direction in (image_retrieval, text_retrieval):
        found = direction(same, image_of)
        for cut in (1, 5, 10):
            np.testing.assert_allclose(found[f"recall_{cut}"], cut / 20, rtol=1e-9)
        chance = np.mean(1 / np.arange(1, 21))
        np.testing.assert_allclose(found["reciprocal_rank"], chance, rtol=1e-9)


def test_ranks_are_those_of_sorting_both_ways():
    rng = np.random.default_rng(1)
    scores = rng.standard_normal((30, 30))
    images, texts = (
        direction(scores, np.arange(30)) for direction in (image_retrieval, text_retrieval)
    )
    for number in range(30):
        rank = 1 + list(np.argsort(-scores[number])).index(number)
        assert images["reciprocal_rank"][number] == pytest.approx(1 / rank)
        assert images["recall_5"][number] == pytest.approx(float(rank <= 5))
        rank = 1 + list(np.argsort(-scores[:, number])).index(number)
        assert texts["reciprocal_rank"][number] == pytest.approx(1 / rank)


def test_the_best_of_several_captions_counts():
    scores = np.asarray([[0.9, 0.1, 0.0], [0.2, 0.3, 0.0], [0.1, 0.8, 0.0]])
    image_of = np.asarray([0, 0, 1])
    texts = text_retrieval(scores, image_of)
    # The third image has no caption.
    np.testing.assert_allclose(texts["recall_1"], [1, 1])
    np.testing.assert_allclose(image_retrieval(scores, image_of)["recall_1"], [1, 0, 1])


def test_figures_have_intervals():
    figures = retrieval_figures({"recall_1": np.asarray([1.0, 0.0, 1.0, 1.0] * 10)})
    low, high = figures["recall_1"]["interval"]
    assert low < figures["recall_1"]["value"] == 0.75 < high


def test_what_has_no_rank_is_refused():
    with pytest.raises(ValueError, match="no element"):
        ranked(np.zeros((2, 2)), np.asarray([[True, False], [False, False]]))
    with pytest.raises(ValueError, match="not a number"):
        image_retrieval(np.full((2, 2), np.nan), np.arange(2))
