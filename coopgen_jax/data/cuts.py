"""Pieces of texts: what a guide or a judge of unfinished texts learns from.

A discriminator that guides a search reads texts that have only begun. Trained on whole texts it is
wrong about those, so it learns from texts cut at random lengths (the uniform truncation of Chaffin
et al. 2022, arXiv 2204.11586).
"""

from dataclasses import dataclass, replace

import numpy as np

from coopgen_jax.data.labelled import Labelled


@dataclass(frozen=True)
class Cutting:
    """How texts are cut.

    Attributes:
      pieces: how many pieces every text gives.
      shortest: words of a piece; a length is drawn uniformly between them.
      longest: words of a piece; a length is drawn uniformly between them.
      anywhere: whether a piece may begin at any word, or only where its text does.
      mid_word: share of the pieces whose last word is broken off.
    """

    pieces: int = 4
    shortest: int = 1
    longest: int = 64
    anywhere: bool = True
    mid_word: float = 0.25


def cut(rng: np.random.Generator, text: str, cutting: Cutting) -> str:
    """Returns one random piece of `text`; a text of one word or none gives itself."""
    words = text.split()
    if len(words) < 2:
        return text.strip()
    shortest = min(cutting.shortest, len(words))
    length = int(rng.integers(shortest, min(cutting.longest, len(words)), endpoint=True))
    start = int(rng.integers(0, len(words) - length, endpoint=True)) if cutting.anywhere else 0
    piece = words[start : start + length]
    if rng.random() < cutting.mid_word and len(piece[-1]) > 1:
        piece[-1] = piece[-1][: int(rng.integers(1, len(piece[-1])))]
    return " ".join(piece)


def cut_all(rng: np.random.Generator, data: Labelled, cutting: Cutting) -> Labelled:
    """Returns `cutting.pieces` random pieces of every text, each with its text's class."""
    whole = data.rows(np.repeat(np.arange(len(data.texts)), cutting.pieces))
    texts = tuple(cut(rng, text, cutting) for text in whole.texts)
    return replace(whole, texts=texts, sources=whole.origins)


def first_words(data: Labelled, words: int) -> Labelled:
    """Returns the first `words` words of every text that has as many."""
    long = [row for row, text in enumerate(data.texts) if len(text.split()) >= words]
    kept = data.rows(long)
    texts = tuple(" ".join(text.split()[:words]) for text in kept.texts)
    return replace(kept, texts=texts, sources=kept.origins)
