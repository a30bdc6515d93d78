"""A CLIP as a scorer of captions: its vectors, and the neighbours of every image."""

import numpy as np
import pytest

from coopgen_jax.evaluation.clip_vectors import ClipVectors
from coopgen_jax.training.captioning.clip_scorer import clip_scorer


def on_circle(degrees):
    angles = np.radians(np.asarray(degrees, np.float32))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


# A caption is the number of degrees at which it stands; so is the state of an image.
CLIP = ClipVectors(
    "circle",
    "f00d",
    lambda: None,
    lambda states: on_circle(states[:, 0]),
    lambda texts: on_circle([float(text) for text in texts]),
)
# Images 0 to 3 have captions, image 4 is one to validate on.
STATES = np.array([[0.0], [10.0], [40.0], [90.0], [12.0]])
CAPTIONS, IMAGE_OF = ("1", "300", "11", "30", "100"), np.array([0, 0, 1, 2, 3])


@pytest.mark.parametrize(
    "ranks, wanted",
    [
        ((1,), [[1], [0], [1], [2], [1]]),
        ((1, 3), [[1, 3], [0, 3], [1, 3], [2, 0], [1, 2]]),
        # Ranks that there are not are left out.
        ((3, 4, 5), [[3], [3], [3], [0], [2]]),
        ((9,), [[], [], [], [], []]),
    ],
)
def test_neighbours_are_the_images_of_similar_captions(ranks, wanted):
    scorer = clip_scorer(CLIP, STATES, CAPTIONS, IMAGE_OF, ranks=ranks)
    assert scorer.neighbours.tolist() == wanted
    np.testing.assert_array_equal(scorer.images, on_circle(STATES[:, 0]))
    np.testing.assert_array_equal(scorer.embed(["5"]), on_circle([5]))
    assert scorer.identity == "f00d"
