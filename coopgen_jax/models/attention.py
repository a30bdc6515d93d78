"""What a query attends to: its own sequence, or the regions of a slot cache, under one softmax."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from coopgen_jax.models.product import product
from coopgen_jax.models.slots import Slots

NEGATIVE = -1e30  # finite, so that a row with nothing to attend to stays free of NaN


@struct.dataclass
class SlotCache:
    """Keys and values of everything read so far, each token's written once.

    A query attends to three regions: the prompt, shared by a prompt's `R` samples and never
    repeated; the trunk, which all `W` nodes of a sample read in place; and the nodes, of which it
    gathers its own path.

    The prompt's are `[L, B, P, G * Eh]`, and its mask is `[B, P]`; in `Slots` those of nodes are
    `[L, B, R, N, G * Eh]` and those of the trunk `[L, B, R, T, G * Eh]`: see `flat_heads`.
    """

    prompt_keys: jax.Array
    prompt_values: jax.Array
    prompt_mask: jax.Array
    keys: Slots
    values: Slots

    @property
    def trunk_length(self) -> int:
        """How many tokens a trunk has room for."""
        assert self.keys.trunk is not None, "a language model's cache has a trunk"
        return self.keys.trunk.shape[self.keys.lead + 2]


def flat_heads(x: jax.Array) -> jax.Array:
    """Returns keys or values `[..., G, Eh]` as they are cached, `[..., G * Eh]`.

    A TPU fills the last axis up to 128 numbers and the one in front of it up to 8 or 16. Of heads
    it would fill up both, and copy the cache wherever another order of axes takes less.
    """
    return x.reshape(*x.shape[:-2], -1)


def by_heads(entries: jax.Array, own: jax.Array) -> jax.Array:
    """Returns cached entries `[..., G * Eh]` by the heads of an array `[..., G, Eh]`."""
    return entries.reshape(*entries.shape[:-1], *own.shape[-2:])


def softmax_parts(scores: Sequence[jax.Array], masks: Sequence[jax.Array]) -> list[jax.Array]:
    """Softmax over the last axis `[..., S_i]` of all parts together, part by part, in float32."""
    masked = [
        jnp.where(jnp.broadcast_to(mask, score.shape), score.astype(jnp.float32), NEGATIVE)
        for score, mask in zip(scores, masks, strict=True)
    ]
    # One softmax over everything, not one per part: it is the number of small operations that a
    # layer pays for when there are few rows.
    weights = jax.nn.softmax(jnp.concatenate(masked, axis=-1), axis=-1)
    ends = np.cumsum([score.shape[-1] for score in scores])
    return jnp.split(weights, ends[:-1].tolist(), axis=-1)


def attend_causal(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array,
    *,
    scale: float | None = None,
    bias: jax.Array | None = None,
) -> jax.Array:
    """Attention of some positions of a sequence, or all of them, to that sequence.

    Args:
      query: `[B, Q, H, Eh]`, as what is returned.
      key: `[B, S, G, Eh]`; each key head serves `H / G` query heads.
      value: `[B, S, G, Eh]`.
      mask: `[B, Q, S]` bool, true where the query (second axis) may see the key (third).
      scale: what scores are multiplied by; by default the root of the heads' width, inverted.
      bias: `[1, G, H / G, Q, S]` float32 what is added to the scores, None for nothing.
    """
    groups, width = key.shape[-2:]
    q = query.reshape(*query.shape[:2], groups, -1, width) * (scale or width**-0.5)
    dtype = str(key.dtype)
    scores = product("bsghe,btge->bghst", q, key, dtype)
    if bias is not None:
        scores = scores + bias
    (weights,) = softmax_parts([scores], [mask[:, None, None]])
    attended = product("bghst,btge->bsghe", weights, value, dtype)
    return attended.reshape(query.shape).astype(query.dtype)


def attend_slots(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    prompt: tuple[jax.Array, jax.Array, jax.Array],
    trunk: tuple[jax.Array, jax.Array, jax.Array],
    path: tuple[jax.Array, jax.Array, jax.Array],
    scale: float | None = None,
    bias: Sequence[jax.Array] | None = None,
) -> jax.Array:
    """Attention of tree nodes to the prompt, the trunk, their paths and themselves.

    Args:
      query: `[B, R * W, H, Eh]`, as what is returned.
      key: `[B, R * W, G, Eh]`, the nodes' own.
      value: `[B, R * W, G, Eh]`.
      prompt: cached keys and values `[B, P, G * Eh]` and mask `[B, P]`.
      trunk: keys and values `[B, R, T, G * Eh]` and mask `[B, R, T]`.
      path: keys and values `[B, R, W, D, G * Eh]`, gathered for every node, and their mask
        `[B, R, W, D]`; or those of all slots `[B, R, N, G * Eh]`, and which of them are on a node's
        path `[B, R, W, N]`.
      scale: what scores are multiplied by; by default the root of the heads' width, inverted.
      bias: what is added to the scores of prompt, trunk, path and the node itself, float32 arrays
        that broadcast to `[B, R, W, G, H / G, S]`; None for nothing.
    """
    batch, samples, wave, _ = path[2].shape
    groups, width = key.shape[-2:]
    q = query.reshape(batch, samples, wave, groups, -1, width) * (scale or width**-0.5)
    own_key = key.reshape(batch, samples, wave, groups, width)
    own_value = value.reshape(batch, samples, wave, groups, width)

    def times(axes: str, one: jax.Array, other: jax.Array) -> jax.Array:
        # A region may be float32 in a bfloat16 network: what PPLM adds to it is too small for less.
        return product(axes, one, other, str(jnp.promote_types(key.dtype, other.dtype)))

    prompt_key, prompt_value, trunk_key, trunk_value, path_key, path_value = (
        by_heads(entries, key) for entries in (*prompt[:2], *trunk[:2], *path[:2])
    )
    above = "brwdge" if path_key.ndim == 6 else "brdge"
    parts = [
        times("brwghe,bpge->brwghp", q, prompt_key),
        times("brwghe,brtge->brwght", q, trunk_key),
        times(f"brwghe,{above}->brwghd", q, path_key),
        times("brwghe,brwge->brwgh", q, own_key)[..., None],
    ]
    if bias is not None:
        parts = [part + added for part, added in zip(parts, bias, strict=True)]
    prompt_weights, trunk_weights, path_weights, own_weight = softmax_parts(
        parts,
        [
            prompt[2][:, None, None, None, None, :],
            trunk[2][:, :, None, None, None, :],
            path[2][:, :, :, None, None, :],
            jnp.ones((1,) * 6, bool),
        ],
    )

    attended = (
        times("brwghp,bpge->brwghe", prompt_weights, prompt_value)
        + times("brwght,brtge->brwghe", trunk_weights, trunk_value)
        + times(f"brwghd,{above}->brwghe", path_weights, path_value)
        + own_weight * own_value[:, :, :, :, None, :].astype(jnp.float32)
    )
    return attended.reshape(query.shape).astype(query.dtype)
