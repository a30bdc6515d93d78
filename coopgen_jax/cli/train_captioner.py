"""The command `coopgen train captioner`."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
from rich.console import Console

from coopgen_jax.cli.ask import flag
from coopgen_jax.cli.captioned_images import both_captioned, captioned_files
from coopgen_jax.cli.captioner_options import FORCED, REWARDED, CaptionerOptions
from coopgen_jax.cli.compare_methods import method_config
from coopgen_jax.cli.machines import training_dtype
from coopgen_jax.cli.train_gcn import own_words
from coopgen_jax.cli.train_loop import loop_of
from coopgen_jax.cli.train_progress import check_numbers, compiling, finish, tell, watched
from coopgen_jax.data.batches import BatchConfig
from coopgen_jax.data.image_states import Captioned
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.clip_vectors import load_clip_vectors
from coopgen_jax.models.lora import LoraConfig
from coopgen_jax.models.pretrained.captioner import load_captioner
from coopgen_jax.models.pretrained.image_networks import DEFAULT_BACKBONE, load_backbone
from coopgen_jax.models.pretrained.loaded_model import LoadedModel, load
from coopgen_jax.parallel.mesh import make_mesh
from coopgen_jax.training.captioning.caption_objectives import CaptionObjective
from coopgen_jax.training.captioning.captioner_recipe import Caption, train_captioner
from coopgen_jax.training.captioning.clip_scorer import clip_scorer
from coopgen_jax.training.captioning.regularisers import train_grammar
from coopgen_jax.training.captioning.reward_config import RewardConfig
from coopgen_jax.training.captioning.reward_recipe import train_rewarded_captioner
from coopgen_jax.training.gcn.gcn_training import GcnTraining
from coopgen_jax.training.loop import LoopConfig
from coopgen_jax.training.recipes.scratch import ScratchConfig, fresh_model, train_tokenizer
from coopgen_jax.training.run import RecipeConfig

# What a new language model reads at most: an image's vectors and a caption.
CONTEXT = 128


def run_captioner(what: CaptionerOptions) -> None:
    """Trains a captioner, and prints the card; see `train.run_train`."""
    _check(what)
    dtype: Any = training_dtype(what)
    what = replace(what, dtype=dtype)
    if what.objective == "mle":
        finish(what, _by_references(what), _show)
    else:
        config = round_of(what)
        finish(what, _by_rewards(what, config), _show_rewarded)


def _check(what: CaptionerOptions) -> None:
    check_numbers(
        what, "rows", "vectors", "layers", "rounds", "round_images", "new_tokens",
        "validate_every", "validation_rows", "devices",
    )  # fmt: skip
    if what.longest < 3:
        raise UserError(f"--longest is {what.longest}: give 3 or more, with what stands around")
    if not 0 < what.epochs < math.inf:
        raise UserError(f"--epochs is {what.epochs}: give a number above 0")
    if what.rank is not None and what.rank < 0:
        raise UserError(f"--rank is {what.rank}: give 1 or more, or 0 to train all of it")
    forced = what.objective == "mle"
    foreign = REWARDED if forced else FORCED
    for name in foreign:
        if _is_given(what, name):
            raise UserError(
                f"{flag(name)} says nothing to --objective {what.objective}: leave it out"
            )
    idle = []
    if what.regulariser == "none":
        idle = ["alpha", "discriminator_learning_rate"]
    if what.regulariser == "grammar":
        idle = ["discriminator_learning_rate"]
    for name in idle:
        if _is_given(what, name):
            raise UserError(
                f"{flag(name)} says nothing to --regulariser {what.regulariser}: leave it out"
            )
    new = [name for name in ("vocabulary", "layers", "width") if _is_given(what, name)]
    if what.model is not None and new:
        raise UserError(f"{flag(new[0])} shapes a new language model: leave it out with --model")
    if what.model is None and forced and what.rank:
        raise UserError("--rank adds to a trained language model: name one by --model")
    if not forced:
        for name in ("captioner", "reward"):
            if getattr(what, name) is None:
                raise UserError(f"--objective {what.objective} needs {flag(name)}: give a folder")


def _is_given(what: CaptionerOptions, name: str) -> bool:
    return getattr(what, name) != getattr(CaptionerOptions, name)


def _by_references(what: CaptionerOptions) -> dict[str, Any]:
    files = captioned_files(what)
    backbone = load_backbone(what.vision or DEFAULT_BACKBONE)
    training, validation = both_captioned(what, backbone, files)
    features, pairs = stacked(training, validation)
    model = _beginning(what, training)
    with watched(what) as listener:
        return train_captioner(
            model, features, *pairs, _recipe(what, len(training.captions)), backbone=backbone,
            tokens=what.vectors, folder=what.out, mesh=make_mesh(what.devices),
            listener=listener, begin=compiling(what),
        )  # fmt: skip


def round_of(what: CaptionerOptions) -> RewardConfig:
    """Returns what the options say of a round; raises UserError where it cannot be."""
    critical = what.objective == "scst"
    objective: CaptionObjective = "rl" if what.objective == "scst" else what.objective
    if said := own_words(what.proposal):
        raise UserError(
            f"--proposal {what.proposal}: captions are written by the captioner alone, so "
            f"{said[0]} says nothing to it: leave it out"
        )
    proposal = method_config(
        what.proposal, new_tokens=what.new_tokens, samples=1, source="--proposal"
    )
    return RewardConfig(
        objective=objective,
        similarity=what.similarity or ("clip-s" if critical else "contrastive"),
        baseline=what.baseline or ("greedy" if critical else "none"),
        regulariser="grammar" if what.regulariser == "grammar" else "discriminator",
        alpha=1.0 if what.regulariser == "none" else what.alpha,
        offset=what.offset,
        proposal=proposal,
    )


def _by_rewards(what: CaptionerOptions, config: RewardConfig) -> dict[str, Any]:
    files = captioned_files(what)
    captioner = load_captioner(what.captioner or "", dtype=what.dtype, stacked=True)
    if "backbone" not in captioner.vision:
        raise UserError(
            f"{what.captioner} was trained on features of elsewhere, which images do not have: use "
            "it in Python"
        )
    backbone = load_backbone(what.vision or captioner.vision["backbone"])
    captioner.check_backbone(backbone)
    clip = load_clip_vectors(what.reward or "")
    config = replace(config, temperature=clip.temperature)
    eyes = clip.backbone()
    parts = both_captioned(what, backbone, files)
    # Most often the backbone is the same, and so are the states. Otherwise all was told before.
    again = replace(what, quiet=True)
    seen = parts if eyes.sha256 == backbone.sha256 else both_captioned(again, eyes, files)
    features, (training, _) = stacked(*parts)
    validation = len(parts[0].states) + evenly(len(parts[1].states), what.validation_rows)
    references = seen[0].captions, seen[0].image_of
    scorer = clip_scorer(clip, np.concatenate([part.states for part in seen]), *references)
    mesh = make_mesh(what.devices)
    judge = None
    if config.regulariser == "grammar" and config.alpha < 1:
        tell(what, "training the grammar head on corrupted captions")
        judge = train_grammar(parts[0].captions, scorer.embed, seed=what.seed, mesh=mesh)
    with watched(what, "round") as listener:
        return train_rewarded_captioner(
            captioner, features, training, validation.tolist(), scorer, config, _training(what),
            images=what.round_images, longest=what.longest, regulariser=judge, folder=what.out,
            mesh=mesh, listener=listener, begin=compiling(what, "round"),
        )  # fmt: skip


def evenly(count: int, most: int) -> np.ndarray:
    """Returns at most so many numbers below `count`, spread evenly."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def _training(what: CaptionerOptions) -> GcnTraining:
    every = min(what.validate_every, what.rounds)
    rate = 5e-5 if what.learning_rate is None else what.learning_rate
    return GcnTraining(
        LoopConfig(
            steps=what.rounds, validate_every=every, save_every=every,
            budget_minutes=what.budget_minutes,
        ),
        lora=LoraConfig(rank=what.rank, alpha=2.0 * what.rank) if what.rank else None,
        learning_rate=rate,
        discriminator_learning_rate=what.discriminator_learning_rate,
        seed=what.seed,
    )  # fmt: skip


