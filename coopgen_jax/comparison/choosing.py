"""The choice of a size that fits the seconds, and of the settings that score best at it.

Nothing here measures anything: seconds and scores come from functions that are given, which are
asked for the same candidate more than once and are to remember what they found.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Choice(Generic[T]):
    """What was chosen.

    Attributes:
      candidate: The candidate.
      fits: Whether it takes no more than the seconds.
    """

    candidate: T
    fits: bool


def fitted(
    sizes: Sequence[T],
    seconds_of: Callable[[T], float],
    budget: float,
    *,
    start: int = 0,
    grow: bool = True,
) -> Choice[T]:
    """Returns the largest of several sizes that fits, and the smallest where none does.

    Sizes are timed one after another, the next larger one as long as the last one fits: no seconds
    are guessed from others. Where there is no limit, nothing is timed.

    Args:
      sizes: Candidates, the smallest first.
      seconds_of: Returns a candidate's seconds per text.
      budget: The seconds that a text may take, infinity for no limit.
      start: The place of the first candidate that is timed.
      grow: Whether larger ones than that are tried.
    """
    if math.isinf(budget):
        return Choice(sizes[-1], True)
    at = min(start, len(sizes) - 1)
    while at > 0 and seconds_of(sizes[at]) > budget:
        at -= 1
        grow = False
    fits = seconds_of(sizes[at]) <= budget
    while fits and grow and at + 1 < len(sizes) and seconds_of(sizes[at + 1]) <= budget:
        at += 1
    return Choice(sizes[at], fits)


def chosen(
    settings: Sequence[Sequence[T]],
    seconds_of: Callable[[T], float],
    score_of: Callable[[T], float],
    budget: float,
    *,
    refit: bool = False,
) -> Choice[T]:
    """Returns the candidate of the highest score among those that fit the seconds.

    The largest size that fits is found with the first setting. The others are tried at that size,
    and at smaller ones where they take longer. What fits goes before what does not, and what was
    tried first before its equals.

    Args:
      settings: For every setting its candidates, the smallest first.
      seconds_of: Returns a candidate's seconds per text.
      score_of: Returns a candidate's score; the highest is the best.
      budget: The seconds that a text may take.
      refit: Whether every setting may have a larger size than the first one.
    """
    found: list[tuple[bool, float, Choice[T]]] = []
    start = 0
    for number, sizes in enumerate(settings):
        choice = fitted(sizes, seconds_of, budget, start=start, grow=refit or number == 0)
        start = start if number else list(sizes).index(choice.candidate)
        found.append((choice.fits, score_of(choice.candidate), choice))
    return max(found, key=lambda entry: entry[:2])[2]
