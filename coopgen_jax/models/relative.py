"""Relative positions as T5 has them: a learned number per head and bucket of distances.

Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer"
(JMLR 2020, arXiv 1910.10683, section 2.1): what is added to the score of a query and a key depends
on how far apart they stand. Small distances have buckets of their own, larger ones share buckets
that grow logarithmically, and from `reach` on all share the last. No position stands in what is
cached, so that a key is right wherever it is read from.
"""

import jax
import jax.numpy as jnp
import numpy as np


def buckets_of(distance: np.ndarray, buckets: int, reach: int) -> np.ndarray:
    """Returns the bucket of every distance, each 0 or more, of the `buckets` of one direction."""
    own = buckets // 2
    # In single precision, as the trained networks had it.
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(own))
    large = own + (ratio / np.float32(np.log(reach / own)) * np.float32(buckets - own)).astype(int)
    return np.where(distance < own, distance, np.minimum(large, buckets - 1))


def bias_before(table: jax.Array, distance: jax.Array, reach: int) -> jax.Array:
    """Returns what is added to the scores of keys in front of their query, `[..., H]` float32.

    It is looked up in the learned `table` `[buckets, H]` by how many tokens the query stands behind
    the key, `[...]` int32; what is returned for less than 0 means nothing.
    """
    places = buckets_of(np.arange(reach + 1), table.shape[0], reach)
    by_distance = table.astype(jnp.float32)[places]
    return by_distance[jnp.clip(distance, 0, reach)]


def bias_around(table: jax.Array, ahead: jax.Array, reach: int) -> jax.Array:
    """Returns what is added to the scores of keys on either side of their query; see `bias_before`.

    By `ahead` tokens a key stands behind its query; the table's first half is of those in front.
    """
    half = table.shape[0] // 2
    known = np.arange(-reach, reach + 1)
    places = buckets_of(np.abs(known), half, reach) + half * (known > 0)
    by_distance = table.astype(jnp.float32)[places]
    return by_distance[jnp.clip(ahead, -reach, reach) + reach]
