"""Recipes: from a language model and texts to a complete folder, for every kind that is trained.

A recipe names an objective and what is learnt by it, has a run fit it, and writes what comes out: a
network as a Hugging Face folder, a head's weights, a card. What it is given decides everything, so
that a run which stopped goes on by being started again.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from coopgen_jax.data.batches import packed, training_batches
from coopgen_jax.data.labelled import Labelled
from coopgen_jax.discriminators.causal import CausalConfig
from coopgen_jax.discriminators.generative import GenerativeConfig, generative_params
from coopgen_jax.discriminators.head import Head, HeadConfig
from coopgen_jax.errors import UserError
from coopgen_jax.files import write_json
from coopgen_jax.models.layer_layout import for_training, stack_layers
from coopgen_jax.models.lora import LoraConfig, add_lora, init_lora, merge_lora
from coopgen_jax.models.pretrained.loaded_model import LoadedModel
from coopgen_jax.models.pretrained.saving import save_model
from coopgen_jax.models.transformer import Params
from coopgen_jax.parallel.mesh import place
from coopgen_jax.training.card import save_head
from coopgen_jax.training.loop import Begin, Listener, Outcome
from coopgen_jax.training.objectives import generates, judges, states_read, writes
from coopgen_jax.training.run import (
    RecipeConfig,
    Rows,
    Run,
    check_classes,
    how_trained,
    note_rows,
    standardisation,
    tokenised,
)
from coopgen_jax.training.training_folder import claim

# Of so many batches the standardisation is taken.
STANDARD_BATCHES = 8


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


def learnable(
    model: LoadedModel, lora: LoraConfig | None, mesh: Mesh, *, seed: int
) -> tuple[Any, Any, Any]:
    """Returns what is learnt of a network, what is fixed, and how both become its parameters."""
    key = jax.random.key(seed)
    if lora is None:
        # A copy, since a step gives its state's memory away; what is learnt is single precision.
        single = jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32), model.params)
        return for_training(single), None, lambda learnt, fixed: learnt
    return (
        init_lora(key, model.params, lora),
        place(for_training(model.params), mesh),
        lambda learnt, fixed: add_lora(fixed, learnt, lora),
    )


def whole_network(join: Any, learnt: Any, fixed: Any) -> Params:
    """Returns a trained network's parameters, stacked, with nothing beside its kernels."""
    whole = merge_lora(stack_layers(join(learnt, fixed)))
    params: Params = jax.tree.map(np.asarray, whole)
    return params


