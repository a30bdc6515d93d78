"""What a search has found out about the next token: the children of its root, and their values.

`generate` shows a listener every tree (`text_generation.Step`); this reads what is worth learning
from it.
"""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from coopgen_jax.search.tree import Tree


@dataclass(frozen=True, eq=False)
class RootChildren:
    """The candidates of every root, in NumPy; see `search.tree.Tree`.

    Attributes:
      tokens: `[B, R, K]` int32.
      priors: `[B, R, K]` float32, 0 where there is no candidate.
      visits: `[B, R, K]` int32, 0 where a candidate was not tried.
      values: `[B, R, K]` float64, the guide's mean probability of the target over the evaluations
        at and below a child; 0 without visits.
    """

    tokens: np.ndarray
    priors: np.ndarray
    visits: np.ndarray
    values: np.ndarray


def root_children(tree: Tree, target: np.ndarray) -> RootChildren:
    """Returns what a search says of every root's candidates.

    A value is the guide's part alone: the evaluations p(target | text) of a child and of all nodes
    below it, each as often as it was credited, are backed up as their mean. In a search that also
    weighs likelihood (`alpha` below 1) or a reference, the visits have followed those too, and the
    values still are probabilities. Nodes that re-rooting dropped do not count.

    Args:
      tree: trees as a `Step` has them, `[B, R, ...]`.
      target: `[B]` class numbers.
    """
    found: Any = jax.device_get(tree)
    batch, samples, nodes = found.visits.shape
    index = np.broadcast_to(np.asarray(target)[:, None, None, None], (batch, samples, nodes, 1))
    own = np.exp(np.take_along_axis(found.log_class, index, axis=-1)[..., 0].astype(np.float64))
    count = np.where(found.visits > 0, found.credits, 0).astype(np.float64)
    total = count * own
    rows, lanes = np.meshgrid(np.arange(batch), np.arange(samples), indexing="ij")
    # A child's index is higher than its parent's.
    for node in range(nodes - 1, 0, -1):
        above = np.maximum(found.parent[:, :, node], 0)
        for array in (total, count):
            array[rows, lanes, above] += array[:, :, node]
    child = found.children[:, :, 0]
    below = np.maximum(child, 0)
    visits, sums, times = (
        np.take_along_axis(array, below, axis=2) for array in (found.visits, total, count)
    )
    tried = (child >= 0) & (visits > 0)
    return RootChildren(
        found.tokens[:, :, 0],
        found.priors[:, :, 0],
        np.where(tried, visits, 0),
        np.where(tried, sums / np.maximum(times, 1), 0.0),
    )
