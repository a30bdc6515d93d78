"""The linear model that tells classes apart by their texts; its weights are the explanation.

Logistic regression on tf-idf, as in Therapy (Chaffin and Delaunay, BlackboxNLP 2023). It is fitted
on a part of the texts and scored on the rest, and intervals come from texts drawn again
(bootstrap; Efron 1979).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression

from coopgen_jax.errors import UserError
from coopgen_jax.explanation.content_words import vectorizer


@dataclass(frozen=True)
class SurrogateSettings:
    """How the words that tell classes apart are found.

    Attributes:
      ngrams: The most words of a term.
      min_count: Texts that a term must stand in.
      strength: Inverse of the L2 penalty.
      unseen: Share of the texts that the fit is scored on and does not see.
      bootstrap: Times that texts are drawn again for intervals; 0 for no intervals.
      seed: Of the split and of what is drawn.
    """

    ngrams: int = 1
    min_count: int = 2
    strength: float = 1.0
    unseen: float = 0.1
    bootstrap: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("ngrams", 1), ("min_count", 1), ("bootstrap", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}: give {least} or more")
        if not self.strength > 0:
            raise UserError(f"strength is {self.strength}: it must be above 0")
        if not 0 <= self.unseen < 1:
            raise UserError(f"unseen is {self.unseen}: give a share from 0 to below 1")


@dataclass(frozen=True, eq=False)
class Surrogate:
    """Weights of terms.

    Attributes:
      terms: the `F` terms.
      weights: `[C, F]`, of a softmax over the classes; of two classes those of the log-odds, which
        are opposite.
      low, high: `[C, F]`, the 95 % intervals of the weights; NaN without a bootstrap.
      bias: `[C]`.
      counts: `[C, F]`, texts of each class that have the term.
      accuracy: of the fit on unseen texts, None where there are none.
    """

    terms: tuple[str, ...]
    weights: np.ndarray
    low: np.ndarray
    high: np.ndarray
    bias: np.ndarray
    counts: np.ndarray
    accuracy: float | None


def fit_surrogate(
    texts: Sequence[str],
    labels: np.ndarray,
    classes: int,
    settings: SurrogateSettings | None = None,
    *,
    sample_weights: np.ndarray | None = None,
) -> Surrogate:
    """Fits the linear model.

    Args:
      texts: `n` texts.
      labels: `[n]` the class that each was written for.
      classes: `C`, how many there are.
      settings: how.
      sample_weights: `[n]` what each text counts, such as importance weights; None for one each.

    Raises:
      UserError: a class has no text, or no term stands in enough of them.
    """
    settings = settings or SurrogateSettings()
    labels = np.asarray(labels)
    weights = np.ones(len(texts)) if sample_weights is None else np.asarray(sample_weights, float)
    for number in range(classes):
        if not weights[labels == number].sum() > 0:
            raise UserError(f"class number {number} has no text: write some of every class")
    rng = np.random.default_rng(settings.seed)
    train, unseen = _split(labels, settings.unseen, rng)
    made = vectorizer(ngrams=settings.ngrams, min_count=settings.min_count)
    try:
        inputs = made.fit_transform([texts[row] for row in train])
    except ValueError as error:
        raise UserError(
            f"no word stands in {settings.min_count} of {len(train)} texts: write more, or lower "
            "the least count"
        ) from error
    terms = tuple(made.get_feature_names_out().tolist())
    fitted, bias = _coefficients(inputs, labels[train], weights[train], classes, settings)
    accuracy = None
    if len(unseen):
        scores = made.transform([texts[row] for row in unseen]) @ fitted.T + bias
        accuracy = float(np.average(scores.argmax(axis=1) == labels[unseen]))
    low, high = _intervals(inputs, labels[train], weights[train], classes, settings, rng)
    there = made.transform(texts) > 0
    counts = np.stack([
        np.asarray(there[labels == number].sum(axis=0)).ravel() for number in range(classes)
    ])  # fmt: skip
    return Surrogate(terms, fitted, low, high, bias, counts, accuracy)


def _split(
    labels: np.ndarray, share: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows to fit on and the unseen ones, the same share of every class."""
    unseen = [
        rng.permutation(np.flatnonzero(labels == label))[: int(share * (labels == label).sum())]
        for label in np.unique(labels)
    ]
    rest = np.sort(np.concatenate(unseen)).astype(int)
    return np.setdiff1d(np.arange(len(labels)), rest), rest


def _coefficients(
    inputs: csr_matrix,
    labels: np.ndarray,
    weights: np.ndarray,
    classes: int,
    settings: SurrogateSettings,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns weights `[C, F]` and bias `[C]`."""
    fitted = LogisticRegression(C=settings.strength, max_iter=1000).fit(
        inputs, labels, sample_weight=weights
    )
    if classes == 2:
        # Of two classes the library fits the log-odds of the second.
        return np.concatenate([-fitted.coef_, fitted.coef_]), np.concatenate(
            [-fitted.intercept_, fitted.intercept_]
        )
    return fitted.coef_, fitted.intercept_


def _intervals(
    inputs: csr_matrix,
    labels: np.ndarray,
    weights: np.ndarray,
    classes: int,
    settings: SurrogateSettings,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ends of the 95 % intervals `[C, F]`; texts of each class are drawn again."""
    if not settings.bootstrap:
        nothing = np.full((classes, inputs.shape[1]), np.nan)
        return nothing, nothing
    rows = [np.flatnonzero(labels == label) for label in range(classes)]
    found = []
    for _ in range(settings.bootstrap):
        drawn = np.concatenate([rng.choice(own, len(own)) for own in rows])
        found.append(
            _coefficients(inputs[drawn], labels[drawn], weights[drawn], classes, settings)[0]
        )
    low, high = np.quantile(np.stack(found), (0.025, 0.975), axis=0)
    return low, high
