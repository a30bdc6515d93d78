"""False-positive rates of watermark tests on unmarked text, over many keys."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from coopgen_jax.decoding.rules.keys import SECRET_WORDS, green_below, token_words, window_seed
from coopgen_jax.watermark.mark_scores import tokens_to_score
from coopgen_jax.watermark.p_values import (
    log10_binomial,
    log10_gamma,
    log10_randomised_binomial,
    log10_z_binomial,
    log10_z_gamma,
)

LEVELS = (1e-2, 1e-3, 1e-4, 1e-5)
GAMMA = 0.25


@dataclass(frozen=True)
class RateSettings:
    """How many tests are made.

    Attributes:
      keys: `K`, each of which tests every text.
      windows: lengths of the window.
      seed: of the keys and of randomised p-values.
    """

    keys: int = 140
    windows: tuple[int, ...] = (0, 1, 4)
    seed: int = 0


def false_positive_rates(texts: list[list[int]], settings: RateSettings) -> dict[str, Any]:
    """Tests every text with every key, and counts how often unmarked text is called marked.

    Args:
      texts: token ids of texts without a mark.
      settings: keys and windows.

    Returns:
      By window, test and level: the rate and its 95 % interval, clustered over texts and keys.
    """
    rng = np.random.default_rng(settings.seed)
    secrets = rng.integers(0, 2**32, (settings.keys, SECRET_WORDS), np.uint32)
    found: dict[str, Any] = {}
    for window in settings.windows:
        windows, tokens, owner, new = _joined([np.asarray(ids, np.uint32) for ids in texts], window)
        hits: dict[str, list[np.ndarray]] = {}
        for secret in secrets:
            words = token_words(window_seed(secret, windows), tokens)
            tests = _log10_p_values(words, owner, new, len(texts), rng)
            for name, log10_p in tests.items():
                hits.setdefault(name, []).append(
                    log10_p[:, None] <= np.log10(np.asarray(LEVELS))[None]
                )
        for name, rows in hits.items():
            found[f"h {window}, {name}"] = {
                f"{level:g}": rate_with_interval(np.stack(rows)[..., place])
                for place, level in enumerate(LEVELS)
            }
    return found


def _joined(
    texts: list[np.ndarray], window: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns the windows `[n, h]` and tokens `[n]` of all texts, whose they are, which are new."""
    parts = []
    for number, ids in enumerate(texts):
        if len(ids) <= window:
            continue
        rows = np.lib.stride_tricks.sliding_window_view(ids, window + 1)
        new = tokens_to_score(ids, window)[window:]
        parts.append((rows[:, :window], rows[:, window], np.full(len(rows), number), new))
    windows, tokens, owner, new = (np.concatenate(part) for part in zip(*parts, strict=True))
    return windows, tokens, owner, new


def _log10_p_values(
    words: np.ndarray, owner: np.ndarray, new: np.ndarray, count: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Returns log10 p of every text by every test, with repeats scored and without."""
    found = {}
    green = words < np.uint32(green_below(GAMMA))
    surprise = -np.log((words + 0.5) * 2.0**-32)
    for label, some in (("", np.ones_like(new)), (", each pair once", new)):
        n = np.bincount(owner[some], minlength=count)
        greens = np.bincount(owner[some], green[some], minlength=count)
        sums = np.bincount(owner[some], surprise[some], minlength=count)
        found[f"greenlist z{label}"] = log10_z_binomial(greens, n, GAMMA)
        found[f"greenlist exact{label}"] = log10_binomial(greens, n, GAMMA)
        found[f"gumbel z{label}"] = log10_z_gamma(sums, n)
        found[f"gumbel exact{label}"] = log10_gamma(sums, n)
        if label:
            found[f"greenlist randomised{label}"] = log10_randomised_binomial(
                greens, n, GAMMA, rng.random(count)
            )
    return found


def rate_with_interval(hits: np.ndarray) -> dict[str, Any]:
    """Returns the mean of `hits` `[K, T]` and its 95 % interval, clustered over keys and texts.

    The variance is that of clusters of keys plus that of clusters of texts, less that of all tests
    as if they were independent, but no less than the last (Cameron, Gelbach and Miller 2011).
    """
    hits = hits.astype(np.float64)
    rate = float(hits.mean())
    gaps = hits - rate
    independent = (gaps**2).sum()
    clustered = (gaps.sum(axis=1) ** 2).sum() + (gaps.sum(axis=0) ** 2).sum() - independent
    # No test was hit: the rule of three.
    error = np.sqrt(max(clustered, independent)) / hits.size
    upper = rate + 1.96 * error if rate else 3 / hits.size
    return {
        "rate": rate,
        "interval": [max(rate - 1.96 * error, 0.0), float(upper)],
        "tests": hits.size,
    }
