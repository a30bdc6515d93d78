"""The recipe of bidirectional discriminators: an encoder of the BERT family with a class head."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from coopgen_jax.data.labelled import Labelled
from coopgen_jax.discriminators.head import HeadConfig
from coopgen_jax.errors import UserError
from coopgen_jax.models.lora import add_lora, init_lora, merge_lora
from coopgen_jax.models.pretrained.loaded_model import LoadedEncoder
from coopgen_jax.models.pretrained.saving import save_encoder
from coopgen_jax.parallel.mesh import place
from coopgen_jax.training.card import save_head
from coopgen_jax.training.loop import Begin, Listener, Outcome
from coopgen_jax.training.objectives import encoder_classification_loss
from coopgen_jax.training.recipes.begin_head import begin_head
from coopgen_jax.training.recipes.recipe import Recipe, Subject, carry_out
from coopgen_jax.training.run import RecipeConfig, Run, check_classes, tokenised


def train_bidirectional(
    encoder: LoadedEncoder,
    training: Labelled,
    validation: Labelled,
    config: RecipeConfig,
    *,
    frozen: bool = False,
    folder: Path,
    mesh: Mesh,
    listener: Listener = lambda done, total, means: None,
    begin: Begin = lambda: None,
) -> dict[str, Any]:
    """Trains a bidirectional discriminator; `load_discriminator` takes the folder.

    Args:
      encoder: what reads the texts.
      training: texts and classes.
      validation: others of the same classes.
      config: how to train; what concerns generative discriminators has no meaning here. A folder
        that was trained with `lora` names its encoder and does not hold it.
      frozen: whether the encoder stays as it is, without `lora`, and its head alone is trained.
      folder: where everything goes, checkpoints included; a run that stopped there goes on.
      mesh: the devices.
      listener: called after every step.
      begin: called in front of the first one; see `loop.Begin`.

    Returns:
      The card.

    Raises:
      UserError: the classes differ, texts exceed the encoder's context, its tokenizer puts not one
        token in front of a text and one behind it, or the folder holds another training.
    """
    check_classes(training, validation)
    special = encoder.tokenizer.encode("", special=True)
    if len(special) != 2:
        raise UserError(
            f"{encoder.name} puts {len(special)} tokens around a text where one in front and one "
            "behind are expected: choose another encoder"
        )
    width = config.batch.longest + 2
    if width > encoder.config.context:
        raise UserError(
            f"texts of {config.batch.longest} word pieces and 2 around them exceed the encoder's "
            f"context of {encoder.config.context}: shorten them"
        )
    rows = tokenised(encoder.tokenizer, training), tokenised(encoder.tokenizer, validation)
    settings = {"classes": training.classes, "dtype": encoder.config.dtype, "frozen": frozen}
    subject = Subject("bidirectional", encoder.sha256, rows, training.origins, settings)

    make = partial(_recipe, encoder, (special[0], special[1]))
    return carry_out(
        subject, make, config, folder=folder, mesh=mesh, listener=listener, begin=begin
    )


def _recipe(
    encoder: LoadedEncoder,
    special: tuple[int, int],
    subject: Subject,
    config: RecipeConfig,
    mesh: Mesh,
) -> Recipe:
    classes = subject.settings["classes"]
    head = HeadConfig(classes, encoder.config.width, config.hidden, config.dropout)
    trainable, frozen, join, trained = _encoder(encoder, config, subject.settings["frozen"])
    losses = tuple(
        encoder_classification_loss(encoder.config, head, special, join=join, training=training)
        for training in (True, False)
    )
    own = Path(encoder.name).expanduser()

    def measure(run: Run, outcome: Outcome) -> dict[str, Any]:
        report = run.report(losses[1], outcome.trainable, subject.rows[1])
        return {**report, "accuracy_unit": "word pieces read"}

    def deliver(folder: Path, weights: Any, card: dict[str, Any]) -> None:
        if "encoder" in weights:
            save_encoder(
                folder / "encoder", encoder.config, weights["encoder"], encoder.tokenizer,
                dtype=config.saved_dtype,
            )  # fmt: skip
        save_head(folder, _kept(weights, config), card)

    return Recipe(
        objective=(losses[0], losses[1]),
        trainable={
            "head": begin_head(head, seed=config.batch.seed, standardised=False),
            **trainable,
        },
        frozen=place(frozen, mesh),
        card={
            "classes": list(classes),
            "hidden": list(config.hidden),
            "reads_prompt": False,
            "encoder": str(own.resolve()) if own.is_dir() else encoder.name,
            "encoder_sha256": encoder.sha256,
            "trained": trained,
            **_additions(config, trainable),
            "width": config.batch.longest + 2,
        },
        measure=measure,
        export=lambda trainable, _: jax.tree.map(np.asarray, trainable),
        deliver=deliver,
    )


def _encoder(
    encoder: LoadedEncoder, config: RecipeConfig, frozen: bool
) -> tuple[dict[str, Any], Any, Callable[[Any, Any], Any], str]:
    """Returns what is trainable of an encoder, what is not, how both are joined, and its name."""
    if frozen:
        return (
            {},
            encoder.params,
            lambda trainable, frozen: {"encoder": frozen, **trainable},
            "the head alone",
        )
    if config.lora is None:
        # A copy, since a step gives its state's memory away; what is trainable is single precision.
        single = jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32), encoder.params)
        return {"encoder": single}, None, lambda trainable, frozen: trainable, "everything"
    lora = config.lora

    def join(trainable: Any, frozen: Any) -> Any:
        return {
            "encoder": merge_lora(add_lora(frozen, trainable["lora"], lora)),
            "head": trainable["head"],
        }

    additions = init_lora(jax.random.key(config.batch.seed + 1), encoder.params, lora)
    return {"lora": additions}, encoder.params, join, f"LoRA of rank {lora.rank}"


def _additions(config: RecipeConfig, trainable: Any) -> dict[str, Any]:
    """Returns what the card says of LoRA's additions, where there are any."""
    if "lora" not in trainable:
        return {}
    assert config.lora is not None
    return {"lora": {"rank": config.lora.rank, "targets": sorted(trainable["lora"])}}


def _kept(weights: Any, config: RecipeConfig) -> Any:
    """Returns what the head's file holds: the head, and additions at a scale of one beside it."""
    if "lora" not in weights:
        return weights["head"]
    assert config.lora is not None
    scale = config.lora.alpha / config.lora.rank
    additions = {
        name: {**addition, "lora_up": scale * addition["lora_up"]}
        for name, addition in weights["lora"].items()
    }
    return {"head": weights["head"], "lora": additions}
