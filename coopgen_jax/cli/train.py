"""The command `coopgen train`."""

import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from rich.console import Console
from rich.table import Table

from coopgen_jax.cli.ask import flag, spelt
from coopgen_jax.cli.captioner_options import CaptionerOptions
from coopgen_jax.cli.clip_options import ClipOptions
from coopgen_jax.cli.guide_shape import trunk_of
from coopgen_jax.cli.machines import together, united
from coopgen_jax.cli.train_captioner import run_captioner
from coopgen_jax.cli.train_clip import run_clip
from coopgen_jax.cli.train_data import read_classes, report
from coopgen_jax.cli.train_gcn import run_gcn
from coopgen_jax.cli.train_loop import loop_of
from coopgen_jax.cli.train_on_policy import (
    check_on_policy,
    plan_of,
    run_on_policy,
    show_rounds,
)
from coopgen_jax.cli.train_options import (
    KINDS,
    DiscriminatorOptions,
    GcnOptions,
    LanguageModelOptions,
    TrainOptions,
)
from coopgen_jax.cli.train_progress import (
    check_numbers,
    compiling,
    finish,
    now_and_then,
    tell_broken,
    watched,
)
from coopgen_jax.cli.train_searches import guide_of, searches_of, searching
from coopgen_jax.data.batches import BatchConfig
from coopgen_jax.data.labelled import Labelled, read_labelled, read_texts
from coopgen_jax.errors import UserError
from coopgen_jax.models.lora import LoraConfig
from coopgen_jax.models.pretrained.loaded_model import LoadedModel, load, load_encoder
from coopgen_jax.parallel.mesh import make_mesh
from coopgen_jax.training.recipes import (
    train_bidirectional,
    train_causal,
    train_from_searches,
    train_generative,
    train_language_model,
    train_shared_trunk,
)
from coopgen_jax.training.recipes.scratch import ScratchConfig, fresh_model, train_tokenizer
from coopgen_jax.training.run import RecipeConfig
from coopgen_jax.training.searched_texts import Searches


def run_train(options: TrainOptions) -> None:
    """Trains, and prints the card.

    Raises:
      UserError: an option is out of its range, the data or the folder are of no use, or machines
        that train together have lost each other.
    """
    what = options.what
    if what.out.exists() and not what.out.is_dir():
        raise UserError(f"{what.out} is a file: give a folder")
    try:
        if isinstance(what, ClipOptions):
            run_clip(what)
            return
        if isinstance(what, CaptionerOptions):
            run_captioner(what)
            return
        with together(what):
            if isinstance(what, GcnOptions):
                run_gcn(what)
            else:
                _run(what)
    except UserError as error:
        sentence = spelt(str(error), (field.name for field in fields(what)))
        if sentence == str(error):
            raise
        raise UserError(sentence) from error


def _run(what: DiscriminatorOptions | LanguageModelOptions) -> None:
    _check(what)
    what = united(what)
    run: Any = _discriminator if isinstance(what, DiscriminatorOptions) else _language_model
    finish(what, run(what), _show)


def _check(what: DiscriminatorOptions | LanguageModelOptions) -> None:
    check_numbers(
        what, "rows", "micro_batches", "longest", "validate_every", "validation_rows", "devices"
    )
    if what.epochs is not None and not 0 < what.epochs < math.inf:
        raise UserError(f"--epochs is {what.epochs}: give a number above 0")
    if what.rank is not None and what.rank < 0:
        raise UserError(f"--rank is {what.rank}: give 1 or more, or 0 to train all of the network")
    if isinstance(what, DiscriminatorOptions):
        _check_kind(what)
    else:
        _check_scratch(what)


