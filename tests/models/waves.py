"""A wave of nodes, random caches that it attends to, and plain attention to them."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from coopgen_jax.models.attend_kernel import Seen, seen_by
from coopgen_jax.models.attention import SlotCache, attend_slots
from coopgen_jax.models.slots import Slots

L, LAYER = 3, 1


@dataclass(frozen=True)
class Shape:
    """The sizes of a wave and of what it attends to."""

    batch: int
    samples: int
    wave: int
    heads: int
    kv_heads: int
    width: int
    prompt: int = 7
    trunk: int = 5
    nodes: int = 12
    dtype: str = "float32"


def drawn(shape: Shape) -> tuple:
    """Returns the nodes' own entries, a cache and random trees."""
    draw = np.random.default_rng(0)

    def numbers(*size: int) -> jax.Array:
        return jnp.asarray(draw.normal(size=size), jnp.float32).astype(shape.dtype)

    batch, samples, row = shape.batch, shape.samples, shape.kv_heads * shape.width

    def slots() -> Slots:
        rows = (L, batch, samples)
        return Slots(numbers(*rows, shape.nodes, row), numbers(*rows, shape.trunk, row), lead=1)

    prompts = [numbers(L, batch, shape.prompt, row) for _ in range(2)]
    mask = np.arange(shape.prompt)[None] >= draw.integers(0, shape.prompt + 1, (batch, 1))
    cache = SlotCache(*prompts, jnp.asarray(mask), slots(), slots())
    path = draw.random((batch, samples, shape.wave, shape.nodes)) < 0.2
    path[:1, 0, 0] = False
    committed = draw.integers(0, shape.trunk + 1, (batch, samples))
    # One more than there is room for, which nothing was written of.
    committed[-1:, -1] = shape.trunk + 1
    seen = seen_by(cache.prompt_mask, jnp.asarray(committed, jnp.int32), jnp.asarray(path))
    nodes = samples * shape.wave
    own = (
        numbers(batch, nodes, shape.heads, shape.width),
        *(numbers(batch, nodes, shape.kv_heads, shape.width) for _ in range(2)),
    )
    return own, cache, seen


def regions_of(cache: SlotCache) -> tuple:
    stacked = (
        (cache.prompt_keys, cache.prompt_values),
        (cache.keys.trunk, cache.values.trunk),
        (cache.keys.nodes, cache.values.nodes),
    )
    return jax.tree.map(lambda array: array[LAYER], stacked)


def plain(own: tuple, regions: tuple, seen: Seen, scale: float | None) -> jax.Array:
    prompt, trunk, nodes = regions
    written = jnp.arange(trunk[0].shape[2])[None, None] < seen.committed[:, :, None]
    return attend_slots(
        *own,
        prompt=(*prompt, seen.prompt),
        trunk=(*trunk, written),
        path=(*nodes, seen.path),
        scale=scale,
    )
