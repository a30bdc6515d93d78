"""Lanes: texts that grow side by side in one tree, a node each per token.

A lane is a path of node slots, so that lanes branch, merge and end by choosing paths, and no cache
is copied. Arrays are `[B, G, W, ...]`: `W` lanes in each of `G` trees per prompt.
"""

import jax
import jax.numpy as jnp
from flax import struct

from coopgen_jax.decoding.generation import pick
from coopgen_jax.decoding.job import Job, States, ends, read_nodes, read_prompts, stop_states
from coopgen_jax.models.language_model import Nodes
from coopgen_jax.models.slots import Capacity


@struct.dataclass
class Lanes:
    """Lanes between two tokens.

    logits: `[B, G, W, V]` behind every lane; states: of both networks.
    path: `[B, G, W, T]` int32 slots of each lane's tokens so far, -1 behind the last.
    """

    logits: jax.Array
    states: States
    path: jax.Array

    def at(self, index: jax.Array) -> "Lanes":
        """Returns the lanes `index` `[B, G, K]`."""
        logits, path = pick((self.logits, self.path), index)
        return Lanes(logits, self.states, path)


def begin_lanes(
    job: Job, lanes: int, length: int, *, trees: int = 1, trunk: int = 1, read: int | None = None
) -> tuple[Lanes, jax.Array]:
    """Reads the prompts for `W` lanes of `length` tokens at most below the root of each tree.

    A trunk has room for so many tokens, and at a step so many lanes are read, by default all.

    Returns:
      The lanes at the root, and log p(class | prompt) `[B, G, C]`.
    """
    capacity = Capacity(trees, trunk, 1 + (read or lanes) * length)
    logits, log_class, states = read_prompts(job, capacity, job.config.ahead)
    shape = (*logits.shape[:2], lanes)
    logits = jnp.broadcast_to(logits[:, :, None], (*shape, logits.shape[-1]))
    return Lanes(logits, states, jnp.full((*shape, length), -1, jnp.int32)), log_class


def extend_lanes(
    job: Job,
    lanes: Lanes,
    token: jax.Array,
    log_class: jax.Array,
    *,
    step: jax.Array,
    idle: jax.Array,
    committed: jax.Array | None = None,
) -> tuple[Lanes, jax.Array]:
    """Has both networks read one token more of every lane.

    Every lane has `step` tokens below the root and every trunk `committed` `[B, G]`, None for none.
    `log_class` is of the texts without the token, and `idle` `[B, G, W]` where there is no text to
    go on with or to judge.

    Returns:
      The lanes with the tokens, and log p(class | text).
    """
    width = token.shape[-1]
    slots = 1 + width * step + jnp.arange(width, dtype=jnp.int32)
    nodes = Nodes(
        start=slots[0],
        token=token,
        parent=jnp.maximum(at(lanes.path, step - 1), 0),
        path=lanes.path,
        depth=jnp.full(token.shape, step + 1),
        committed=jnp.zeros(token.shape[:2], jnp.int32) if committed is None else committed,
        terminal=idle,
    )
    logits, log_class, states = read_nodes(job, lanes.states, nodes, log_class)
    slots = jnp.broadcast_to(slots[None, None], token.shape)
    return Lanes(logits, states, put(lanes.path, step, slots)), log_class


def lane_stops(lanes: Lanes, step: jax.Array) -> jax.Array | None:
    """Returns the states `[B, G, W]` of the stop strings behind every lane, None without any.

    Every lane has `step` tokens below the root.
    """
    # In front of its first token a lane is at the root.
    last = jnp.where(step > 0, jnp.maximum(at(lanes.path, step - 1), 0), 0)
    return stop_states(lanes.states, last)


def ends_behind(job: Job, stop: jax.Array | None, lane: jax.Array, token: jax.Array) -> jax.Array:
    """Returns where tokens `[..., K]` behind the lanes `lane` end their texts.

    `stop` `[..., W]` are the states of the stop strings behind all lanes; see `lane_stops`.
    """
    return ends(job, token, None if stop is None else pick(stop, lane))


def put(array: jax.Array, step: jax.Array, value: jax.Array) -> jax.Array:
    """Returns `[..., T]` with `value` `[...]` at a step."""
    return jax.lax.dynamic_update_index_in_dim(array, value, step, axis=-1)


def at(array: jax.Array, step: jax.Array) -> jax.Array:
    """Returns the entries `[...]` of `[..., T]` at a step, those of the first before it."""
    return jax.lax.dynamic_index_in_dim(array, jnp.maximum(step, 0), axis=-1, keepdims=False)
