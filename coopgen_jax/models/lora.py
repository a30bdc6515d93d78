"""LoRA: low-rank additions to a network's kernels, small enough to train and to keep.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (ICLR 2022, arXiv 2106.09685): a
kernel W is used as W + (alpha / rank) * up @ down, with `up` zero at first.
"""

from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp

from coopgen_jax.errors import UserError
from coopgen_jax.models.layer_layout import stacked_numbers
from coopgen_jax.models.transformer import Params


@dataclass(frozen=True)
class LoraConfig:
    """Which kernels are added to, and how much.

    Attributes:
      rank: of the additions.
      alpha: their scale is alpha / rank.
      targets: dense layers of a block by name: query, key, value, output, gate, up, down.
    """

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ("query", "key", "value", "output", "gate", "up", "down")

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UserError(f"the rank of LoRA is {self.rank}: it must be 1 or more")


def init_lora(key: jax.Array, params: Params, config: LoraConfig) -> dict[str, Any]:
    """Returns additions to a decoder or an encoder with stacked layers that change nothing yet.

    Targets that the network does not have are left out.

    Returns:
      By target, `lora_down` `[L, rank, in]` and `lora_up` `[L, out, rank]`; an encoder's kernels
      lie the other way round, and so do these.
    """
    layers = _stacked(params)
    names = [name for name in config.targets if name in layers]
    if not names:
        raise UserError(
            f"the network has none of the layers {', '.join(config.targets)}: choose among "
            f"{', '.join(name for name in layers if 'kernel' in layers[name])}"
        )
    additions = {}
    for number, name in enumerate(names):
        count, out, inputs = layers[name]["kernel"].shape
        drawn = jax.random.normal(
            jax.random.fold_in(key, number), (count, config.rank, inputs), jnp.float32
        )
        additions[name] = {
            "lora_down": drawn / jnp.sqrt(float(inputs)),
            "lora_up": jnp.zeros((count, out, config.rank), jnp.float32),
        }
    return additions


def _stacked(params: Params) -> dict[str, Any]:
    layers: Any = params["layers"]
    if not stacked_numbers(params):
        raise UserError(
            "LoRA wants layers in one stack of numbers: load the language model with stacked=True"
        )
    return layers


def add_lora(params: Params, additions: dict[str, Any], config: LoraConfig) -> Params:
    """Returns the parameters, stacked or separate, with `init_lora`'s additions beside kernels."""
    beside = {
        name: {
            "lora_down": addition["lora_down"],
            "lora_up": addition["lora_up"] * (config.alpha / config.rank),
        }
        for name, addition in additions.items()
    }

    def added(layer: Any, own: Any) -> Any:
        return layer | {name: {**layer[name], **leaves} for name, leaves in own.items()}

    layers: Any = params["layers"]
    if not isinstance(layers, tuple):
        return {**params, "layers": added(layers, beside)}
    each = (jax.tree.map(itemgetter(number), beside) for number in range(len(layers)))
    return {**params, "layers": tuple(map(added, layers, each))}


def merge_lora(params: Params) -> Params:
    """Returns the parameters with what `add_lora` put beside the kernels inside them."""
    layers = {}
    for name, leaves in _stacked(params).items():
        leaves = dict(leaves)
        if "lora_up" in leaves:
            up, down = leaves.pop("lora_up"), leaves.pop("lora_down")
            kernel = leaves["kernel"]
            product = jnp.einsum("lor,lri->loi", up, down, preferred_element_type=jnp.float32)
            leaves["kernel"] = (kernel.astype(jnp.float32) + product).astype(kernel.dtype)
        layers[name] = leaves
    return {**params, "layers": layers}
