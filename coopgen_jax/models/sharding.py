"""How a decoder network too large for one device is split over a mesh's "tensor" axis.

Attention heads and feed-forward columns are split, the matrices behind them by rows, the embedding
and the output layer by vocabulary (Megatron-LM; Shoeybi et al., 2019, arXiv 1909.08053, section 3).
A dimension that the number of devices does not divide stays whole on every device.
"""

from dataclasses import replace
from typing import Any, TypeVar

import jax
from jax.sharding import Mesh
from jax.tree_util import DictKey

from coopgen_jax.models.attention import SlotCache
from coopgen_jax.models.transformer import DecoderConfig, Params
from coopgen_jax.parallel.mesh import TENSOR, P, place, shares

Entries = TypeVar("Entries")

# Which of a config's counts splits a matrix of a layer, by its columns or by its rows.
COLUMNS = {
    "query": "heads",
    "key": "kv_heads",
    "value": "kv_heads",
    "cross_query": "heads",
    "cross_key": "kv_heads",
    "cross_value": "kv_heads",
    "up": "ffn_width",
    "gate": "ffn_width",
}
ROWS = {"output": "heads", "cross_output": "heads", "down": "ffn_width"}
COUNTS = {
    "heads": "query heads",
    "kv_heads": "key/value heads",
    "ffn_width": "feed-forward columns",
    "vocab_size": "tokens of the vocabulary",
}


def undivided(config: DecoderConfig, tensor: int) -> list[str]:
    """Returns what stays whole on every device, such as "9 query heads"; empty if nothing does."""
    return [
        f"{getattr(config, name)} {words}"
        for name, words in COUNTS.items()
        if getattr(config, name) % tensor
    ]


def decoder_specs(config: DecoderConfig, params: Params, tensor: int) -> Params:
    """Returns the `PartitionSpec` of every parameter, or shape of one, on `tensor` devices."""

    def divides(name: str) -> bool:
        return tensor > 1 and getattr(config, name) % tensor == 0

    def spec(path: tuple, leaf: Any) -> P:
        names = [str(part.key) for part in path if isinstance(part, DictKey)]
        if names in (["embedding"], ["head"]) and divides("vocab_size"):
            return P(TENSOR, None)
        # Low-rank additions are small and stay whole.
        if "layers" not in names or names[-1].startswith("lora"):
            return P()
        module, kind = names[-2:]
        # Kernels end in [out, in], biases in [out]; a stack has an axis in front.
        before = [None] * (len(leaf.shape) - (2 if kind == "kernel" else 1))
        if module in COLUMNS and divides(COLUMNS[module]):
            return P(*before, TENSOR)
        if module in ROWS and kind == "kernel" and divides(ROWS[module]):
            return P(*before, None, TENSOR)
        return P()

    return jax.tree_util.tree_map_with_path(spec, params)


def shard_decoder(params: Params, config: DecoderConfig, mesh: Mesh) -> Params:
    """Puts a decoder's parameters onto a mesh, split where they can be, whole elsewhere."""
    return place(params, mesh, decoder_specs(config, params, shares(mesh)))


def shard_cache(cache: SlotCache, heads: int, tensor: int) -> SlotCache:
    """Has a cache's key/value heads lie where they are computed, under `map_over_mesh`.

    Where the number of devices does not divide that of the `heads` each device has all.
    """
    fields = ("prompt_keys", "prompt_values", "keys", "values")
    parts = {name: shard_heads(getattr(cache, name), heads, tensor) for name in fields}
    return replace(cache, **parts)


def shard_heads(entries: Entries, heads: int, tensor: int) -> Entries:
    """Has the arrays `[..., G * Eh]` of a pytree lie by `G` heads; see `shard_cache`."""
    if tensor == 1:
        return entries
    # Between two heads only: half of one is of no use to a device.
    axis = TENSOR if heads % tensor == 0 else None

    def constrained(leaf: jax.Array) -> jax.Array:
        return jax.lax.with_sharding_constraint(leaf, P(*[None] * (leaf.ndim - 1), axis))

    return jax.tree.map(constrained, entries)
