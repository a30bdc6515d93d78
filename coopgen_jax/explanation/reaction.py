"""Whether a classifier reacts to a word: the insertion test on written texts.

A word can tell written texts apart that the classifier does not look at, because the language model
writes it together with words that it does look at. A word that is put into texts and moves nothing
is such a one.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

# Judges texts: from `n` texts to p(class | text) `[n, C]`.
BlackBox = Callable[[list[str]], np.ndarray]
# What terms weigh, or move a classifier by.
Weights = Mapping[str, float]
# Probabilities nearer to 0 or 1 than this count as it.
LEAST = 1e-6
# A change of fewer nats is rounding.
STILL = 1e-3
# Terms that are put into texts at once.
BLOCK = 1024


@dataclass(frozen=True)
class Reaction:
    """How far a word moves a classifier towards a class, over texts that it is put into.

    Attributes:
      mean: Mean change of the log-odds of the class against all others, in nats.
      low, high: The 95 % interval of the mean: 1.96 standard errors around it.
    """

    mean: float
    low: float
    high: float

    @property
    def moves(self) -> bool:
        """Whether the classifier is moved towards the class, beyond chance."""
        return self.low > STILL


def log_odds(probabilities: np.ndarray) -> np.ndarray:
    """Returns the log-odds of every class against all others, of p(class | text) `[n, C]`."""
    p = np.clip(np.asarray(probabilities, float), LEAST, 1 - LEAST)
    return np.log(p) - np.log1p(-p)


def inserted(text: str, term: str, place: float) -> str:
    """Returns a text with a term between two of its words; `place` goes from 0 to below 1.

    All else, line breaks too, stays as it is.
    """
    starts = [found.start() for found in re.finditer(r"\S+", text)]
    at = int(place * (len(starts) + 1))
    if at == len(starts):
        return f"{text} {term}" if text else term
    return f"{text[: starts[at]]}{term} {text[starts[at] :]}"


def reactions(
    black_box: BlackBox,
    texts: Sequence[str],
    terms: Sequence[str],
    *,
    uses: int = 20,
    seed: int = 0,
    batch: int = 512,
) -> list[list[Reaction]]:
    """Puts terms into texts and returns how far each moves the classifier towards every class.

    Args:
      black_box: the classifier.
      texts: texts to put them into; those without a character are left out.
      terms: the terms, `F` of them.
      uses: texts that a term is put into, drawn for each.
      seed: of what is drawn.
      batch: the most texts of one call.

    Returns:
      For every term its reactions, one for each of the `C` classes.
    """
    rng = np.random.default_rng(seed)
    texts = [text for text in texts if text.strip()]
    uses = min(uses, len(texts))
    before = log_odds(asked(black_box, texts, batch))
    found: list[list[Reaction]] = []
    for start in range(0, len(terms), BLOCK):
        own = terms[start : start + BLOCK]
        rows = np.stack([rng.choice(len(texts), uses, replace=False) for _ in own])
        places = rng.random((len(own), uses))
        changed = [
            inserted(texts[row], term, place)
            for term, where, drawn in zip(own, places, rows, strict=True)
            for row, place in zip(drawn, where, strict=True)
        ]
        after = log_odds(asked(black_box, changed, batch)).reshape(len(own), uses, -1)
        found += [_means(change) for change in after - before[rows]]
    return found


def _means(change: np.ndarray) -> list[Reaction]:
    """Returns the mean changes of the `C` classes and their intervals, of changes `[uses, C]`."""
    uses = len(change)
    means = change.mean(axis=0)
    errors = change.std(axis=0, ddof=1) / np.sqrt(uses) if uses > 1 else np.full_like(means, np.inf)
    return [
        Reaction(float(mean), float(mean - 1.96 * error), float(mean + 1.96 * error))
        for mean, error in zip(means, errors, strict=True)
    ]


def strongest(weights: Weights, k: int) -> list[str]:
    """Returns the `k` words of the greatest weights above 0, by spelling where they are equal."""
    above = [word for word, weight in weights.items() if weight > 0]
    return sorted(above, key=lambda word: (-weights[word], word))[:k]


def asked(black_box: BlackBox, texts: Sequence[str], batch: int = 512) -> np.ndarray:
    """Returns p(class | text) `[n, C]` of texts, asked for in batches."""
    parts = [
        np.asarray(black_box(list(texts[start : start + batch])), float)
        for start in range(0, len(texts), batch)
    ]
    return np.concatenate(parts)
