"""The gap between a guide and its teacher, against plain loops."""

import numpy as np
import pytest

from coopgen_jax.training.over_optimisation import (
    LENGTHS,
    Visited,
    by_prefix_length,
    gap_of,
    soft_calibration_error,
)


def some(seed=0, count=12, classes=3):
    rng = np.random.default_rng(seed)
    guide, teacher = (rng.dirichlet(np.ones(classes), count) for _ in range(2))
    texts = tuple(map(str, range(count)))
    targets = rng.integers(0, classes, count).astype(np.int32)
    searched = np.arange(count) % 3 > 0
    return Visited(texts, texts, targets, searched, guide), teacher


def test_the_gap_is_that_of_the_searched_texts():
    visited, teacher = some()
    found = gap_of(visited, teacher)
    gaps, others, same, said, truth = [], [], 0, [], []
    for row, target in enumerate(visited.targets):
        gap = visited.guide[row, target] - teacher[row, target]
        if not visited.searched[row]:
            others.append(gap)
            continue
        gaps.append(gap)
        said.append(visited.guide[row, target])
        truth.append(teacher[row, target])
        same += visited.guide[row].argmax() == teacher[row].argmax()
    assert found["texts"] == len(gaps) == 8
    assert found["gap"] == pytest.approx(sum(gaps) / 8)
    assert found["sampled_gap"] == pytest.approx(sum(others) / 4)
    assert found["agreement"] == same / 8
    assert found["guide"] == pytest.approx(sum(said) / 8)
    assert found["teacher"] == pytest.approx(sum(truth) / 8)
    low, high = found["interval"]
    assert low < found["gap"] < high
    alone = Visited(*[part[1:3] for part in vars(visited).values()][:5])
    assert gap_of(alone, teacher[1:3])["sampled_gap"] is None
    assert gap_of(visited, visited.guide) | {"gap": 0.0, "agreement": 1.0} == gap_of(
        visited, visited.guide
    )


def test_calibration_by_length_counts_every_prefix_once():
    rng = np.random.default_rng(1)
    guide, teacher = rng.dirichlet(np.ones(2), (6, 20)), rng.dirichlet(np.ones(2), 6)
    lengths, targets = [3, 5, 8, 16, 20, 1], np.array([0, 1, 0, 1, 0, 1])
    for row, length in enumerate(lengths):
        guide[row, length:] = np.nan
    found = by_prefix_length(guide, teacher, targets)
    assert list(found) == ["1-4", "5-8", "9-16", "17+"]
    assert sum(part["prefixes"] for part in found.values()) == sum(lengths)
    for (first, last), part in zip(LENGTHS, found.values(), strict=True):
        pairs = [
            (guide[row, at, targets[row]], teacher[row, targets[row]])
            for row, length in enumerate(lengths)
            for at in range(first - 1, min(last or 99, length))
        ]
        said, truth = map(np.array, zip(*pairs, strict=True))
        assert part["guide"] == pytest.approx(said.mean())
        assert part["teacher"] == pytest.approx(truth.mean())
        error = 0.0
        for number in range(15):
            inside = (said >= number / 15) & (said < (number + 1) / 15)
            if inside.any():
                error += inside.mean() * abs(said[inside].mean() - truth[inside].mean())
        assert part["error"] == pytest.approx(error)
    short = by_prefix_length(guide[5:, :4], teacher[5:], targets[5:])
    assert list(short) == ["1-4"]


def test_certainty_falls_into_the_last_part():
    assert soft_calibration_error(np.array([1.0, 0.99]), np.array([1.0, 0.79])) == pytest.approx(
        0.1
    )
