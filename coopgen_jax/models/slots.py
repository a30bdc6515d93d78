"""Slots: what is stored per node of a tree, and how nodes move and join the trunk.

Every decoder grows a tree and a slot is a node of that tree. Slot 0 is always the root: its own
entry stands in slot 0 and, once the root has been committed, in the trunk as well. Language model
caches and discriminator states keep what they know of a node in `Slots`, so that one `move` and one
`commit` keep them all in step with the search.

Shape letters: `B` prompts, `R` samples per prompt, `T` trunk slots, `N` node slots, `W` nodes
extended at once, `D` longest path below the root.
"""

from dataclasses import dataclass, replace
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import struct

State = TypeVar("State")


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


def write(slots: Slots, start: jax.Array | int, values: jax.Array) -> Slots:
    """Writes `values` `[*lead, B, R, W, *item]` into node slots `start` to `start + W - 1`.

    All rows write the same slots, so this is one `dynamic_update_slice`.
    """
    axis = slots.lead + 2
    nodes = jax.lax.dynamic_update_slice_in_dim(
        slots.nodes, values.astype(slots.nodes.dtype), start, axis
    )
    return replace(slots, nodes=nodes)


def _rows(array: jax.Array, index: jax.Array, lead: int) -> jax.Array:
    """Indexes the slot axis of `array` by `index` `[B, R, ...]`, row by row."""
    batch = jnp.arange(index.shape[0]).reshape(-1, *[1] * (index.ndim - 1))
    sample = jnp.arange(index.shape[1]).reshape(1, -1, *[1] * (index.ndim - 2))
    return array[(*[slice(None)] * lead, batch, sample, index)]


def take(slots: Slots, index: jax.Array) -> jax.Array:
    """Returns the node entries at `index` `[B, R, ...]`: `[*lead, B, R, ..., *item]`.

    An index of -1 (no node) reads the root's entry; the caller masks it.
    """
    return _rows(slots.nodes, jnp.maximum(index, 0), slots.lead)


def take_layer(slots: Slots, layer: jax.Array, path: jax.Array) -> jax.Array:
    """Gathers one layer's entries along the paths `[B, R, W, D]`: `[B, R, W, D, G, Eh]`.

    The layer is part of the gather's index: slicing it out first would copy every slot.
    """
    batch = jnp.arange(path.shape[0])[:, None, None, None]
    sample = jnp.arange(path.shape[1])[None, :, None, None]
    return slots.nodes[layer, batch, sample, jnp.maximum(path, 0)]


def move(state: State, source: jax.Array) -> State:
    """Permutes the node slots of every `Slots` in a pytree.

    Args:
      state: a cache or discriminator state.
      source: `[B, R, M]` old slots; slot `i < M` receives the entry of `source[..., i]`. Slots from
        `M` on are left as they are and count as holes.

    Returns:
      The state after the move; leaves outside `Slots` are untouched.
    """

    def moved(leaf: object) -> object:
        if not isinstance(leaf, Slots):
            return leaf
        return write(leaf, 0, take(leaf, source))

    return jax.tree.map(moved, state, is_leaf=lambda leaf: isinstance(leaf, Slots))


def commit(state: State, committed: jax.Array) -> State:
    """Appends the root's entry (slot 0) to the trunk of every `Slots` in a pytree.

    Args:
      state: a cache or discriminator state, already moved so that slot 0 is the chosen token.
      committed: `[B, R]` how many tokens each trunk holds before this one; at `T` or above nothing
        is written.

    Returns:
      The state with one more trunk entry per row.
    """
    batch = jnp.arange(committed.shape[0])[:, None]
    sample = jnp.arange(committed.shape[1])[None, :]

    def appended(leaf: object) -> object:
        if not isinstance(leaf, Slots) or leaf.trunk is None:
            return leaf
        lead = [slice(None)] * leaf.lead
        root = leaf.nodes[(*lead, slice(None), slice(None), 0)]
        place = (*lead, batch, sample, committed)
        return replace(leaf, trunk=leaf.trunk.at[place].set(root, mode="drop"))

    return jax.tree.map(appended, state, is_leaf=lambda leaf: isinstance(leaf, Slots))
