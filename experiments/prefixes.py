"""How well do classifiers of full texts judge prefixes, beside guides trained on prefixes?

    python -m experiments.prefixes --data FOLDER

Two classifiers learn from full sentences of half A of sst2: a logistic regression on tf-idf, and
one on MiniLM's mean state. They judge as `python:FILE.py:FUNCTION` does. Two packaged heads, which
learned from texts cut anywhere, judge the same prefixes: `sentiment-minilm` reads with the same
encoder, `sentiment` on the language model's states. Accuracy and expected calibration error are
taken on validation sentences that are long enough for a prefix; no text is written.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from coopgen_jax.data.labelled import Labelled, half
from coopgen_jax.discriminators.host.function import host_function
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.discriminators.loading import load_discriminator
from coopgen_jax.evaluation.discriminator_accuracy import (
    by_length,
    figures,
    judge_prefixes,
    of_whole_texts,
)
from coopgen_jax.evaluation.sentence_features import sentence_features
from coopgen_jax.files import write_json
from coopgen_jax.models.pretrained.loaded_model import (
    LoadedEncoder,
    LoadedModel,
    load,
    load_encoder,
)
from experiments.sentiment_data import read_sets
from experiments.train_heads import evenly

LENGTHS = (4, 8, 16, 24, 32)
HEADS = ("sentiment-minilm", "sentiment")


@dataclass(frozen=True)
class Config:
    """What to measure on.

    Attributes:
      data: A folder with sst2/ and amazon_reviews/, each with train.csv and validation.csv.
      out: Folder for the figures.
      model: The language model whose tokens are counted.
      encoder: The encoder of the second classifier.
      heads: Discriminators that were trained on prefixes.
      rows: Validation sentences, at most.
      longest: Tokens that are read of a full text.
    """

    data: Path
    out: Path = Path("experiments/results")
    model: str = "smollm2-135m"
    encoder: str = "minilm-l6"
    heads: tuple[str, ...] = HEADS
    rows: int = 1000
    longest: int = 64


def tfidf_classifier(data: Labelled) -> Callable[[list[str]], np.ndarray]:
    """Returns a function from texts to probabilities, fitted on words and pairs of words."""
    pipeline = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2),
        LogisticRegression(C=10, max_iter=1000),
    )
    return pipeline.fit(data.texts, data.labels).predict_proba


def encoder_classifier(data: Labelled, encoder: LoadedEncoder) -> Callable[[list[str]], np.ndarray]:
    """Returns a function from texts to probabilities, fitted on an encoder's mean states."""
    fitted = LogisticRegression(C=10, max_iter=2000)
    fitted.fit(sentence_features(encoder, data.texts), data.labels)
    return lambda texts: fitted.predict_proba(sentence_features(encoder, texts))


def by_prefix(
    model: LoadedModel, guide: LoadedDiscriminator, data: Labelled, longest: int
) -> dict[str, dict[str, Any]]:
    """Returns `figures` of prefixes by their number of tokens, and of full texts ("full").

    A length has the texts that are at least so long.
    """
    lengths = [length for length in LENGTHS if length < longest]
    if guide.discriminator.tokenizer is None:
        # One reading judges all prefixes.
        said = judge_prefixes(model, guide, data.texts, longest=longest)
        found = by_length(said, data.labels, lengths)
        return {"full" if name == "whole" else name: row for name, row in found.items()}
    rows = model.tokenizer.encode_batch([f" {text.strip()}" for text in data.texts])
    counts = np.array([len(row) for row in rows])
    report = {}
    for length in (*lengths, longest):
        full = length == longest
        long = np.flatnonzero(counts >= (1 if full else length))
        if not len(long):
            continue
        part = data.rows(long)
        said = judge_prefixes(model, guide, part.texts, longest=length, asked="last")
        report["full" if full else str(length)] = figures(of_whole_texts(said), part.labels)
    return report


def main(config: Config) -> None:
    """Fits, measures, prints and saves."""
    model = load(config.model)
    training = half(read_sets(config.data, "train")["sst2"], "A")
    data = evenly(read_sets(config.data, "validation")["sst2"], config.rows)
    functions = {
        "tf-idf": tfidf_classifier(training),
        "MiniLM": encoder_classifier(training, load_encoder(config.encoder)),
    }
    guides = {
        name: host_function(function, classes=data.classes, tokenizer=model.tokenizer)
        for name, function in functions.items()
    }
    guides |= {name: load_discriminator(name, language_model=model) for name in config.heads}
    found: dict[str, Any] = {}
    for name, guide in guides.items():
        found[name] = by_prefix(model, guide, data, config.longest)
        for length, row in found[name].items():
            print(
                f"{name:18} {length:>4} tokens, {row['texts']:4} texts: accuracy "
                f"{row['accuracy']:.3f}, calibration error {row['calibration_error']:.3f}"
            )
    settings = {"set": "sst2 validation", "trained_on": len(training.texts), "model": config.model}
    config.out.mkdir(parents=True, exist_ok=True)
    write_json(config.out / "prefixes.json", {"settings": settings, "guides": found})
    print(json.dumps(settings))


if __name__ == "__main__":
    main(tyro.cli(Config))
