"""Trains the bidirectional sentiment head that ships with the library.

Half A of the training rows, every text cut into random pieces, a frozen sentence encoder's mean
states, a small perceptron with early stopping.

    python -m experiments.train_encoder_head --data FOLDER --out FOLDER
"""

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import tyro

from coopgen_jax.data.labelled import Labelled, half, joined
from coopgen_jax.data.pieces import Cutting, cut_all
from coopgen_jax.discriminators.head import HeadConfig
from coopgen_jax.discriminators.sentences import cached_features
from coopgen_jax.models.pretrained.loading import load_encoder
from coopgen_jax.training.heads import FitConfig, accuracy_by_length, fit_head
from experiments.sentiment_heads import CLASSES, publish, read_sets

LENGTHS = (2, 4, 8, 12, 16, 24, 32, 48)


@dataclass(frozen=True)
class Config:
    """What to train, from what, and where to put it.

    data: a folder with sst2/ and amazon_reviews/, each with train.csv and validation.csv.
    out: the head's folder, which is made.
    cache: where features are kept between runs, or None.
    encoder: the sentence encoder whose states the head reads.
    pieces: pieces that every text gives.
    longest: words of the longest piece.
    width: word pieces that the encoder reads at most.
    hidden, dropout: of the head.
    fit: the loop.
    """

    data: Path
    out: Path
    cache: Path | None = None
    encoder: str = "minilm-l6"
    pieces: int = 3
    longest: int = 48
    width: int = 64
    hidden: int = 256
    dropout: float = 0.5
    fit: FitConfig = field(default_factory=FitConfig)


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
    sets = {name: half(data, "A") for name, data in read_sets(config.data, "train").items()}
    training = pieces_of(config, sets, 0)
    whole = read_sets(config.data, "validation")
    validation = pieces_of(replace(config, pieces=1), whole, 1)
    encoder = load_encoder(config.encoder)
    features = partial(cached_features, encoder, folder=config.cache, longest=config.width)
    print(f"features of {len(training.texts)} texts and pieces ...", flush=True)
    inputs = features(training.texts)
    head = HeadConfig(CLASSES, inputs.shape[1], (config.hidden,), config.dropout)
    params, loss = fit_head(
        head,
        (inputs, training.labels),
        (features(validation.texts), validation.labels),
        config.fit,
    )
    card = {
        "kind": "bidirectional",
        "encoder": config.encoder,
        "encoder_sha256": encoder.sha256,
        "width": config.width,
        "recipe": (
            f"half A of the training rows; {config.pieces} random pieces of 1 to {config.longest} "
            f"words per text, a quarter of them broken off inside a word; frozen features; AdamW "
            f"{config.fit.learning_rate}, dropout {config.dropout}, early stopping on pieces of "
            "the validation rows"
        ),
        "accuracy_unit": "words read",
    }
    accuracy = {
        name: accuracy_by_length(head, params, features, data, LENGTHS)
        for name, data in whole.items()
    }
    publish(config.out, head, params, card, loss=loss, accuracy=accuracy)


if __name__ == "__main__":
    main(tyro.cli(Config))
