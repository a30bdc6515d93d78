"""A CLIP as the scorer that rewards captions."""

from collections.abc import Sequence

import numpy as np

from coopgen_jax.evaluation.clip_vectors import ClipVectors
from coopgen_jax.training.captioning.caption_round import Scorer
from coopgen_jax.training.captioning.neighbours import RANKS, mine_neighbours


def clip_scorer(
    clip: ClipVectors,
    states: np.ndarray,
    captions: Sequence[str],
    image_of: np.ndarray,
    *,
    ranks: Sequence[int] = RANKS,
) -> Scorer:
    """Returns what rewards captions of images.

    An image's neighbours are those whose captions are most similar to it, of the ranks that there
    are (Chaffin et al. 2024, arXiv 2402.13936).

    Args:
      clip: what makes vectors.
      states: `[n, E]` of all images, by its backbone.
      captions: references; images without one, as those to validate on, are no neighbours.
      image_of: `[T]` the row of each caption's image.
      ranks: which of the most similar images are neighbours, from 1.
    """
    images = clip.images(states)
    others = len(np.unique(image_of)) - 1
    there = tuple(rank for rank in ranks if rank <= others)
    near = np.zeros((len(images), 0), np.int32)
    if there:
        texts = clip.texts(captions)
        near = mine_neighbours(images, np.arange(len(images)), texts, image_of, ranks=there)
    return Scorer(images, near, clip.texts, identity=clip.sha256)
