"""How good an explanation is, where the classifier's own weights are known, and where not.

The evaluation of Therapy (Chaffin and Delaunay, BlackboxNLP 2023): a classifier that is linear in
words (a glass box) is used as a black box, and the weights of the explanation are compared with its
own; and words of the explanation are put out of texts and into them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

from coopgen_jax.explanation.content_words import without_words, words_of
from coopgen_jax.explanation.reaction import BlackBox, Weights, asked, inserted, strongest


@dataclass(frozen=True)
class Agreement:
    """A rank correlation.

    Attributes:
      rho: Spearman's.
      p: Of no correlation, two-sided.
      n: Words that it is of.
      low, high: The 95 % interval, by Fisher's transformation with the standard error
        sqrt((1 + rho^2 / 2) / (n - 3)) of Bonett and Wright (2000).
    """

    rho: float
    p: float
    n: int
    low: float
    high: float


def agreement(truth: Weights, found: Weights, k: int, *, union: bool = False) -> Agreement:
    """Returns how far an explanation ranks words as the truth does.

    Of the truth's `k` strongest words, and with `union` also of the explanation's; a word that one
    of the two does not have weighs 0 there, so that all explanations are rated on equal sets.
    """
    words = strongest(truth, k)
    if union:
        words = list(dict.fromkeys([*words, *strongest(found, k)]))
    one, other = ([weights.get(word, 0.0) for word in words] for weights in (truth, found))
    n = len(words)
    if n < 4 or len(set(one)) == 1 or len(set(other)) == 1:
        return Agreement(0.0, 1.0, n, -1.0, 1.0)
    rho, p = map(float, spearmanr(one, other))
    half = 1.96 * np.sqrt((1 + rho**2 / 2) / (n - 3))
    middle = np.arctanh(np.clip(rho, -1 + 1e-12, 1 - 1e-12))
    return Agreement(rho, p, n, float(np.tanh(middle - half)), float(np.tanh(middle + half)))


def precision_recall(
    truth: Weights, found: Weights, targets: int, lengths: Sequence[int]
) -> list[dict[str, float]]:
    """Returns precision and recall of the truth's `targets` strongest words.

    They are of the first words of the explanation, for each of the `lengths`.
    """
    wanted = set(strongest(truth, targets))
    ranked = strongest(found, max(lengths))
    rows = []
    for length in lengths:
        hits = len(wanted & set(ranked[:length]))
        rows.append(
            {
                "length": length,
                "precision": hits / max(len(ranked[:length]), 1),
                "recall": hits / max(len(wanted), 1),
            }
        )
    return rows


def changed_by_deletion(
    black_box: BlackBox, texts: Sequence[str], ranked: Sequence[Sequence[str]], moves: Sequence[int]
) -> list[float]:
    """Returns the share of texts whose class changes as an explanation's words are put out.

    Args:
      black_box: the classifier.
      texts: texts of any class.
      ranked: for each of the `C` classes its words, the strongest first.
      moves: how many words are put out: of those that a text has, the strongest of the class that
        the classifier gives it, at all of their places.
    """
    before = asked(black_box, texts).argmax(axis=1)
    places = [{word: place for place, word in enumerate(words)} for words in ranked]
    changed = []
    for count in moves:
        shorter = []
        for text, label in zip(texts, before, strict=True):
            there = sorted(set(words_of(text)) & places[label].keys(), key=places[label].get)
            out = set(there[:count])
            shorter.append(without_words(text, out))
        said = asked(black_box, shorter).argmax(axis=1)
        changed.append(float((said != before).mean()))
    return changed


def changed_by_insertion(
    black_box: BlackBox,
    texts: Sequence[str],
    ranked: Sequence[Sequence[str]],
    moves: Sequence[int],
    *,
    seed: int = 0,
) -> list[float]:
    """Returns the share of texts whose class changes as words of another class are put in.

    The arguments are those of `changed_by_deletion`; the other class and the places are drawn, the
    same ones for every explanation.
    """
    rng = np.random.default_rng(seed)
    before = asked(black_box, texts).argmax(axis=1)
    classes = len(ranked)
    others = [(label + int(rng.integers(1, classes))) % classes for label in before]
    places = rng.random((len(texts), max(moves, default=0)))
    changed = []
    for count in moves:
        longer = []
        for text, other, where in zip(texts, others, places, strict=True):
            for word, place in zip(ranked[other][:count], where, strict=False):
                text = inserted(text, word, place)
            longer.append(text)
        said = asked(black_box, longer).argmax(axis=1)
        changed.append(float((said != before).mean()))
    return changed
