"""A training as a record: what five trainings differ in, and the one way to carry any of them out.

A recipe names an objective, the parameters that it trains and those that stay frozen, and what is
written in the end: a network as a Hugging Face folder, a head's weights, a card. Its subject and
its settings decide everything that comes out, so that a run which stopped goes on when it is
started again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from coopgen_jax.data.labelled import Labelled, Teacher
from coopgen_jax.errors import UserError
from coopgen_jax.models.pretrained.loaded_model import LoadedEncoder, LoadedModel
from coopgen_jax.training.loop import Begin, Listener, Outcome
from coopgen_jax.training.objectives import Join
from coopgen_jax.training.run import RecipeConfig, Rows, Run, note_rows, tokenised
from coopgen_jax.training.step import Loss
from coopgen_jax.training.training_folder import claim


@dataclass(frozen=True)
class Subject:
    """What a folder is claimed for.

    Attributes:
      kind: the training's name in its folder and on its card.
      source: hash of the weights that the training begins with or reads through.
      rows: the training and the validation texts as token ids.
      texts: the training texts, whose fingerprint stays in the folder.
      settings: plain values that decide, beside the `RecipeConfig`, what comes out.
      teacher: who labelled the texts by probabilities, None where nobody did.
      neutral: how many of the training texts have no class.
    """

    kind: str
    source: str
    rows: tuple[Rows, Rows]
    texts: Sequence[str]
    settings: dict[str, Any]
    teacher: Teacher | None = None
    neutral: int = 0


def labelled_subject(
    kind: str,
    network: LoadedModel | LoadedEncoder,
    training: Labelled,
    validation: Labelled,
    **more: Any,
) -> Subject:
    """Returns a discriminator's subject: texts of classes as `network` reads them.

    Its settings are the classes, the network's dtype, and `more`. Raises UserError where training
    and validation texts have other classes.
    """
    if training.classes != validation.classes:
        raise UserError(
            f"the training texts have the classes {', '.join(training.classes)} and the validation "
            f"texts {', '.join(validation.classes)}: they must be the same"
        )
    rows = tokenised(network.tokenizer, training), tokenised(network.tokenizer, validation)
    settings = {"classes": training.classes, "dtype": network.config.dtype, **more}
    neutral = 0 if training.neutral is None else int(training.neutral.sum())
    return Subject(
        kind, network.sha256, rows, training.origins, settings, training.teacher, neutral
    )


@dataclass(frozen=True)
class Recipe:
    """How a subject is trained, and what is written of it.

    Attributes:
      objective: the loss of a step's batch and the loss of a validation batch.
      trainable: the parameters in front of the first step.
      frozen: the parameters that no step changes, as they lie on the mesh; None without any.
      card: entries of the card that are known before the first step.
      measure: `(run, outcome) -> entries` of the card that are measured behind the last step.
      export: joins `(trainable, frozen)` to weights on the host. Every process calls it.
      deliver: `(folder, weights, card)` writes the files, the card last. The first process alone
        calls it.
      rows: the training and the validation rows that the losses read; None for the subject's.
      dtype: number format that the trained network multiplies in.
    """

    objective: tuple[Loss, Loss]
    trainable: Any
    frozen: Any
    card: dict[str, Any]
    measure: Callable[[Run, Outcome], dict[str, Any]]
    export: Join
    deliver: Callable[[Path, Any, dict[str, Any]], None]
    rows: tuple[Rows, Rows] | None = None
    dtype: str = "float32"


def carry_out(
    subject: Subject,
    make: Callable[[], Recipe],
    config: RecipeConfig,
    *,
    folder: Path,
    mesh: Mesh,
    listener: Listener,
    begin: Begin,
) -> dict[str, Any]:
    """Claims the folder, trains, and writes the card and the weights.

    `make` is called once the folder is claimed: it may take minutes. The other arguments are those
    of `train_causal`, and so is what is returned.

    Raises:
      UserError: the folder holds another training, or a loss is not finite.
    """
    claim(folder, subject.kind, subject.source, config, subject.rows, **subject.settings)
    recipe = make()
    run = Run(recipe.frozen, config, mesh, dtype=recipe.dtype)
    rows = subject.rows if recipe.rows is None else recipe.rows
    outcome = run.fit(recipe.trainable, recipe.objective, *rows, folder, listener, begin)
    card = {
        "kind": subject.kind,
        **recipe.card,
        **note_rows(folder, subject.texts, subject.teacher),
        **({"neutral_texts": subject.neutral} if subject.neutral else {}),
        "steps": outcome.step,
        "stopped": outcome.stopped,
        "best": outcome.best,
        "rows_of_a_step": config.batch.rows,
        "longest": config.batch.longest,
        "learning_rate": config.learning_rate,
        "dtype": subject.settings["dtype"],
        "seed": config.batch.seed,
        **recipe.measure(run, outcome),
    }
    weights = recipe.export(outcome.trainable, recipe.frozen)
    if jax.process_index() == 0:
        recipe.deliver(folder, weights, card)
    return card
