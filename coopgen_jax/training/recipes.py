"""Recipes: from a language model and texts to a complete folder, for every kind that is trained.

A recipe puts an objective, batches, an optimiser and the loop together, and writes what comes out:
a network as a Hugging Face folder, a head's weights, a card. What it is given decides everything,
so that a run which stopped goes on by being started again.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from coopgen_jax.data.batches import BatchConfig, in_order, training_batches
from coopgen_jax.data.labelled import Labelled
from coopgen_jax.discriminators.causal import CausalConfig
from coopgen_jax.discriminators.generative import GenerativeConfig, generative_params
from coopgen_jax.discriminators.head import Head, HeadConfig
from coopgen_jax.errors import UserError
from coopgen_jax.models.lora import LoraConfig, add_lora, init_lora, merge_lora
from coopgen_jax.models.pretrained.loading import LoadedModel
from coopgen_jax.models.pretrained.saving import save_model
from coopgen_jax.models.transformer import Params
from coopgen_jax.parallel import Mapper, place, share
from coopgen_jax.training.heads import save_head
from coopgen_jax.training.loop import Listener, LoopConfig, Outcome, train
from coopgen_jax.training.objectives import generates, judges, writes
from coopgen_jax.training.step import (
    Loss,
    begin,
    make_step,
    make_validation,
    mean_over,
)

# Of how many tokens the accuracy is told.
LENGTHS = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class RecipeConfig:
    """How to train.

    loop: how long; batch: what is read at once.
    lora: additions to train beside a frozen network; None to train all of it.
    learning_rate, weight_decay: AdamW's (Loshchilov and Hutter 2019, arXiv 1711.05101).
    warmup: share of the steps in which the learning rate rises; it falls to 0 along a cosine.
    clip: largest norm of a gradient.
    pieces: parts that a batch is read in, one after another.
    hidden, dropout: of a judge's head.
    class_weight: of a generative discriminator's loss; see `losses.gedi`.
    prefix: what stands in front of a text of a class in a generative discriminator; {} is its name.
    validation_rows: validation texts that are read, at most, taken evenly.
    mapper: how a step is mapped over devices.
    saved_dtype: of the network's file.
    """

    loop: LoopConfig
    batch: BatchConfig = field(default_factory=BatchConfig)
    lora: LoraConfig | None = field(default_factory=LoraConfig)
    learning_rate: float = 5e-4
    weight_decay: float = 0.01
    warmup: float = 0.1
    clip: float = 1.0
    pieces: int = 1
    hidden: tuple[int, ...] = ()
    dropout: float = 0.1
    class_weight: float = 0.4
    prefix: str = "{}:"
    validation_rows: int = 1000
    mapper: Mapper = "shard_map"
    saved_dtype: str = "float16"

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise UserError(f"the learning rate is {self.learning_rate}: it must be above 0")
        for name in ("warmup", "class_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} is {getattr(self, name)}: it must lie between 0 and 1")
        if self.pieces < 1 or self.batch.rows % self.pieces:
            raise UserError(
                f"{self.batch.rows} rows cannot be read in {self.pieces} equal pieces: give a "
                "number that divides them"
            )


@dataclass(frozen=True)
class _Rows:
    """Tokenised texts and their class numbers."""

    ids: list[list[int]]
    labels: list[int]


def _tokenised(model: LoadedModel, texts: Sequence[str], labels: Sequence[int]) -> _Rows:
    # A continuation goes on behind a space, and so do the texts to learn from.
    ids = model.tokenizer.encode_batch([f" {text.strip()}" for text in texts])
    kept = [number for number, row in enumerate(ids) if row]
    return _Rows([ids[number] for number in kept], [int(labels[number]) for number in kept])


def _evenly(rows: _Rows, most: int) -> _Rows:
    count = min(most, len(rows.ids))
    chosen = [number * len(rows.ids) // count for number in range(count)]
    return _Rows([rows.ids[n] for n in chosen], [rows.labels[n] for n in chosen])


def _optimiser(config: RecipeConfig) -> optax.GradientTransformation:
    steps = config.loop.steps
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, max(1, round(config.warmup * steps)), max(2, steps)
    )
    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.adamw(schedule, weight_decay=config.weight_decay),
    )


def _claim(folder: Path, kind: str, model: LoadedModel, config: RecipeConfig, rows: Any) -> None:
    """Notes in a folder what is trained there, or checks that it is the same.

    Raises:
      UserError: something else is.
    """
    digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    wanted: dict[str, Any] = {"kind": kind, "model_sha256": model.sha256, "rows_sha256": digest}
    wanted |= json.loads(json.dumps(asdict(config)))
    # How long one run lasts changes nothing about what comes out.
    del wanted["loop"]["budget_minutes"]
    path = folder / "training.json"
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        other = [name for name, value in wanted.items() if found.get(name) != value]
        if other:
            raise UserError(
                f"{folder} holds a training with another {other[0].replace('_', ' ')}: give an "
                "empty folder, or the settings and data that it was begun with"
            )
    elif jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")


class _Run:
    """One training on a mesh: how losses are taken over batches and over held-out rows."""

    def __init__(self, fixed: Any, config: RecipeConfig, mesh: Mesh) -> None:
        self.fixed = place(fixed, mesh)
        self.config = config
        self.mesh = mesh
        self.key = jax.random.key(config.batch.seed)

    def validation(self, loss: Loss) -> Any:
        """Returns `(learnt, rows) -> means` of a loss."""
        measure = make_validation(loss, mesh=self.mesh, mapper=self.config.mapper)
        size, parts = self.config.batch.rows, jax.process_count()
        own = slice(jax.process_index() * size // parts, (jax.process_index() + 1) * size // parts)

        def means(learnt: Any, rows: _Rows) -> dict[str, float]:
            batches = in_order(rows.ids, rows.labels, size=size, longest=self.config.batch.longest)
            parts = [{name: array[own] for name, array in batch.items()} for batch in batches]
            return mean_over(
                [share(part, self.mesh) for part in parts],
                lambda batch: measure(learnt, self.fixed, batch, self.key),
            )

        return means

    def fit(
        self,
        learnt: Any,
        losses: tuple[Loss, Loss],
        training: _Rows,
        validation: _Rows,
        folder: Path,
        listener: Listener,
    ) -> Outcome:
        """Trains by the first loss and validates by the second."""
        config, mesh = self.config, self.mesh
        optimiser = _optimiser(config)
        step = make_step(
            losses[0], optimiser, mesh=mesh, mapper=config.mapper, pieces=config.pieces
        )
        means = self.validation(losses[1])
        batches = training_batches(
            training.ids,
            training.labels,
            config.batch,
            process=jax.process_index(),
            processes=jax.process_count(),
        )
        held_out = _evenly(validation, config.validation_rows)
        return train(
            place(begin(learnt, optimiser), mesh),
            step=lambda state, batch: step(state, self.fixed, share(batch, mesh), self.key),
            batches=batches,
            validate=lambda learnt: means(learnt, held_out),
            folder=folder,
            config=config.loop,
            listener=listener,
        )

    def accuracy_by_length(self, loss: Loss, learnt: Any, rows: _Rows) -> dict[str, float]:
        """Returns the accuracy on the first tokens of validation texts, by their number.

        Only texts of at least as many tokens count, so the rows of different lengths differ.
        """
        means = self.validation(loss)
        rows = _evenly(rows, self.config.validation_rows)
        report = {}
        for length in (n for n in LENGTHS if n <= self.config.batch.longest):
            long = [number for number, row in enumerate(rows.ids) if len(row) >= length]
            if long:
                cut = _Rows([rows.ids[n][:length] for n in long], [rows.labels[n] for n in long])
                report[str(length)] = means(learnt, cut)["accuracy"]
        report["whole"] = means(learnt, rows)["accuracy"]
        return report


def _check(model: LoadedModel, config: RecipeConfig, front: int) -> None:
    """Raises UserError where `front` tokens and a text do not fit, or layers are separate."""
    longest = front + config.batch.longest
    if longest > model.config.context:
        raise UserError(
            f"texts of {config.batch.longest} tokens and {front} in front of them exceed the "
            f"network's context of {model.config.context}: shorten them"
        )
    if isinstance(model.params["layers"], tuple):
        raise UserError("training wants stacked layers: load the model with stacked=True")


def _check_classes(training: Labelled, validation: Labelled) -> None:
    if training.classes != validation.classes:
        raise UserError(
            f"the training texts have the classes {', '.join(training.classes)} and the validation "
            f"texts {', '.join(validation.classes)}: they must be the same"
        )


def _network(model: LoadedModel, config: RecipeConfig, key: jax.Array) -> tuple[Any, Any, Any]:
    """Returns what is learnt of a network, what is fixed, and how both become its parameters."""
    if config.lora is None:
        # A copy, since a step gives its state's memory away; what is learnt is single precision.
        single = jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32), model.params)
        return single, None, lambda learnt, fixed: learnt
    lora = config.lora
    return (
        init_lora(key, model.params, lora),
        model.params,
        lambda learnt, fixed: add_lora(fixed, learnt, lora),
    )


def _whole_network(join: Any, learnt: Any, fixed: Any) -> Params:
    """Returns a trained network's parameters with nothing beside its kernels."""
    params: Params = jax.tree.map(np.asarray, merge_lora(join(learnt, fixed)))
    return params


