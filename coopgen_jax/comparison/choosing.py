"""The choice of a size that fits the seconds, and of the settings that serve best at it.

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


@dataclass(frozen=True)
class Score:
    """What a candidate is chosen by.

    Attributes:
      mean: Of its texts' scores; the highest is the best.
      error: The standard error of the mean.
      perplexity: Of its texts; the lowest is the best.
    """

    mean: float
    error: float = 0.0
    perplexity: float = 0.0


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
    score_of: Callable[[T], Score],
    budget: float,
    *,
    refit: bool = False,
) -> Choice[T]:
    """Returns the candidate that serves best among those that fit the seconds.

    The largest size that fits is found with the first setting. The others are tried at that size,
    and at smaller ones where they take longer. What fits goes before what does not. Of the settings
    whose score is within one standard error of the highest, which noise may have put first, the one
    of the lowest perplexity is taken (the rule of one standard error of Breiman et al. 1984, CART,
    section 3.4.3, with perplexity in place of a tree's size), and the first of equals.

    Args:
      settings: For every setting its candidates, the smallest first.
      seconds_of: Returns a candidate's seconds per text.
      score_of: Returns a candidate's score.
      budget: The seconds that a text may take, infinity for no limit.
      refit: Whether every setting may have a larger size than the first one.
    """
    found: list[tuple[Choice[T], Score]] = []
    start = 0
    for number, sizes in enumerate(settings):
        choice = fitted(sizes, seconds_of, budget, start=start, grow=refit or number == 0)
        start = start if number else list(sizes).index(choice.candidate)
        found.append((choice, score_of(choice.candidate)))
    kept = [entry for entry in found if entry[0].fits] or found
    best = max((score for _, score in kept), key=lambda score: score.mean)
    near = [entry for entry in kept if entry[1].mean >= best.mean - best.error]
    return min(near, key=lambda entry: entry[1].perplexity)[0]
