"""A balanced choice of false images: each image and each caption is as often true as false.

A detector that knows only the images must find nothing: an image that is shown with false captions
more often than with true ones is a cue. The nearest image of every caption makes such images, as a
few images are near to many captions. So captions are matched to one another: a caption takes the
image of the caption that it is matched to, and the matching is one to one. The captions that are
used then are a permutation of themselves, and an image is false as often as its captions are true.

`n` captions; each has up to `K` candidate images.
"""

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

UNUSED = -1


def balanced_matching(
    candidates: np.ndarray, scores: np.ndarray, image_of: np.ndarray
) -> np.ndarray:
    """Returns the false image of every caption, `[n]` int, -1 where it has none.

    As many captions as can be have one, and the sum of their scores is the highest: the assignment
    is exact (Jonker and Volgenant's algorithm for sparse costs, as SciPy has it), where a greedy
    choice leaves captions over whose candidates are taken. A caption without a false image gives
    its image to no other, so that it is neither true nor false: use it nowhere.

    Args:
      candidates: `[n, K]` int, the images that may be false of each caption, -1 for none; each
        image at most once in a row, and never the caption's image.
      scores: `[n, K]` how wanted each candidate is, finite where there is one.
      image_of: `[n]` int, the image that each caption is true of.

    Raises:
      ValueError: a caption's image is among its candidates.
    """
    rows = np.arange(len(image_of))
    if (candidates == image_of[:, None]).any():
        raise ValueError("a caption's image is among its candidates")
    if not len(rows):
        return np.zeros(0, np.int64)
    # A candidate image has a place for each of its captions.
    order = np.argsort(image_of, kind="stable")
    sorted_images = image_of[order]
    caption, place = np.nonzero(candidates != UNUSED)
    wanted = candidates[caption, place]
    first = np.searchsorted(sorted_images, wanted, "left")
    count = np.searchsorted(sorted_images, wanted, "right") - first
    edge = np.repeat(np.arange(len(caption)), count)
    offset = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count)
    giver = order[first[edge] + offset]
    cost = scores.astype(np.float64)[caption, place][edge]
    top = cost.max(initial=0.0)
    # Costs from 1: an entry of 0 would be no entry. One caption that is matched to itself costs
    # more than all others can save.
    cost = 1 + top - cost
    alone = 1 + len(rows) * (cost.max(initial=1.0) + 1)
    costs = csr_matrix(
        (
            np.concatenate([cost, np.full(len(rows), alone)]),
            (np.concatenate([caption[edge], rows]), np.concatenate([giver, rows])),
        ),
        shape=(len(rows), len(rows)),
    )
    taker, giver = min_weight_full_bipartite_matching(costs)
    chosen = np.full(len(rows), UNUSED, np.int64)
    chosen[taker] = np.where(taker == giver, UNUSED, image_of[giver])
    return chosen
