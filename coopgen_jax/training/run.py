"""One training run: its settings, and how it fits and measures on a mesh."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from coopgen_jax.data.batches import BatchConfig, in_order, training_batches
from coopgen_jax.data.fingerprint import common_half, fingerprint, write_fingerprint
from coopgen_jax.data.labelled import Labelled, Teacher
from coopgen_jax.errors import UserError
from coopgen_jax.models.lora import LoraConfig
from coopgen_jax.models.rematerialisation import Remat, check_remat
from coopgen_jax.parallel.mesh import Mapper, share
from coopgen_jax.tokenizer import Tokenizer
from coopgen_jax.training.loop import Begin, Listener, LoopConfig, Outcome, train
from coopgen_jax.training.optimiser_shards import in_full
from coopgen_jax.training.step import (
    Loss,
    begin_on,
    make_step,
    make_validation,
    mean_over,
    share_part,
)

# Lengths in tokens at which a card reports the accuracy.
LENGTHS = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class RecipeConfig:
    """How to train.

    Attributes:
      loop: how long.
      batch: the texts of a step.
      lora: additions to train beside a frozen network; None to train all of it.
      learning_rate: AdamW's highest (Loshchilov and Hutter 2019, arXiv 1711.05101).
      weight_decay: AdamW's.
      warmup: share of the steps in which the learning rate rises; it falls to 0 along a cosine.
      clip: largest norm of a gradient.
      micro_batches: equal parts that a batch is read in, one after another.
      hidden: widths of the hidden layers of a discriminator's head.
      dropout: share of the head's inputs that a step leaves out.
      class_weight: of a generative discriminator's loss; see `losses.gedi`.
      prefix: the text in front of a text of a class in a generative discriminator; {} is replaced
        by the class.
      validation_rows: validation texts that are read, at most, taken evenly.
      mapper: how a step is mapped over devices.
      sharded_optimiser: whether every device keeps its share of the optimiser's state only (ZeRO).
      sharded_parameters: whether it keeps its share of the trainable parameters only, too (ZeRO-3).
      remat: what a step computes again instead of keeping it; see `rematerialised`.
      saved_dtype: number format of the network's file.
    """

    loop: LoopConfig
    batch: BatchConfig = field(default_factory=BatchConfig)
    lora: LoraConfig | None = field(default_factory=LoraConfig)
    learning_rate: float = 5e-4
    weight_decay: float = 0.01
    warmup: float = 0.1
    clip: float = 1.0
    micro_batches: int = 1
    hidden: tuple[int, ...] = ()
    dropout: float = 0.1
    class_weight: float = 0.4
    prefix: str = "{}:"
    validation_rows: int = 1000
    mapper: Mapper = "shard_map"
    sharded_optimiser: bool = False
    sharded_parameters: bool = False
    remat: Remat | None = None
    saved_dtype: str = "float16"

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise UserError(f"the learning rate is {self.learning_rate}: it must be above 0")
        for name in ("warmup", "class_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} is {getattr(self, name)}: it must lie between 0 and 1")
        if self.micro_batches < 1 or self.batch.rows % self.micro_batches:
            raise UserError(
                f"{self.batch.rows} rows cannot be split into {self.micro_batches} equal "
                "micro-batches: give a number that divides them"
            )
        check_remat(self.remat)


@dataclass(frozen=True)
class Rows:
    """Tokenised texts and their classes.

    Attributes:
      ids: a row of token ids for every text.
      labels: for every text its class number, or its list of shares of the classes.
    """

    ids: list[list[int]]
    labels: list[Any]


def tokenised(tokenizer: Tokenizer, data: Labelled) -> Rows:
    """Returns texts as they stand in a continuation; those without a token are left out."""
    return as_written(tokenizer, replace(data, written=()))[0]


def as_written(tokenizer: Tokenizer, data: Labelled) -> tuple[Rows, list[list[int]]]:
    """Returns texts as `tokenised`, those that a model wrote in its tokens, and what is in front.

    The latter are the tokens of every row's prompt, none for a text that no model wrote.
    """
    # A continuation follows a space, and so do the training texts.
    ids = tokenizer.encode_batch([f" {text.strip()}" for text in data.texts])
    fronts: list[list[int]] = [[] for _ in ids]
    for number, pair in enumerate(data.written):
        if pair is not None:
            fronts[number], ids[number] = map(list, pair)
    kept = [number for number, row in enumerate(ids) if row]
    targets = data.targets
    rows = Rows([ids[number] for number in kept], [targets[number] for number in kept])
    return rows, [fronts[number] for number in kept]


def note_rows(folder: Path, texts: Sequence[str], teacher: Teacher | None = None) -> dict[str, Any]:
    """Leaves texts' fingerprint in a folder; returns what the card says of them.

    It is the half that all belong to, if there is one. With a `teacher` it is the teacher, whose
    rows count as read, and no half.
    """
    rows = fingerprint(texts)
    if teacher is not None and teacher.rows is not None:
        rows = np.union1d(rows, teacher.rows)
    if jax.process_index() == 0:
        write_fingerprint(folder, rows)
    if teacher is not None:
        known = teacher.rows is not None
        return {
            "teacher": {
                "name": teacher.name, "sha256": teacher.weights,
                "rows": "known" if known else "unknown",
            }
        }  # fmt: skip
    name = common_half(texts)
    return {} if name is None else {"half": name}


def _evenly(rows: Rows, most: int) -> Rows:
    count = min(most, len(rows.ids))
    chosen = [number * len(rows.ids) // count for number in range(count)]
    return Rows([rows.ids[n] for n in chosen], [rows.labels[n] for n in chosen])


def _optimiser(config: RecipeConfig) -> optax.GradientTransformation:
    steps = config.loop.steps
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, max(1, round(config.warmup * steps)), max(2, steps)
    )
    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.adamw(schedule, weight_decay=config.weight_decay),
    )


class Run:
    """One training on a mesh: how losses are taken over batches and over held-out rows."""

    def __init__(
        self, frozen: Any, config: RecipeConfig, mesh: Mesh, *, dtype: str = "float32"
    ) -> None:
        """Takes the parameters that are not trained, as they lie on the mesh.

        The number format `dtype` is the one that the trained network multiplies in.
        """
        self.frozen = frozen
        self.over: dict[str, Any] = {
            "mesh": mesh,
            "mapper": config.mapper,
            "sharded_parameters": config.sharded_parameters,
            "dtype": dtype,
        }
        self.config = config
        self.mesh = mesh
        self.key = jax.random.key(config.batch.seed)

    def validation(self, loss: Loss) -> Callable[[Any, Rows], dict[str, float]]:
        """Returns `(trainable, rows) -> means` of a loss."""
        measure = make_validation(loss, **self.over)
        size, longest = self.config.batch.rows, self.config.batch.longest

        def means(trainable: Any, rows: Rows) -> dict[str, float]:
            batches = in_order(rows.ids, rows.labels, size=size, longest=longest)
            return mean_over(
                [share_part(batch, self.mesh) for batch in batches],
                lambda batch: measure(trainable, self.frozen, batch, self.key),
            )

        return means

    def fit(
        self,
        trainable: Any,
        losses: tuple[Loss, Loss],
        training: Rows,
        validation: Rows,
        folder: Path,
        listener: Listener,
        begin: Begin = lambda: None,
    ) -> Outcome:
        """Trains by the first loss and validates by the second."""
        config, mesh = self.config, self.mesh
        optimiser = _optimiser(config)
        step = make_step(
            losses[0], optimiser, micro_batches=config.micro_batches,
            sharded=config.sharded_optimiser, remat=config.remat, **self.over,
        )  # fmt: skip
        begun = begin_on(
            mesh, trainable, optimiser, sharded=config.sharded_optimiser,
            sharded_parameters=config.sharded_parameters,
        )  # fmt: skip
        means = self.validation(losses[1])
        batches = training_batches(
            training.ids,
            training.labels,
            config.batch,
            process=jax.process_index(),
            processes=jax.process_count(),
        )
        held_out = _evenly(validation, config.validation_rows)
        outcome = train(
            begun,
            step=lambda state, batch: step(state, self.frozen, share(batch, mesh), self.key),
            batches=batches,
            validate=lambda trainable: means(trainable, held_out),
            folder=folder,
            config=config.loop,
            listener=listener,
            begin=begin,
        )
        return replace(outcome, trainable=in_full(outcome.trainable, mesh))

    def report(self, loss: Loss, trainable: Any, rows: Rows) -> dict[str, Any]:
        """Returns the entries of a discriminator's card on its accuracy on validation texts.

        It is that on their first tokens, by their number; only texts of at least as many count.
        """
        means = self.validation(loss)
        rows = _evenly(rows, self.config.validation_rows)
        accuracy = {}
        for length in (n for n in LENGTHS if n <= self.config.batch.longest):
            long = [number for number, row in enumerate(rows.ids) if len(row) >= length]
            if long:
                cut = Rows([rows.ids[n][:length] for n in long], [rows.labels[n] for n in long])
                accuracy[str(length)] = means(trainable, cut)["accuracy"]
        accuracy["whole"] = means(trainable, rows)["accuracy"]
        return {"accuracy": {"validation": accuracy}, "accuracy_unit": "tokens read"}
