"""The temperature of a guide: what experiments give each before they compare them."""

import json
from pathlib import Path

from coopgen_jax.data.labelled import Labelled
from coopgen_jax.discriminators.loading import load_discriminator
from coopgen_jax.evaluation.discriminator_accuracy import (
    all_beginnings,
    fit_temperature,
    judge_prefixes,
)
from coopgen_jax.models.pretrained.loaded_model import load
from coopgen_jax.training.card import write_card
from experiments.train_heads import evenly, told

# Of so many texts every beginning is judged, at most.
ROWS = 300


def calibrate(folder: Path, model: Path, validation: Labelled, *, longest: int) -> None:
    """Stores in a guide's card the temperature at which it judges beginnings best, once.

    A search weighs what a guide says against priors, so that guides of different confidence would
    not be compared for what they know (Guo et al. 2017, arXiv 1706.04599).

    Args:
      folder: the guide's.
      model: folder of the language model that it stands on.
      validation: texts and classes.
      longest: tokens of a text that are read.
    """
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    if "temperature" in card:
        return
    base, data = load(model), evenly(validation, ROWS)
    guide = load_discriminator(folder, language_model=base)
    said = judge_prefixes(
        base, guide, data.texts, longest=longest, listener=told(folder.name, "judged text")
    )
    temperature = fit_temperature(*all_beginnings(said, data.labels))
    write_card(folder, card | {"temperature": temperature})
    print(f"{folder.name}: judges best at a temperature of {temperature:.3f}", flush=True)
