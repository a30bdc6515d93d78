"""The recipe of shared-trunk discriminators: small networks on a frozen language model's states."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from coopgen_jax.data.batches import training_batches
from coopgen_jax.data.frozen_states import check_room, front_of, places, read_states
from coopgen_jax.data.labelled import Labelled
from coopgen_jax.discriminators.head import HeadConfig
from coopgen_jax.discriminators.shared_trunk import SharedTrunkConfig, running_features
from coopgen_jax.discriminators.trunk_layers import (
    TrunkLayersConfig,
    init_trunk_layers,
    small_network,
)
from coopgen_jax.errors import UserError
from coopgen_jax.models.pretrained.loaded_model import LoadedModel
from coopgen_jax.parallel.mesh import place
from coopgen_jax.training.card import save_head
from coopgen_jax.training.decisions import decision_table
from coopgen_jax.training.loop import Begin, Listener
from coopgen_jax.training.objectives import trunk_classification_loss
from coopgen_jax.training.recipes.begin_head import begin_head, standardisation
from coopgen_jax.training.recipes.recipe import Recipe, Subject, carry_out, labelled_subject
from coopgen_jax.training.run import RecipeConfig, Rows, as_written
from coopgen_jax.training.searched_rows import SearchedRows, beside, both_teachers

# Of so many batches the standardisation is taken.
STANDARD_BATCHES = 32


@dataclass(frozen=True)
class TrunkConfig:
    """What stands on the language model.

    Attributes:
      taps: the layers whose states are read, numbered as `LanguageModel.taps`.
      layers: small causal layers on them; 0 for a head on the last and the mean state.
      width: of the small layers, a multiple of 32.
      look_ahead: width of a look-ahead head's keys, 0 for none; it wants layers.
      before: fewer tokens than this play the prompt in front of a training text.
    """

    taps: tuple[int, ...]
    layers: int = 1
    width: int = 128
    look_ahead: int = 0
    before: int = 12

    def __post_init__(self) -> None:
        if not self.taps:
            raise UserError("a shared-trunk discriminator wants taps: give one layer or more")
        if self.layers < 0 or self.look_ahead < 0:
            raise UserError(
                f"{self.layers} layers with a look-ahead of {self.look_ahead}: give 0 or more"
            )
        if self.layers and (self.width < 32 or self.width % 32):
            raise UserError(f"the layers' width is {self.width}: give a multiple of 32")
        if self.look_ahead and not self.layers:
            raise UserError("a look-ahead head stands on layers: give one or more of them")


def train_shared_trunk(
    model: LoadedModel,
    training: Labelled,
    validation: Labelled,
    config: RecipeConfig,
    trunk: TrunkConfig,
    *,
    folder: Path,
    mesh: Mesh,
    listener: Listener = lambda done, total, means: None,
    begin: Begin = lambda: None,
    reading: Callable[[int, int], None] = lambda done, total: None,
    states: Path | None = None,
    searched: SearchedRows | None = None,
) -> dict[str, Any]:
    """Trains a shared-trunk discriminator; `load_discriminator` takes the folder.

    The language model is frozen: it reads every text once, and its states are trained on. A text
    that it wrote itself it reads behind its prompt, so that its states are those of a search. Every
    prefix of a text is classified in every step, so batches are not cut, and `lora` has no meaning
    here. Every device holds all states; they are kept for the next time in the folder `states`, if
    there is one. `reading` is called after every batch: how many of how many texts have been read.
    The rest is as in `train_causal`.

    Raises:
      UserError: the classes differ, the model has no such taps, or the folder holds another
        training.
    """
    config = replace(config, batch=replace(config.batch, shortest=None))
    _check(model, config, trunk)
    subject = labelled_subject("shared-trunk", model, training, validation)
    longest = config.batch.longest
    read = [as_written(model.tokenizer, part) for part in (training, validation)]
    rows = [Rows([row[:longest] for row in part.ids], part.labels) for part, _ in read]
    fronts = read[0][1]
    settings = {
        "trunk": asdict(trunk),
        "searched_sha256": None if searched is None else searched.sha256,
        **subject.settings,
    }
    if any(fronts):
        room = model.config.context - longest - len(front_of(model))
        fronts = [front[-room:] if room else [] for front in fronts]
        settings["prompts_sha256"] = hashlib.sha256(json.dumps(fronts).encode()).hexdigest()
    if searched is not None:
        check_look_ahead(trunk)
        searched.check(subject.settings["classes"])
        texts = *subject.texts, *searched.prompts
        subject = replace(subject, texts=texts, teacher=both_teachers(subject.teacher, searched))
    subject = replace(subject, rows=(rows[0], rows[1]), settings=settings)
    # Where texts are added to the training texts, those in front stay as they are.
    ids = [*rows[1].ids, *(front + row for front, row in zip(fronts, rows[0].ids, strict=True))]
    check_room(model, trunk.taps, ids, folder=states)
    where = places(ids)
    own = [row[len(front) :] for front, row in zip(fronts, where[len(rows[1].ids) :], strict=True)]
    both = Rows(own, rows[0].labels), Rows(where[: len(rows[1].ids)], rows[1].labels)

    def make() -> Recipe:
        table = read_states(model, trunk.taps, ids, folder=states, listener=reading)
        more = None
        if searched is not None:
            more = searched, searched.states(model, trunk.taps, states)
        return _recipe(model, trunk, _Read(table, ids, both), more, subject, config, mesh)

    return carry_out(
        subject, make, config, folder=folder, mesh=mesh, listener=listener, begin=begin
    )


@dataclass(frozen=True, eq=False)
class _Read:
    """What the language model has read.

    Attributes:
      table: the states of all tokens; see `read_states`.
      ids: the tokens, text by text, with the prompt in front of a text that a model wrote.
      rows: the training and the validation texts, without prompts, as places in the table.
    """

    table: np.ndarray
    ids: list[list[int]]
    rows: tuple[Rows, Rows]


def _check(model: LoadedModel, config: RecipeConfig, trunk: TrunkConfig) -> None:
    longest = config.batch.longest
    if longest + len(front_of(model)) > model.config.context:
        raise UserError(
            f"texts of {longest} tokens exceed the network's context of {model.config.context}: "
            "shorten them"
        )
    if not all(0 <= tap <= model.config.layers for tap in trunk.taps):
        raise UserError(
            f"the taps are {', '.join(map(str, trunk.taps))}: the language model has the layers 0 "
            f"to {model.config.layers}"
        )


def check_look_ahead(trunk: TrunkConfig) -> None:
    """Raises UserError where nothing could learn from searches."""
    if not trunk.look_ahead:
        raise UserError(
            "it is a look-ahead head that learns from searches: give look_ahead its width"
        )


def _recipe(
    model: LoadedModel,
    trunk: TrunkConfig,
    read: _Read,
    searched: tuple[SearchedRows, np.ndarray] | None,
    subject: Subject,
    config: RecipeConfig,
    mesh: Mesh,
) -> Recipe:
    rows, ids, table = read.rows, read.ids, read.table
    classes, about = subject.settings["classes"], {}
    frozen: dict[str, Any] = {"states": table}
    if searched is not None:
        found, more = searched
        own = found.rows(len(table))
        both = partial(beside, classes=len(classes))
        rows = both(rows[0], own[0], evenly=True), both(rows[1], own[1])
        texts = [text for part in found.parts for text in part]
        embedding = np.asarray(model.params["embedding"])
        frozen["searched"] = decision_table(texts, classes, embedding, len(table))
        frozen["states"] = np.concatenate([table, more])
        ids, about = ids + [text.tokens for text in texts], {"searches": found.card}
    if trunk.look_ahead:
        frozen["tokens"] = np.concatenate([np.asarray(row, np.int32) for row in ids])
        frozen["embedding"] = model.params["embedding"]
    discriminator, trainable = _begin(model, classes, config, trunk)
    standard = _standard(config, trunk, frozen["states"], rows[0])

    def join(trainable: Any, _: Any) -> Any:
        if trunk.layers:
            return {**trainable, "entrance": {**trainable["entrance"], **standard}}
        return {**trainable, **standard}

    losses = [
        trunk_classification_loss(
            discriminator, join=join, training=training, before=trunk.before,
            ends=model.tokenizer.end_tokens,
        )
        for training in (True, False)
    ]  # fmt: skip
    return Recipe(
        objective=(losses[0], losses[1]),
        trainable=trainable,
        frozen=place(frozen, mesh),
        card={
            "classes": list(classes),
            "hidden": list(config.hidden),
            "reads_prompt": False,
            "model": model.name,
            "model_sha256": model.sha256,
            **asdict(trunk),
            "taps": list(trunk.taps),
            "context": model.config.context,
            **about,
        },
        measure=lambda run, outcome: run.report(losses[1], outcome.trainable, read.rows[1]),
        export=lambda *both: jax.tree.map(np.asarray, join(*both)),
        deliver=save_head,
        rows=rows,
    )


def _begin(
    model: LoadedModel, classes: tuple[str, ...], config: RecipeConfig, trunk: TrunkConfig
) -> tuple[SharedTrunkConfig | TrunkLayersConfig, Any]:
    """Returns the discriminator's shape and its first parameters, without a standardisation."""
    key = jax.random.key(config.batch.seed)
    width = model.config.width
    discriminator: SharedTrunkConfig | TrunkLayersConfig
    if trunk.layers:
        context = model.config.context
        network = small_network(layers=trunk.layers, width=trunk.width, context=context)
        head = HeadConfig(classes, trunk.width, config.hidden, config.dropout)
        discriminator = TrunkLayersConfig(trunk.taps, width, network, head, trunk.look_ahead)
        params = init_trunk_layers(key, discriminator)
        params["entrance"] = {"projection": params["entrance"]["projection"]}
    else:
        head = HeadConfig(classes, 2 * len(trunk.taps) * width, config.hidden, config.dropout)
        discriminator = SharedTrunkConfig(trunk.taps, False, head)
        params = begin_head(head, seed=config.batch.seed, standardised=True)
    return discriminator, params


def _standard(
    config: RecipeConfig, trunk: TrunkConfig, table: np.ndarray, rows: Rows
) -> dict[str, np.ndarray]:
    """Returns the mean and the inverse deviation of what the first layer sees in training."""
    batches = training_batches(rows.ids, rows.labels, config.batch)

    def seen(batch: dict[str, np.ndarray]) -> np.ndarray:
        states = table[batch["tokens"]].astype(np.float32)
        inputs: Any = states.reshape(*states.shape[:2], -1)
        if not trunk.layers:
            inputs = np.asarray(running_features(jnp.asarray(states), jnp.asarray(batch["mask"])))
        return inputs[batch["mask"]]

    return standardisation(seen(batches[number]) for number in range(STANDARD_BATCHES))
