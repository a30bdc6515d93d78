"""Networks as large as the language model: how they begin, and how they are joined and written."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from coopgen_jax.errors import UserError
from coopgen_jax.models.layer_layout import for_training, stack_layers
from coopgen_jax.models.lora import LoraConfig, add_lora, init_lora, merge_lora
from coopgen_jax.models.pretrained.loaded_model import LoadedModel
from coopgen_jax.models.pretrained.saving import save_model
from coopgen_jax.models.transformer import Params
from coopgen_jax.parallel.mesh import place
from coopgen_jax.training.card import save_head
from coopgen_jax.training.objectives import Join, all_trainable
from coopgen_jax.training.run import RecipeConfig


def check_network(model: LoadedModel, config: RecipeConfig, front: int) -> None:
    """Checks that a network can be trained on texts behind `front` tokens.

    Raises:
      UserError: the texts do not fit the context, or the layers are separate.
    """
    longest = front + config.batch.longest
    if longest > model.config.context:
        raise UserError(
            f"texts of {config.batch.longest} tokens and {front} in front of them exceed the "
            f"network's context of {model.config.context}: shorten them"
        )
    if isinstance(model.params["layers"], tuple):
        raise UserError("training wants stacked layers: load the model with stacked=True")


def trainable_of(
    model: LoadedModel, lora: LoraConfig | None, mesh: Mesh, *, seed: int
) -> tuple[Any, Any, Join]:
    """Returns a network's trainable and frozen parameters, and how they are joined.

    Args:
      model: the network, its layers stacked.
      lora: the additions to train beside it; None to train all of it.
      mesh: the devices.
      seed: of the additions.
    """
    if lora is None:
        # A copy, since a step gives its state's memory away; what is trained is single precision.
        single = jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32), model.params)
        return for_training(single), None, all_trainable
    return (
        init_lora(jax.random.key(seed), model.params, lora),
        place(for_training(model.params), mesh),
        lambda trainable, frozen: add_lora(frozen, trainable, lora),
    )


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
    folder: Path, model: LoadedModel, weights: dict[str, Any], card: dict[str, Any], *, dtype: str
) -> None:
    """Writes a discriminator with a network of its own; the card comes last.

    Args:
      folder: the discriminator's; its network goes to the folder "network" in it.
      model: whose shape and tokenizer the network has.
      weights: `{"network", "head"}` on the host.
      card: the card.
      dtype: of the network's file.
    """
    network = folder / "network"
    save_model(network, model.config, weights["network"], model.tokenizer, dtype=dtype)
    save_head(folder, jax.tree.map(np.asarray, weights["head"]), card)
