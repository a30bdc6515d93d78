"""What the tokens that a decoder considers change in the classifier: words that need no writing.

Every text is drawn among candidates, and of each of them the classifier has said what the text
would be with it. A word that the language model finds possible and never writes is so judged too,
in many texts, for nothing.
"""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import t as student

from coopgen_jax.errors import UserError
from coopgen_jax.explanation.content_words import content_words
from coopgen_jax.explanation.reaction import Reaction
from coopgen_jax.files import write_whole
from coopgen_jax.tokenizer import Tokenizer

FOLDER = "effects"
# Of a batch: tokens `[n]`, how often each was judged `[n]`, and the sums of its changes `[n, C]`.
Effects = tuple[np.ndarray, np.ndarray, np.ndarray]


class TokenEffects:
    """Adds up how far every token moves the classifier; an observer, see `observed`."""

    def __init__(self, vocab_size: int, classes: int) -> None:
        """Makes room for the tokens of a vocabulary."""
        self._shape = vocab_size, classes
        self._clear()

    def _clear(self) -> None:
        self.counts = np.zeros(self._shape[0], np.int64)
        self.sums = np.zeros(self._shape)

    def __call__(self, tokens: np.ndarray, change: np.ndarray) -> None:
        """Adds the changes `[n, C]` that tokens `[n]` make; ids that are no token do not count."""
        vocab, classes = self._shape
        known = tokens < vocab
        tokens, change = tokens[known], change[known]
        self.counts += np.bincount(tokens, minlength=vocab)
        for label in range(classes):
            self.sums[:, label] += np.bincount(tokens, change[:, label], minlength=vocab)

    def taken(self) -> Effects:
        """Returns what came since the last time, and begins anew."""
        tokens = np.flatnonzero(self.counts)
        found = tokens.astype(np.int32), self.counts[tokens], self.sums[tokens].astype(np.float32)
        self._clear()
        return found


def keep_effects(folder: Path, number: int, effects: Effects) -> None:
    """Writes the effects of a batch into a folder of texts."""
    (folder / FOLDER).mkdir(exist_ok=True)
    tokens, counts, sums = effects
    content = io.BytesIO()
    np.savez_compressed(content, tokens=tokens, counts=counts, sums=sums)
    write_whole(_path(folder, number), content.getvalue())


def kept_effects(folder: Path, batches: int) -> list[Effects]:
    """Returns the effects of the first batches of a folder; raises UserError where they lack."""
    found = []
    for number in range(batches):
        path = _path(folder, number)
        try:
            with np.load(io.BytesIO(path.read_bytes())) as one:
                found.append((one["tokens"], one["counts"], one["sums"]))
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise UserError(f"{path} cannot be read: delete {folder} and start again") from error
    return found


def _path(folder: Path, number: int) -> Path:
    return folder / FOLDER / f"{number:05}.npz"


def effects_of_words(
    batches: Sequence[Effects], tokenizer: Tokenizer, *, least: int = 20, clusters: int = 4
) -> dict[str, tuple[Reaction, ...]]:
    """Returns how far words move a classifier behind the texts in which they were considered.

    Those tokens count that are a content word behind other text, in upper case or lower case. A
    word that is spelt with several tokens is not among them.

    Args:
      batches: effects of every batch.
      tokenizer: the language model's.
      least: how often a word must have been judged.
      clusters: in how many batches it must have been, two or more.

    Returns:
      For every word and each of the `C` classes its mean change and 95 % interval, in nats of
      log-odds. Batches count as clusters, since one text is behind many changes: the interval is
      Student's, of as many batches as have the word.
    """
    if len(batches) < clusters:
        return {}
    tokens = np.unique(np.concatenate([one[0] for one in batches]))
    spelt = tokenizer.continuations([[token] for token in tokens.tolist()])
    names = [_word(text) for text in spelt]
    words = sorted({name for name in names if name})
    if not words:
        return {}
    place = {word: number for number, word in enumerate(words)}
    row = np.array([place.get(name, -1) for name in names])
    classes = batches[0][2].shape[1]
    counts = np.zeros((len(batches), len(words)))
    sums = np.zeros((len(batches), len(words), classes))
    for number, (own, n, total) in enumerate(batches):
        rows = row[np.searchsorted(tokens, own)]
        np.add.at(counts[number], rows[rows >= 0], n[rows >= 0])
        np.add.at(sums[number], rows[rows >= 0], total[rows >= 0])
    means, halves = _ratios(counts, sums)
    enough = (counts.sum(axis=0) >= least) & ((counts > 0).sum(axis=0) >= max(clusters, 2))
    return {
        word: tuple(
            Reaction(float(mean), float(mean - half), float(mean + half))
            for mean, half in zip(means[at], halves[at], strict=True)
        )
        for at, word in enumerate(words)
        if enough[at]
    }


def words_in(tokenizer: Tokenizer) -> list[str]:
    """Returns the content words that are tokens of a tokenizer, by spelling."""
    spelt = tokenizer.continuations([[token] for token in range(tokenizer.vocab_size)])
    return sorted({word for word in map(_word, spelt) if word})


def _word(text: str) -> str:
    """Returns the content word that a token is behind other text, or nothing."""
    words = content_words(text)
    return words[0] if text[:1].isspace() and [text.strip().lower()] == words else ""


def _ratios(counts: np.ndarray, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns means `[F, C]` of clusters `[G, F]` and `[G, F, C]`, and half their 95 % intervals.

    The mean is the ratio of two sums over clusters; its variance is that of a ratio estimator
    (Cochran 1977, section 2.11): of the residuals of the clusters that have a count.
    """
    n = np.maximum(counts.sum(axis=0), 1)[:, None]
    means = sums.sum(axis=0) / n
    clusters = np.maximum((counts > 0).sum(axis=0), 2)[:, None]
    residuals = sums - means[None] * counts[..., None]
    variance = (residuals**2).sum(axis=0) * clusters / (clusters - 1) / n**2
    return means, student.ppf(0.975, clusters - 1) * np.sqrt(variance)
