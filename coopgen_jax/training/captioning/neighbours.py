"""Similar images for a contrastive reward: exact search by blocks, by global id."""

from collections.abc import Sequence

import numpy as np

from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.similar_images import Comparison, similar_images

# Ranks that the thesis keeps of the five nearest: nearer images make rewards so negative that
# training collapses without an offset.
RANKS = (4, 5)


def mine_neighbours(
    queries: np.ndarray,
    query_ids: np.ndarray,
    keys: np.ndarray,
    key_ids: np.ndarray,
    *,
    ranks: Sequence[int] = RANKS,
    block: int | None = None,
) -> np.ndarray:
    """Returns the images at the given ranks of similarity to every query, `[Q, ranks]` int.

    An image is as similar as the most similar of its keys, which may be captions or the image
    itself. A query's own image is never among the ranks, wherever it stands: it is left out by its
    global id. Of equally similar images the one with the smaller id comes first. The search is
    exact; every query is compared with every key.

    Args:
      queries: `[Q, F]` unit embeddings.
      query_ids: `[Q]` global id of each query's image.
      keys: `[N, F]` unit embeddings.
      key_ids: `[N]` global id of each key's image; several keys may have one.
      ranks: which of the others, from 1, the most similar.
      block: queries compared at a time; None for as many as memory is kept for.

    Raises:
      ValueError: a rank is below 1, or there is none.
      UserError: a query has fewer other images than the highest rank.
    """
    ranks = tuple(ranks)
    if not ranks or min(ranks) < 1:
        raise ValueError(f"ranks are {ranks}: give numbers from 1")
    images, number = np.unique(np.asarray(key_ids), return_inverse=True)
    own = np.searchsorted(images, query_ids)
    known = (own < len(images)) & (images[np.minimum(own, len(images) - 1)] == query_ids)
    own = np.where(known, own, -1)
    least = len(images) - int(known.any())
    if least < max(ranks):
        raise UserError(
            f"rank {max(ranks)} of similar images is asked for, and there are {least} others: give "
            "lower ranks or more images"
        )
    compared = Comparison(queries, keys, number)
    found, _ = similar_images(compared, own, len(images), ranks=ranks, block=block)
    return images[found]
