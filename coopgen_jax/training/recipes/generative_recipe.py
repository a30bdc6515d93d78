"""The recipe of generative discriminators: a language model per class, trained by GeDi's loss."""

from functools import partial
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from coopgen_jax.data.labelled import Labelled
from coopgen_jax.discriminators.generative import GenerativeConfig, generative_params
from coopgen_jax.errors import UserError
from coopgen_jax.models.pretrained.loaded_model import LoadedModel
from coopgen_jax.training.loop import Begin, Listener
from coopgen_jax.training.objectives import gedi_loss
from coopgen_jax.training.recipes.full_network import (
    check_network,
    full_network,
    network_card,
    save_discriminator,
    trainable_of,
)
from coopgen_jax.training.recipes.recipe import Recipe, carry_out, labelled_subject
from coopgen_jax.training.run import RecipeConfig


def train_generative(
    model: LoadedModel,
    training: Labelled,
    validation: Labelled,
    config: RecipeConfig,
    *,
    folder: Path,
    mesh: Mesh,
    listener: Listener = lambda done, total, means: None,
    begin: Begin = lambda: None,
) -> dict[str, Any]:
    """Trains a generative discriminator by GeDi's loss; see `train_causal`."""
    if training.shares is not None or validation.shares is not None:
        raise UserError(
            "a generative discriminator learns a text from one class: give labels, no shares of "
            "several classes"
        )
    prefixes = tuple(
        (*model.tokenizer.begin_tokens, *model.tokenizer.encode(config.prefix.format(name)))
        for name in training.classes
    )
    check_network(model, config, max(map(len, prefixes)))
    subject = labelled_subject("generative", model, training, validation)
    discriminator = GenerativeConfig(model.config, training.classes, prefixes)

    def make() -> Recipe:
        network, frozen, join = trainable_of(model, config.lora, mesh, seed=config.batch.seed)
        begun = generative_params(None, len(prefixes))
        own = {name: begun[name] for name in ("log_prior", "scale")}

        def joined(trainable: Any, frozen: Any) -> Any:
            return {**trainable, "network": join(trainable["network"], frozen)}

        def export(trainable: Any, frozen: Any) -> Any:
            head = {name: trainable[name] for name in own}
            return {"network": full_network(join, trainable["network"], frozen), "head": head}

        loss = gedi_loss(discriminator, join=joined, class_weight=config.class_weight)
        return Recipe(
            objective=(loss, loss),
            trainable={"network": network, **own},
            frozen=frozen,
            card={
                "classes": list(training.classes),
                "reads_prompt": False,
                "prefixes": [list(prefix) for prefix in prefixes],
                "class_weight": config.class_weight,
                **network_card(model, config.lora),
            },
            measure=lambda run, outcome: run.report(loss, outcome.trainable, subject.rows[1]),
            export=export,
            deliver=partial(save_discriminator, model, config.saved_dtype),
            dtype=model.config.dtype,
        )

    return carry_out(
        subject, make, config, folder=folder, mesh=mesh, listener=listener, begin=begin
    )
