"""False positives of the tests that users get, on texts that repeat themselves as people do."""

import numpy as np
import pytest

from experiments.watermark_rates import RateSettings, false_positive_rates, rate_with_interval

WORDS, TEXTS, KEYS = 4000, 50, 800


def repetitive_texts(count: int) -> list[list[int]]:
    """Returns texts of words as frequent as their rank's inverse, in which phrases come again."""
    rng = np.random.default_rng(3)
    frequency = 1 / np.arange(1, WORDS + 1)
    texts = []
    for _ in range(count):
        phrases = [rng.choice(WORDS, rng.integers(5, 12), p=frequency / frequency.sum())
                   for _ in range(24)]  # fmt: skip
        # Of 24 phrases a few come often.
        order = np.minimum(rng.geometric(0.12, 30) - 1, 23)
        texts.append(np.concatenate([phrases[place] for place in order])[:200].tolist())
    return texts


@pytest.fixture(scope="module")
def rates():
    return false_positive_rates(repetitive_texts(TEXTS), RateSettings(keys=KEYS, seed=1))


@pytest.mark.parametrize("window", [0, 1, 4])
@pytest.mark.parametrize("level", ["0.01", "0.001", "0.0001"])
def test_with_each_pair_scored_once_the_rates_are_what_is_promised(rates, window, level):
    nominal = float(level)

    def found(test):
        row = rates[f"h {window}, {test}, each pair once"][level]
        assert row["tests"] == TEXTS * KEYS
        # Of 27 intervals all are to hold: three standard errors in place of 1.96.
        half = (row["interval"][1] - row["rate"]) * 3 / 1.96
        return row["rate"], (row["rate"] - half, row["rate"] + half)

    for test in ("gumbel exact", "greenlist randomised"):
        _, (low, high) = found(test)
        assert low <= nominal <= high, test
    rate, (low, _) = found("greenlist exact")
    # A discrete test keeps its promise with some to spare.
    assert low <= nominal and rate <= 1.5 * nominal + 3 / 40_000


@pytest.mark.parametrize("window", [0, 1, 4])
def test_repeats_and_normal_approximations_break_the_promise(rates, window):
    for test in ("greenlist exact", "gumbel exact", "greenlist z", "gumbel z"):
        row = rates[f"h {window}, {test}"]["0.0001"]
        assert row["interval"][0] > 3e-4, test


def test_intervals_are_of_clusters_of_keys_and_of_texts():
    rng = np.random.default_rng(0)
    independent = rng.random((200, 300)) < 0.1
    half = np.diff(rate_with_interval(independent)["interval"])[0] / 2
    assert half == pytest.approx(1.96 * np.sqrt(0.09 / 60_000), rel=0.15)
    # All texts of a key alike: as many observations as keys.
    alike = np.repeat(rng.random((200, 1)) < 0.1, 300, axis=1)
    share = alike.mean()
    half = rate_with_interval(alike)["interval"][1] - share
    assert half == pytest.approx(1.96 * np.sqrt(share * (1 - share) / 200), rel=0.05)
    assert rate_with_interval(np.zeros((10, 30), bool))["interval"] == [0, 0.01]