def _base(model: LoadedModel, config: RecipeConfig, outcome: Outcome) -> dict[str, Any]:
    """Returns what every card says."""
    lora = config.lora
    return {
        "model": model.name,
        "model_sha256": model.sha256,
        "trained": "everything" if lora is None else f"LoRA of rank {lora.rank}",
        "steps": outcome.step,
        "stopped": outcome.stopped,
        "best": outcome.best,
        "rows_of_a_step": config.batch.rows,
        "learning_rate": config.learning_rate,
        "seed": config.batch.seed,
    }


def train_causal(
    model: LoadedModel,
    training: Labelled,
    validation: Labelled,
    config: RecipeConfig,
    *,
    folder: Path,
    mesh: Mesh,
    listener: Listener = lambda done, total, means: None,
) -> dict[str, Any]:
    """Trains a causal discriminator; `load_discriminator` takes the folder.

    Args:
      model: the language model that it begins as and is to guide, its layers stacked.
      training: texts and classes.
      validation: others of the same classes.
      config: how to train.
      folder: where everything goes, checkpoints included; a run that stopped there goes on.
      mesh: the devices.
      listener: told after every step.

    Returns:
      The card.

    Raises:
      UserError: the classes differ, the layers are separate, or the folder holds another training.
    """
    _check_classes(training, validation)
    _check(model, config, 1)
    starts = (*model.tokenizer.begin_tokens, *model.tokenizer.end_tokens)
    if not starts:
        raise UserError("the model has no token that begins or ends a text to read a text behind")
    key = jax.random.key(config.batch.seed)
    head = HeadConfig(training.classes, model.config.width, config.hidden, config.dropout)
    judge = CausalConfig(model.config, head, starts[0])
    fresh = Head(head).init(key, jnp.zeros((1, head.inputs)))["params"]
    learnt, fixed, join = _network(model, config, key)

    def joined(learnt: Any, fixed: Any) -> Any:
        return {"network": join(learnt["network"], fixed), "head": learnt["head"]}

    run = _Run(fixed, config, mesh)
    losses = (judges(judge, join=joined), judges(judge, join=joined, training=False))
    rows = [_tokenised(model, data.texts, data.labels.tolist()) for data in (training, validation)]
    _claim(folder, "causal", model, config, [asdict(part) for part in rows])
    outcome = run.fit(
        {"network": learnt, "head": fresh}, losses, rows[0], rows[1], folder, listener
    )
    best = outcome.learnt
    card = {
        "kind": "causal",
        "classes": list(training.classes),
        "hidden": list(config.hidden),
        "reads_prompt": False,
        "start_token": starts[0],
        **_base(model, config, outcome),
        "accuracy": {"validation": run.accuracy_by_length(losses[1], best, rows[1])},
        "accuracy_unit": "tokens read",
    }
    network = _whole_network(join, best["network"], run.fixed)
    _deliver(folder, model, network, jax.tree.map(np.asarray, best["head"]), card, config)
    return card


