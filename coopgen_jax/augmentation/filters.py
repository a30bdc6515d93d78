"""Which written texts become training data: every filter says why it leaves a text out.

Artificial texts help a classifier little as they are, and much where those are kept that a
classifier of the originals takes for their class (Claveau, Chaffin and Kijak, LREC 2022).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coopgen_jax.augmentation.memorisation import (
    NEAR,
    RUN,
    CopyIndex,
    RunSet,
    index_runs,
    near_for,
    words_of,
)
from coopgen_jax.augmentation.substitution import Private
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.metrics import run_rep, seq_rep

# Why a text is left out, in the order in which filters are asked.
SHORT, LONG, LOOPS = "too short", "too long", "repeats itself"
OTHER_CLASS = "of another class"
ORIGINAL, TWICE = "copies an original", "copies a written text"
NUMBER, NAME = "passes a number on", "passes a name on"
REASONS = (SHORT, LONG, LOOPS, OTHER_CLASS, ORIGINAL, NUMBER, NAME, TWICE)


@dataclass(frozen=True)
class FilterSettings:
    """What a written text must be to be kept.

    Attributes:
      threshold: Least probability of its class, which must also be the likeliest one.
      least_words: Fewest words of a text.
      most_words: Most words of a text.
      repetition: Largest share of repeated runs of four words, or of one sign.
      near: Jaccard similarity of pairs of words from which on texts are near-copies; see
        `memorisation.near_for` for short ones.
    """

    threshold: float = 0.0
    least_words: int = 5
    most_words: int = 400
    repetition: float = 0.2
    near: float = NEAR

    def __post_init__(self) -> None:
        for name in ("threshold", "repetition"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} is {getattr(self, name)}: give a share from 0 to 1")
        if not 0 < self.near <= 1:
            raise UserError(f"near is {self.near}: give a similarity above 0, at most 1")
        if self.least_words < 1:
            raise UserError(f"least_words is {self.least_words}: give 1 or more")
        if self.most_words < self.least_words:
            raise UserError(
                f"most_words is {self.most_words}, below least_words, which is {self.least_words}: "
                "give more"
            )


def shape_fault(text: str, settings: FilterSettings) -> str | None:
    """Returns why the length or the repetitions of a text leave it out, None if they do not."""
    words = words_of(text)
    if len(words) < settings.least_words:
        return SHORT
    if len(words) > settings.most_words:
        return LONG
    if max(seq_rep(words, 4), run_rep(text, 4)) > settings.repetition:
        return LOOPS
    return None


def class_fault(p: Sequence[float], label: int, settings: FilterSettings) -> str | None:
    """Returns why a classifier's p(class | text) `[C]` leaves a text out, None if it does not."""
    if int(np.argmax(p)) != label or p[label] < settings.threshold:
        return OTHER_CLASS
    return None


class CopyFilter:
    """Leaves out what repeats an original or a text that was kept before.

    A text repeats another if they share a run of eight words or are near-copies, and an original
    also if it has all of its words in a row, `least_words` or more.
    """

    def __init__(self, originals: Sequence[str], settings: FilterSettings) -> None:
        self._near = settings.near
        self._originals = CopyIndex(originals)
        self._runs = index_runs(originals)
        rows = (tuple(words_of(text)) for text in originals)
        self._short = {row for row in rows if settings.least_words <= len(row) < RUN}
        self._lengths = sorted(set(map(len, self._short)))
        self._kept, self._kept_runs = CopyIndex(), RunSet(n=RUN)

    def longest(self, text: str) -> int:
        """Returns the number of words of the longest run that a text shares with an original."""
        return len(self._runs.longest(text))

    def copies_original(self, text: str) -> str | None:
        """Returns why the originals leave a text out, None if they do not."""
        near = self._originals.nearest(text).similarity >= near_for(text, self._near)
        return ORIGINAL if near or self.longest(text) >= RUN or self._has_whole(text) else None

    def _has_whole(self, text: str) -> bool:
        """Says whether a text has all words of a shorter original in a row."""
        words = tuple(words_of(text))
        return any(
            words[first : first + length] in self._short
            for length in self._lengths
            for first in range(len(words) - length + 1)
        )

    def copies_kept(self, text: str) -> str | None:
        """Returns why the texts that were kept leave a text out, None if they do not."""
        near = self._kept.nearest(text).similarity >= near_for(text, self._near)
        return TWICE if near or len(self._kept_runs.shared(text)) else None

    def keep(self, text: str) -> None:
        """Adds a text to those that were kept."""
        self._kept.add(text)
        self._kept_runs.add(text)


def private_fault(text: str, private: Private | None) -> str | None:
    """Returns why private content leaves a text out, None if it does not, or if there is none."""
    if private is None:
        return None
    if private.number_in(text) is not None:
        return NUMBER
    return NAME if private.name_in(text) is not None else None


def fault_of(
    text: str,
    p: Sequence[float] | None,
    label: int,
    *,
    settings: FilterSettings,
    copies: CopyFilter,
    private: Private | None = None,
) -> str | None:
    """Returns the first reason, of `REASONS`, that leaves a text out, None if it is kept.

    `p` is what the classifier says of it `[C]`, None where no classifier filters.
    """
    return (
        shape_fault(text, settings)
        or (class_fault(p, label, settings) if p is not None else None)
        or copies.copies_original(text)
        or private_fault(text, private)
        or copies.copies_kept(text)
    )