def _card_of(model: LoadedModel, config: RecipeConfig, outcome: Outcome) -> dict[str, Any]:
    """Returns what every card of a network as large as the language model says."""
    lora = config.lora
    return {
        "model": model.name,
        "model_sha256": model.sha256,
        "trained": "everything" if lora is None else f"LoRA of rank {lora.rank}",
        **how_trained(config, outcome),
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
      listener: told after every step.
      begin: told in front of the first one; see `loop.Begin`.

    Returns:
      The card.

    Raises:
      UserError: the classes differ, the layers are separate, or the folder holds another training.
    """
    check_classes(training, validation)
    _check(model, config, 1)
    starts = (*model.tokenizer.begin_tokens, *model.tokenizer.end_tokens)
    if not starts:
        raise UserError("the model has no token that begins or ends a text to read a text behind")
    head = HeadConfig(training.classes, model.config.width, config.hidden, config.dropout)
    judge = CausalConfig(model.config, head, starts[0])
    learnt, fixed, join = learnable(model, config.lora, mesh, seed=config.batch.seed)
    rows = tokenised(model.tokenizer, training), tokenised(model.tokenizer, validation)
    drawn = Head(head).init(jax.random.key(config.batch.seed), jnp.zeros((1, head.inputs)))[
        "params"
    ]
    begun = {name: leaf for name, leaf in drawn.items() if name not in ("centre", "scale")}
    standard = _standard(judge, model.params, config, rows[0])

    def joined(learnt: Any, fixed: Any) -> Any:
        return {"network": join(learnt["network"], fixed), "head": {**learnt["head"], **standard}}

    losses = (
        judges(judge, join=joined, beginnings=config.batch.shortest is not None),
        judges(judge, join=joined, training=False),
    )
    settings = {"classes": training.classes, "dtype": model.config.dtype}
    claim(folder, "causal", model.sha256, config, rows, **settings)
    run = Run(fixed, config, mesh)
    outcome = run.fit({"network": learnt, "head": begun}, losses, *rows, folder, listener, begin)
    card = {
        "kind": "causal",
        "classes": list(training.classes),
        "hidden": list(config.hidden),
        "reads_prompt": False,
        "start_token": starts[0],
        **note_rows(folder, training.origins),
        **_card_of(model, config, outcome),
        **run.report(losses[1], outcome.learnt, rows[1]),
    }
    network = whole_network(join, outcome.learnt["network"], fixed)
    _deliver(folder, model, network, {**outcome.learnt["head"], **standard}, card, config)
    return card


def _standard(
    judge: CausalConfig, network: Params, config: RecipeConfig, rows: Rows
) -> dict[str, np.ndarray]:
    batches = training_batches(rows.ids, rows.labels, config.batch)
    return standard_of(judge, network, (batches[number] for number in range(STANDARD_BATCHES)))


def standard_of(
    judge: CausalConfig, network: Params, batches: Iterable[dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Returns the mean and the inverse deviation of the states that an untrained network gives.

    A head on states as they are would learn at another speed in every direction.
    """
    read = jax.jit(partial(states_read, judge))

    def seen(batch: dict[str, np.ndarray]) -> np.ndarray:
        return np.asarray(read(network, batch))[batch["mask"]]

    return standardisation(map(seen, batches))


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
    check_classes(training, validation)
    prefixes = tuple(
        (*model.tokenizer.begin_tokens, *model.tokenizer.encode(config.prefix.format(name)))
        for name in training.classes
    )
    _check(model, config, max(map(len, prefixes)))
    judge = GenerativeConfig(model.config, training.classes, prefixes)
    learnt, fixed, join = learnable(model, config.lora, mesh, seed=config.batch.seed)
    rest = generative_params(None, len(training.classes))
    start = {"network": learnt, "log_prior": rest["log_prior"], "scale": rest["scale"]}

    def joined(learnt: Any, fixed: Any) -> Any:
        return {**learnt, "network": join(learnt["network"], fixed)}

    loss = generates(judge, join=joined, class_weight=config.class_weight)
    rows = tokenised(model.tokenizer, training), tokenised(model.tokenizer, validation)
    settings = {"classes": training.classes, "dtype": model.config.dtype}
    claim(folder, "generative", model.sha256, config, rows, **settings)
    run = Run(fixed, config, mesh)
    outcome = run.fit(start, (loss, loss), *rows, folder, listener, begin)
    card = {
        "kind": "generative",
        "classes": list(training.classes),
        "reads_prompt": False,
        "prefixes": [list(prefix) for prefix in prefixes],
        "class_weight": config.class_weight,
        **note_rows(folder, training.origins),
        **_card_of(model, config, outcome),
        **run.report(loss, outcome.learnt, rows[1]),
    }
    weights = {name: outcome.learnt[name] for name in ("log_prior", "scale")}
    network = whole_network(join, outcome.learnt["network"], fixed)
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
        own, dtype = folder / "network", config.saved_dtype
        save_model(own, model.config, network, model.tokenizer, dtype=dtype)
        save_head(folder, jax.tree.map(np.asarray, weights), card)


def train_language_model(
    model: LoadedModel,
    training: Sequence[str],
    validation: Sequence[str],
    config: RecipeConfig,
    *,
    pack: bool = False,
    sources: Sequence[str] | None = None,
    folder: Path,
    mesh: Mesh,
    listener: Listener = lambda done, total, means: None,
    begin: Begin = lambda: None,
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
      pack: whether texts are read one behind the other in windows of `config.batch.longest` tokens,
        which leaves no padding and cuts no text short; each is closed by the token that ends one,
        and what is left over behind the last window is dropped.
      sources: the texts that these were cut or made from, of which the fingerprint is kept; None
        where they are whole.
      folder: where everything goes, checkpoints included.
      mesh: the devices.
      listener: told after every step.
      begin: told in front of the first one; see `loop.Begin`.

    Returns:
      The card.

    Raises:
      UserError: see `train_causal`.
    """
    _check(model, config, 0)
    config = replace(config, batch=replace(config.batch, shortest=None, balanced=False))
    tokenizer = model.tokenizer
    front, end = list(tokenizer.begin_tokens), list(tokenizer.end_tokens[:1])
    if pack and not end:
        raise UserError("the model has no token that ends a text: texts cannot be packed")

    def rows_of(texts: Sequence[str]) -> Rows:
        ids = tokenizer.encode_batch([text.strip() for text in texts])
        rows = [[*front, *row, *end] for row in ids if row]
        if pack:
            # What begins a text and what ends one are often the same token, which then stands once.
            bare = [row for row in ids if row] if front == end else [row[:-1] for row in rows]
            rows = packed(bare, length=config.batch.longest, end=end[0]).tolist()
        return Rows(rows, [0] * len(rows))

    learnt, fixed, join = learnable(model, config.lora, mesh, seed=config.batch.seed)
    run = Run(fixed, config, mesh)
    loss = writes(model.config, join=join)
    rows = rows_of(training), rows_of(validation)
    settings = {"pack": pack, "dtype": model.config.dtype}
    claim(folder, "language model", model.sha256, config, rows, **settings)
    outcome = run.fit(learnt, (loss, loss), *rows, folder, listener, begin)
    card = {
        "kind": "language model",
        **note_rows(folder, training if sources is None else sources),
        **_card_of(model, config, outcome),
        "perplexity": float(np.exp(outcome.best["loss"])) if outcome.best else None,
    }
    if jax.process_index() == 0:
        network = whole_network(join, outcome.learnt, fixed)
        save_model(folder, model.config, network, tokenizer, dtype=config.saved_dtype)
        write_json(folder / "card.json", card)
    return card
