"""Networks as large as the language model: how they begin, and how they are joined and written."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from coopgen_jax.errors import UserError
from coopgen_jax.models.layer_layout import for_training, stack_layers, stacked_numbers
from coopgen_jax.models.lora import LoraConfig, add_lora, init_lora, merge_lora
from coopgen_jax.models.pretrained.loaded_model import LoadedModel
from coopgen_jax.models.pretrained.saving import save_model
from coopgen_jax.models.product import numbers
from coopgen_jax.models.transformer import Params
from coopgen_jax.parallel.mesh import place
from coopgen_jax.training.card import save_head
from coopgen_jax.training.objectives import Join, all_trainable
from coopgen_jax.training.run import RecipeConfig


def check_network(model: LoadedModel, config: RecipeConfig, front: int) -> None:
    """Raises UserError where texts behind `front` tokens do not fit, or layers are no stack."""
    longest = front + config.batch.longest
    if longest > model.config.context:
        raise UserError(
            f"texts of {config.batch.longest} tokens and {front} in front of them exceed the "
            f"network's context of {model.config.context}: shorten them"
        )
    if not stacked_numbers(model.params):
        raise UserError(
            "training wants layers in one stack of numbers: load the model with stacked=True"
        )


def trainable_of(
    model: LoadedModel, lora: LoraConfig | None, mesh: Mesh, *, seed: int
) -> tuple[Any, Any, Join]:
    """Returns trainable and frozen parameters of a network of stacked layers, and their join.

    Without `lora` all of it is trained; `seed` is that of LoRA's additions.
    """
    if lora is None:
        return for_training(single_precision(model.params)), None, all_trainable
    return (
        init_lora(jax.random.key(seed), model.params, lora),
        place(for_training(model.params), mesh),
        lambda trainable, frozen: add_lora(frozen, trainable, lora),
    )


def single_precision(params: Any) -> Any:
    """Returns a copy to train: a step gives its state's memory away."""
    return jax.tree.map(lambda leaf: jnp.array(numbers(leaf), jnp.float32), params)


def full_network(join: Join, trainable: Any, frozen: Any) -> Params:
    """Returns a trained network's parameters, stacked, with LoRA merged into its kernels."""
    merged = merge_lora(stack_layers(join(trainable, frozen)))
    params: Params = jax.tree.map(np.asarray, merged)
    return params


def network_card(model: LoadedModel, lora: LoraConfig | None) -> dict[str, Any]:
    """Returns what a card says of the network that was trained."""
    return {
        "model": model.name,
        "model_sha256": model.sha256,
        "trained": "everything" if lora is None else f"LoRA of rank {lora.rank}",
    }


def save_discriminator(
    model: LoadedModel, dtype: str, folder: Path, weights: dict[str, Any], card: dict[str, Any]
) -> None:
    """Writes a discriminator, its network in the folder "network" below; the card comes last.

    Its `weights`, `{"network", "head"}`, are on the host. The network, in a file of `dtype`, has
    the shape and the tokenizer of `model`.
    """
    network = folder / "network"
    save_model(network, model.config, weights["network"], model.tokenizer, dtype=dtype)
    save_head(folder, weights["head"], card)
