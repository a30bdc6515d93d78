"""The recipe of causal discriminators: a class head on a network shaped as the language model."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from coopgen_jax.data.batches import training_batches
from coopgen_jax.data.labelled import Labelled
from coopgen_jax.discriminators.causal import CausalConfig
from coopgen_jax.discriminators.head import HeadConfig
from coopgen_jax.errors import UserError
from coopgen_jax.models.pretrained.loaded_model import LoadedModel
from coopgen_jax.models.transformer import Params
from coopgen_jax.training.loop import Begin, Listener
from coopgen_jax.training.objectives import Join, classification_loss, states_read
from coopgen_jax.training.recipes.begin_head import begin_head, standardisation
from coopgen_jax.training.recipes.full_network import (
    check_network,
    full_network,
    network_card,
    save_discriminator,
    trainable_of,
)
from coopgen_jax.training.recipes.recipe import Recipe, Subject, carry_out, labelled_subject
from coopgen_jax.training.run import RecipeConfig

# Of so many batches the standardisation is taken.
STANDARD_BATCHES = 8


def train_causal(
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
    """Trains a causal discriminator; `load_discriminator` takes the folder.

    Args:
      model: the language model that it begins as and is to guide, its layers stacked.
      training: texts and classes.
      validation: others of the same classes.
      config: how to train.
      folder: where everything goes, checkpoints included; a run that stopped there goes on.
      mesh: the devices.
      listener: called after every step.
      begin: called in front of the first one; see `loop.Begin`.

    Returns:
      The card.

    Raises:
      UserError: the classes differ, the layers are no stack, or the folder holds another training.
    """
    check_network(model, config, 1)
    starts = (*model.tokenizer.begin_tokens, *model.tokenizer.end_tokens)
    if not starts:
        raise UserError("the model has no token that begins or ends a text to read a text behind")
    head = HeadConfig(training.classes, model.config.width, config.hidden, config.dropout)
    subject = labelled_subject("causal", model, training, validation)
    discriminator = CausalConfig(model.config, head, starts[0])
    make = partial(_recipe, model, discriminator, subject, config, mesh)
    return carry_out(
        subject, make, config, folder=folder, mesh=mesh, listener=listener, begin=begin
    )


def _recipe(
    model: LoadedModel,
    discriminator: CausalConfig,
    subject: Subject,
    config: RecipeConfig,
    mesh: Mesh,
) -> Recipe:
    network, frozen, join = trainable_of(model, config.lora, mesh, seed=config.batch.seed)
    head = begin_head(discriminator.head, seed=config.batch.seed, standardised=True)
    rows = subject.rows[0]
    batches = training_batches(rows.ids, rows.labels, config.batch)
    standard = standard_of(
        discriminator, model.params, (batches[number] for number in range(STANDARD_BATCHES))
    )

    def joined(join: Join, trainable: Any, frozen: Any) -> Any:
        return {
            "network": join(trainable["network"], frozen),
            "head": {**trainable["head"], **standard},
        }

    both = partial(joined, join)
    prefixes = config.batch.shortest is not None
    losses = (
        classification_loss(discriminator, join=both, prefixes=prefixes),
        classification_loss(discriminator, join=both, training=False),
    )
    return Recipe(
        objective=losses,
        trainable={"network": network, "head": head},
        frozen=frozen,
        card={
            "classes": list(discriminator.head.classes),
            "hidden": list(config.hidden),
            "reads_prompt": False,
            "start_token": discriminator.start_token,
            **network_card(model, config.lora),
        },
        measure=lambda run, outcome: run.report(losses[1], outcome.trainable, subject.rows[1]),
        export=partial(joined, partial(full_network, join)),
        deliver=partial(save_discriminator, model, config.saved_dtype),
        dtype=model.config.dtype,
    )


def standard_of(
    discriminator: CausalConfig, network: Params, batches: Iterable[dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Returns the mean and the inverse deviation of the states that an untrained network gives.

    A head on states as they are would learn at another speed in every direction.
    """
    read = jax.jit(partial(states_read, discriminator))

    def seen(batch: dict[str, np.ndarray]) -> np.ndarray:
        return np.asarray(read(network, batch))[batch["mask"]]

    return standardisation(map(seen, batches))
