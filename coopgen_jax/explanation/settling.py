"""How an explanation settles as texts are added."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from coopgen_jax.errors import UserError
from coopgen_jax.explanation.explained import words_by_weight
from coopgen_jax.explanation.surrogate import SurrogateSettings, fit_surrogate


def settling(
    texts: Sequence[str],
    labels: np.ndarray,
    classes: int,
    settings: SurrogateSettings,
    *,
    k: int = 20,
    sizes: Sequence[int] = (),
) -> list[dict[str, Any]]:
    """Tells how an explanation settles as texts are added.

    Of every number of texts a class, the first ones, `shared` is the mean share over classes of the
    `k` strongest terms that the number before it had too. It is None of the first number, and where
    no term stands in enough texts. Where no
    `sizes` are given they double up to all that there are.
    """
    labels = np.asarray(labels)
    rows = [np.flatnonzero(labels == label) for label in range(classes)]
    most = min(map(len, rows))
    sizes = sizes or sorted(
        {max(most >> shift, 2) for shift in range(6) if most >> shift >= 10} | {most}
    )
    quick = replace(settings, bootstrap=0, unseen=0.0)
    largest = max(sizes)
    found: list[dict[str, Any]] = []
    before: list[set[str]] = []
    for size in sizes:
        chosen = np.sort(np.concatenate([own[:size] for own in rows]))
        # Of fewer texts a term need not stand in as many.
        own = replace(quick, min_count=max(1, settings.min_count * size // largest))
        try:
            fitted = fit_surrogate([texts[row] for row in chosen], labels[chosen], classes, own)
        except UserError:  # no word stands in enough of them
            found.append({"texts": int(size), "shared": None})
            before = []
            continue
        tops = [{word.term for word in words_by_weight(fitted, c)[:k]} for c in range(classes)]
        shared = None
        if before:
            pairs = zip(tops, before, strict=True)
            shares = [len(one & old) / max(len(one), len(old), 1) for one, old in pairs]
            shared = float(np.mean(shares))
        found.append({"texts": int(size), "shared": shared})
        before = tops
    return found
