"""The choice of sizes and settings, under seconds and scores that the tests give."""

import pytest

from coopgen_jax.comparison.choosing import Choice, Score, chosen, fitted

SIZES = [2, 4, 8, 16]
COSTS = {2: 1.0, 4: 2.0, 8: 4.0, 16: 8.0}


def timed(costs):
    """Returns a stop-watch of given seconds, and the list of what it was asked for."""
    asked = []

    def seconds_of(candidate):
        if candidate not in asked:
            asked.append(candidate)
        return costs[candidate]

    return seconds_of, asked


@pytest.mark.parametrize(
    ("budget", "start", "grow", "size", "fits", "timed_ones"),
    [
        (4.0, 0, True, 8, True, [2, 4, 8, 16]),  # what takes exactly the seconds fits
        (3.9, 0, True, 4, True, [2, 4, 8]),
        (99.0, 0, True, 16, True, [2, 4, 8, 16]),
        (0.5, 0, True, 2, False, [2]),
        (4.0, 1, False, 4, True, [4]),
        (2.5, 2, False, 4, True, [8, 4]),
        (2.5, 3, True, 4, True, [16, 8, 4]),
        (0.5, 2, True, 2, False, [8, 4, 2]),
        (99.0, 9, True, 16, True, [16]),
    ],
)
def test_the_largest_size_that_fits_is_found(budget, start, grow, size, fits, timed_ones):
    seconds_of, asked = timed(COSTS)
    assert fitted(SIZES, seconds_of, budget, start=start, grow=grow) == Choice(size, fits)
    assert asked == timed_ones


def test_without_a_limit_nothing_is_timed():
    seconds_of, asked = timed({})
    assert fitted(SIZES, seconds_of, float("inf")) == Choice(16, True) and asked == []


def candidates(costs):
    """Returns the candidates of settings, each a letter, by what a size of 1 costs in them."""
    settings = [[f"{letter}{size}" for size in SIZES] for letter in costs]
    return settings, {
        f"{letter}{size}": cost * size for letter, cost in costs.items() for size in SIZES
    }


@pytest.mark.parametrize(
    ("refit", "scores", "wanted"),
    [
        # The first setting fits with 8, b is half as dear, and c twice.
        (False, {"a8": 0.1, "b8": 0.3, "c4": 0.2}, "b8"),
        (True, {"a8": 0.1, "b16": 0.3, "c4": 0.2}, "b16"),
        (False, {"a8": 0.1, "b8": 0.1, "c4": 0.2}, "c4"),
        (False, {"a8": 0.1, "b8": 0.1, "c4": 0.1}, "a8"),
    ],
)
def test_the_best_setting_is_taken_at_the_size_that_fits(refit, scores, wanted):
    settings, costs = candidates({"a": 1.0, "b": 0.5, "c": 2.0})
    scored = {name: Score(mean) for name, mean in scores.items()}
    found = chosen(settings, costs.__getitem__, scored.__getitem__, 8.0, refit=refit)
    assert found == Choice(wanted, True)


def test_what_fits_goes_before_what_scores_better():
    settings, costs = candidates({"a": 9.0, "b": 1.0})
    scores = {"a2": Score(0.9), "b4": Score(0.1), "b2": Score(0.1)}
    found = chosen(settings, costs.__getitem__, scores.__getitem__, 4.0)
    assert found == Choice("b2", True)
    nothing = chosen(settings, costs.__getitem__, scores.__getitem__, 1.0)
    assert nothing == Choice("a2", False)


@pytest.mark.parametrize(
    ("error", "wanted"), [(0.0, "a2"), (0.09, "a2"), (0.11, "b2"), (0.31, "c2"), (9.0, "c2")]
)
def test_where_scores_are_as_good_as_equal_perplexity_decides(error, wanted):
    settings, costs = candidates({"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0})
    # Whose own error is large says nothing: that of the best counts.
    scores = {"a2": Score(-0.2, error, 30.0), "b2": Score(-0.3, 9.0, 20.0),
              "c2": Score(-0.5, 9.0, 10.0), "d2": Score(-0.5, 9.0, 10.0)}  # fmt: skip
    found = chosen([row[:1] for row in settings], costs.__getitem__, scores.__getitem__, 9.0)
    assert found == Choice(wanted, True)
