"""Trains the sentiment heads that ship with the library.

Half A of the training rows, every text cut into random pieces, frozen features, a small perceptron
with early stopping. Prints and records the accuracy by length of what was read.

    python -m experiments.train_heads --kind bidirectional --data FOLDER --out FOLDER
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from coopgen_jax.data.labelled import Labelled, half, joined, read_labelled
from coopgen_jax.data.pieces import Cutting, cut_all
from coopgen_jax.discriminators.head import HeadConfig
from coopgen_jax.discriminators.sentences import cached_features
from coopgen_jax.training.heads import (
    Features,
    FitConfig,
    accuracy_by_length,
    fit_head,
    save_head,
)

CLASSES = ("negative", "positive")
LENGTHS = (2, 4, 8, 12, 16, 24, 32, 48)
SOURCES = {
    "sst2": "Stanford Sentiment Treebank, two classes (Socher et al. 2013); research only",
    "amazon_reviews": "Multi-domain sentiment (Blitzer et al. 2007); research only",
}


@dataclass(frozen=True)
class Config:
    """What to train, from what, and where to put it.

    data: a folder with sst2/ and amazon_reviews/, each with train.csv and validation.csv.
    out: the head's folder, which is made.
    kind: which features the head reads.
    cache: where features are kept between runs, or None.
    pieces: pieces that every text gives.
    longest: words of the longest piece.
    width: word pieces that a bidirectional head reads at most.
    hidden: width of the head's hidden layer.
    dropout: share of inputs dropped in training.
    fit: the loop.
    """

    data: Path
    out: Path
    kind: Literal["bidirectional", "shared-trunk"] = "bidirectional"
    cache: Path | None = None
    pieces: int = 3
    longest: int = 48
    width: int = 64
    hidden: int = 256
    dropout: float = 0.5
    fit: FitConfig = field(default_factory=FitConfig)


def bidirectional(config: Config) -> tuple[Features, dict[str, Any]]:
    """Returns the features of a frozen sentence encoder, and what the card says of them."""
    from coopgen_jax.models.pretrained import load_encoder

    encoder = load_encoder("minilm-l6")
    card = {
        "kind": "bidirectional",
        "encoder": "minilm-l6",
        "encoder_sha256": encoder.sha256,
        "width": config.width,
    }
    return partial(cached_features, encoder, folder=config.cache, longest=config.width), card


# A kind of head is one function: from the configuration to its features and its card's first lines.
KINDS: dict[str, Callable[[Config], tuple[Features, dict[str, Any]]]] = {
    "bidirectional": bidirectional,
}


def pieces_of(config: Config, sets: dict[str, Labelled], seed: int) -> Labelled:
    """Returns the pieces of both sets; sentences are cut from their start, reviews anywhere."""
    rng = np.random.default_rng(seed)
    anywhere = Cutting(pieces=config.pieces, longest=config.longest)
    parts = [
        sets["sst2"],
        cut_all(rng, sets["sst2"], replace(anywhere, anywhere=False)),
        cut_all(rng, sets["amazon_reviews"], anywhere),
    ]
    return joined(parts)


def main(config: Config) -> None:
    """Trains one head."""

    def read(split: str) -> dict[str, Labelled]:
        return {
            name: read_labelled(config.data / name / f"{split}.csv", classes=CLASSES)
            for name in SOURCES
        }

    training = pieces_of(config, {name: half(s, "A") for name, s in read("train").items()}, 0)
    whole = read("validation")
    validation = pieces_of(replace(config, pieces=1), whole, 1)
    features, card = KINDS[config.kind](config)
    print(f"features of {len(training.texts)} texts and pieces ...", flush=True)
    inputs = features(training.texts)
    head = HeadConfig(CLASSES, inputs.shape[1], (config.hidden,), config.dropout)
    params, loss = fit_head(
        head,
        (inputs, training.labels),
        (features(validation.texts), validation.labels),
        config.fit,
    )
    print(f"validation loss {loss:.4f} nats on pieces")
    report = {
        name: accuracy_by_length(head, params, features, data, LENGTHS)
        for name, data in whole.items()
    }
    for name, row in report.items():
        print(name, "  ".join(f"{length}: {share:.3f}" for length, share in row.items()))
    card |= {
        "name": config.out.name,
        "licence": "Apache-2.0",
        "classes": list(CLASSES),
        "hidden": list(head.hidden),
        "reads_prompt": False,
        "data": SOURCES,
        "terms": "trained on data licensed for research only",
        "recipe": (
            f"half A of the training rows; {config.pieces} random pieces of 1 to {config.longest} "
            f"words per text, a quarter of them broken off inside a word; frozen features; AdamW "
            f"{config.fit.learning_rate}, dropout {config.dropout}, early stopping on pieces of "
            "the validation rows"
        ),
        "validation_loss": round(loss, 4),
        "accuracy": {
            name: {length: round(share, 4) for length, share in row.items()}
            for name, row in report.items()
        },
    }
    save_head(config.out, params, card)
    print(f"wrote {config.out}")


if __name__ == "__main__":
    main(tyro.cli(Config))