def stacked(
    training: Captioned, validation: Captioned
) -> tuple[np.ndarray, tuple[list[Caption], list[Caption]]]:
    """Returns the features of all images, and both kinds of captions with their image's row."""
    first = len(training.states)
    pairs = [
        list(zip((own.image_of + shift).tolist(), own.captions, strict=True))
        for own, shift in ((training, 0), (validation, first))
    ]
    return np.concatenate([training.states, validation.states]), (pairs[0], pairs[1])


def _beginning(what: CaptionerOptions, training: Captioned) -> LoadedModel:
    if what.model is not None:
        return load(what.model, dtype=what.dtype, stacked=True)
    tokenizer = train_tokenizer(training.captions, what.vocabulary)
    shape = ScratchConfig(what.layers, what.width, max(CONTEXT, what.vectors + what.longest))
    return fresh_model(tokenizer, shape, seed=what.seed, dtype=what.dtype)


def _recipe(what: CaptionerOptions, captions: int) -> RecipeConfig:
    steps = max(1, math.ceil(what.epochs * captions / what.rows))
    rank = (0 if what.model is None else 8) if what.rank is None else what.rank
    rate = what.learning_rate
    if rate is None:
        rate = 1e-3 if what.model is None else 5e-4 if rank else 5e-5
    return RecipeConfig(
        loop=loop_of(what, steps),
        batch=BatchConfig(rows=what.rows, longest=what.longest, shortest=None, seed=what.seed),
        lora=LoraConfig(rank=rank, alpha=2.0 * rank) if rank else None,
        learning_rate=rate,
        validation_rows=what.validation_rows,
    )


def _show(console: Console, what: CaptionerOptions, card: dict[str, Any]) -> None:
    best = card.get("best")
    loss = f"best validation loss {best['loss']:.3f} at step {best['step']}" if best else "no step"
    console.print(f"{what.out}: {card['kind']}, {card['steps']} steps, {loss}")
    # A run that stopped in front of its first validation has none.
    if card["perplexity"]:
        console.print(f"perplexity of validation captions {card['perplexity']:.2f}")


def _show_rewarded(console: Console, what: CaptionerOptions, card: dict[str, Any]) -> None:
    console.print(f"{what.out}: {card['kind']}, {what.objective}, {card['steps']} rounds")
    last = card["last"]
    console.print(
        f"greedy captions of validation images, by the CLIP that rewards: cosine "
        f"{last['cosine']:.3f}, R@1 {last['text_recall_1']:.3f} image to text and "
        f"{last['recall_1']:.3f} text to image"
    )
