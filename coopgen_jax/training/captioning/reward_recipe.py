"""The recipe of rewarded captioners: rounds of `caption_round` behind teacher forcing."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from coopgen_jax.data.batches import BatchConfig, training_batches
from coopgen_jax.decoding.names_on_disc import settings_on_disc
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.clip_vectors import all_similarities
from coopgen_jax.evaluation.retrieval import image_retrieval, text_retrieval
from coopgen_jax.models.layer_layout import stacked_numbers
from coopgen_jax.models.pretrained.captioner import LoadedCaptioner
from coopgen_jax.parallel.mesh import place
from coopgen_jax.training.captioning.caption_round import (
    CaptionerState,
    CaptionRound,
    Scorer,
    regulariser_shape,
)
from coopgen_jax.training.captioning.captioner_recipe import (
    Caption,
    caption_rows,
    joined,
    save_captioner,
)
from coopgen_jax.training.captioning.regularisers import init_regulariser
from coopgen_jax.training.captioning.reward_config import RewardConfig
from coopgen_jax.training.card import save_head
from coopgen_jax.training.gcn.gcn_training import GcnTraining
from coopgen_jax.training.loop import Begin, Listener, LoopConfig, Outcome, train
from coopgen_jax.training.objectives import Join
from coopgen_jax.training.optimiser_shards import in_full
from coopgen_jax.training.recipes.full_network import full_network, network_card, trainable_of
from coopgen_jax.training.run import note_rows
from coopgen_jax.training.step import begin_on
from coopgen_jax.training.training_folder import claim, kept_names

STANDARD = ("centre", "scale")


def train_rewarded_captioner(
    captioner: LoadedCaptioner,
    features: np.ndarray,
    training: Sequence[Caption],
    validation: Sequence[int],
    scorer: Scorer,
    config: RewardConfig,
    how: GcnTraining,
    *,
    images: int = 16,
    longest: int = 50,
    regulariser: Any = None,
    folder: Path,
    mesh: Mesh,
    listener: Listener = lambda done, total, means: None,
    begin: Begin = lambda: None,
) -> dict[str, Any]:
    """Trains a captioner by rewards, and returns the card; `load_captioner` takes the folder.

    Args:
      captioner: what teacher forcing has trained, its layers stacked.
      features: `[n, F]` of all images, as the captioner reads them.
      training: captions that people wrote, each with its image's row in `features`.
      validation: images whose greedy captions are measured between rounds, by their row. The
        measures are the scorer's own: `cosine` with the image, of which `loss` is the negative, and
        `recall_1` and `text_recall_1`, retrieval both ways among these images.
      scorer: what rewards; its images are those of `features`.
      config: a round's settings.
      how: how long and how fast; its examination is not used. The last parameters are kept.
      images: `B`, captions that people wrote in a round, with their images.
      longest: tokens read of such a caption, what begins and ends it included.
      regulariser: parameters that the discriminator begins with, None for random ones; or those of
        the grammar head, as `train_grammar` returns them.
      folder: where everything goes, checkpoints included; a run that stopped there goes on.
      mesh: the devices.
      listener: called after every round.
      begin: called in front of the first one; see `loop.Begin`.

    Raises:
      UserError: features, captions, images and scorer do not go together, several processes train,
        the folder holds another training, or a mean is not finite.
    """
    features = np.asarray(features, np.float32)
    _check(captioner, features, validation, scorer)
    _check_settings(captioner, config, longest, regulariser)
    model, shape = captioner.model, captioner.prefix
    rows = caption_rows(model.tokenizer, training, len(features))
    data = features, rows, validation, regulariser
    _claim(folder, captioner, data, scorer, config, how, (images, longest))
    reward = scorer, config, regulariser
    state, frozen, (join, standard) = _begin(captioner, features, reward, how, mesh)
    run_round = CaptionRound(
        model.config, shape, model.tokenizer, config, scorer, how.optimisers(),
        join=joined(join, standard), mesh=mesh, mapper=how.mapper, micro_batches=how.micro_batches,
        sharded=how.sharded_optimiser, sharded_parameters=how.sharded_parameters, remat=how.remat,
    )  # fmt: skip
    key = jax.random.key(how.seed)
    measure = partial(_measured, run_round, frozen, validation, images)
    outcome = train(
        state,
        step=lambda state, batch: run_round(state, frozen, batch, key),
        batches=training_batches(
            rows.ids, rows.labels, BatchConfig(images, longest, shortest=None, seed=how.seed)
        ),
        validate=measure,
        folder=folder,
        config=replace(how.loop, log_every=1, keep="last"),
        listener=listener,
        begin=begin,
    )
    trained = in_full(outcome.trainable, mesh)
    card = _card(captioner, scorer, config, how, outcome) | {
        "images_of_a_round": images,
        "last": measure(trained),
        **note_rows(folder, [text for _, text in training]),
    }
    weights = joined(partial(full_network, join), standard)(trained["captioner"], frozen)
    _deliver(folder, captioner, trained["discriminator"], weights, card, how.saved_dtype)
    return card


def _card(
    captioner: LoadedCaptioner,
    scorer: Scorer,
    config: RewardConfig,
    how: GcnTraining,
    outcome: Outcome,
) -> dict[str, Any]:
    return {
        "kind": "captioner",
        **asdict(captioner.prefix),
        **captioner.vision,
        **network_card(captioner.model, how.lora),
        "reward": _on_disc(config),
        "scorer": scorer.identity,
        "steps": outcome.step,
        "stopped": outcome.stopped,
        "learning_rate": how.learning_rate,
        "dtype": captioner.model.config.dtype,
        "seed": how.seed,
    }


def _deliver(
    folder: Path,
    captioner: LoadedCaptioner,
    discriminator: Any,
    weights: dict[str, Any],
    card: dict[str, Any],
    dtype: str,
) -> None:
    """Writes the regulariser into a folder below, and the captioner, whose card comes last."""
    judge = {"kind": f"caption {card['reward']['regulariser']}", "scorer": card["scorer"]}
    save_head(folder / "discriminator", discriminator, judge)
    save_captioner(captioner.model, dtype, folder, weights, card)


def _begin(
    captioner: LoadedCaptioner,
    features: np.ndarray,
    reward: tuple[Scorer, RewardConfig, Any],
    how: GcnTraining,
    mesh: Mesh,
) -> tuple[CaptionerState, Any, tuple[Join, dict[str, Any]]]:
    """Returns the state in front of the first round, frozen parameters, and what joins them."""
    network, held, join = trainable_of(captioner.model, how.lora, mesh, seed=how.seed)
    standard = {name: np.asarray(captioner.params[name]) for name in STANDARD}
    prefix = {name: leaf for name, leaf in captioner.params.items() if name not in STANDARD}
    trainable = {"network": network, "prefix": jax.tree.map(jnp.array, prefix)}
    scorer, config, judge = reward
    if judge is None:
        shape = regulariser_shape(config, scorer)
        judge = init_regulariser(jax.random.key(how.seed), shape)
    judge = jax.tree.map(jnp.array, judge)
    optimisers = how.optimisers()
    sharded = {"sharded": how.sharded_optimiser, "sharded_parameters": how.sharded_parameters}
    state = CaptionerState(
        begin_on(mesh, trainable, optimisers[0], **sharded),
        begin_on(mesh, judge, optimisers[1]),
        place(jnp.int32(0), mesh),
    )
    frozen = {"network": held, "features": place(jnp.asarray(features), mesh)}
    return state, frozen, (join, standard)


def _check(
    captioner: LoadedCaptioner, features: np.ndarray, validation: Sequence[int], scorer: Scorer
) -> None:
    """Raises UserError where they do not go together."""
    if jax.process_count() > 1:
        raise UserError("a rewarded captioner is trained by one process: start one")
    captioner.check(features)
    if not len(features) == len(scorer.images) == len(scorer.neighbours):
        raise UserError(
            f"there are features of {len(features)} images, and the scorer has "
            f"{len(scorer.images)} and neighbours of {len(scorer.neighbours)}: give the same images"
        )
    if not len(validation) or not 0 <= min(validation) <= max(validation) < len(features):
        raise UserError("the images to validate on must be rows of features, one or more")


def _check_settings(
    captioner: LoadedCaptioner, config: RewardConfig, longest: int, regulariser: Any
) -> None:
    """Raises UserError where captions do not fit, layers are no stack, or grammar is unknown."""
    if config.regulariser == "grammar" and config.alpha < 1 and regulariser is None:
        raise UserError("a grammar head is trained beforehand: give its parameters as regulariser")
    room = captioner.model.config.context - captioner.prefix.tokens - 1
    most = max(longest, config.proposal.ahead)
    if most > room:
        raise UserError(
            f"captions of {most} tokens exceed the {room} that the network reads behind an image's "
            "prefix: shorten them"
        )
    if not stacked_numbers(captioner.model.params):
        raise UserError(
            "training wants layers in one stack of numbers: load the captioner with stacked=True"
        )


def _claim(
    folder: Path,
    captioner: LoadedCaptioner,
    data: tuple[np.ndarray, Any, Sequence[int], Any],
    scorer: Scorer,
    config: RewardConfig,
    how: GcnTraining,
    sizes: tuple[int, int],
) -> None:
    features, rows, validation, regulariser = data
    # A round does not depend on how many follow, nor on when it is validated.
    settings = replace(how, loop=LoopConfig(steps=1, patience=how.loop.patience))
    digest = hashlib.sha256(features.tobytes())
    arrays = [scorer.images, scorer.neighbours, np.asarray(validation)]
    for array in [*arrays, *map(np.asarray, jax.tree.leaves(regulariser))]:
        digest.update(np.ascontiguousarray(array).tobytes())
    claim(
        folder, "rewarded captioner", captioner.model.sha256, settings, (rows, rows),
        reward=_on_disc(config), proposal=type(config.proposal).__name__,
        scorer=scorer.identity, sizes=list(sizes), features_sha256=digest.hexdigest(),
        image_prefix=asdict(captioner.prefix), dtype=captioner.model.config.dtype,
    )  # fmt: skip


def _on_disc(config: RewardConfig) -> dict[str, Any]:
    """Returns a round's settings by the names that folders and cards have for them."""
    return kept_names(asdict(config) | {"proposal": settings_on_disc(config.proposal)})


def _measured(
    run_round: CaptionRound, frozen: Any, validation: Sequence[int], size: int, trainable: Any
) -> dict[str, float]:
    """Returns the scorer's measures of the greedy captions of images."""
    texts = run_round.greedy_texts(trainable["captioner"], frozen, validation, size)
    images = run_round.scorer.images[np.asarray(validation)]
    scores = all_similarities(np.asarray(run_round.scorer.embed(texts)), images)
    own = np.arange(len(texts))
    cosine = float(np.diag(scores).mean())
    recalls: dict[str, Callable] = {"recall_1": image_retrieval, "text_recall_1": text_retrieval}
    found = {name: float(rank(scores, own)["recall_1"].mean()) for name, rank in recalls.items()}
    return {"loss": -cosine, "cosine": cosine, **found}