def train_generative(
    model: LoadedModel,
    training: Labelled,
    validation: Labelled,
    config: RecipeConfig,
    *,
    folder: Path,
    mesh: Mesh,
    listener: Listener = lambda done, total, means: None,
) -> dict[str, Any]:
    """Trains a generative discriminator by GeDi's loss; see `train_causal`."""
    _check_classes(training, validation)
    prefixes = tuple(
        (*model.tokenizer.begin_tokens, *model.tokenizer.encode(config.prefix.format(name)))
        for name in training.classes
    )
    _check(model, config, max(map(len, prefixes)))
    judge = GenerativeConfig(model.config, training.classes, prefixes)
    key = jax.random.key(config.batch.seed)
    learnt, fixed, join = _network(model, config, key)
    rest = generative_params(None, len(training.classes))
    start = {"network": learnt, "log_prior": rest["log_prior"], "scale": rest["scale"]}

    def joined(learnt: Any, fixed: Any) -> Any:
        return {**learnt, "network": join(learnt["network"], fixed)}

    run = _Run(fixed, config, mesh)
    loss = generates(judge, join=joined, class_weight=config.class_weight)
    rows = [_tokenised(model, data.texts, data.labels.tolist()) for data in (training, validation)]
    _claim(folder, "generative", model, config, [asdict(part) for part in rows])
    outcome = run.fit(start, (loss, loss), rows[0], rows[1], folder, listener)
    best = outcome.learnt
    card = {
        "kind": "generative",
        "classes": list(training.classes),
        "reads_prompt": False,
        "prefixes": [list(prefix) for prefix in prefixes],
        "class_weight": config.class_weight,
        **_base(model, config, outcome),
        "accuracy": {"validation": run.accuracy_by_length(loss, best, rows[1])},
        "accuracy_unit": "tokens read",
    }
    weights = {name: np.asarray(best[name]) for name in ("log_prior", "scale")}
    network = _whole_network(join, best["network"], run.fixed)
    _deliver(folder, model, network, weights, card, config)
    return card


