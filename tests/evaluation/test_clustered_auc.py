"""The area under the ROC curve and its interval, against pairs one by one and known formulas."""

import numpy as np
import pytest
from scipy.stats import norm

from coopgen_jax.evaluation.clustered_auc import clustered_auc


def slow(scores, positive, clusters):
    """Returns the area and its variance by the sums of Obuchowski's equations."""
    high, low = scores[positive], scores[~positive]
    beats = (high[:, None] > low[None]) + 0.5 * (high[:, None] == low[None])
    area = beats.mean()
    groups = np.unique(clusters)
    factor = len(groups) / (len(groups) - 1)
    tens = [(beats.mean(1)[clusters[positive] == one] - area).sum() for one in groups]
    ones = [(beats.mean(0)[clusters[~positive] == one] - area).sum() for one in groups]
    m, n = len(high), len(low)
    s10 = factor / m * sum(x * x for x in tens)
    s01 = factor / n * sum(y * y for y in ones)
    s11 = factor * sum(x * y for x, y in zip(tens, ones, strict=True))
    return area, s10 / m + s01 / n + 2 * s11 / (m * n)


@pytest.mark.parametrize("seed", range(4))
def test_area_and_interval_are_those_of_pairs_one_by_one(seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 12, 60) / 4
    positive = rng.uniform(size=60) < 0.4
    clusters = rng.integers(0, 15, 60)
    area, (low, high) = clustered_auc(scores, positive, clusters)
    wanted, variance = slow(scores, positive, clusters)
    assert area == pytest.approx(wanted, abs=1e-12)
    half = norm.ppf(0.975) * np.sqrt(variance)
    assert (low, high) == pytest.approx((max(0, wanted - half), min(1, wanted + half)), abs=1e-12)


def test_pairs_of_equal_scores_are_a_half_for_sure():
    """Every cluster has one score on both sides: nothing can be told, and no sample would."""
    scores = np.tile([0.1, 0.4, 0.4, 0.9], 2)
    area, interval = clustered_auc(scores, np.arange(8) < 4, np.tile(np.arange(4), 2))
    assert area == 0.5 and interval == pytest.approx((0.5, 0.5), abs=1e-12)


def test_the_interval_covers_the_area_as_often_as_it_says():
    """Clusters of two positives and two negatives that share a shift; the true area is known."""
    rng = np.random.default_rng(0)
    wanted = norm.cdf(0.7 / np.sqrt(2 * (1 + 1)))
    inside = 0
    for _ in range(300):
        shift = np.repeat(rng.normal(size=80), 4)
        positive = np.tile([True, True, False, False], 80)
        scores = shift + rng.normal(size=320) + 0.7 * positive
        _, (low, high) = clustered_auc(scores, positive, np.repeat(np.arange(80), 4))
        inside += low <= wanted <= high
    assert 0.91 < inside / 300 <= 0.99


def test_one_side_or_one_cluster_says_nothing():
    area, interval = clustered_auc(np.ones(3), np.ones(3, bool), np.arange(3))
    assert np.isnan(area) and interval == (0.0, 1.0)
    area, interval = clustered_auc(np.array([0.0, 1]), np.array([False, True]), np.array(["a"] * 2))
    assert (area, interval) == (1.0, (0.0, 1.0))