def _check_kind(what: DiscriminatorOptions) -> None:
    for name, kinds in KINDS.items():
        untouched = next(f.default for f in fields(what) if f.name == name)
        if getattr(what, name) != untouched and what.kind not in kinds:
            raise UserError(
                f"{flag(name)} says nothing to a {what.kind} discriminator, only to "
                f"{' and '.join(kinds)} ones: leave it out"
            )
    if what.coordinator is not None and what.kind not in ("causal", "generative"):
        raise UserError(
            f"several machines cannot train a {what.kind} discriminator together: leave "
            "--coordinator out, or give --kind causal or generative"
        )
    if what.frozen and what.rank:
        raise UserError(
            "--rank adds to the encoder that --frozen leaves as it is: give one of them"
        )
    if what.dropout is not None and not 0 <= what.dropout < 1:
        raise UserError(f"--dropout is {what.dropout}: give a share from 0 to below 1")
    if any(width < 1 for width in what.hidden):
        raise UserError(f"--hidden is {' '.join(map(str, what.hidden))}: give widths of 1 or more")
    check_on_policy(what)


def _check_scratch(what: LanguageModelOptions) -> None:
    if what.from_scratch and what.rank:
        raise UserError("--rank adds to a trained network: leave it out with --from-scratch")
    for option in fields(what):
        scratch = option.name in ("vocabulary", "layers", "width", "context")
        if scratch and not what.from_scratch and getattr(what, option.name) != option.default:
            raise UserError(f"--{option.name} shapes a new network: give --from-scratch with it")


def _recipe(what: Any, rows: int, **batch: Any) -> RecipeConfig:
    judges = isinstance(what, DiscriminatorOptions)
    kind = what.kind if judges else "language model"
    small = kind == "shared-trunk"
    epochs = (12.0 if small else 1.0) if what.epochs is None else what.epochs
    steps = max(1, math.ceil(epochs * rows / what.rows))
    scratch = not judges and what.from_scratch
    frozen = judges and what.frozen
    rank = (0 if scratch or small or frozen else 8) if what.rank is None else what.rank
    whole = not rank and not small and not scratch and not frozen
    rate = what.learning_rate
    dropout = what.dropout if judges else 0.0
    return RecipeConfig(
        loop=loop_of(what, steps),
        batch=BatchConfig(rows=what.rows, longest=what.longest, seed=what.seed, **batch),
        lora=LoraConfig(rank=rank, alpha=2.0 * rank) if rank else None,
        learning_rate=(5e-5 if whole else 5e-4) if rate is None else rate,
        hidden=what.hidden if judges else (),
        dropout=(0.4 if small else 0.1) if dropout is None else dropout,
        micro_batches=what.micro_batches,
        validation_rows=what.validation_rows,
        mapper=what.mapper,
        sharded_optimiser=what.shard_optimiser,
        sharded_parameters=what.shard_parameters,
        remat=None if what.remat == "auto" else what.remat,
        class_weight=what.class_weight if judges else 0.0,
    )


def _discriminator(what: DiscriminatorOptions) -> dict[str, Any]:
    # What the rounds are made of is looked at in front of what takes long.
    plan = None if what.on_policy is None else plan_of(what)
    searches = searches_of(what)
    training, validation, labeller = read_classes(what)
    if plan is None or labeller is None:
        return _fit(what, training, validation, searches)
    recipe = _of_classes(what, training)
    return run_on_policy(what, plan, (training, validation), labeller, recipe, _fit)


def _of_classes(what: DiscriminatorOptions, training: Labelled) -> RecipeConfig:
    shortest = what.shortest
    if shortest is None:
        shortest = min(what.longest, 2 if what.kind == "generative" else 1)
    if what.kind == "shared-trunk":
        shortest = 0  # every prefix of a text is trained on anyway
    return _recipe(what, len(training.texts), shortest=shortest or None, balanced=what.balanced)


def _fit(
    what: DiscriminatorOptions,
    training: Labelled,
    validation: Labelled,
    searches: Searches | None = None,
) -> dict[str, Any]:
    recipe = _of_classes(what, training)
    mesh = make_mesh(what.devices)
    place: dict[str, Any] = {"folder": what.out, "mesh": mesh, "begin": compiling(what)}
    with watched(what) as place["listener"]:
        return _of_kind(what, training, validation, recipe, place, searches)


