"""Whatever can judge finished texts: a trained judge, or a discriminator of any kind.

A judge of texts reads the continuation alone: a prompt can have the class already.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.discriminators.loading import load_discriminator
from coopgen_jax.evaluation.discriminator_accuracy import judge_prefixes
from coopgen_jax.evaluation.independence import card_of
from coopgen_jax.evaluation.tfidf_judge import load_judge
from coopgen_jax.models.pretrained.loaded_model import LoadedModel, load

# What a judge calls the texts that have none of its other classes.
NEITHER = "neither"


class TextJudge(Protocol):
    """What judges texts."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the `C` classes."""

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Returns p(class | text) `[n, C]`."""


@dataclass(frozen=True, eq=False)
class DiscriminatorJudge:
    """A discriminator as a judge of whole texts.

    Attributes:
      model: the language model in whose tokens it reads.
      discriminator: what judges; one that reads prompts reads a line break in front of every text.
      batch: texts read at once.
    """

    model: LoadedModel
    discriminator: LoadedDiscriminator
    batch: int = 32

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the `C` classes."""
        return self.discriminator.discriminator.classes

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Returns p(class | text) `[n, C]`; an empty text has all classes alike.

        Raises:
          UserError: a text exceeds the context.
        """
        found = np.full((len(texts), len(self.classes)), 1 / len(self.classes))
        rows = self.model.tokenizer.encode_batch([f" {text.strip()}" for text in texts])
        counts = np.array([len(row) for row in rows], int)
        counts[[not text.strip() for text in texts]] = 0
        there = np.flatnonzero(counts).tolist()
        if there:
            said = judge_prefixes(
                self.model,
                self.discriminator,
                [texts[number] for number in there],
                longest=int(counts.max()),
                batch=self.batch,
            )
            found[there] = np.exp(said[np.arange(len(there)), counts[there] - 1])
        return found


def load_text_judge(name_or_folder: str | Path, *, model: str) -> TextJudge:
    """Loads what judges texts: what `Judge.save` wrote, or what `load_discriminator` takes.

    A discriminator reads in the tokens of the language model `model`.

    Raises:
      UserError: there is no such judge, or it does not go with the language model.
    """
    card = card_of(name_or_folder)
    if card is not None and card.name == "judge.json":
        return load_judge(card.parent)
    reader = load(model)
    return DiscriminatorJudge(reader, load_discriminator(name_or_folder, language_model=reader))
