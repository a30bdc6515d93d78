"""Attention of a wave of nodes to all that is cached as one Pallas kernel for TPUs.

`attention.attend_slots` says what is computed. Plain XLA makes of it four products, a softmax over
their joined scores and four more products, writes each between memories, and copies a layer's slice
out of the cache first. Here a grid step holds what one tree attends to of some heads in a core's
fast memory, read from where the whole cache lies by the layer's number.

Heads lie side by side in a row of the cache and several fill the lanes of one register. Cutting one
out would move it between lanes, so they are left together: a query that is zero in its neighbours'
lanes has its own head's scores, and of a sum of values only its head's lanes are taken.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from coopgen_jax.models.attention import NEGATIVE, SlotCache, flat_heads
from coopgen_jax.models.transformer import DecoderConfig

LANES = 128
# A wave is filled up to a multiple of the rows that a register of bfloat16 has.
NODES = 16
# Bytes that a grid step may take of a core's vector memory, of which a v5e has 16 MB.
ROOM = 12 << 20
# Registers' worth of heads that a grid step takes at most: each is written out in the program.
MOST_PACKS = 8
REGIONS = ("prompt", "trunk", "nodes")


class Seen(NamedTuple):
    """What nodes may attend to; see `seen_by`.

    prompt: `[B, P]` bool; committed: `[B, R]` int32, tokens of the trunk; path: `[B, R, W, N]`
    bool, which slots hold a node's ancestors. The masks are int32 with zeros up to whole registers.
    """

    prompt: jax.Array
    committed: jax.Array
    path: jax.Array
    prompt_mask: jax.Array
    path_mask: jax.Array


def seen_by(prompt: jax.Array, committed: jax.Array, path: jax.Array) -> Seen:
    """Returns what nodes may attend to, as all layers are given it."""
    length, (wave, slots) = prompt.shape[1], path.shape[2:]
    # Of no prompt there is a block nevertheless.
    prompt_mask = jnp.pad(prompt, [(0, 0), (0, max(LANES, _up(length, LANES)) - length)])
    filled = [(0, 0), (0, 0), (0, -wave % NODES), (0, -slots % LANES)]
    path_mask = jnp.pad(path, filled)
    masks = prompt_mask.astype(jnp.int32)[:, None], path_mask.astype(jnp.int32)
    return Seen(prompt, committed, path, *masks)


class Size(NamedTuple):
    """How a kernel is cut: a step's heads lie in `packs` times `pack` heads of `width` lanes.

    `repeats` query heads share a key head, and `wave` nodes were filled up to whole registers.
    """

    width: int
    pack: int
    packs: int
    repeats: int
    wave: int

    @property
    def lanes(self) -> int:
        """The lanes of one pack."""
        return self.pack * self.width


def _up(size: int, step: int) -> int:
    return -(-size // step) * step


def _pack_of(heads: int, width: int) -> int:
    """Returns the fewest heads that fill whole registers, all of them if none do."""
    whole = [n for n in range(1, heads) if heads % n == 0 and n * width % LANES == 0]
    return whole[0] if whole else heads


def _cut(query: Any, key: Any, wave: int, lengths: tuple[int, ...], held: int) -> Size | None:
    """Returns how the heads are divided among grid steps, None where one pack has no room.

    `lengths` are those of the regions and `held` the bytes of one of their numbers.
    """
    heads, width = key.shape[-2:]
    pack = _pack_of(heads, width)
    repeats = query.shape[-2] // heads
    padded = _up(wave, NODES)
    slots = sum(_up(length, LANES) for length in lengths)
    rows = repeats * padded

    def taken(packs: int) -> int:
        lanes = _up(packs * pack * width, LANES)
        # Each block is there twice, for the next ones come in while these are worked on.
        blocks = 2 * lanes * held * (2 * slots + 2 * rows + 2 * padded)
        masks = 2 * 4 * slots * padded
        # Scores, their mask and their weights, and the weights rounded.
        return blocks + masks + 14 * pack * rows * slots

    all_packs = heads // pack
    for packs in range(min(MOST_PACKS, all_packs), 0, -1):
        if all_packs % packs == 0 and taken(packs) <= ROOM:
            return Size(width, pack, packs, repeats, padded)
    return None


def _shapes(cache: SlotCache) -> tuple[int, ...]:
    assert cache.keys.trunk is not None, "a language model's cache has a trunk"
    return cache.prompt_keys.shape[2], cache.trunk_length, cache.keys.nodes.shape[3]


def _held(cache: SlotCache) -> int:
    """Returns the bytes of the widest number in a cache."""
    arrays = (cache.prompt_keys, cache.keys.trunk, cache.keys.nodes)
    return max(array.dtype.itemsize for array in arrays if array is not None)


def fits(cache: SlotCache, wave: int, config: DecoderConfig, *, shares: int = 1) -> bool:
    """Tells whether a core has room for what a wave attends to, a few heads at a time.

    So many devices have a share of the heads each. A cache whose numbers are not all of the
    network's format is none for the kernel, which rounds to it.
    """
    arrays = jax.tree.leaves((cache.prompt_keys, cache.prompt_values, cache.keys, cache.values))
    if any(array.dtype != config.dtype for array in arrays):
        return False
    query, key = (
        jax.ShapeDtypeStruct((1, 1, count // shares, config.head_width), jnp.dtype(config.dtype))
        for count in (config.heads, config.kv_heads)
    )
    size = _cut(query, key, wave, _shapes(cache), _held(cache))
    return size is not None and cache.keys.nodes.size > 0


def _lanes_of(head: int, shape: tuple[int, ...], size: Size) -> jax.Array:
    """Returns which lanes of rows are those of one head of a pack, bool."""
    lane = jax.lax.broadcasted_iota(jnp.int32, shape, 1)
    return (lane >= head * size.width) & (lane < (head + 1) * size.width)


def _spread(rows: jax.Array, size: Size) -> jax.Array:
    """Repeats rows `[n, lanes]` for every head of a pack, and leaves each its own head's lanes."""
    if size.pack == 1:
        return rows
    own = [jnp.where(_lanes_of(head, rows.shape, size), rows, 0.0) for head in range(size.pack)]
    return jnp.concatenate(own)