def _of_kind(
    what: DiscriminatorOptions,
    training: Labelled,
    validation: Labelled,
    recipe: RecipeConfig,
    place: dict[str, Any],
    searches: Searches | None,
) -> dict[str, Any]:
    if what.kind == "bidirectional":
        encoder = load_encoder(what.encoder, dtype=what.dtype)
        return train_bidirectional(
            encoder, training, validation, recipe, frozen=what.frozen, **place
        )
    model = load(what.model, dtype=what.dtype, stacked=True)
    if what.kind == "shared-trunk":
        trunk = trunk_of(what, model.config.layers)
        place |= {"reading": _reading(what), "states": what.states}
        if searches is not None:
            place |= {"guide": guide_of(what, model), "searching": searching(what)}
            return train_from_searches(
                model, training, validation, recipe, trunk, searches, **place
            )
        return train_shared_trunk(model, training, validation, recipe, trunk, **place)
    run = train_causal if what.kind == "causal" else train_generative
    return run(model, training, validation, recipe, **place)


def _reading(what: DiscriminatorOptions) -> Callable[[int, int], None]:
    told = now_and_then(what)
    return lambda done, total: told(done, total, lambda: f"{done} of {total} texts read")


def _language_model(what: LanguageModelOptions) -> dict[str, Any]:
    training, sources = _texts(what, what.data)
    validation, _ = _texts(what, what.validation)
    model, rows = _beginning(what, training), len(training)
    if what.pack:
        # A window is read where a text was; every text has an end.
        tokens = rows + sum(map(len, model.tokenizer.encode_batch(training)))
        rows = max(1, tokens // what.longest)
    recipe = _recipe(what, rows, shortest=None)
    with watched(what) as listener:
        return train_language_model(
            model, training, validation, recipe, pack=what.pack, sources=sources,
            folder=what.out, mesh=make_mesh(what.devices), listener=listener,
            begin=compiling(what),
        )  # fmt: skip


def _beginning(what: LanguageModelOptions, texts: tuple[str, ...]) -> LoadedModel:
    if not what.from_scratch:
        return load(what.model, dtype=what.dtype, stacked=True)
    shape = ScratchConfig(what.layers, what.width, what.context)
    tokenizer = (
        load(what.model).tokenizer
        if what.vocabulary is None
        else train_tokenizer(texts, what.vocabulary)
    )
    return fresh_model(tokenizer, shape, seed=what.seed, dtype=what.dtype)


def _texts(what: LanguageModelOptions, where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns texts, behind the name of their class where they have one, and without it."""
    if what.label is None:
        texts, broken = read_texts(where, text=what.text)
        tell_broken(what, where, broken)
        return texts, texts
    data = read_labelled(where, text=what.text, label=what.label)
    report(what, where, data)
    names = (data.classes[number] for number in data.labels)
    named = (f"{name}: {text}" for name, text in zip(names, data.texts, strict=True))
    return tuple(named), data.texts


def _show(console: Console, what: Any, card: dict[str, Any]) -> None:
    best = card["best"]
    loss = f"best validation loss {best['loss']:.3f} at step {best['step']}" if best else "no step"
    console.print(f"{what.out}: {card['kind']}, {card['steps']} steps, {loss}")
    for name, row in card.get("accuracy", {}).items():
        table = Table(title=f"accuracy on {name} texts by {card['accuracy_unit']}", box=None)
        for length in row:
            table.add_column(length, justify="right")
        table.add_row(*(f"{share:.3f}" for share in row.values()))
        console.print(table)
    if card.get("on_policy", {}).get("rounds"):
        show_rounds(console, card["on_policy"])
    if card.get("perplexity"):
        console.print(f"perplexity {card['perplexity']:.2f}")
