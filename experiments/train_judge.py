"""Trains the judge of sentiment on half B of the training rows; the guides learn from half A.

python -m experiments.train_judge --data FOLDER --out FOLDER

With --neither it has a class for texts that say nothing of the kind too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from coopgen_jax.data.cuts import Cutting, cut_all
from coopgen_jax.data.labelled import Labelled, half, joined
from coopgen_jax.evaluation.discriminator_accuracy import NEITHER
from coopgen_jax.evaluation.metrics import wilson_interval
from coopgen_jax.evaluation.tfidf_judge import fit_judge
from coopgen_jax.models.pretrained.loaded_model import load_encoder
from experiments.neutral_test_texts import neutral_test_texts
from experiments.neutral_texts import neutral_texts
from experiments.sentiment_data import read_sets


@dataclass(frozen=True)
class Config:
    """What to train from, and where to put the judge.

    Attributes:
      data: A folder with sst2/ and amazon_reviews/, each with train.csv and validation.csv.
      out: The judge's folder, which is made.
      pieces: Spans of 12 to 36 words that every review gives.
      neither: Whether it knows a third class, of texts without a sentiment (`neutral_texts`).
      words_alone: Whether it reads words alone, without the states of an encoder.
    """

    data: Path
    out: Path
    pieces: int = 2
    neither: bool = False
    words_alone: bool = False


def with_neither(rows: Labelled, texts: Sequence[str]) -> Labelled:
    """Returns labelled rows with texts of a class more, "neither"."""
    labels = np.append(rows.labels, np.full(len(texts), len(rows.classes), rows.labels.dtype))
    classes = (*rows.classes, NEITHER)
    return Labelled((*rows.texts, *texts), labels, classes, sources=(*rows.origins, *texts))


def main(config: Config) -> None:
    """Trains, reports and saves."""
    cutting = Cutting(pieces=config.pieces, shortest=12, longest=36, mid_word=0.0)
    rng = np.random.default_rng(0)
    training = {name: half(data, "B") for name, data in read_sets(config.data, "train").items()}
    reviews = cut_all(rng, training["amazon_reviews"], cutting)
    rows = joined([training["sst2"], reviews])
    if config.neither:
        rows = with_neither(rows, neutral_texts(config.data, "B"))
    judge = fit_judge(rows, None if config.words_alone else load_encoder("minilm-l6"))
    print(f"{'set':26} {'texts':>8} {'accuracy':>8}  95 % interval")
    for name, data in read_sets(config.data, "validation").items():
        shorter = cut_all(rng, data, Cutting(pieces=1, shortest=24, longest=24, mid_word=0.0))
        for label, rows in ((name, data), (f"{name}, 24 words", shorter)):
            chosen = judge.predict_proba(rows.texts).argmax(axis=1)
            hits = int((chosen == rows.labels).sum())
            low, high = wilson_interval(hits, len(rows.texts))
            share = hits / len(rows.texts)
            print(f"{label:26} {len(rows.texts):8} {share:8.3f}  [{low:.3f}, {high:.3f}]")
    if config.neither:
        chosen = judge.predict_proba(neutral_test_texts()).argmax(axis=1)
        share = (chosen == judge.classes.index(NEITHER)).mean()
        print(f"{'500 texts without sentiment':26} {share:17.3f}")
    judge.save(config.out)
    print(f"wrote {config.out}")


if __name__ == "__main__":
    main(tyro.cli(Config))
