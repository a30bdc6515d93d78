"""Trains the shared-trunk sentiment head that ships with the library.

Half A of the training rows. The language model reads every text once; several random spans of it
give features: the tokens in front of a span play the prompt, the span what has been written so far.

    python -m experiments.train_trunk_head --data FOLDER --out FOLDER
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import tyro

from coopgen_jax.data.labelled import Labelled, half, joined, read_labelled
from coopgen_jax.data.pieces import Cutting, cut_all
from coopgen_jax.discriminators.head import HeadConfig
from coopgen_jax.discriminators.trunk_features import trunk_features
from coopgen_jax.models.pretrained import LoadedModel, load
from coopgen_jax.training.heads import FitConfig, accuracy, fit_head, save_head
from experiments.train_heads import CLASSES, SOURCES

LENGTHS = (1, 2, 4, 8, 12, 16, 24, 32)


@dataclass(frozen=True)
class Config:
    """What to train, from what, and where to put it.

    data: a folder with sst2/ and amazon_reviews/, each with train.csv and validation.csv.
    out: the head's folder, which is made.
    model: the language model whose states the head reads, and the taps at which it does.
    reviews: reviews of half A to learn from; validation_reviews: to validate on.
    spans: random spans of every text.
    longest: tokens read of a text.
    before: most tokens in front of a span.
    hidden, dropout: of the head.
    fit: the loop.
    """

    data: Path
    out: Path
    model: str = "smollm2-135m"
    taps: tuple[int, ...] = (15, 20, 25)
    reviews: int = 4000
    validation_reviews: int = 500
    spans: int = 8
    longest: int = 48
    before: int = 12
    hidden: int = 128
    dropout: float = 0.3
    fit: FitConfig = field(default_factory=lambda: FitConfig(epochs=12, patience=3, batch=512))


def sets_of(config: Config, split: str, rng: np.random.Generator) -> dict[str, Labelled]:
    """Returns sentences, and pieces of reviews that begin anywhere."""
    sets = {
        name: read_labelled(config.data / name / f"{split}.csv", classes=CLASSES)
        for name in SOURCES
    }
    limit = config.validation_reviews
    if split == "train":
        sets = {name: half(data, "A") for name, data in sets.items()}
        limit = config.reviews
    reviews = sets["amazon_reviews"]
    reviews = reviews.rows(rng.permutation(len(reviews.texts))[:limit].tolist())
    cutting = Cutting(pieces=1, shortest=config.longest // 2, longest=config.longest, mid_word=0.0)
    return {"sst2": sets["sst2"], "amazon_reviews": cut_all(rng, reviews, cutting)}


def random_spans(config: Config, rng: np.random.Generator, length: int) -> list[tuple[int, int]]:
    """Returns spans of a text of `length` tokens; the first begins and ends with the text."""
    spans = [(0, length - 1)]
    while len(spans) < config.spans:
        first = 0 if rng.random() < 0.4 else int(rng.integers(0, min(config.before, length)))
        spans.append((first, int(rng.integers(first, length))))
    return spans


def by_length(
    config: Config, head: HeadConfig, params: dict, model: LoadedModel, data: Labelled
) -> dict[str, float]:
    """Returns the accuracy by the length of spans that begin six tokens into a text, and of all."""

    def spans(length: int) -> list[tuple[int, int]]:
        return [(0, length - 1)] + [(6, min(5 + n, length - 1)) for n in LENGTHS]

    long = data.rows(
        [n for n, ids in enumerate(model.tokenizer.encode_batch(data.texts)) if len(ids) > 6]
    )
    inputs, _ = trunk_features(model, config.taps, long.texts, spans, longest=config.longest)
    inputs = inputs.reshape(len(long.texts), 1 + len(LENGTHS), -1)
    lengths = [len(ids) for ids in model.tokenizer.encode_batch(long.texts)]
    report = {}
    for column, read in enumerate(LENGTHS, start=1):
        rows = np.flatnonzero(np.minimum(lengths, config.longest) >= 6 + read)
        report[str(read)] = accuracy(head, params, inputs[rows, column], long.labels[rows])
    return report | {"whole": accuracy(head, params, inputs[:, 0], long.labels)}


def main(config: Config) -> None:
    """Trains one head."""
    rng = np.random.default_rng(0)
    training = sets_of(config, "train", rng)
    validation = sets_of(config, "validation", rng)
    model = load(config.model)

    def inputs(sets: dict[str, Labelled], spans: int) -> tuple[np.ndarray, np.ndarray]:
        data = joined(list(sets.values()))
        print(f"reading {len(data.texts)} texts ...", flush=True)
        chosen = replace(config, spans=spans)
        features, owner = trunk_features(
            model,
            config.taps,
            data.texts,
            lambda length: random_spans(chosen, rng, length),
            longest=config.longest,
        )
        return features, data.labels[owner]

    learnt = inputs(training, config.spans)
    head = HeadConfig(CLASSES, learnt[0].shape[1], (config.hidden,), config.dropout)
    params, loss = fit_head(head, learnt, inputs(validation, 4), config.fit)
    print(f"validation loss {loss:.4f} nats on spans")
    report = {
        name: by_length(config, head, params, model, data) for name, data in validation.items()
    }
    for name, row in report.items():
        print(name, "  ".join(f"{length}: {share:.3f}" for length, share in row.items()))
    card = {
        "kind": "shared-trunk",
        "model": config.model,
        "model_sha256": model.sha256,
        "taps": list(config.taps),
        "classes": list(CLASSES),
        "hidden": list(head.hidden),
        "reads_prompt": False,
        "data": SOURCES,
        "terms": "research only",
        "recipe": (
            f"half A of the training rows, {config.reviews} reviews of it; {config.spans} random "
            f"spans per text of up to {config.longest} tokens, with up to {config.before} tokens "
            f"in front; AdamW {config.fit.learning_rate}, dropout {config.dropout}, early stopping "
            "on spans of the validation rows"
        ),
        "accuracy_unit": "language model tokens written, six tokens of prompt in front",
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
