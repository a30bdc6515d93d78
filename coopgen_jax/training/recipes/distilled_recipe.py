"""The recipe of a look-ahead head that learns from searches: search, train, write, search along."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from coopgen_jax.data.labelled import Labelled, Teacher
from coopgen_jax.decoding.names_on_disc import settings_on_disc
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.discriminators.loading import load_discriminator
from coopgen_jax.files import sha256_of
from coopgen_jax.models.pretrained.loaded_model import LoadedModel
from coopgen_jax.training.loop import Begin, Listener
from coopgen_jax.training.recipes.look_ahead_recipe import shape_of, train_look_ahead
from coopgen_jax.training.recipes.shared_trunk_recipe import (
    TrunkConfig,
    check_look_ahead,
    train_shared_trunk,
)
from coopgen_jax.training.run import RecipeConfig
from coopgen_jax.training.searched_rows import SearchedRows
from coopgen_jax.training.searched_texts import SearchedText, Searches, search_texts
from coopgen_jax.training.training_folder import reserve

# Why a training ends that goes on when it is started again.
UNFINISHED = ("budget", "interrupt")
# Minutes that stand for none: a training's budget is above 0.
SPENT = 1e-9


def train_from_searches(
    model: LoadedModel,
    training: Labelled,
    validation: Labelled,
    config: RecipeConfig,
    trunk: TrunkConfig,
    searches: Searches,
    *,
    folder: Path,
    mesh: Mesh,
    guide: tuple[LoadedDiscriminator, Teacher] | None = None,
    listener: Listener = lambda done, total, means: None,
    begin: Begin = lambda: None,
    reading: Callable[[int, int], None] = lambda done, total: None,
    searching: Callable[[int, int, int], None] = lambda number, done, total: None,
    states: Path | None = None,
) -> dict[str, Any]:
    """Trains a shared-trunk discriminator whose look-ahead head learns from searches as well.

    In each round the search is run from every prompt towards every class, and a head is trained on
    all that was found so far: on top of the guide, which stays as it is, where the guide is small
    layers on this model's states, else from the start, and on the labelled texts too. What the
    texts of a round are is said at `Searches`. They are kept in the folder `searches`, and the
    heads of earlier rounds in `rounds`.

    The `guide` is what guides the searches, with what is known of its training; None for a head
    that is trained on the labelled texts first, in `rounds/0`. `searching` is called after every
    batch: the round, and how many of how many texts there are. A budget is that of all trainings
    and searches together. The rest is as in `train_shared_trunk`, and so is what is returned: the
    card of the last training, or of one that was interrupted; with 0 steps where the budget ended
    the searches before any.

    Raises:
      UserError: see `train_shared_trunk` and `search_texts`.
    """
    check_look_ahead(trunk)
    reserve(folder, "searched_sha256")
    left = _clock(config)
    kept = guide is not None and shape_of(guide[0], model) is not None

    def train(number: int, searched: SearchedRows | None) -> dict[str, Any]:
        own = folder if number == searches.rounds else folder / "rounds" / str(number)
        shared: dict[str, Any] = {
            "folder": own, "mesh": mesh, "listener": listener, "begin": begin, "states": states,
        }  # fmt: skip
        if kept and guide is not None and searched is not None:
            return train_look_ahead(
                model, guide[0], searched, left(), look_ahead=trunk.look_ahead, **shared
            )
        return train_shared_trunk(
            model, training, validation, left(), trunk, searched=searched, reading=reading, **shared
        )

    card: dict[str, Any] = {"kind": "shared-trunk", "steps": 0, "best": {}}
    if guide is None:
        card = train(0, None)
        if card["stopped"] in UNFINISHED:
            return card
    judge, about = _guide(guide, folder, model)
    classes, texts = judge.discriminator.classes, list[SearchedText]()
    SearchedRows(texts, classes).check(training.classes)
    for number in range(1, searches.rounds + 1):
        found = search_texts(
            model, judge, replace(searches, seed=searches.seed + number - 1),
            folder=folder / "searches" / str(number), mesh=mesh,
            listener=partial(searching, number), spent=lambda: left().loop.budget_minutes == SPENT,
            **_written_by(folder, number, model, about),
        )  # fmt: skip
        if len(found) < len(searches.prompts) * len(classes):
            return {**card, "stopped": "budget"}
        texts += found
        card = train(
            number,
            SearchedRows(
                tuple(texts), classes, guide and guide[1], card_of(searches, about, texts)
            ),
        )  # fmt: skip
        if card["stopped"] in UNFINISHED:
            break
    return card


def _clock(config: RecipeConfig) -> Callable[[], RecipeConfig]:
    """Returns what gives the settings with the part of their budget that is left."""
    minutes, begun = config.loop.budget_minutes, time.monotonic()

    def left() -> RecipeConfig:
        if minutes is None:
            return config
        rest = max(SPENT, minutes - (time.monotonic() - begun) / 60)
        return replace(config, loop=replace(config.loop, budget_minutes=rest))

    return left


def _guide(
    guide: tuple[LoadedDiscriminator, Teacher] | None, folder: Path, model: LoadedModel
) -> tuple[LoadedDiscriminator, dict[str, Any]]:
    """Returns what guides the searches, and what tells it from others."""
    if guide is None:
        own, weights = _head(folder, 0, model)
        return own, {"guide": "the labelled texts' own head", "guide_sha256": weights}
    return guide[0], {"guide": guide[1].name, "guide_sha256": guide[1].weights}


def _head(folder: Path, number: int, model: LoadedModel) -> tuple[LoadedDiscriminator, str]:
    """Returns the head of a round, and the hash of its weights."""
    own = folder / "rounds" / str(number)
    return load_discriminator(own, language_model=model), sha256_of(own / "head.safetensors")


def _written_by(
    folder: Path, number: int, model: LoadedModel, about: dict[str, Any]
) -> dict[str, Any]:
    """Returns what writes the texts of a round, the search where None, and what tells them."""
    if number == 1:
        return {"policy": None, "about": about}
    policy, weights = _head(folder, number - 1, model)
    return {"policy": policy, "about": {**about, "policy_sha256": weights}}


def card_of(searches: Searches, about: dict[str, Any], texts: list[SearchedText]) -> dict[str, Any]:
    """Returns what a card says of the searches: who guided them, and what was searched."""
    return {
        **about,
        "search": settings_on_disc(searches.config),
        "new_tokens": searches.config.new_tokens,
        "prompts": len(searches.prompts),
        "prompts_sha256": searches.sha256,
        "rounds": searches.rounds,
        "strength": searches.strength,
        "texts": len(texts),
        "tokens": sum(len(text.tokens) for text in texts),
    }
