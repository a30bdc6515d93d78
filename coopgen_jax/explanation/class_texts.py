"""Texts written for every class of a classifier: what an explanation is made of.

The language model samples how each text opens, and a guided decoder goes on under the classifier,
towards each class in turn. Texts go to a file a batch at a time; what is in a batch depends on its
number alone, so that a run that was broken off goes on with the texts that it would have written.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from coopgen_jax.bulk.growing_file import append, make_folder, resume, rows_in
from coopgen_jax.comparison.header import about_guide, about_model, settings_of
from coopgen_jax.decoding.decoder_settings import DecoderSettings
from coopgen_jax.decoding.methods.fudge import FudgeConfig
from coopgen_jax.decoding.methods.sampling import SamplingConfig
from coopgen_jax.decoding.rules.shaping import Rules
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.discriminators.observed import observed
from coopgen_jax.discriminators.softened import hardened, softened
from coopgen_jax.errors import UserError
from coopgen_jax.explanation.token_effects import TokenEffects, keep_effects
from coopgen_jax.models.pretrained.loaded_model import LoadedModel
from coopgen_jax.text_generation import generate
from coopgen_jax.tokenizer import Tokenizer

FILE = "texts.jsonl"


def suited(guide: LoadedDiscriminator, new_tokens: int) -> DecoderSettings:
    """Returns how texts are written under a classifier where nothing else is asked for.

    Tokens are drawn among candidates, weighed by the classifier (FUDGE). One that reads texts anew
    is asked about candidates that the language model has not read, and can afford ten times as
    many.
    """
    anew = guide.discriminator.tokenizer is not None
    ahead = guide.discriminator.evaluate_children is not None
    return FudgeConfig(
        new_tokens=new_tokens, candidates=200 if anew else 20, strength=32.0, look_ahead=ahead
    )


@dataclass(frozen=True)
class WritingSettings:
    """What is written for an explanation.

    Attributes:
      texts: Texts of each class.
      opening_tokens: Tokens that the language model samples in front of every text, from a nucleus
        of `top_p`. They are no part of the text.
      top_p: Probability of the nucleus that openings are sampled from.
      openings: What texts continue instead of sampled openings, in turn; none to sample them.
      new_tokens: Most tokens of a text.
      decoder: How texts are written; None for what suits the classifier, see `suited`.
      temperature: Divides the classifier's log-odds while it guides, so that it does not stop
        guiding where it is sure. What is kept of a text are its own probabilities.
      batch: Texts written at once.
      seed: Of everything random.
    """

    texts: int = 500
    opening_tokens: int = 7
    top_p: float = 0.9
    openings: tuple[str, ...] = ()
    new_tokens: int = 40
    decoder: DecoderSettings | None = None
    temperature: float = 4.0
    batch: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("texts", "opening_tokens", "new_tokens", "batch"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: give 1 or more")
        if self.decoder is not None and not self.decoder.guided:
            raise UserError("this decoder is not guided: take fudge or mcts")
        if self.decoder is not None and self.decoder.weighted:
            raise UserError(
                "this decoder weighs several texts, and here each stands alone: take fudge"
            )
        if self.decoder is not None and self.decoder.samples > 1:
            raise UserError("a text is written for every opening: leave samples at 1")


@dataclass(frozen=True)
class Progress:
    """How far the writing is: texts that are there, of all, and seconds since it began or went on.

    Attributes:
      done: Texts of all classes that the file has.
      total: Texts that it is going to have.
      seconds: Since this run began.
    """

    done: int
    total: int
    seconds: float


def write_texts(
    model: LoadedModel,
    guide: LoadedDiscriminator,
    folder: Path,
    settings: WritingSettings,
    *,
    guide_name: str | None = None,
    guide_weights: str | None = None,
    weighted: bool = False,
    budget_seconds: float | None = None,
    listener: Callable[[Progress], None] = lambda progress: None,
    enough: Callable[[list[dict[str, Any]]], bool] = lambda rows: False,
) -> list[dict[str, Any]]:
    """Writes texts for every class of a guide into a folder, or goes on, and returns their rows.

    Args:
      model: the language model.
      guide: the classifier.
      folder: where `texts.jsonl` grows, and beside it what the classifier said of the tokens that
        were considered (`kept_effects`).
      settings: what is written.
      guide_name: what files call the guide.
      guide_weights: hash of its weights, by which another one of the same name is refused.
      weighted: whether texts are going to be weighted, for which the decoder must draw.
      budget_seconds: after so long no batch is begun; None for no end.
      listener: called after every batch.
      enough: asked with the rows so far each time that all classes have as many texts; where it
        says yes no more are written.

    Raises:
      UserError: the folder holds texts of other settings, or the guide fails; what was written
        before it did is kept.
    """
    classes = guide.discriminator.classes
    if len(classes) < 2:
        raise UserError("a reward has one class: explaining wants a classifier of two or more")
    effects = TokenEffects(model.tokenizer.vocab_size, len(classes))
    soft = softened(observed(guide, effects), settings.temperature)
    decoder = settings.decoder or suited(guide, settings.new_tokens)
    settings = replace(settings, decoder=decoder, new_tokens=decoder.new_tokens)
    plan = batches(len(classes), settings.texts, settings.batch)
    sizes = [size for _, size in plan]
    path = folder / FILE
    make_folder(folder)
    header = _header(model, guide, settings, guide_name, guide_weights)
    done, start = resume(path, header, sizes), time.perf_counter()
    rows = rows_in(path)
    for number in range(done, len(plan)):
        seconds = time.perf_counter() - start
        if budget_seconds is not None and seconds >= budget_seconds:
            break
        if number % len(classes) == 0 and rows and enough(rows):
            break
        made = _batch(model, soft, settings, plan[number], number)
        if weighted:
            check_density(made)
        # Before the texts, so that no text is without them.
        jax.effects_barrier()
        keep_effects(folder, number, effects.taken())
        append(path, made)
        rows += made
        seconds = time.perf_counter() - start
        listener(Progress(len(rows), sum(sizes), seconds))
    return rows


def batches(classes: int, texts: int, size: int) -> list[tuple[int, int]]:
    """Returns the batches of a job: of each its class and its number of texts, classes in turn."""
    sizes = [min(size, texts - first) for first in range(0, texts, size)]
    return [(label, own) for own in sizes for label in range(classes)]


def check_density(rows: Sequence[dict[str, Any]]) -> None:
    """Raises UserError where texts were not drawn, so that they have no weights."""
    if any(row["log_proposal"] is None for row in rows):
        raise UserError(
            "this decoder chooses its texts, which then have no weights: take fudge or the preset "
            "values, or leave the texts unweighted"
        )


def start_of(tokenizer: Tokenizer) -> list[int]:
    """Returns the ids that a text out of nothing begins behind.

    They are those that the model expects in front of every text; of a model without any the token
    that ends one, which stood between the texts that it was trained on; else a line break.
    """
    if tokenizer.begin_tokens:
        return list(tokenizer.begin_tokens)
    return list(tokenizer.end_tokens[-1:]) or tokenizer.encode("\n")


def _batch(
    model: LoadedModel,
    guide: LoadedDiscriminator,
    settings: WritingSettings,
    what: tuple[int, int],
    number: int,
) -> list[dict[str, Any]]:
    """Returns the rows of a batch, which depend on its number and the settings alone."""
    label, size = what
    classes = guide.discriminator.classes
    # Every batch has its own noise; the last one is filled up, so that nothing new is compiled.
    seed = int(np.random.default_rng((settings.seed, number)).integers(1 << 31))
    assert settings.decoder is not None
    start = time.perf_counter()
    prompts = _openings(model, settings, number // len(classes), seed)
    texts = generate(
        model, prompts, config=settings.decoder, discriminator=guide, target=classes[label],
        seed=seed, batch_size=settings.batch,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    said = np.array([[text.class_probabilities[name] for name in classes] for text in texts])
    own = hardened(said, settings.temperature).tolist()
    return [
        {
            "class": classes[label],
            "text": text.text,
            "opening": text.prompt,
            "probabilities": p,
            "guided_by": text.class_probabilities[classes[label]],
            "log_prob": text.log_prob,
            "log_proposal": text.log_proposal,
            "log_weight": text.log_weight,
            "simulations": text.simulations,
            "model_tokens": text.model_tokens,
            "tokens": len(text.tokens),
            "batch": number,
            "seconds": seconds / size,
        }
        for text, p in zip(texts[:size], own, strict=False)
    ]


def _openings(
    model: LoadedModel, settings: WritingSettings, turn: int, seed: int
) -> Sequence[str | list[int]]:
    if settings.openings:
        first = turn * settings.batch
        count = len(settings.openings)
        return [settings.openings[(first + row) % count] for row in range(settings.batch)]
    begin = start_of(model.tokenizer)
    rules = Rules(top_p=settings.top_p, min_tokens=settings.opening_tokens)
    sampling = SamplingConfig(new_tokens=settings.opening_tokens, rules=rules)
    made = generate(
        model, [begin] * settings.batch, config=sampling, seed=seed, batch_size=settings.batch
    )
    return [begin + text.tokens for text in made]


def _header(
    model: LoadedModel,
    guide: LoadedDiscriminator,
    settings: WritingSettings,
    guide_name: str | None,
    guide_weights: str | None,
) -> dict[str, Any]:
    """Returns the first line of the file: all that the texts depend on."""
    assert settings.decoder is not None
    written = settings_of(
        settings.decoder,
        target=list(guide.discriminator.classes),
        seed=settings.seed,
        batch_size=settings.batch,
        dtype=model.config.dtype,
        chat=False,
    )
    own = ("texts", "opening_tokens", "top_p", "openings", "temperature")
    header = {
        "settings": written | {name: getattr(settings, name) for name in own},
        "model": about_model(model),
        "discriminator": about_guide(guide_name, guide),
        "weights": {"discriminator": guide_weights},
    }
    parsed: dict[str, Any] = json.loads(json.dumps(header, default=str))
    return parsed
