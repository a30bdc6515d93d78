"""Rounds of writing and training: a guide is trained on what a search with it visits.

A guide is trained on human texts and asked about texts that a search has chosen by it. After every
training the language model therefore writes, a teacher says what the texts are, and the next
training has them among its rows (dataset aggregation, DAgger: Ross et al. 2011, arXiv 1011.0686).

Every round trains from the start on all rows so far, not from the weights of the round before: then
a round is an ordinary training, and its result does not depend on the order in which rows came.
Networks that go on from trained weights also generalise worse (Ash and Adams 2020, arXiv
1910.08475).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from coopgen_jax.data.labelled import Labelled, Teacher, with_shares
from coopgen_jax.errors import UserError
from coopgen_jax.training.over_optimisation import Visited, gap_of

# Trainings that ended for these reasons are not finished.
UNFINISHED = ("interrupt", "budget")


@dataclass(frozen=True)
class OnPolicyConfig:
    """How many rounds there are.

    Attributes:
      rounds: of writing and training, at most; 1 or more.
      tolerance: gap between guide and teacher, up or down, at which they count as agreeing.
    """

    rounds: int = 3
    tolerance: float = 0.02

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise UserError(f"rounds is {self.rounds}: give 1 or more")
        if not 0 <= self.tolerance < 1:
            raise UserError(f"tolerance is {self.tolerance}: give a gap from 0 to below 1")


@dataclass(frozen=True, eq=False)
class Rounds:
    """What became of the rounds.

    Attributes:
      card: of the last training.
      history: an entry a round: its number, the `rows` that were added to its training, and what
        `gap_of` says of texts that were written with its guide, which it was not trained on.
      visited: the texts of the last entry, and the teacher's shares of them `[n, C]`; None where
        the last training or the texts of its round are not finished.
    """

    card: dict[str, Any]
    history: list[dict[str, Any]]
    visited: tuple[Visited, np.ndarray] | None

    @property
    def number(self) -> int:
        """The last round that was trained."""
        return len(self.history) - (self.visited is not None)


def train_on_policy(
    config: OnPolicyConfig,
    classes: Sequence[str],
    teacher: Teacher,
    *,
    train: Callable[[int, list[Labelled]], dict[str, Any]],
    write: Callable[[int], Visited | None],
    judge: Callable[[int, Sequence[str]], np.ndarray],
    listener: Callable[[dict[str, Any]], None] = lambda entry: None,
) -> Rounds:
    """Trains and writes in turn until guide and teacher agree on what a search chose.

    Round 0 trains on the labelled rows alone. Then texts are written with the guide of the round.
    Where its gap is within the tolerance, or the rounds are at their end, it is what comes out, and
    its texts are new to it. Otherwise they are rows of the next round.

    Args:
      config: how many rounds.
      classes: the guide's, in their order.
      teacher: who labels the texts.
      train: `(round, rows) -> card` trains a guide on the labelled rows and those of the rounds so
        far, an entry a round. It ends the rounds if the card says that it was `stopped` early.
      write: `(round) -> texts`, written with the guide of the round; None where the budget is spent
        before all are, which ends the rounds.
      judge: `(round, texts) -> [n, C]` the teacher's probabilities, in the order of the classes.
      listener: gets every entry of the history.

    Raises:
      UserError: a round has no texts, or the teacher's probabilities are none.
    """
    rows: list[Labelled] = []
    history: list[dict[str, Any]] = []
    for number in range(config.rounds + 1):
        card = train(number, rows)
        if card["stopped"] in UNFINISHED:
            return Rounds(card, history, None)
        found = write(number)
        if found is None:
            return Rounds({**card, "stopped": "budget"}, history, None)
        visited = found
        if not visited.searched.any():
            raise UserError(
                f"all texts that the search of round {number} wrote are empty: give other prompts"
            )
        shares = np.asarray(judge(number, visited.texts))
        new = with_shares(visited.texts, classes, shares, teacher=teacher, written=visited.written)
        entry = {"round": number, "rows": sum(len(part.texts) for part in rows)}
        history.append(entry | gap_of(visited, shares))
        listener(history[-1])
        if abs(history[-1]["gap"]) <= config.tolerance or number == config.rounds:
            break
        rows.append(new)
    return Rounds(card, history, (visited, shares))
