"""How well a discriminator judges unfinished texts: accuracy and calibration by tokens read.

Which discriminator guides well depends on what it says of texts that have only begun (Chaffin et
al. 2022, arXiv 2204.11586).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.metrics import f1_score, roc_auc_score

from coopgen_jax.decoding.job import Job
from coopgen_jax.decoding.mcts import ppl_mcts as mcts
from coopgen_jax.decoding.mcts.mcts_config import MCTSConfig
from coopgen_jax.decoding.presets import PRESETS
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.metrics import bootstrap_interval, wilson_interval
from coopgen_jax.evaluation.prefix_reading import STEP, Asked, Reader
from coopgen_jax.models.networks import language_model
from coopgen_jax.models.pretrained.loaded_model import LoadedModel
from coopgen_jax.models.prompt import make_prompt

# Equal parts of (0, 1) into which confidences are sorted for the expected calibration error.
BINS = 15
# What a class is called that stands for none of the others.
NEITHER = "neither"


def judge_prefixes(
    model: LoadedModel,
    discriminator: LoadedDiscriminator,
    texts: Sequence[str],
    *,
    prompt: str = "\n",
    longest: int = 64,
    batch: int = 32,
    asked: Asked = "every",
    states: Path | None = None,
    listener: Callable[[int, int], None] = lambda done, total: None,
) -> np.ndarray:
    """Returns what a discriminator says of every prefix of `n` texts.

    A text is read as a continuation of `prompt`, behind a space; a discriminator that reads the
    continuation alone does not judge the prompt. One reading of a text gives the judgements of all
    its prefixes where the discriminator allows it (`Discriminator.evaluate_prefixes`); texts of
    like length are read together.

    Args:
      model: the language model that the discriminator guides.
      discriminator: what judges.
      texts: the texts.
      prompt: what stands in front of every text.
      longest: `T`, the most tokens of a text that are read, the first ones.
      batch: the most texts that are read at once.
      asked: at which lengths a discriminator is asked that reads every text anew: every one,
        doubling ones and the last (1, 2, 4, ...), or the last alone. At a length between them the
        judgement is that of the last one below.
      states: a folder in which the language model's states of the texts are kept, in single
        precision: another discriminator with the same taps does not have them read again.
      listener: called after each batch: how many of how many texts are done.

    Returns:
      `[n, T, C]` float32: log p(class | the first t + 1 tokens), NaN behind a text's end.

    Raises:
      UserError: there are no texts, one has no tokens, they do not fit the context, or the states
        cannot be kept.
    """
    if not texts:
        raise UserError("there are no texts to judge")
    rows = [ids[:longest] for ids in model.tokenizer.encode_batch([f" {t.strip()}" for t in texts])]
    if not all(rows):
        raise UserError("a text to judge has no tokens: leave empty texts out")
    guide = discriminator.discriminator
    # Refuses taps that the network has not.
    language_model(model.config, guide.taps)
    order = sorted(range(len(rows)), key=lambda number: len(rows[number]))
    # Batches of one size, so that nothing is read to fill the last one up.
    batch = -(-len(rows) // -(-len(rows) // batch))
    reserve = min(longest, -(-len(rows[order[-1]]) // STEP) * STEP)
    wanted = make_prompt(model.tokenizer, [prompt], context=model.config.context, reserve=reserve)
    front = tuple(np.asarray(wanted.tokens)[np.asarray(wanted.mask)].tolist())
    reader = Reader(model, discriminator, front, longest, asked)
    if states is not None:
        reader = reader.with_states(rows, batch=batch, folder=states)
    result = np.full((len(rows), longest, len(guide.classes)), np.nan, np.float32)
    for at in range(0, len(order), batch):
        there = order[at : at + batch]
        with discriminator.explained():
            said = reader.judge(rows, there, batch)
        for number, one in zip(there, said, strict=True):
            result[number, : len(one)] = one
        listener(min(at + batch, len(order)), len(order))
    return result


def evaluations_per_second(
    model: LoadedModel,
    discriminator: LoadedDiscriminator,
    config: MCTSConfig = PRESETS["default"],
    *,
    prompt: str = "The weather was",
    tokens: int = 5,
) -> float:
    """Returns how many nodes a second a search of one prompt reads and judges, compiled before.

    Of so many tokens' searches the median counts; raises UserError where they are below 1.
    """
    if tokens < 1:
        raise UserError(f"{tokens} tokens cannot be timed: give 1 or more")
    guide = discriminator.discriminator
    config = replace(config, new_tokens=tokens + 1)
    job = Job(
        prompt=make_prompt(model.tokenizer, [prompt]),
        params=model.params,
        discriminator_params=discriminator.params,
        target=jnp.zeros(1, jnp.int32),
        # A text that ended would cost nothing.
        language_model=replace(language_model(model.config, guide.taps), end_tokens=()),
        discriminator=guide,
        config=config,
    )
    state = jax.jit(mcts.begin)(job)
    advance = jax.jit(mcts.advance, donate_argnames="state")
    rates = []
    for _ in range(tokens + 1):
        before, start = int(state.generation.simulations.sum()), time.perf_counter()
        with discriminator.explained():
            state, _ = jax.block_until_ready(advance(jax.random.key(0), job, state))
        spent = int(state.generation.simulations.sum()) - before
        rates.append(spent / (time.perf_counter() - start))
    return float(np.median(rates[1:]))


def figures(log_class: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Returns how good log-probabilities `[n, C]` are, by class numbers `[n]`.

    Returns:
      `texts`, `accuracy` with Wilson's 95 % `interval`, `macro_f1`, `calibration_error` (expected,
      of the most probable class, 15 bins; Guo et al. 2017, arXiv 1706.04599), `brier` (mean squared
      distance of the probabilities from the truth, 0 to 2; Brier 1950) with a bootstrap
      `brier_interval`, and `saturated`, the share of texts whose most probable class has more than
      0.999.
    """
    p = np.exp(np.asarray(log_class, np.float64))
    guess, best = p.argmax(axis=-1), p.max(axis=-1)
    hits = guess == labels
    bins = np.minimum((best * BINS).astype(int), BINS - 1)
    gaps = [abs(hits[bins == number].sum() - best[bins == number].sum()) for number in range(BINS)]
    squares = ((p - np.eye(p.shape[-1])[labels]) ** 2).sum(axis=-1)
    return {
        "texts": len(labels),
        "accuracy": float(hits.mean()),
        "interval": list(wilson_interval(int(hits.sum()), len(labels))),
        "macro_f1": float(f1_score(labels, guess, average="macro", zero_division=0)),
        "calibration_error": float(sum(gaps) / len(labels)),
        "brier": float(squares.mean()),
        "brier_interval": list(bootstrap_interval(squares)),
        "saturated": float((best > 0.999).mean()),
    }


