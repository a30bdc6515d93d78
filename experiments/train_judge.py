"""Trains the judge of sentiment on half B of the training rows; the guides learn from half A.

    python -m experiments.train_judge --data FOLDER --out FOLDER

A sentence encoder reads texts whole, with LoRA beside it: a discriminator's folder like any other.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from coopgen_jax.data.batches import BatchConfig
from coopgen_jax.data.labelled import Labelled, half, joined
from coopgen_jax.data.pieces import Cutting, cut_all
from coopgen_jax.models.pretrained.loading import load_encoder
from coopgen_jax.parallel import make_mesh
from coopgen_jax.training.encoder_recipe import train_bidirectional
from coopgen_jax.training.loop import LoopConfig
from coopgen_jax.training.run import RecipeConfig
from experiments.sentiment_data import read_sets
from experiments.train_heads import told

# As many words as a judged continuation of 24 tokens has at most, and half as many.
WORDS = (10, 24)


@dataclass(frozen=True)
class Config:
    """What to train from, and where to put the judge.

    data: a folder with sst2/ and amazon_reviews/, each with train.csv and validation.csv.
    out: the judge's folder; a training that was interrupted there goes on.
    pieces: pieces that every review gives.
    epochs, rows, learning_rate: of the training.
    """

    data: Path
    out: Path
    pieces: int = 2
    epochs: int = 2
    rows: int = 32
    learning_rate: float = 5e-4


def texts_of(config: Config, split: str, part: str | None) -> Labelled:
    """Returns sentences, and pieces of reviews, of a half or of both."""
    sets = read_sets(config.data, split)
    if part:
        sets = {name: half(data, part) for name, data in sets.items()}
    pieces = config.pieces if split == "train" else 1
    cutting = Cutting(pieces=pieces, shortest=WORDS[0], longest=WORDS[1] + 12, mid_word=0.0)
    rng = np.random.default_rng(split == "train")
    return joined([sets["sst2"], cut_all(rng, sets["amazon_reviews"], cutting)])


def main(config: Config) -> None:
    """Trains, and says how well the judge judges."""
    training = texts_of(config, "train", "B")
    steps = config.epochs * len(training.texts) // config.rows
    every = max(1, steps // 6)
    card = train_bidirectional(
        load_encoder("minilm-l6"), training, texts_of(config, "validation", None),
        RecipeConfig(
            LoopConfig(steps, validate_every=every, save_every=every),
            BatchConfig(rows=config.rows, longest=64, shortest=None),
            learning_rate=config.learning_rate,
            dropout=0.1,
            validation_rows=1000,
        ),
        folder=config.out, mesh=make_mesh(1), listener=told("judge", "step"),
    )  # fmt: skip
    shares = card["accuracy"]["validation"]
    print(f"accuracy on sentences and pieces of reviews: {shares['whole']:.3f}")
    print(f"wrote {config.out}")


if __name__ == "__main__":
    main(tyro.cli(Config))
