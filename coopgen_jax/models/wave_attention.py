"""A wave's attention as a TPU computes it, in one kernel, with the gradient of plain attention."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from coopgen_jax.models.attend_kernel import Seen, attend_called, fits, seen_by
from coopgen_jax.models.attention import SlotCache, attend_slots
from coopgen_jax.models.language_model import Nodes
from coopgen_jax.models.transformer import DecoderConfig
from coopgen_jax.parallel.mesh import TENSOR, P, left_to_xla

# Keys and values of one layer: of the prompt, the trunk and all node slots.
Regions = tuple[tuple[jax.Array, jax.Array], ...]


def _shares(heads: int) -> int:
    """Returns how many devices have a share of the heads each; 1 where they do not divide them."""
    size: int = jax.sharding.get_abstract_mesh().shape.get(TENSOR, 1)
    return size if TENSOR in left_to_xla() and heads % size == 0 else 1


def _by_heads_of_a_mesh(function: Callable, heads: int) -> Callable:
    """Has devices that share the weights each attend in their own heads, or in all alike.

    XLA cannot split a kernel along "tensor" as it splits its own operations. The function's
    arguments are those of `attend_called`; elsewhere than on such a mesh it is as it was.
    """
    split = left_to_xla()
    if not split:
        return function
    axis = TENSOR if _shares(heads) > 1 else None
    own, prompt, slots = (P(*[None] * count, axis) for count in (2, 3, 4))
    specs: Any = (prompt, prompt, P(), slots, slots)
    return jax.shard_map(
        function,
        in_specs=(own, own, own, P(), SlotCache(*specs), P()),
        out_specs=own,
        axis_names=split,
        check_vma=False,
    )


def kernel_for(
    config: DecoderConfig, cache: SlotCache, nodes: Nodes, path: jax.Array, scale: float | None
) -> Callable[[tuple, Regions, jax.Array], jax.Array] | None:
    """Returns what attends in a layer, `(own, regions, number)` of `attend_wave`.

    The mask `path` `[B, R, W, N]` says which slots hold a node's ancestors. None where a core has
    no room for what a wave attends to.
    """
    if not fits(cache, nodes.path.shape[2], config, shares=_shares(config.kv_heads)):
        return None
    how, seen = How(scale), seen_by(cache.prompt_mask, nodes.committed, path)
    # A gradient goes to each layer's own part, as it does without the kernel.
    stacked = jax.lax.stop_gradient(cache)
    return lambda own, regions, number: attend_wave(how, own, regions, number, stacked, seen)


class How(NamedTuple):
    """What is known of `attend_wave` when it is traced; see there."""

    scale: float | None = None
    interpret: bool = False


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend_wave(
    how: How,
    own: tuple[jax.Array, jax.Array, jax.Array],
    regions: Regions,
    number: jax.Array,
    cache: SlotCache,
    seen: Seen,
) -> jax.Array:
    """Attention of tree nodes to prompt, trunk, all slots on their paths and themselves.

    It is `attention.attend_slots`; a gradient is that function's, in `own` and `regions`.

    Args:
      how: what scores are multiplied by, by default the root of the heads' width, inverted; and
        whether the kernel is run operation by operation, on a device that it is not compiled for.
      own: queries `[B, R * W, H, Eh]`, keys and values `[B, R * W, G, Eh]` of the nodes.
      regions: the layer's part of the cache, which only a gradient reads.
      number: `[]` int32 the layer.
      cache: all layers', for which `fits` says yes.
      seen: what the nodes may attend to.

    Returns:
      `[B, R * W, H, Eh]`.
    """
    del regions
    query, key, value = own
    scaled = query * (how.scale or key.shape[-1] ** -0.5)
    call = _by_heads_of_a_mesh(partial(attend_called, interpret=how.interpret), key.shape[-2])
    return call(scaled, key, value, number, cache, seen)


def _forwards(
    how: How, own: tuple, regions: Regions, number: jax.Array, cache: SlotCache, seen: Seen
) -> tuple:
    def plain(own: tuple, regions: Regions) -> jax.Array:
        prompt, trunk, nodes = regions
        written = jnp.arange(cache.trunk_length)[None, None, :] < seen.committed[:, :, None]
        return attend_slots(
            *own,
            prompt=(*prompt, seen.prompt),
            trunk=(*trunk, written),
            path=(*nodes, seen.path),
            scale=how.scale,
        )

    return jax.vjp(plain, own, regions)


def _backwards(how: How, back: Callable, change: jax.Array) -> tuple:
    return *back(change), None, None, None


attend_wave.defvjp(_forwards, _backwards)
