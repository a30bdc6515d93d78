"""Whether written texts are of use: a classifier that is trained with them, and one without.

The comparison is that of Claveau, Chaffin and Kijak (LREC 2022): originals, written texts, and both
together, on texts that neither has seen; here also with a part of the originals.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from coopgen_jax.data.labelled import Labelled, joined
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.tfidf_judge import fit_judge

FIGURES = ("micro_f1", "macro_f1", "mcc")
REPLICATES = 500

# The name of a training set, and the share of the originals in it.
Training = tuple[str, float | None]
# From training texts and other texts to the class numbers of these.
Classifier = Callable[[Labelled, Sequence[str]], np.ndarray]


def bag_of_words(data: Labelled, texts: Sequence[str]) -> np.ndarray:
    """Returns the class numbers `[n]` that logistic regression on tf-idf gives texts.

    Raises:
      UserError: no word stands in two training texts.
    """
    try:
        judge = fit_judge(data, None)
    except ValueError as error:
        raise UserError(
            f"{len(data.texts)} training texts have too few words in common to train a classifier "
            "on: give more, or larger shares"
        ) from error
    return judge.predict_proba(texts).argmax(axis=1)


def figures_of(confusion: np.ndarray) -> np.ndarray:
    """Returns micro F1, macro F1 and MCC of a confusion matrix `[C, C]`, rows the true classes.

    Micro F1 of one class a text is the share that is right. A class that neither is nor is said to
    be has an F1 of 0. MCC is that of several classes (Gorodkin 2004), 0 where it has no value.
    """
    total, right = confusion.sum(), np.diag(confusion)
    true, said = confusion.sum(axis=1), confusion.sum(axis=0)
    f1 = 2 * right / np.maximum(true + said, 1e-12)
    spread = np.sqrt((total**2 - (true**2).sum()) * (total**2 - (said**2).sum()))
    mcc = (right.sum() * total - true @ said) / spread if spread > 0 else 0.0
    return np.array([right.sum() / total, f1.mean(), mcc])


def drawn(data: Labelled, share: float, rng: np.random.Generator) -> Labelled:
    """Returns a random share of the texts of every class, at least one of each, in their order."""
    rows: list[int] = []
    for label in range(len(data.classes)):
        own = np.flatnonzero(data.labels == label)
        rows += rng.permutation(own)[: max(1, round(share * len(own)))].tolist()
    return data.rows(sorted(rows))


def as_many(data: Labelled, like: Labelled, rng: np.random.Generator) -> Labelled:
    """Returns as many random texts of every class as others have, all where there are fewer."""
    rows: list[int] = []
    for label in range(len(data.classes)):
        own = np.flatnonzero(data.labels == label)
        rows += rng.permutation(own)[: int((like.labels == label).sum())].tolist()
    return data.rows(sorted(rows))


def usefulness(
    originals: Labelled,
    synthetic: Labelled,
    test: Labelled,
    *,
    shares: Sequence[float] = (0.1, 0.5, 1.0),
    seeds: int = 5,
    seed: int = 0,
    classifier: Classifier = bag_of_words,
    listener: Callable[[str], None] = lambda training: None,
) -> list[dict[str, Any]]:
    """Returns what classifiers trained on originals, on written texts and on both are worth.

    Args:
      originals: the real training texts.
      synthetic: the written ones, of the same classes.
      test: the real texts that classifiers are tested on.
      shares: of the originals that are trained on.
      seeds: how often training texts are drawn.
      seed: of everything random.
      classifier: trains and predicts.
      listener: called with the name of every training set before it is trained on.

    Returns:
      A row for each training set: its name as `training` ("originals", "both", "synthetic" with as
      many texts of each class as originals), the `share` of originals (None of "synthetic") and its
      mean number of `texts`; `micro_f1`, `macro_f1` and `mcc`, each with `value`, the mean over
      seeds, and `interval`, a 95 % bootstrap over seeds and test texts; and `gain`, the same of the
      difference from the originals of the same share, or from all of them.

    Raises:
      UserError: a share or a number is out of its range, a class has no texts, or a classifier
        cannot be trained.
    """
    check_sets(originals, synthetic, test, shares, seeds)
    said: dict[Training, np.ndarray] = {}
    sizes: dict[Training, float] = {}
    for training, sets in _training_sets(originals, synthetic, shares, (seed, seeds)):
        name, share = training
        listener(name if share is None else f"{name}, {share:.0%}")
        # Draws of all texts are alike.
        different = {one.texts: one for one in sets}
        known = {key: classifier(one, test.texts) for key, one in different.items()}
        said[training] = np.stack([known[one.texts] for one in sets])
        sizes[training] = float(np.mean([len(one.texts) for one in sets]))
    values, samples = _bootstrap(said, test, seed)
    rows = []
    for training in said:
        name, share = training
        row = {"training": name, "share": share, "texts": sizes[training]}
        row |= _named(values[training], samples[training])
        base: Training = ("originals", 1.0 if share is None else share)
        differences = values[training] - values[base], samples[training] - samples[base]
        rows.append(row | {"gain": None if training == base else _named(*differences)})
    return rows


def _training_sets(
    originals: Labelled, synthetic: Labelled, shares: Sequence[float], seeds: tuple[int, int]
) -> Iterator[tuple[Training, list[Labelled]]]:
    """Yields every training set, drawn as often as there are seeds; `seeds` are first and number.

    Draws of one number are of the same originals in all sets.
    """
    first, count = seeds
    numbers = range(count)
    for share in dict.fromkeys((*shares, 1.0)):
        some = [drawn(originals, share, np.random.default_rng((first, n))) for n in numbers]
        yield ("originals", share), some
        if share in shares:
            yield ("both", share), [joined([one, synthetic]) for one in some]
    yield (
        ("synthetic", None),
        [as_many(synthetic, originals, np.random.default_rng((first, n))) for n in numbers],
    )


def check_sets(
    originals: Labelled, synthetic: Labelled, test: Labelled, shares: Sequence[float], seeds: int
) -> None:
    """Raises UserError where `usefulness` would, before anything is trained."""
    if seeds < 1:
        raise UserError(f"seeds is {seeds}: give 1 or more")
    for share in shares:
        if not 0 < share <= 1:
            raise UserError(f"shares has {share}: give shares above 0, at most 1")
    for what, data in (("originals", originals), ("synthetic", synthetic), ("test", test)):
        for label, name in enumerate(data.classes):
            if not (data.labels == label).any():
                way_out = (
                    "write texts of all classes, without --classes, or add originals of it to them"
                )
                raise UserError(
                    f"the {what} texts have none of the class {name!r}: "
                    f"{way_out if data is synthetic else 'give some'}"
                )


def _bootstrap(
    said: dict[Training, np.ndarray], test: Labelled, seed: int
) -> tuple[dict[Training, np.ndarray], dict[Training, np.ndarray]]:
    """Returns the figures `[3]` and `[REPLICATES, 3]` of drawn seeds and texts, by training set."""
    count, classes = len(test.texts), len(test.classes)
    seeds = len(next(iter(said.values())))
    rng = np.random.default_rng((seed, seeds))

    def mean(predictions: np.ndarray, weights: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        found = [
            figures_of(
                np.bincount(
                    classes * test.labels + predictions[one], weights, minlength=classes**2
                ).reshape(classes, classes)
            )
            for one in chosen
        ]
        return np.mean(found, axis=0)

    once, all_seeds = np.ones(count), np.arange(seeds)
    values = {key: mean(own, once, all_seeds) for key, own in said.items()}
    samples: dict[Training, list[np.ndarray]] = {key: [] for key in said}
    for _ in range(REPLICATES):
        weights = np.bincount(rng.integers(count, size=count), minlength=count)
        chosen = rng.integers(seeds, size=seeds)
        for key, own in said.items():
            samples[key].append(mean(own, weights, chosen))
    return values, {key: np.array(own) for key, own in samples.items()}


def _named(value: np.ndarray, samples: np.ndarray) -> dict[str, Any]:
    low, high = np.percentile(samples, [2.5, 97.5], axis=0)
    return {
        name: {"value": float(value[at]), "interval": [float(low[at]), float(high[at])]}
        for at, name in enumerate(FIGURES)
    }
