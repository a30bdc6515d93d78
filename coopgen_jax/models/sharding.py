"""How a decoder network too large for one device is split over a mesh's "tensor" axis.

Attention heads and feed-forward columns are split, the matrices behind them by rows, the embedding
and the output layer by vocabulary (Megatron-LM; Shoeybi et al., 2019, arXiv 1909.08053, section 3).
A dimension that the number of devices does not divide stays whole on every device.
"""

from dataclasses import replace
from typing import Any

import jax
from jax.sharding import Mesh
from jax.tree_util import DictKey

from coopgen_jax.models.attention import SlotCache
from coopgen_jax.models.transformer import DecoderConfig, Params
from coopgen_jax.parallel import TENSOR, P, place, shares

# Which of a config's counts splits a matrix of a layer, by its columns or by its rows.
COLUMNS = {
    "query": "heads",
    "key": "kv_heads",
    "value": "kv_heads",
    "up": "ffn_width",
    "gate": "ffn_width",
}
ROWS = {"output": "heads", "down": "ffn_width"}
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
    """Returns the `PartitionSpec` of every parameter.

    Args:
      config: the network's shape.
      params: its parameters, or their shapes.
      tensor: devices that share them.
    """

    def divides(name: str) -> bool:
        return tensor > 1 and getattr(config, name) % tensor == 0

    def spec(path: tuple, leaf: Any) -> P:
        names = [str(part.key) for part in path if isinstance(part, DictKey)]
        if names in (["embedding"], ["head"]) and divides("vocab_size"):
            return P(TENSOR, None)
        # Low-rank additions are small and stay whole.
        if names[0] != "layers" or names[-1].startswith("lora"):
            return P()
        module, kind = names[1], names[-1]
        # Kernels end in [out, in], biases in [out]; a stack has an axis in front.
        before = [None] * (len(leaf.shape) - (2 if kind == "kernel" else 1))
        if module in COLUMNS and divides(COLUMNS[module]):
            return P(*before, TENSOR)
        if module in ROWS and kind == "kernel" and divides(ROWS[module]):
            return P(*before, None, TENSOR)
        return P()

    specs: Params = jax.tree_util.tree_map_with_path(spec, params)
    return specs


def shard_decoder(params: Params, config: DecoderConfig, mesh: Mesh) -> Params:
    """Puts a decoder's parameters onto a mesh, split where they can be, whole elsewhere."""
    return place(params, mesh, decoder_specs(config, params, shares(mesh)))


def shard_cache(cache: SlotCache, tensor: int) -> SlotCache:
    """Has a cache's key/value heads lie where they are computed, under `map_over_mesh`.

    Args:
      cache: keys and values `[..., G, Eh]`.
      tensor: devices that share them; where it does not divide `G` each of them has all.
    """
    if tensor == 1:
        return cache

    def constrained(leaf: jax.Array) -> jax.Array:
        heads = TENSOR if leaf.shape[-2] % tensor == 0 else None
        return jax.lax.with_sharding_constraint(leaf, P(*[None] * (leaf.ndim - 2), heads, None))

    fields = ("prompt_keys", "prompt_values", "keys", "values")
    placed = {name: jax.tree.map(constrained, getattr(cache, name)) for name in fields}
    return replace(cache, **placed)
