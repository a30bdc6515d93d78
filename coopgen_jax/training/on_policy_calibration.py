"""One temperature for a guide that was trained in rounds, and how well calibrated it is then."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.special import softmax

from coopgen_jax.data.labelled import Labelled, all_shares
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.evaluation.discriminator_accuracy import (
    all_beginnings,
    fit_temperature,
    judge_prefixes,
)
from coopgen_jax.models.pretrained.loaded_model import LoadedModel
from coopgen_jax.training.over_optimisation import Visited, by_prefix_length, gap_of


def calibration(
    model: LoadedModel,
    guide: LoadedDiscriminator,
    visited: tuple[Visited, np.ndarray],
    validation: Labelled,
    *,
    longest: tuple[int, int],
) -> tuple[float, dict[str, Any]]:
    """Fits a temperature to prefixes of unseen searched texts and of validation texts alike.

    It is one number for texts of every length, which every kind of discriminator can carry in its
    weights. The truth of searched texts are the teacher's probabilities, that of validation texts
    their labels; both sets weigh half.

    Args:
      model: the language model.
      guide: what is calibrated.
      visited: texts that it was not trained on, and the teacher's shares of them `[n, C]`.
      validation: other texts of its classes.
      longest: the most tokens that are read of a written and of a validation text.

    Returns:
      The temperature, and entries of a card: the "calibrated_gap" of the searched texts, and
      "by_tokens_read" of their prefixes, see `by_prefix_length`, with the "error_before".
    """
    texts, teacher = visited
    chosen = np.flatnonzero(texts.searched)
    said = _behind_prompts(model, guide, texts, chosen, longest[0])
    read = ~np.isnan(said[..., 0]).all(axis=-1)
    chosen, said = chosen[read], said[read]
    rows = model.tokenizer.encode_batch([f" {text.strip()}" for text in validation.texts])
    known = validation.rows([number for number, row in enumerate(rows) if row])
    human = judge_prefixes(model, guide, known.texts, longest=longest[1], asked="doubling")
    parts = [
        all_beginnings(said, teacher[chosen]),
        all_beginnings(human, all_shares(known)),
    ]
    weights = np.concatenate([np.full(len(part[0]), 1 / len(part[0])) for part in parts])
    judged, truth = (np.concatenate(both) for both in zip(*parts, strict=True))
    temperature = fit_temperature(judged, truth, weights)
    targets = texts.targets[chosen]
    before = by_prefix_length(np.exp(said), teacher[chosen], targets)
    after = by_prefix_length(softmax(said / temperature, axis=-1), teacher[chosen], targets)
    log_guide = np.log(np.maximum(texts.guide, np.finfo(np.float32).tiny))
    cooled = replace(texts, guide=softmax(log_guide / temperature, axis=-1))
    return temperature, {
        "calibrated_gap": gap_of(cooled, teacher)["gap"],
        "by_tokens_read": {
            name: {**row, "error_before": before[name]["error"]} for name, row in after.items()
        },
    }


def _behind_prompts(
    model: LoadedModel,
    guide: LoadedDiscriminator,
    texts: Visited,
    chosen: Sequence[int] | np.ndarray,
    longest: int,
) -> np.ndarray:
    """Returns log p(class) `[n, T, C]` of the prefixes of chosen texts, each behind its prompt.

    A text without tokens has NaN alone.
    """
    classes = len(guide.discriminator.classes)
    found = np.full((len(chosen), longest, classes), np.nan, np.float32)
    rows = model.tokenizer.encode_batch([f" {texts.texts[number]}" for number in chosen])
    places: dict[str, list[int]] = {}
    for place, (number, row) in enumerate(zip(chosen, rows, strict=True)):
        if row:
            places.setdefault(texts.prompts[number], []).append(place)
    for prompt, own in places.items():
        found[own] = judge_prefixes(
            model, guide, [texts.texts[chosen[place]] for place in own],
            prompt=prompt, longest=longest, asked="doubling",
        )  # fmt: skip
    return found
