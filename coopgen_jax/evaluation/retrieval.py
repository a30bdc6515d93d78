"""Retrieval: whether a caption finds its image among all, and an image its caption.

Ranks come from a matrix of similarities under a scorer that stands still. Ties are broken fairly:
every figure is its expectation over all orders of equally similar elements. So a scorer that gives
everything the same similarity gets what chance gets, and figures depend on no order of rows.
"""

from collections.abc import Sequence

import numpy as np
from scipy.special import gammaln

from coopgen_jax.evaluation.metrics import bootstrap_interval

CUTS = (1, 5, 10)


def image_retrieval(similarities: np.ndarray, image_of: np.ndarray) -> dict[str, np.ndarray]:
    """Returns how well every caption finds its image, text to image: see `ranked`.

    Args:
      similarities: `[T, I]` of every caption with every image.
      image_of: `[T]` int number of a caption's image.
    """
    own = np.asarray(image_of)[:, None] == np.arange(similarities.shape[1])[None, :]
    return ranked(similarities, own)


def text_retrieval(similarities: np.ndarray, image_of: np.ndarray) -> dict[str, np.ndarray]:
    """Returns how well every image finds a caption, image to text: see `ranked`.

    Of several captions of an image the best one counts. An image without captions is left out.
    """
    own = np.arange(similarities.shape[1])[:, None] == np.asarray(image_of)[None, :]
    there = own.any(axis=-1)
    return ranked(similarities.T[there], own[there])


def ranked(
    similarities: np.ndarray, own: np.ndarray, *, cuts: Sequence[int] = CUTS
) -> dict[str, np.ndarray]:
    """Returns for every query how its best own element ranks, by name of the figure, `[Q]` each.

    `recall_K` is the probability that the element is among the first K, `reciprocal_rank` the
    expectation of 1 / rank, both over all orders of ties.

    Args:
      similarities: `[Q, N]` of every query with every element.
      own: `[Q, N]` bool, which elements are the query's; each has one or more.
      cuts: the values of K.

    Raises:
      ValueError: a query has no element, or a similarity is no number.
    """
    if not own.any(axis=-1).all():
        raise ValueError("a query has no element that it should find")
    if np.isnan(similarities).any():
        raise ValueError("a similarity is not a number")
    best = np.max(np.where(own, similarities, -np.inf), axis=-1, keepdims=True)
    above = np.sum(similarities > best, axis=-1)
    level = np.sum((similarities == best) & ~own, axis=-1)
    mine = np.sum((similarities == best) & own, axis=-1)
    found = {f"recall_{cut}": 1 - _none_before(cut - above, level, mine) for cut in cuts}
    reciprocal = np.zeros(len(best))
    for place in range(1, int(level.max(initial=0)) + 2):
        there = _none_before(np.asarray(place - 1), level, mine)
        there = there - _none_before(np.asarray(place), level, mine)
        reciprocal += there / (above + place)
    return found | {"reciprocal_rank": reciprocal}


def retrieval_figures(each: dict[str, np.ndarray]) -> dict[str, dict]:
    """Returns the means of `ranked` with 95 % intervals by bootstrap over queries."""
    return {
        name: {"value": float(values.mean()), "interval": list(bootstrap_interval(values))}
        for name, values in each.items()
    }


def _none_before(places: np.ndarray, level: np.ndarray, mine: np.ndarray) -> np.ndarray:
    """Returns the probability that none of `mine` is among the first `places` of a random order.

    The order is one of `mine + level` elements: C(level, places) / C(level + mine, places).
    """
    taken = np.clip(places, 0, None)
    inside = np.minimum(taken, level)
    log_share = (
        gammaln(level + 1)
        - gammaln(level - inside + 1)
        + gammaln(level + mine - inside + 1)
        - gammaln(level + mine + 1)
    )
    return np.where(taken > level, 0.0, np.exp(log_share))
