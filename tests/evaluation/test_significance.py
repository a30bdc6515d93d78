"""Paired tests against numbers worked out by hand."""

import itertools

import numpy as np
import pytest

from coopgen_jax.evaluation.significance import holm, mcnemar, perplexity_interval, signed_rank


def test_mcnemar_counts_the_pairs_that_differ():
    one, other = [1] * 7 + [0] * 1 + [1] * 5 + [0] * 4, [0] * 7 + [1] * 1 + [1] * 5 + [0] * 4
    # 7 against 1: twice the chance of at most 1 head in 8 tosses, (1 + 8) / 256.
    assert mcnemar(one, other) == mcnemar(other, one) == pytest.approx(18 / 256)
    assert mcnemar([True, False], [True, False]) == 1
    assert mcnemar([True, False], [False, True]) == 1


def test_the_signed_rank_test_counts_all_signs():
    differences = np.array([1.0, -2.0, 3.0, 4.0, 5.5])
    ranks = np.arange(1, 6)
    sums = [ranks[list(signs)].sum() for signs in itertools.product((True, False), repeat=5)]
    low = ranks[differences < 0].sum()
    expected = 2 * np.mean(np.array(sums) <= low)
    base = np.array([0.5, 1.0, 0.0, 2.0, 3.0])
    assert signed_rank(base + differences, base) == pytest.approx(expected)
    assert signed_rank(base, base) == 1
    # A pair that does not differ says nothing.
    longer = signed_rank([*(base + differences), 7.0], [*base, 7.0])
    assert longer == pytest.approx(expected)


def test_holms_rule():
    # Sorted: 0.01 x 4, 0.02 x 3, 0.03 x 2, 0.9, none below the one in front of it.
    assert holm([0.03, 0.01, 0.9, 0.02]) == pytest.approx([0.06, 0.04, 0.9, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_interval_of_a_perplexity_covers_it_and_weighs_texts_by_their_length():
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 50, 300)
    log_p = -lengths * rng.normal(2.0, 0.3, 300)
    low, high = perplexity_interval(log_p, lengths)
    value = np.exp(-log_p.sum() / lengths.sum())
    assert low < value < high
    draws = [
        np.exp(-log_p[rows].sum() / lengths[rows].sum())
        for rows in (rng.integers(0, 300, 300) for _ in range(2000))
    ]
    assert (low, high) == pytest.approx(np.quantile(draws, [0.025, 0.975]), rel=0.01)
    assert perplexity_interval(np.array([-2.0]), np.array([2])) == pytest.approx((np.e, np.e))
    assert perplexity_interval(np.array([-2.0, -4.0]), np.array([1, 2]))[0] == pytest.approx(
        np.exp(2)
    )


def test_an_impossible_text_has_no_finite_perplexity():
    found = perplexity_interval(np.array([-1.0, -np.inf, -2.0]), np.array([1, 1, 2]))
    assert found == (float("inf"), float("inf"))
