"""Trains the judge of sentiment that comes with the library, an encoder with a class "neither".

    python -m experiments.train_encoder_judge --data FOLDER --work FOLDER \
        --out coopgen_jax/heads/research

MiniLM with LoRA learns from half B of the training rows: sentences of sst2, a span of every third
review, and texts without a sentiment; the guides learn from half A. It is measured on full
validation texts and on their first 24 tokens, as many as `coopgen compare` writes. A training that
is in `work` is not repeated, and one that was interrupted goes on.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from coopgen_jax.data.batches import BatchConfig
from coopgen_jax.data.cuts import Cutting, cut_all
from coopgen_jax.data.labelled import Labelled, half, joined
from coopgen_jax.discriminators.loading import load_discriminator
from coopgen_jax.evaluation.discriminator_accuracy import NEITHER, judge_prefixes, of_whole_texts
from coopgen_jax.evaluation.metrics import wilson_interval
from coopgen_jax.models.pretrained.loaded_model import LoadedModel, load, load_encoder
from coopgen_jax.parallel.mesh import make_mesh
from coopgen_jax.training.card import write_card
from coopgen_jax.training.loop import LoopConfig
from coopgen_jax.training.recipes.bidirectional_recipe import train_bidirectional
from coopgen_jax.training.run import RecipeConfig
from experiments.neutral_test_texts import neutral_test_texts
from experiments.neutral_texts import SOURCES as NEUTRAL
from experiments.neutral_texts import neutral_texts
from experiments.sentiment_data import SETS, read_sets
from experiments.train_heads import SOURCES, evenly, told
from experiments.train_judge import with_neither

# Tokens of the language model that are judged: those of a text of `coopgen compare`, and all.
LENGTHS = (24, 64)
SPANS = Cutting(pieces=1, shortest=12, longest=36, mid_word=0.0)


@dataclass(frozen=True)
class Config:
    """What to train from, and where to put the judge.

    Attributes:
      data: A folder with a folder per data set, each with train.csv and validation.csv.
      work: The folder of the training.
      out: The folder in which the judge gets a folder; None for nowhere.
      name: What the judge is called.
      model: The language model by whose tokens texts are cut.
      reviews: Reviews that give a span each, at most.
      neutral: Texts without a sentiment, at most.
      epochs: Of the training.
      rows: Texts of a step.
      longest: Word pieces that the training reads of a text.
      width: Word pieces that the judge reads of a text, the last ones.
      dtype: Number format of the encoder in training.
    """

    data: Path
    work: Path
    out: Path | None = None
    name: str = "sentiment-judge"
    model: str = "smollm2-135m"
    reviews: int = 3400
    neutral: int = 3100
    epochs: int = 3
    rows: int = 32
    longest: int = 32
    width: int = 66
    dtype: str = "bfloat16"


def training_rows(config: Config) -> Labelled:
    """Returns what the judge learns from, all of half B."""
    sets = {name: half(data, "B") for name, data in read_sets(config.data, "train").items()}
    reviews = evenly(sets["amazon_reviews"], config.reviews)
    spans = cut_all(np.random.default_rng(0), reviews, SPANS)
    calm = neutral_texts(config.data, "B")
    count = min(config.neutral, len(calm))
    chosen = [calm[number * len(calm) // count] for number in range(count)]
    return with_neither(joined([sets["sst2"], spans]), chosen)


def validation_rows(config: Config) -> Labelled:
    """Returns what the best step is chosen by: validation texts, and neutral ones of half A."""
    sets = read_sets(config.data, "validation")
    spans = cut_all(np.random.default_rng(1), evenly(sets["amazon_reviews"], 400), SPANS)
    calm = neutral_texts(config.data, "A")
    return with_neither(joined([sets["sst2"], spans]), calm[:: max(1, len(calm) // 400)])


def train(config: Config) -> None:
    """Trains the judge into `work`."""
    rows = training_rows(config)
    every = -(-len(rows.texts) // config.rows)
    train_bidirectional(
        load_encoder("minilm-l6", dtype=config.dtype),
        rows,
        validation_rows(config),
        RecipeConfig(
            LoopConfig(config.epochs * every, validate_every=every, save_every=100),
            BatchConfig(rows=config.rows, longest=config.longest, shortest=None),
            validation_rows=1700,
        ),
        folder=config.work,
        mesh=make_mesh(1),
        listener=told(config.name, "step"),
    )


def measure(config: Config, model: LoadedModel) -> dict[str, Any]:
    """Returns a card's figures: accuracy by tokens read with intervals, and who is said neither."""
    head = load_discriminator(config.work, language_model=model)
    calm = head.discriminator.classes.index(NEITHER)
    accuracy: dict[str, Any] = {}
    intervals: dict[str, Any] = {}
    neither: dict[str, Any] = {}
    sets = read_sets(config.data, "validation")
    texts = {name: evenly(data, 1000).texts for name, data in sets.items()}
    texts["texts without sentiment"] = tuple(neutral_test_texts())
    for name, own in texts.items():
        for length in LENGTHS:
            said = judge_prefixes(model, head, own, longest=length, asked="last")
            chosen = of_whole_texts(said).argmax(axis=-1)
            key = str(length) if length < max(LENGTHS) else "whole"
            neither.setdefault(name, {})[key] = round(float((chosen == calm).mean()), 4)
            if name in sets:
                hits = chosen == evenly(sets[name], 1000).labels
                accuracy.setdefault(name, {})[key] = round(float(hits.mean()), 4)
                ends = wilson_interval(int(hits.sum()), len(hits))
                intervals[name] = [round(end, 4) for end in ends]
    return {"accuracy": accuracy, "intervals": intervals, "said_neither": neither}


def main(config: Config) -> None:
    """Trains, measures and publishes."""
    if not (config.work / "card.json").is_file():
        train(config)
    card = json.loads((config.work / "card.json").read_text(encoding="utf-8"))
    write_card(config.work, card | {"width": config.width})
    found = measure(config, load(config.model))
    print(json.dumps(found, indent=1))
    card |= found | {
        "name": config.name,
        "width": config.width,
        "licence": "Apache-2.0",
        "data": {name: SOURCES[name] for name in SETS},
        "neutral_data": NEUTRAL,
        "terms": "trained on data licensed for research only",
        "recipe": (
            f"half B of the training rows: sentences of sst2, spans of {SPANS.shortest} to "
            f"{SPANS.longest} words of reviews, texts without a sentiment"
        ),
        "accuracy_unit": "tokens of the language model read; neither counts as a miss",
        "judges": [
            "sentiment",
            "sentiment-distilled",
            "sentiment-minilm",
        ],
    }
    if config.out is None:
        return
    folder = config.out / config.name
    folder.mkdir(parents=True, exist_ok=True)
    for file in ("head.safetensors", "rows.npy"):
        shutil.copyfile(config.work / file, folder / file)
    write_card(folder, card)


if __name__ == "__main__":
    main(tyro.cli(Config))
