"""Captions made unsound, from which a grammar head is trained to tell sound ones.

The kinds are those of Cho et al. 2022, Fine-grained Image Captioning with CLIP Reward, arXiv
2205.13115: an n-gram repeated, words deleted, inserted or exchanged, and all words shuffled.
"""

from collections.abc import Callable, Sequence

import numpy as np

# Words of a repeated n-gram, times that it is repeated, and words of every other change, at most.
MOST = 3
TRIES = 8


def corrupt(
    words: Sequence[str],
    vocabulary: Sequence[str],
    rng: np.random.Generator,
    *,
    kind: str | None = None,
) -> list[str]:
    """Returns the words of a caption, corrupted: never the same ones in the same order.

    Args:
      words: at least one.
      vocabulary: at least one word; the words that are inserted come from it.
      rng: where chance comes from.
      kind: one of `KINDS`; None for one at random. Where a kind leaves a caption as it is, as
        shuffling leaves a single word, an n-gram is repeated instead.

    Raises:
      ValueError: there are no words.
    """
    if not words or not vocabulary:
        raise ValueError("a caption without words cannot be corrupted, nor one without vocabulary")
    change = KINDS[kind or str(rng.choice(list(KINDS)))]
    for _ in range(TRIES):
        found = change(list(words), vocabulary, rng)
        if found != list(words):
            return found
    return _repeat(list(words), vocabulary, rng)


def _count(rng: np.random.Generator, most: int = MOST) -> int:
    return int(rng.integers(1, most + 1))


def _repeat(words: list[str], vocabulary: Sequence[str], rng: np.random.Generator) -> list[str]:
    n = _count(rng, min(MOST, len(words)))
    begin = int(rng.integers(len(words) - n + 1))
    gram = words[begin : begin + n]
    return words[:begin] + gram * _count(rng) + words[begin:]


def _delete(words: list[str], vocabulary: Sequence[str], rng: np.random.Generator) -> list[str]:
    if len(words) == 1:
        return words
    gone = set(rng.choice(len(words), _count(rng, min(MOST, len(words) - 1)), replace=False))
    return [word for place, word in enumerate(words) if place not in gone]


def _insert(words: list[str], vocabulary: Sequence[str], rng: np.random.Generator) -> list[str]:
    found = list(words)
    for _ in range(_count(rng)):
        word = vocabulary[int(rng.integers(len(vocabulary)))]
        found.insert(int(rng.integers(len(found) + 1)), word)
    return found


def _swap(words: list[str], vocabulary: Sequence[str], rng: np.random.Generator) -> list[str]:
    if len(words) == 1:
        return words
    found = list(words)
    # A cycle of two or three places.
    places = rng.choice(len(words), min(int(rng.integers(2, MOST + 1)), len(words)), replace=False)
    for place, source in zip(places, np.roll(places, 1), strict=True):
        found[place] = words[source]
    return found


def _shuffle(words: list[str], vocabulary: Sequence[str], rng: np.random.Generator) -> list[str]:
    return [words[place] for place in rng.permutation(len(words))]


KINDS: dict[str, Callable[[list[str], Sequence[str], np.random.Generator], list[str]]] = {
    "repeat": _repeat,
    "delete": _delete,
    "insert": _insert,
    "swap": _swap,
    "shuffle": _shuffle,
}
