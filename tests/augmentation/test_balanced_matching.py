"""Balanced matchings, against all permutations of a few captions."""

from collections import Counter
from itertools import permutations

import numpy as np
import pytest

from coopgen_jax.augmentation.balanced_matching import balanced_matching


def best_permutation(candidates, scores, image_of) -> tuple[int, float]:
    """Returns the most captions used, and the highest sum of scores, over all permutations."""
    wanted = [
        {image: float(score) for image, score in zip(*rows, strict=True) if image != -1}
        for rows in zip(candidates, scores, strict=True)
    ]
    found = []
    for order in permutations(range(len(image_of))):
        used, total = 0, 0.0
        for caption, giver in enumerate(order):
            if caption == giver:
                continue
            if image_of[giver] not in wanted[caption]:
                break
            used, total = used + 1, total + wanted[caption][image_of[giver]]
        else:
            found.append((used, total))
    return max(found)


def world(seed: int, captions: int, images: int, most: int):
    """Images from 10 on in any order; scores are eighths, so that sums are exact."""
    rng = np.random.default_rng(seed)
    image_of = 10 + rng.integers(0, images, captions)
    candidates = np.full((captions, most), -1)
    for caption in range(captions):
        others = np.setdiff1d(10 + np.arange(images), image_of[caption])
        some = rng.permutation(others)[: rng.integers(0, most + 1)]
        candidates[caption, : len(some)] = some
    scores = rng.integers(-8, 9, candidates.shape) / 8
    return candidates, np.where(candidates == -1, -np.inf, scores), image_of


@pytest.mark.parametrize("seed", range(6))
def test_matchings_use_most_captions_and_have_the_highest_scores(seed):
    candidates, scores, image_of = world(seed, captions=7, images=5, most=3)
    chosen = balanced_matching(candidates, scores, image_of)
    used = chosen != -1
    total = sum(scores[at][list(candidates[at]).index(chosen[at])] for at in np.flatnonzero(used))
    assert (used.sum(), total) == best_permutation(candidates, scores, image_of)
    assert Counter(chosen[used]) == Counter(image_of[used])


def test_an_image_near_to_all_is_false_as_often_as_it_is_true():
    """Image 0 is the nearest of all others, and has two captions of twenty."""
    image_of = np.array([0, 0, *range(1, 19)])
    rng = np.random.default_rng(0)
    candidates = np.array([[*np.setdiff1d(np.arange(19), own)] for own in image_of])
    scores = np.where(candidates == 0, 0.9, rng.uniform(0, 0.5, candidates.shape))
    nearest = candidates[np.arange(20), scores.argmax(axis=1)]
    assert Counter(nearest)[0] == 18
    chosen = balanced_matching(candidates, scores, image_of)
    assert Counter(chosen) == Counter(image_of)


def test_captions_without_candidates_are_used_nowhere():
    image_of = np.array([0, 1, 2])
    candidates = np.array([[1, 2], [0, -1], [-1, -1]])
    scores = np.array([[0.1, 0.9], [0.2, -np.inf], [-np.inf, -np.inf]])
    assert balanced_matching(candidates, scores, image_of).tolist() == [1, 0, -1]
    nothing = np.full((3, 2), -1)
    assert balanced_matching(nothing, np.full((3, 2), -np.inf), image_of).tolist() == [-1] * 3
    assert balanced_matching(nothing[:0], scores[:0], image_of[:0]).shape == (0,)


def test_the_own_image_is_no_candidate():
    with pytest.raises(ValueError, match="among its candidates"):
        balanced_matching(np.array([[0]]), np.array([[0.5]]), np.array([0]))