def _deliver(
    folder: Path,
    model: LoadedModel,
    network: Params,
    weights: Any,
    card: dict[str, Any],
    config: RecipeConfig,
) -> None:
    """Writes a discriminator's folder; the card, which makes it one, comes last."""
    if jax.process_index() == 0:
        save = partial(save_model, dtype=config.saved_dtype)
        save(folder / "network", model.config, network, model.tokenizer)
        save_head(folder, weights, card)


def train_language_model(
    model: LoadedModel,
    training: Sequence[str],
    validation: Sequence[str],
    config: RecipeConfig,
    *,
    folder: Path,
    mesh: Mesh,
    listener: Listener = lambda done, total, means: None,
) -> dict[str, Any]:
    """Trains a language model by maximum likelihood; `load_language_model` takes the folder.

    Every text is read behind the token that begins a text, if there is one, and closed by the one
    that ends it. For a class-conditional model (CTRL's CC-LM) give texts that begin with the name
    of their class.

    Args:
      model: the language model to begin with, its layers stacked.
      training: texts.
      validation: other texts.
      config: how to train; nothing is cut to prefixes.
      folder: where everything goes, checkpoints included.
      mesh: the devices.
      listener: told after every step.

    Returns:
      The card.

    Raises:
      UserError: see `train_causal`.
    """
    _check(model, config, 0)
    config = replace(config, batch=replace(config.batch, shortest=None, balanced=False))
    tokenizer = model.tokenizer
    front, end = list(tokenizer.begin_tokens), list(tokenizer.end_tokens[:1])

    def rows_of(texts: Sequence[str]) -> _Rows:
        ids = tokenizer.encode_batch([text.strip() for text in texts])
        rows = [[*front, *row, *end] for row in ids if row]
        return _Rows(rows, [0] * len(rows))

    key = jax.random.key(config.batch.seed)
    learnt, fixed, join = _network(model, config, key)
    run = _Run(fixed, config, mesh)
    loss = writes(model.config, join=join)
    rows = [rows_of(training), rows_of(validation)]
    _claim(folder, "language model", model, config, [asdict(part) for part in rows])
    outcome = run.fit(learnt, (loss, loss), rows[0], rows[1], folder, listener)
    card = {
        "kind": "language model",
        **_base(model, config, outcome),
        "perplexity": float(np.exp(outcome.best["loss"])) if outcome.best else None,
    }
    if jax.process_index() == 0:
        network = _whole_network(join, outcome.learnt, run.fixed)
        save_model(folder, model.config, network, tokenizer, dtype=config.saved_dtype)
        text = json.dumps(card, indent=2, ensure_ascii=False)
        (folder / "card.json").write_text(text + "\n", encoding="utf-8")
    return card
