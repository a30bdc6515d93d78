"""Whether two methods differ: paired tests on the same prompts, and how sure a ratio is."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest, wilcoxon

from coopgen_jax.evaluation.metrics import percentile_interval


def mcnemar(one: Sequence[bool], other: Sequence[bool]) -> float:
    """Returns the exact two-sided p of McNemar's (1947) test: of pairs that differ, half each way.

    Of each of `n` pairs `one` tells whether the first is a hit, `other` whether the second is.
    """
    first, second = np.asarray(one, bool), np.asarray(other, bool)
    gained, lost = int((first & ~second).sum()), int((second & ~first).sum())
    if gained + lost == 0:
        return 1.0
    return float(binomtest(gained, gained + lost).pvalue)


def signed_rank(one: Sequence[float], other: Sequence[float]) -> float:
    """Returns the two-sided p of Wilcoxon's (1945) signed-rank test; 1 where nothing differs."""
    differences = np.asarray(one, float) - np.asarray(other, float)
    differences = differences[differences != 0]
    if not len(differences):
        return 1.0
    return float(wilcoxon(differences).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values corrected for being several, by Holm's (1979) step-down method."""
    order = np.argsort(p_values)
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = highest
    return corrected


def correct(rows: Sequence[dict[str, Any]], name: str) -> None:
    """Adds `NAME_holm`, a p-value corrected for being several, where a row has one called so."""
    tested = [row for row in rows if name in row]
    for row, value in zip(tested, holm([row[name] for row in tested]), strict=True):
        row[f"{name}_holm"] = value


def perplexity_interval(log_probs: np.ndarray, lengths: np.ndarray) -> tuple[float, float]:
    """Returns the 95 % bootstrap interval of a set's perplexity, whole texts drawn.

    Of every text are the natural log-probability `[n]` and the number of tokens `[n]`, 1 or more.
    """

    def ratio(log_p: np.ndarray, tokens: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.exp(-log_p.sum(axis=axis) / tokens.sum(axis=axis))

    if not np.isfinite(log_probs).all():
        return float("inf"), float("inf")
    if len(log_probs) < 2 or np.ptp(log_probs / lengths) == 0:
        value = float(ratio(log_probs, lengths))
        return value, value
    return percentile_interval((log_probs, lengths), ratio)