def no_opinion(
    log_class: np.ndarray, neutral: np.ndarray, classes: Sequence[str]
) -> dict[str, Any]:
    """Returns how well a discriminator knows that a text has none of its classes.

    Its confidence in a text is the largest probability of a class other than "neither". A guide
    that is sure of texts without a class leads a search to them.

    Args:
      log_class: `[n, C]` log-probabilities of texts with a class.
      neutral: `[m, C]` those of texts without one.
      classes: names of the `C` classes.

    Returns:
      `texts`, how many have no class, the mean `confidence` in them and `labelled_confidence` in
      the others, and `auroc`: the probability that a text with a class has the larger one (Hanley
      and McNeil 1982), half of it where both are alike.
    """
    others = [number for number, name in enumerate(classes) if name != NEITHER]
    sure, calm = (np.exp(said[:, others]).max(axis=-1) for said in (log_class, neutral))
    with_class = np.repeat([1, 0], [len(sure), len(calm)])
    return {
        "texts": len(calm),
        "confidence": float(calm.mean()),
        "labelled_confidence": float(sure.mean()),
        "auroc": float(roc_auc_score(with_class, np.concatenate([sure, calm]))),
    }


def by_length(
    log_class: np.ndarray, labels: np.ndarray, lengths: Sequence[int]
) -> dict[str, dict[str, Any]]:
    """Returns `figures` of the first tokens of texts, by their number, and of whole texts.

    Only texts of at least as many tokens count, so the texts of different lengths differ. The
    judgements are those of `judge_prefixes`, `[n, T, C]`, and a length is at most `T`.
    """
    read = (~np.isnan(log_class[..., 0])).sum(axis=-1)
    report = {}
    for length in lengths:
        long = read >= length
        if long.any():
            report[str(length)] = figures(log_class[long, length - 1], labels[long])
    report["whole"] = figures(of_whole_texts(log_class), labels)
    return report


def of_whole_texts(log_class: np.ndarray) -> np.ndarray:
    """Returns the judgements `[n, C]` of whole texts, out of those of `judge_prefixes`."""
    read = (~np.isnan(log_class[..., 0])).sum(axis=-1)
    return log_class[np.arange(len(read)), read - 1]


def all_beginnings(log_class: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the judgements `[m, C]` of every beginning of every text, and their classes `[m]`.

    They are picked out of what `judge_prefixes` returns, `[n, T, C]`, and the texts' classes `[n]`
    or their shares `[n, C]`.
    """
    read = ~np.isnan(log_class[..., 0])
    return log_class[read], np.repeat(labels, read.sum(axis=-1), axis=0)


def fit_temperature(
    log_class: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None
) -> float:
    """Returns the temperature whose division of log-probabilities is likeliest (Guo et al. 2017).

    The log-probabilities are `[n, C]`, the labels `[n]` class numbers or `[n, C]` shares of the
    classes, and the weights `[n]`, all alike where there are none.
    """
    shares = labels if labels.ndim == 2 else np.eye(log_class.shape[-1])[labels]

    def loss(log_temperature: float) -> float:
        scaled = log_class.astype(np.float64) / np.exp(log_temperature)
        # What has no share adds nothing, however unlikely it is.
        log_p = np.where(shares > 0, log_softmax(scaled, axis=-1), 0.0)
        return -float(np.average((shares * log_p).sum(axis=-1), weights=weights))

    found = minimize_scalar(loss, bounds=(-4.0, 4.0), method="bounded")
    return float(np.exp(found.x))
