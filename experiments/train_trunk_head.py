"""Trains the shared-trunk sentiment head that ships with the library.

Half A of the training rows. The language model reads every text once; several random spans of it
give features: the tokens in front of a span play the prompt, the span what has been written so far.

    python -m experiments.train_trunk_head --data FOLDER --out FOLDER
"""

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import tyro

from coopgen_jax.data.labelled import Labelled, half, joined
from coopgen_jax.data.pieces import Cutting, cut_all
from coopgen_jax.discriminators.head import HeadConfig
from coopgen_jax.discriminators.trunk_features import trunk_features
from coopgen_jax.models.pretrained.loading import LoadedModel, load
from coopgen_jax.training.heads import FitConfig, accuracy, fit_head
from experiments.sentiment_heads import CLASSES, progress, publish, read_sets

LENGTHS = (1, 2, 4, 8, 12, 16, 24, 32)


@dataclass(frozen=True)
class Config:
    """What to train, from what, and where to put it.

    data: a folder with sst2/ and amazon_reviews/, each with train.csv and validation.csv.
    out: the head's folder, which is made.
    cache: where features are kept between runs, or None.
    model: the language model whose states the head reads, and the taps at which it does.
    reviews: reviews of half A to learn from; validation_reviews: to validate on.
    spans: random spans of every text.
    longest: tokens read of a text.
    before: most tokens in front of a span.
    hidden, dropout: of the head.
    fit: the loop.
    seed: of the reviews chosen, their pieces and the spans.
    """

    data: Path
    out: Path
    cache: Path | None = None
    model: str = "smollm2-135m"
    taps: tuple[int, ...] = (15, 20, 25)
    reviews: int = 9500
    validation_reviews: int = 500
    spans: int = 8
    longest: int = 48
    before: int = 12
    hidden: int = 256
    dropout: float = 0.5
    fit: FitConfig = field(default_factory=lambda: FitConfig(epochs=12, patience=3, batch=512))
    seed: int = 0


def sets_of(config: Config, split: str, rng: np.random.Generator) -> dict[str, Labelled]:
    """Returns sentences, and pieces of reviews that begin anywhere."""
    sets = read_sets(config.data, split)
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


def span_features(
    config: Config, model: LoadedModel, split: str, spans: int
) -> tuple[np.ndarray, np.ndarray, dict[str, Labelled]]:
    """Returns features of random spans and their classes, and the texts of which they are."""
    rng = np.random.default_rng([split == "train", config.seed])
    sets = sets_of(config, split, rng)
    data = joined(list(sets.values()))
    settings = (model.sha256, config.taps, data.texts, spans, config.longest, config.before)
    name = hashlib.sha256(repr((settings, config.seed)).encode()).hexdigest()[:16]
    path = config.cache and config.cache / f"trunk-{name}.npz"
    if path and path.is_file():
        with np.load(path) as kept:
            return kept["features"], kept["labels"], sets
    features, owner = trunk_features(
        model,
        config.taps,
        data.texts,
        lambda length: random_spans(replace(config, spans=spans), rng, length),
        longest=config.longest,
        listener=progress(f"{split} texts read"),
    )
    labels = data.labels[owner]
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, features=features, labels=labels)
        partial.replace(path)
    return features, labels, sets


def main(config: Config) -> None:
    """Trains one head."""
    model = load(config.model)
    *validation, sets = span_features(config, model, "validation", 4)
    *training, learnt = span_features(config, model, "train", config.spans)
    head = HeadConfig(CLASSES, training[0].shape[1], (config.hidden,), config.dropout)
    params, loss = fit_head(head, tuple(training), tuple(validation), config.fit)
    card = {
        "kind": "shared-trunk",
        "model": config.model,
        "model_sha256": model.sha256,
        "taps": list(config.taps),
        "recipe": (
            f"half A of the training rows, {len(learnt['amazon_reviews'].texts)} reviews of it; "
            f"{config.spans} random spans per text of up to {config.longest} tokens, with up to "
            f"{config.before} tokens in front; AdamW {config.fit.learning_rate}, dropout "
            f"{config.dropout}, early stopping on spans of the validation rows"
        ),
        "accuracy_unit": "language model tokens written, six tokens of prompt in front",
    }
    accuracy = {name: by_length(config, head, params, model, data) for name, data in sets.items()}
    publish(config.out, head, params, card, loss=loss, accuracy=accuracy)


if __name__ == "__main__":
    main(tyro.cli(Config))
