"""The command `coopgen train clip`."""

import math
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from coopgen_jax.cli.ask import flag
from coopgen_jax.cli.captioned_images import both_captioned, both_coloured, captioned_files
from coopgen_jax.cli.clip_options import ADDITIONS, HEADS, OF_HEADS, ClipOptions
from coopgen_jax.cli.train_loop import loop_of
from coopgen_jax.cli.train_progress import (
    check_numbers,
    compiling,
    finish,
    tell,
    watched,
)
from coopgen_jax.data.batches import BatchConfig
from coopgen_jax.errors import UserError
from coopgen_jax.models.lora import LoraConfig
from coopgen_jax.models.pretrained.image_networks import load_backbone, load_clip
from coopgen_jax.models.pretrained.loaded_model import load_encoder
from coopgen_jax.parallel.mesh import make_mesh
from coopgen_jax.training.recipes.clip_lora_recipe import train_clip_lora
from coopgen_jax.training.recipes.clip_recipe import train_clip
from coopgen_jax.training.run import RecipeConfig


def run_clip(what: ClipOptions) -> None:
    """Trains a small CLIP's heads or a CLIP's additions, and prints the card.

    See `train.run_train`.
    """
    what = _filled(what)
    _check(what)
    files = captioned_files(what)
    card = _additions(what, files) if what.clip else _heads(what, files)
    finish(what, card, _show)


def _filled(what: ClipOptions) -> ClipOptions:
    """Returns the options with what is taken where nothing is said.

    Raises:
      UserError: an option says nothing to what is trained.
    """
    taken: dict[str, Any] = HEADS if what.clip is None else ADDITIONS
    where = "without --clip" if what.clip is None else "with --clip"
    foreign = ADDITIONS.keys() - HEADS.keys() if what.clip is None else OF_HEADS
    for option in fields(what):
        if option.name in foreign and getattr(what, option.name) != option.default:
            raise UserError(f"{flag(option.name)} says nothing {where}: leave it out")
    missing = {name: value for name, value in taken.items() if getattr(what, name) is None}
    return replace(what, **missing)


def _additions(what: Any, files: tuple[Path, Path]) -> dict[str, Any]:
    clip = load_clip(what.clip)
    context = clip.config.text.context
    if what.longest > context:
        raise UserError(
            f"--longest is {what.longest}: this CLIP reads {context} tokens at most, with what "
            "stands around"
        )
    training, validation = both_coloured(what, clip.pixels, files)
    lora = LoraConfig(rank=what.rank, alpha=2.0 * what.rank)
    config = _config(what, training.captions, validation.captions)
    config = replace(config, lora=lora, weight_decay=0.01)
    with watched(what) as listener:
        return train_clip_lora(
            clip, training, validation, config, towers=what.towers, folder=what.out,
            mesh=make_mesh(1), listener=listener, begin=compiling(what),
        )  # fmt: skip


def _heads(what: ClipOptions, files: tuple[Path, Path]) -> dict[str, Any]:
    encoder = load_encoder(what.encoder)
    if what.longest > encoder.config.context:
        raise UserError(
            f"--longest is {what.longest}: the encoder reads {encoder.config.context} word pieces "
            "at most"
        )
    backbone = load_backbone(what.vision)
    training, validation = both_captioned(what, backbone, files)
    config = _config(what, training.captions, validation.captions)
    count = len(training.captions) + len(validation.captions)
    tell(what, f"reading {count} captions")
    with watched(what) as listener:
        return train_clip(
            backbone, encoder, training, validation, config, width=what.width, folder=what.out,
            mesh=make_mesh(1), listener=listener, begin=compiling(what),
        )  # fmt: skip


def _config(what: Any, training: Sequence[str], validation: Sequence[str]) -> RecipeConfig:
    steps = max(1, math.ceil(what.epochs * len(training) / what.rows))
    return RecipeConfig(
        loop=loop_of(what, steps),
        batch=BatchConfig(rows=what.rows, longest=what.longest, shortest=None, seed=what.seed),
        lora=None,
        learning_rate=what.learning_rate,
        weight_decay=0.1,
        dropout=what.dropout,
        validation_rows=len(validation),
    )


def _check(what: Any) -> None:
    check_numbers(what, "rows", "width", "validate_every", *(["rank"] if what.clip else []))
    if what.rows < 2:
        raise UserError("--rows is 1: a caption competes with others, give 2 or more")
    if what.longest < 3:
        raise UserError(f"--longest is {what.longest}: give 3 or more, with what stands around")
    if not 0 < what.epochs < math.inf:
        raise UserError(f"--epochs is {what.epochs}: give a number above 0")
    if not 0 <= what.dropout < 1:
        raise UserError(f"--dropout is {what.dropout}: give a share from 0 to below 1")


def _show(console: Console, what: Any, card: dict[str, Any]) -> None:
    best = card["best"]
    loss = f"best validation loss {best['loss']:.3f} at step {best['step']}" if best else "no step"
    console.print(f"{what.out}: {card['kind']}, {card['steps']} steps, {loss}")
    found = card["retrieval"]
    table = Table(title=f"how {found['images']} validation images and their captions find one "
                  "another", box=None)  # fmt: skip
    for column in ("", "R@1", "R@5", "R@10", "1 / rank"):
        table.add_column(column, justify="right" if column else "left")
    names = ("recall_1", "recall_5", "recall_10", "reciprocal_rank")
    for way in ("image_to_text", "text_to_image"):
        figures = [f"{found[way][name]['value']:.3f}" for name in names]
        table.add_row(way.replace("_", " "), *figures)
    console.print(table)
