"""Whatever can judge finished texts: a trained judge, or a discriminator of any kind.

A judge of texts reads the continuation alone: a prompt can have the class already.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from coopgen_jax.discriminators.host.python_file import (
    REWARD,
    FileFunction,
    is_python,
    read_function,
)
from coopgen_jax.discriminators.host.rereading import widths_up_to
from coopgen_jax.discriminators.host.retokenise import word_pieces
from coopgen_jax.discriminators.host.sequence_classifier import (
    ClassifierJudge,
    classifier_judge,
    longest_read,
    read_text,
)
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.discriminators.loading import folder_of, load_discriminator
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.discriminator_accuracy import judge_prefixes
from coopgen_jax.evaluation.independence import card_of
from coopgen_jax.evaluation.prefix_reading import STEP
from coopgen_jax.evaluation.tfidf_judge import load_judge
from coopgen_jax.models.pretrained.classifiers import LoadedClassifier, load_classifier
from coopgen_jax.models.pretrained.loaded_model import LoadedModel, load


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
                # A width for every set of texts would be compiled for each.
                longest=-(-int(counts.max()) // STEP) * STEP,
                batch=self.batch,
                asked="last",
            )
            found[there] = np.exp(said[np.arange(len(there)), counts[there] - 1])
        return found


@partial(jax.jit, static_argnums=0)
def _read(judge: ClassifierJudge, params: Any, tokens: jax.Array, mask: jax.Array) -> jax.Array:
    return read_text(judge, params, tokens, mask)


@dataclass(frozen=True, eq=False)
class SequenceJudge:
    """A Hugging Face sequence classifier as a judge of whole texts, each of which it reads once.

    Attributes:
      classifier: what judges.
      batch: texts read at once.
    """

    classifier: LoadedClassifier
    batch: int = 32

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the `C` classes."""
        return self.classifier.about.classes

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Returns p(class | text) `[n, C]`; an empty text has all classes alike.

        Of a text that is too long the last tokens are read.
        """
        judge, params = classifier_judge(self.classifier)
        longest, tokenizer = longest_read(self.classifier), self.classifier.tokenizer
        rows = word_pieces(tokenizer, [text.strip() for text in texts], longest)
        special = sum(map(len, tokenizer.wrapping))
        found = np.full((len(texts), len(self.classes)), 1 / max(len(self.classes), 2))
        there = [number for number, row in enumerate(rows) if len(row) > special]
        order = sorted(there, key=lambda number: len(rows[number]))
        for at in range(0, len(order), self.batch):
            part = order[at : at + self.batch]
            # Few widths and full batches keep the number of compilations small.
            width = next(w for w in widths_up_to(longest) if w >= len(rows[part[-1]]))
            tokens = np.zeros((self.batch, width), np.int32)
            mask = np.zeros((self.batch, width), bool)
            for place, number in enumerate(part):
                tokens[place, : len(rows[number])] = rows[number]
                mask[place, : len(rows[number])] = True
            said = np.exp(np.asarray(_read(judge, params, tokens, mask)))
            found[part] = said[: len(part)]
        return found


@dataclass(frozen=True, eq=False)
class FunctionJudge:
    """A function of a file as a judge of whole texts, which reads them as they are.

    Attributes:
      function: what judges.
      batch: the most texts of one call.
    """

    function: FileFunction
    batch: int = 256

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the `C` classes."""
        return self.function.classes

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Returns p(class | text) `[n, C]`; an empty text has all classes alike, unasked."""
        found = np.full((len(texts), len(self.classes)), 1 / len(self.classes))
        there = [number for number, text in enumerate(texts) if text.strip()]
        for at in range(0, len(there), self.batch):
            part = there[at : at + self.batch]
            said = self.function([texts[number].strip() for number in part])
            found[part] = self.function.rows(said, len(part))
        return found


def read_judge(name: str) -> FunctionJudge:
    """Returns the judge python:FILE.py:FUNCTION; raises UserError where it is none."""
    function = read_function(name)
    if function.classes == REWARD:
        raise UserError(f"{name} gives a reward: a judge gives the probabilities of classes")
    return FunctionJudge(function)


def load_text_judge(name_or_folder: str | Path, *, model: str) -> TextJudge:
    """Loads what judges texts: what `Judge.save` wrote, or what `load_discriminator` takes.

    A discriminator reads in the tokens of the language model `model`, a Hugging Face classifier in
    its own; a function of a file reads the texts as they are.

    Raises:
      UserError: there is no such judge, or it does not go with the language model.
    """
    if is_python(name_or_folder):
        return read_judge(str(name_or_folder))
    card = card_of(name_or_folder)
    if card is None:
        return SequenceJudge(load_classifier(folder_of(name_or_folder)))
    if card.name == "judge.json":
        return load_judge(card.parent)
    reader = load(model)
    return DiscriminatorJudge(reader, load_discriminator(name_or_folder, language_model=reader))
