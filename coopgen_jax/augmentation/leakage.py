"""How surely a detector tells written texts from real ones, class by class.

Where the texts of one class are easier to tell than those of another, a classifier that is trained
on both kinds learns which texts were written, in place of the classes.
"""

from typing import Any

import numpy as np
from scipy.stats import rankdata
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline

from coopgen_jax.data.labelled import Labelled
from coopgen_jax.errors import UserError

FOLDS = 5
FEWEST = 2
REPLICATES = 500


def leakage(real: Labelled, made: Labelled, *, seed: int = 0) -> dict[str, Any]:
    """Returns the AUC of detectors on words that tell written texts from real ones.

    A detector is logistic regression on tf-idf of words and pairs of words. Every text is judged by
    one of five, or fewer where there are fewer texts, that was not trained on it. The real texts
    should be none that openings were taken from.

    Returns:
      For "all" texts, and under `classes` for those of each class, the `auc` with its 95 %
      bootstrap `interval`, and the numbers of `real` and `made` texts; and `difference`, that of
      the largest and the smallest AUC of a class.

    Raises:
      UserError: a class has fewer than two real or written texts, or they have no words.
    """
    check_enough(real, made)
    rows = {
        name: _detected(
            [text for text, own in zip(real.texts, real.labels, strict=True) if own == label],
            [text for text, own in zip(made.texts, made.labels, strict=True) if own == label],
            name, seed,
        )
        for label, name in enumerate(real.classes)
    }  # fmt: skip
    found = [row["auc"] for row in rows.values()]
    return {
        "all": _detected(list(real.texts), list(made.texts), "all", seed),
        "classes": rows,
        "difference": max(found) - min(found),
    }


def check_enough(real: Labelled, made: Labelled) -> None:
    """Raises UserError where a class has fewer than two real or written texts."""
    for what, data in (("real", real), ("written", made)):
        for label, name in enumerate(real.classes):
            count = int((data.labels == label).sum())
            if count < FEWEST:
                raise UserError(
                    f"the class {name} has too few {what} texts ({count}): give {FEWEST} or more, "
                    "to tell them from others"
                )


def auc_of(real: np.ndarray, made: np.ndarray) -> float:
    """Returns how often a score of a written text is above one of a real text, ties half."""
    ranks = rankdata(np.concatenate([made, real]))[: len(made)].sum()
    return float((ranks - len(made) * (len(made) + 1) / 2) / (len(made) * len(real)))


def _detected(real: list[str], made: list[str], name: str, seed: int) -> dict[str, Any]:
    truth = np.repeat([0, 1], [len(real), len(made)])
    detector = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        LogisticRegression(C=3.0, max_iter=1000, class_weight="balanced"),
    )
    parts = min(FOLDS, len(real), len(made))
    folds = StratifiedKFold(parts, shuffle=True, random_state=seed)
    try:
        scores = cross_val_predict(
            detector, [*real, *made], truth, cv=folds, method="decision_function"
        )
    except ValueError as error:
        raise UserError(f"the texts of the class {name} have no words: give others") from error
    one, other, rng = scores[: len(real)], scores[len(real) :], np.random.default_rng(seed)
    drawn = [
        auc_of(rng.choice(one, len(one)), rng.choice(other, len(other))) for _ in range(REPLICATES)
    ]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {
        "auc": auc_of(one, other),
        "interval": [float(low), float(high)],
        "real": len(real),
        "made": len(made),
    }
