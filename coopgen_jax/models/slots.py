"""Slots: what is stored per node of a tree, and how nodes move and join the trunk.

Every decoder grows a tree and a slot is a node of that tree. Slot 0 is always the root: its own
entry stands in slot 0 and, once the root has been committed, in the trunk as well. Language model
caches and discriminator states keep what they know of a node in `Slots`, so that one `move` and one
`commit` keep them all in step with the search.

Shape letters: `B` prompts, `R` samples per prompt, `T` trunk slots, `N` node slots, `W` nodes
extended at once, `D` longest path below the root.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import struct

from coopgen_jax.parallel.platform import platform

State = TypeVar("State")

# Slots that fill whole registers of a TPU; see `filled_up`.
FULL = 16


@dataclass(frozen=True)
class Capacity:
    """How much room a cache or a discriminator state is made with.

    Attributes:
      samples: `R`, samples drawn for every prompt.
      trunk: `T`, tokens that a sample can commit.
      nodes: `N`, node slots of a sample, the root's slot 0 included.
    """

    samples: int
    trunk: int
    nodes: int


@struct.dataclass
class Slots:
    """One quantity kept per token.

    Attributes:
      nodes: `[*lead, B, R, N, *item]` entries of the tree's nodes; slots never written are holes.
      trunk: `[*lead, B, R, T, *item]` entries of the committed tokens, in order, or None where the
        quantity is not needed of them.
      lead: how many axes stand in front of `B`.
    """

    nodes: jax.Array
    trunk: jax.Array | None
    lead: int = struct.field(pytree_node=False, default=0)


def allocate(
    batch: int,
    capacity: Capacity,
    item: tuple[int, ...] = (),
    *,
    lead: tuple[int, ...] = (),
    trunk: bool = True,
    dtype: jnp.dtype = jnp.float32,
) -> Slots:
    """Returns zeroed slots for `batch` prompts and items of shape `item`."""
    rows = (*lead, batch, capacity.samples)
    return Slots(
        nodes=jnp.zeros((*rows, capacity.nodes, *item), dtype),
        trunk=jnp.zeros((*rows, capacity.trunk, *item), dtype) if trunk else None,
        lead=len(lead),
    )


def filled_up(capacity: Capacity) -> Capacity:
    """Returns a capacity whose node slots fill whole registers of a TPU, if there are many.

    Of other numbers a TPU puts the rows of several texts together instead, so that what reads and
    moves rows of one text turns all of them around, and back, once per token.
    """
    if platform() != "tpu" or capacity.nodes < FULL:
        return capacity
    return replace(capacity, nodes=capacity.nodes + -capacity.nodes % FULL)


def write(slots: Slots, start: jax.Array | int, values: jax.Array) -> Slots:
    """Writes `values` `[*lead, B, R, W, *item]` into node slots `start` to `start + W - 1`.

    All rows write the same slots, so this is one `dynamic_update_slice`.
    """
    axis = slots.lead + 2
    nodes = jax.lax.dynamic_update_slice_in_dim(
        slots.nodes, values.astype(slots.nodes.dtype), start, axis
    )
    return replace(slots, nodes=nodes)


def rooted(values: jax.Array, capacity: Capacity, *, lead: int = 0, trunk: bool = False) -> Slots:
    """Returns slots with `values` `[*lead, B, *item]` at the root of every sample, zeros elsewhere.

    `lead` is the number of axes in front of `B`.
    """
    front, batch, item = values.shape[:lead], values.shape[lead], values.shape[lead + 1 :]
    slots = allocate(batch, capacity, item, lead=front, trunk=trunk, dtype=values.dtype)
    shape = (*front, batch, capacity.samples, 1, *item)
    return write(slots, 0, jnp.broadcast_to(jnp.expand_dims(values, (lead + 1, lead + 2)), shape))


def _places(index: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns what takes slots `[B, R, ...]` out of an array `[B, R, N, ...]`, row by row."""
    batch, samples = index.shape[:2]
    rest = [1] * (index.ndim - 2)
    return jnp.arange(batch).reshape(-1, 1, *rest), jnp.arange(samples).reshape(-1, *rest), index


def take(slots: Slots, index: jax.Array) -> jax.Array:
    """Returns the node entries at `index` `[B, R, ...]`: `[*lead, B, R, ..., *item]`.

    An index of -1 (no node) reads the root's entry; the caller masks it.
    """
    lead = [slice(None)] * slots.lead
    return slots.nodes[(*lead, *_places(jnp.maximum(index, 0)))]


def take_layer(slots: Slots, layer: jax.Array, path: jax.Array) -> jax.Array:
    """Gathers one layer's entries along the paths `[B, R, W, D]`: `[B, R, W, D, *item]`.

    The layer is part of the gather's index: slicing it out first would copy every slot.
    """
    return slots.nodes[(layer, *_places(jnp.maximum(path, 0)))]


def map_slots(function: Callable[[Slots], Slots], state: State) -> State:
    """Applies a function to every `Slots` in a pytree and leaves the rest as it is."""

    def mapped(leaf: object) -> object:
        return function(leaf) if isinstance(leaf, Slots) else leaf

    return jax.tree.map(mapped, state, is_leaf=lambda leaf: isinstance(leaf, Slots))


def move(state: State, source: jax.Array) -> State:
    """Permutes the node slots of every `Slots` in a cache or discriminator state.

    Slot `i < M` receives the entry of the old slot `source[..., i]`, `[B, R, M]`. Slots from `M` on
    are left as they are and count as holes.
    """

    def moved(slots: Slots) -> Slots:
        size, *item = slots.nodes.shape[slots.lead + 2 :]
        if platform() == "tpu" and len(item) == 1 and size % FULL == 0:
            return replace(slots, nodes=_permuted(slots, source))
        return write(slots, 0, take(slots, source))

    return map_slots(moved, state)


def _permuted(slots: Slots, source: jax.Array) -> jax.Array:
    """Returns what `move` makes of nodes `[*lead, B, R, N, E]`, as a gather of all their rows.

    A TPU turns an array around to gather along an axis in its middle, or to write in part of it.
    That takes longer than to read the rows that stay, too.
    """
    *rows, size, width = slots.nodes.shape
    count = source.shape[-1]
    stay = jnp.broadcast_to(jnp.arange(count, size), (*source.shape[:2], size - count))
    place = jnp.concatenate([jnp.maximum(source, 0), stay.astype(source.dtype)], axis=-1)
    first = size * jnp.arange(math.prod(rows), dtype=source.dtype).reshape(*rows, 1)
    whole = first + jnp.broadcast_to(place, slots.nodes.shape[:-1])
    found: jax.Array = slots.nodes.reshape(-1, width)[whole.reshape(-1)]
    return found.reshape(slots.nodes.shape)


def commit(state: State, committed: jax.Array) -> State:
    """Appends the root's entry (slot 0) to the trunk of every `Slots` in a pytree.

    The state has been moved so that slot 0 is the chosen token. Each trunk holds `committed`
    `[B, R]` tokens before this one; at `T` or above nothing is written.
    """

    def appended(slots: Slots) -> Slots:
        if slots.trunk is None:
            return slots
        lead = [slice(None)] * slots.lead
        root = slots.nodes[(*lead, slice(None), slice(None), 0)]
        place = (*lead, *_places(committed))
        return replace(slots, trunk=slots.trunk.at[place].set(root, mode="drop"))

    return map_slots(appended, state)
