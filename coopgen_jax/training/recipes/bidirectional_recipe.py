"""The recipe of bidirectional discriminators: an encoder of the BERT family with a class head."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from coopgen_jax.data.labelled import Labelled
from coopgen_jax.discriminators.head import HeadConfig
from coopgen_jax.errors import UserError
from coopgen_jax.models.lora import LoraConfig, add_lora, init_lora, merge_lora
from coopgen_jax.models.pretrained.loaded_model import LoadedEncoder
from coopgen_jax.models.pretrained.saving import save_encoder
from coopgen_jax.parallel.mesh import place
from coopgen_jax.training.card import save_head
from coopgen_jax.training.loop import Begin, Listener, Outcome
from coopgen_jax.training.objectives import Join, all_trainable, encoder_classification_loss
from coopgen_jax.training.recipes.begin_head import begin_head
from coopgen_jax.training.recipes.full_network import single_precision
from coopgen_jax.training.recipes.recipe import Recipe, Subject, carry_out, labelled_subject
from coopgen_jax.training.run import RecipeConfig, Run


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

    An encoder reads the texts; the rest is as in `train_causal`. Where it is `frozen` it stays as
    it is, without `lora`, and its head alone is trained. A folder that was trained with `lora`
    names its encoder and does not hold it.

    Raises:
      UserError: the classes differ, texts exceed the encoder's context, its tokenizer puts not one
        token in front of a text and one behind it, or the folder holds another training.
    """
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
    subject = labelled_subject("bidirectional", encoder, training, validation, frozen=frozen)
    make = partial(_recipe, encoder, (special[0], special[1]), subject, config, mesh)
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
    classes, untouched = subject.settings["classes"], subject.settings["frozen"]
    head = HeadConfig(classes, encoder.config.width, config.hidden, config.dropout)
    lora = None if untouched else config.lora
    trainable, frozen, join = _encoder(encoder, lora, untouched, config.batch.seed + 1)
    losses = [
        encoder_classification_loss(encoder.config, head, special, join=join, training=training)
        for training in (True, False)
    ]
    own = Path(encoder.name).expanduser()
    card = {
        "classes": list(classes),
        "hidden": list(config.hidden),
        "reads_prompt": False,
        "encoder": str(own.resolve()) if own.is_dir() else encoder.name,
        "encoder_sha256": encoder.sha256,
        "trained": "the head alone" if untouched else "everything",
    }
    if lora is not None:
        card["trained"] = f"LoRA of rank {lora.rank}"
        card["lora"] = {"rank": lora.rank, "targets": sorted(trainable["lora"])}

    def measure(run: Run, outcome: Outcome) -> dict[str, Any]:
        report = run.report(losses[1], outcome.trainable, subject.rows[1])
        return {**report, "accuracy_unit": "word pieces read"}

    def deliver(folder: Path, weights: Any, card: dict[str, Any]) -> None:
        if "encoder" in weights:
            save_encoder(
                folder / "encoder", encoder.config, weights["encoder"], encoder.tokenizer,
                dtype=config.saved_dtype,
            )  # fmt: skip
        save_head(folder, weights["head"] if lora is None else _beside(weights, lora), card)

    return Recipe(
        objective=(losses[0], losses[1]),
        trainable={
            "head": begin_head(head, seed=config.batch.seed, standardised=False),
            **trainable,
        },
        frozen=place(frozen, mesh),
        card={**card, "width": config.batch.longest + 2},
        measure=measure,
        export=lambda trainable, _: jax.tree.map(np.asarray, trainable),
        deliver=deliver,
        dtype=encoder.config.dtype,
    )


def _encoder(
    encoder: LoadedEncoder, lora: LoraConfig | None, untouched: bool, seed: int
) -> tuple[dict[str, Any], Any, Join]:
    """Returns what is trainable of an encoder, what is not, and how both are joined."""
    if untouched:
        return {}, encoder.params, lambda trainable, frozen: {"encoder": frozen, **trainable}
    if lora is None:
        return {"encoder": single_precision(encoder.params)}, None, all_trainable

    def join(trainable: Any, frozen: Any) -> Any:
        return {
            "encoder": merge_lora(add_lora(frozen, trainable["lora"], lora)),
            "head": trainable["head"],
        }

    additions = init_lora(jax.random.key(seed), encoder.params, lora)
    return {"lora": additions}, encoder.params, join


def _beside(weights: Any, lora: LoraConfig) -> Any:
    """Returns the head, and LoRA's additions at a scale of one beside it."""
    scale = lora.alpha / lora.rank
    additions = {
        name: {**addition, "lora_up": scale * addition["lora_up"]}
        for name, addition in weights["lora"].items()
    }
    return {"head": weights["head"], "lora": additions}
