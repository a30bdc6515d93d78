"""Whether there is a teacher ahead of the guide: readers of half A, and the means of what they say.

    python -m experiments.teachers --data FOLDER [--work FOLDER]

What labels the texts that a search visits must judge better than the guide that visits them. The
packaged heads, where there is `work` an encoder with LoRA that is trained there as the packaged
judge was, on whole texts of half A, and the means of their probabilities judge validation texts
that none was trained on. A training that is in `work` is not repeated, and one that was interrupted
goes on.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from coopgen_jax.data.batches import BatchConfig
from coopgen_jax.data.cuts import cut_all
from coopgen_jax.data.labelled import Labelled, half, joined
from coopgen_jax.discriminators.loading import load_discriminator
from coopgen_jax.evaluation.discriminator_accuracy import judge_prefixes, of_whole_texts
from coopgen_jax.evaluation.metrics import bootstrap_interval, wilson_interval
from coopgen_jax.files import write_json
from coopgen_jax.models.pretrained.loaded_model import load, load_encoder
from coopgen_jax.parallel.mesh import make_mesh
from coopgen_jax.training.loop import LoopConfig
from coopgen_jax.training.recipes.bidirectional_recipe import train_bidirectional
from coopgen_jax.training.run import RecipeConfig
from experiments.sentiment_data import read_sets
from experiments.train_encoder_judge import SPANS
from experiments.train_heads import evenly, told

LONGEST = 64
TRAINED = "encoder of whole texts"


@dataclass(frozen=True)
class Config:
    """What to compare.

    Attributes:
      data: A folder with sst2/ and amazon_reviews/, each with train.csv and validation.csv.
      work: The folder of the training; None for no training.
      out: Folder for the figures.
      guide: The discriminator that a teacher has to be ahead of.
      others: Packaged heads or folders, other readers of half A.
      model: The language model.
      reviews: Training reviews that give a span each, at most.
      epochs: Of the training.
      rows: Texts of a step.
      validation_rows: Rows of every set that are judged, at most.
      dtype: Number format of the encoder in training.
    """

    data: Path
    work: Path | None = None
    out: Path = Path("experiments/results")
    guide: str = "sentiment"
    others: tuple[str, ...] = ("sentiment-minilm",)
    model: str = "smollm2-135m"
    reviews: int = 3400
    epochs: int = 3
    rows: int = 32
    validation_rows: int = 1000
    dtype: str = "bfloat16"


def training_rows(config: Config) -> Labelled:
    """Returns sentences and spans of reviews, all of half A."""
    sets = {name: half(data, "A") for name, data in read_sets(config.data, "train").items()}
    reviews = evenly(sets["amazon_reviews"], config.reviews)
    return joined([sets["sst2"], cut_all(np.random.default_rng(0), reviews, SPANS)])


def train(config: Config, folder: Path) -> None:
    """Trains the encoder with LoRA into a folder; its last step counts: no row chooses it."""
    rows = training_rows(config)
    every = max(1, len(rows.texts) // config.rows)
    validation = read_sets(config.data, "validation")["sst2"]
    train_bidirectional(
        load_encoder("minilm-l6", dtype=config.dtype),
        rows,
        validation,
        RecipeConfig(
            LoopConfig(config.epochs * every, validate_every=every, save_every=100, keep="last"),
            BatchConfig(rows=config.rows, longest=LONGEST // 2, shortest=None),
            validation_rows=len(validation.texts),
        ),
        folder=folder,
        mesh=make_mesh(1),
        listener=told(TRAINED, "step"),
    )


def judged(config: Config, sets: Mapping[str, Labelled]) -> dict[str, dict[str, np.ndarray]]:
    """Returns what every reader says of every set's texts, log p(class) `[n, C]` by set."""
    model = load(config.model)
    places: dict[str, str | Path] = {name: name for name in (config.guide, *config.others)}
    if config.work is not None:
        places[TRAINED] = config.work
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, place in places.items():
        head = load_discriminator(place, language_model=model)
        found[name] = {}
        for data, rows in sets.items():
            said = judge_prefixes(
                model, head, rows.texts, longest=LONGEST, asked="last",
                listener=told(name, f"{data} texts"),
            )  # fmt: skip
            found[name][data] = of_whole_texts(said)
    return found


def means(said: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns p(class) `[n, C]` of every reader, and of every two or more their mean."""
    found = {}
    for count in range(1, len(said) + 1):
        for names in itertools.combinations(said, count):
            found[" + ".join(names)] = np.mean([np.exp(said[name]) for name in names], axis=0)
    return found


def compared(p: Mapping[str, np.ndarray], labels: np.ndarray, guide: str) -> dict[str, Any]:
    """Returns how often each is right of texts `[n]`, and by how much more often than the guide.

    The difference is that on the same texts, and its interval a bootstrap's, texts drawn.
    """
    right = {name: own.argmax(axis=1) == labels for name, own in p.items()}
    found: dict[str, Any] = {}
    for name, hits in right.items():
        interval = list(wilson_interval(int(hits.sum()), len(hits)))
        found[name] = {"value": float(hits.mean()), "interval": interval}
        if name != guide:
            ahead = hits.astype(float) - right[guide]
            found[name]["ahead"] = {
                "value": float(ahead.mean()), "interval": list(bootstrap_interval(ahead)),
            }  # fmt: skip
    return found


def main(config: Config) -> None:
    """Trains what is missing, judges and writes the figures."""
    if config.work is not None and not (config.work / "card.json").is_file():
        train(config, config.work)
    sets = read_sets(config.data, "validation")
    sets = {name: evenly(data, config.validation_rows) for name, data in sets.items()}
    said = judged(config, sets)
    readers: dict[str, Any] = {}
    for data, rows in sets.items():
        own = means({name: found[data] for name, found in said.items()})
        for name, figures in compared(own, rows.labels, config.guide).items():
            readers.setdefault(name, {})[data] = figures
    counts = {name: len(rows.texts) for name, rows in sets.items()}
    write_json(
        config.out / "teachers.json", {"guide": config.guide, "texts": counts, "readers": readers}
    )
    for name, found in readers.items():
        for data, cell in found.items():
            ahead = cell.get("ahead", {"value": 0.0, "interval": [0.0, 0.0]})
            low, high = ahead["interval"]
            line = f"{data:16} {cell['value']:.4f} {ahead['value']:+.4f}"
            print(f"{line} [{low:+.4f}, {high:+.4f}] {name}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Config))
