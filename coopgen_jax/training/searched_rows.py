"""Searched texts beside labelled ones: their rows, their states, and what a card says of them."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from coopgen_jax.data.frozen_states import check_room, places, read_states
from coopgen_jax.data.labelled import Teacher
from coopgen_jax.errors import UserError
from coopgen_jax.models.pretrained.loaded_model import LoadedModel
from coopgen_jax.models.prompt import ids_of, wrapped
from coopgen_jax.training.run import Rows
from coopgen_jax.training.searched_texts import SearchedText

# Of so many prompts the texts of one are validated on; of fewer those of the last.
VALIDATED = 10


@dataclass(frozen=True, eq=False)
class SearchedRows:
    """What searches found, to be learned from.

    Attributes:
      texts: the texts of all rounds.
      classes: the guide's, in its order.
      guide: who guided the searches, None where the same training has trained the guide.
      card: what the card says of the searches.
    """

    texts: Sequence[SearchedText]
    classes: tuple[str, ...]
    guide: Teacher | None = None
    card: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def parts(self) -> tuple[list[SearchedText], list[SearchedText]]:
        """The texts to train on and those to validate on, which continue other prompts."""
        order = self.prompts
        chosen = set(order[VALIDATED - 1 :: VALIDATED] or order[-1:])
        training = [text for text in self.texts if text.prompt not in chosen]
        return training, [text for text in self.texts if text.prompt in chosen]

    @property
    def prompts(self) -> list[str]:
        """The prompts, each once."""
        return list({text.prompt: None for text in self.texts})

    @property
    def sha256(self) -> str:
        """Hash of all that was found."""
        content = json.dumps([asdict(text) for text in self.texts])
        return sha256(content.encode()).hexdigest()

    def check(self, classes: Sequence[str]) -> None:
        """Raises UserError where the labelled texts have other classes than the guide."""
        if tuple(classes) != self.classes:
            raise UserError(
                f"the labelled texts have the classes {', '.join(classes)} and the guide of the "
                f"searches {', '.join(self.classes)}: they must be the same, in the same order"
            )

    def rows(self, start: int) -> tuple[Rows, Rows]:
        """Returns training and validation rows as places in a table that they begin in at `start`.

        The labels are the guide's probabilities at the end of a text.
        """
        training, validation = self.parts
        where = places([text.tokens for text in (*training, *validation)], start)
        cut = len(training)
        return (
            Rows(where[:cut], [text.shares for text in training]),
            Rows(where[cut:], [text.shares for text in validation]),
        )

    def states(self, model: LoadedModel, taps: tuple[int, ...], folder: Path | None) -> np.ndarray:
        """Returns the states of all texts' own tokens, read behind their prompts; `read_states`."""
        texts = [text for part in self.parts for text in part]
        fronts = [
            wrapped(model.tokenizer, ids)
            for ids in ids_of(model.tokenizer, [text.prompt for text in texts])
        ]
        whole = [[*front, *text.tokens] for front, text in zip(fronts, texts, strict=True)]
        check_room(model, taps, whole, folder=folder)
        table = read_states(model, taps, whole, front=(), folder=folder)
        kept = [own[len(front) :] for own, front in zip(places(whole), fronts, strict=True)]
        return table[np.concatenate([np.asarray(own, np.int64) for own in kept])]


def beside(labelled: Rows, searched: Rows, classes: int, *, evenly: bool = False) -> Rows:
    """Returns both, with the shares of all classes as labels.

    Where `evenly`, the searched texts stand there several times, about as many as labelled ones: of
    few texts much is learned, for every token has many candidates.
    """
    one_hot = np.eye(classes).tolist()
    labels = [label if isinstance(label, list) else one_hot[label] for label in labelled.labels]
    times = max(1, len(labels) // max(1, len(searched.ids))) if evenly else 1
    return Rows([*labelled.ids, *searched.ids * times], [*labels, *searched.labels * times])


def both_teachers(labels: Teacher | None, searched: SearchedRows) -> Teacher | None:
    """Returns who labelled the texts and who guided the searches as one, None where nobody did."""
    guide = searched.guide
    if labels is None or guide is None or labels.name == guide.name:
        return guide or labels
    rows = None
    if labels.rows is not None and guide.rows is not None:
        rows = np.union1d(labels.rows, guide.rows)
    return Teacher(f"{labels.name}, {guide.name}", rows=rows)