def _gathered(rows: jax.Array, size: Size) -> jax.Array:
    """Takes each head's lanes of its own rows `[pack * n, lanes]`: the inverse of `_spread`."""
    count = rows.shape[0] // size.pack
    found = rows[:count]
    for head in range(1, size.pack):
        own = rows[head * count : (head + 1) * count]
        found = jnp.where(_lanes_of(head, own.shape, size), own, found)
    return found


def _whole(values: jax.Array, length: int) -> jax.Array:
    """Puts zeros behind the `length` rows that are there: what else a block has may be anything."""
    filled, size = length // LANES * LANES, values.shape[0]
    if filled == size:
        return values
    tail = values[filled:].astype(jnp.float32)
    row = jax.lax.broadcasted_iota(jnp.int32, tail.shape, 0)
    tail = jnp.where(row < length - filled, tail, 0.0).astype(values.dtype)
    return jnp.concatenate([values[:filled], tail]) if filled else tail


def _attend(
    number: Any, committed: Any, *refs: Any, lengths: dict[str, int], dtype: Any, size: Size
) -> None:
    """Attention of one tree's wave in some heads; the kernel."""
    del number  # which layer is read, the blocks know
    query, own_key, own_value, prompt_mask, path_mask, *entries, out = refs
    keys = dict(zip(lengths, entries[::2], strict=True))
    values = dict(zip(lengths, entries[1::2], strict=True))
    rows = size.pack * size.repeats * size.wave

    def seen(region: str) -> jax.Array:
        if region == "nodes":
            mask = path_mask[...]
            return jnp.concatenate([mask] * (rows // mask.shape[0])) > 0
        shape = (rows, _up(lengths[region], LANES))
        if region == "prompt":
            return jnp.broadcast_to(prompt_mask[...], shape) > 0
        # At most one more than there is room for, of which nothing was written.
        written = jnp.minimum(committed[pl.program_id(0), pl.program_id(2)], lengths[region])
        return jax.lax.broadcasted_iota(jnp.int32, shape, 1) < written

    masks = {region: seen(region) for region in lengths}

    def tiled(ref: Any, lanes: slice) -> jax.Array:
        one = ref[:, lanes].astype(jnp.float32)
        return jnp.concatenate([one] * (rows // one.shape[0]))

    for pack in range(size.packs):
        lanes = slice(pack * size.lanes, (pack + 1) * size.lanes)
        q = _spread(query[:, lanes].astype(jnp.float32), size)
        own = jnp.sum(q * tiled(own_key, lanes), axis=-1, keepdims=True)
        scores, top = {}, own
        for region, mask in masks.items():
            score = jax.lax.dot_general(
                q.astype(dtype),
                keys[region][:, lanes].astype(dtype),
                (((1,), (1,)), ((), ())),
                preferred_element_type=jnp.float32,
            )
            scores[region] = jnp.where(mask, score, NEGATIVE)
            top = jnp.maximum(top, jnp.max(scores[region], axis=-1, keepdims=True))
        total = jnp.exp(own - top)
        attended = total * tiled(own_value, lanes)
        for region, score in scores.items():
            weight = jnp.exp(score - top)
            total = total + jnp.sum(weight, axis=-1, keepdims=True)
            value = values[region][:, lanes].astype(dtype)
            attended = attended + jax.lax.dot_general(
                weight.astype(dtype),
                _whole(value, lengths[region]),
                (((1,), (0,)), ((), ())),
                preferred_element_type=jnp.float32,
            )
        out[:, lanes] = _gathered(attended / total, size).astype(out.dtype)


def _rows(query: jax.Array, key: jax.Array, value: jax.Array, seen: Seen, size: Size) -> tuple:
    """Returns queries `[B, R, H / G * W, G * Eh]` and entries `[B, R, W, G * Eh]`, filled up.

    The queries of a key head come one after another, each in the lanes of that head.
    """
    batch, samples, wave, _ = seen.path.shape
    filled = [(0, 0), (0, 0), (0, size.wave - wave), (0, 0)]

    def by_node(array: jax.Array) -> jax.Array:
        return array.reshape(batch, samples, wave, *array.shape[2:])

    shared = by_node(query).reshape(*seen.path.shape[:3], key.shape[2], -1, size.width)
    q = jnp.pad(flat_heads(jnp.moveaxis(shared, 4, 2)), [(0, 0), *filled])
    own = (jnp.pad(flat_heads(by_node(array)), filled) for array in (key, value))
    return q.reshape(batch, samples, -1, q.shape[-1]), *own


def _blocks(cache: SlotCache, lanes: int) -> tuple[dict[str, int], list, list]:
    """Returns the lengths of the regions that are not empty, their arrays and their blocks."""
    stacked = (
        (cache.prompt_keys, cache.prompt_values),
        (cache.keys.trunk, cache.values.trunk),
        (cache.keys.nodes, cache.values.nodes),
    )
    entries: list = []
    specs: list = []
    lengths = {}
    for region, length, pair in zip(REGIONS, _shapes(cache), stacked, strict=True):
        if not length:
            continue
        lengths[region] = length
        entries += pair
        rows = _up(length, LANES)
        if region == "prompt":
            shape: tuple = (None, None, rows, lanes)
            spec = pl.BlockSpec(shape, lambda b, h, r, number, _: (number[0], b, 0, h))
        else:
            shape = (None, None, None, rows, lanes)
            spec = pl.BlockSpec(shape, lambda b, h, r, number, _: (number[0], b, r, 0, h))
        specs += [spec, spec]
    return lengths, entries, specs


def attend_called(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    number: jax.Array,
    cache: SlotCache,
    seen: Seen,
    *,
    interpret: bool,
) -> jax.Array:
    """Calls the kernel; queries are scaled already, and all else is as `attend_wave` has it."""
    batch, samples, wave, _ = seen.path.shape
    size = _cut(query, key, wave, _shapes(cache), _held(cache))
    assert size is not None, "there is no room: see `fits`"
    q, *own = _rows(query, key, value, seen, size)
    lanes = size.packs * size.lanes
    lengths, entries, specs = _blocks(cache, lanes)
    slots = sum(lengths.values())

    def per_tree(rows: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, None, rows, lanes), lambda b, h, r, *_: (b, r, 0, h))

    def mask(array: jax.Array) -> pl.BlockSpec:
        shape = (*[None] * (array.ndim - 2), *array.shape[-2:])
        return pl.BlockSpec(shape, lambda b, h, r, *_: (*(b, r)[: len(shape) - 2], 0, 0))

    made = pl.pallas_call(
        partial(_attend, lengths=lengths, dtype=key.dtype, size=size),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            # Samples last: a prompt stays where it is while its samples read it.
            grid=(batch, q.shape[-1] // lanes, samples),
            in_specs=[
                per_tree(q.shape[2]),
                *[per_tree(size.wave)] * 2,
                mask(seen.prompt_mask),
                mask(seen.path_mask),
                *specs,
            ],
            out_specs=per_tree(q.shape[2]),
        ),
        out_shape=jax.ShapeDtypeStruct(q.shape, query.dtype),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",) * 3),
        # Its operands are the whole cache, of which it reads one layer.
        cost_estimate=pl.CostEstimate(
            flops=4 * q.size * slots * size.pack,
            bytes_accessed=sum(array.nbytes // array.shape[0] for array in entries)
            + 2 * (q.nbytes + own[0].nbytes)
            + seen.prompt_mask.nbytes
            + seen.path_mask.nbytes,
            transcendentals=q.size // size.width * slots,
        ),
        name="attend_wave",
        interpret=interpret,
    )(number.reshape(1), seen.committed, q, *own, seen.prompt_mask, seen.path_mask, *entries)
    made = made.reshape(batch, samples, -1, size.wave, *key.shape[2:])[:, :, :, :wave]
    return jnp.moveaxis(made, 2, 4).reshape(query.shape)
