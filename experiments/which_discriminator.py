"""Which discriminator for cooperative text generation? Every kind on the same texts, as guides.

    python -m experiments.which_discriminator --data FOLDER --work FOLDER --prompts PROMPTS.jsonl

Chaffin et al. (SIGIR 2022, arXiv 2204.11586) asked this of networks of one size, fine-tuned on one
data set. Guides learn from half A of the training rows; the judge and the oracle language model,
which say how good the texts are, from half B. Everything trained goes to `work`: what is there is
not trained again, and what was interrupted goes on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from coopgen_jax.data.batches import BatchConfig
from coopgen_jax.data.labelled import Labelled, half, joined
from coopgen_jax.data.pieces import Cutting, cut_all
from coopgen_jax.models.pretrained.loading import load
from coopgen_jax.parallel import make_mesh
from coopgen_jax.training.loop import LoopConfig
from coopgen_jax.training.recipes import train_causal, train_generative, train_language_model
from coopgen_jax.training.run import RecipeConfig
from experiments.sentiment_heads import read_sets


@dataclass(frozen=True)
class Config:
    """What to compare.

    data: a folder with sst2/ and amazon_reviews/, each with train.csv and validation.csv.
    work: where everything trained goes.
    model: the language model to guide, as which the causal and generative kinds begin.
    rows, longest: texts of a step, and tokens read of each.
    causal_steps, generative_steps, oracle_steps: steps of the networks as large as the language
      model; a generative step reads every text once per class.
    only: what to train, by name; everything where nothing is named.
    """

    data: Path
    work: Path
    model: str = "smollm2-135m"
    rows: int = 16
    longest: int = 64
    causal_steps: int = 240
    generative_steps: int = 160
    oracle_steps: int = 200
    only: tuple[str, ...] = ()


def texts_of(config: Config, split: str, part: str | None) -> Labelled:
    """Returns sentences, and pieces of reviews that begin anywhere, of a half or of both."""
    sets = read_sets(config.data, split)
    if part:
        sets = {name: half(data, part) for name, data in sets.items()}
    cutting = Cutting(pieces=1, shortest=16, longest=48, mid_word=0.0)
    rng = np.random.default_rng([split == "train", part == "B"])
    return joined([sets["sst2"], cut_all(rng, sets["amazon_reviews"], cutting)])


def recipe(config: Config, steps: int, shortest: int | None) -> RecipeConfig:
    """Returns how a network of the language model's size is trained."""
    every = max(1, steps // 4)
    return RecipeConfig(
        LoopConfig(steps=steps, validate_every=every, save_every=every),
        BatchConfig(rows=config.rows, longest=config.longest, shortest=shortest),
        validation_rows=256,
    )


def told(name: str) -> Callable[[int, int, Any], None]:
    """Returns a listener that prints a line now and then."""

    def listen(done: int, total: int, means: Any) -> None:
        if done % 20 == 0 or done == total:
            print(f"{name}: step {done} of {total}, loss {float(means['loss']):.3f}", flush=True)

    return listen


def train_all(config: Config) -> None:
    """Trains what is not there yet, and says how much of the data each reads."""
    validation = texts_of(config, "validation", None)
    kinds: dict[str, tuple[Any, str, int, int | None]] = {
        "causal": (train_causal, "A", config.causal_steps, 1),
        "generative": (train_generative, "A", config.generative_steps, 2),
        "oracle": (train_language_model, "B", config.oracle_steps, None),
    }
    for name, (train, part, steps, shortest) in kinds.items():
        folder = config.work / name
        if (config.only and name not in config.only) or (folder / "card.json").is_file():
            continue
        training: Any = texts_of(config, "train", part)
        held_out: Any = validation
        read = steps * config.rows
        print(f"{name}: reads {read} texts of the {len(training.texts)} in half {part}", flush=True)
        if name == "oracle":
            training, held_out = training.texts, held_out.texts
        model = load(config.model, stacked=True)
        train(
            model, training, held_out, recipe(config, steps, shortest),
            folder=folder, mesh=make_mesh(1), listener=told(name),
        )  # fmt: skip


def main(config: Config) -> None:
    """Trains what is missing."""
    train_all(config)


if __name__ == "__main__":
    main(tyro.cli(Config))
