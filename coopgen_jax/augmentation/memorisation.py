"""What texts repeat of others: the longest shared run of words, and near-copies.

Texts are compared as words without case and punctuation. Nothing is hashed or sampled: lengths and
similarities are exact. A suffix array (Manber and Myers 1993) finds the longest shared run in time
that grows with the words of the text and the logarithm of those indexed; lists of texts by pair of
words find near-copies.
"""

import re
import unicodedata
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# A run of so many words is called a repetition: it is hardly ever written twice by chance.
RUN = 8
# Texts of this Jaccard similarity are near-copies. One of seven words with one of them changed has
# .6, a longer one more; see `near_for` for shorter ones.
NEAR = 0.6
# A text of fewer words is a near-copy also with a smaller similarity.
SHORT = 7
WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
# A word is stored in so many bytes, most significant first, so that bytes sort as words do.
_BYTES, _KIND = 4, ">u4"
_UNKNOWN = b"\0" * _BYTES

Pair = tuple[str | None, str | None]


def cased_words_of(text: str) -> list[str]:
    """Returns the words of a text: letters and digits, with apostrophes inside."""
    return WORD.findall(unicodedata.normalize("NFKC", text).replace("\u2019", "'"))


def words_of(text: str) -> list[str]:
    """Returns the words of a text without case, as many as `cased_words_of` returns."""
    return [word.casefold() for word in cased_words_of(text)]


def pairs_of(words: Sequence[str]) -> set[Pair]:
    """Returns the pairs of neighbouring words; the first and the last have a pair with no word.

    So a text of one word has pairs too, and an empty one has none.
    """
    return set(zip([None, *words], [*words, None], strict=True)) if words else set()


@dataclass(frozen=True)
class SharedRun:
    """Words that stand in a row in a text and in an indexed one.

    Attributes:
      words: the words, none where no word is shared.
      text: the number of an indexed text that has them, None where no word is shared.
    """

    words: tuple[str, ...] = ()
    text: int | None = None

    def __len__(self) -> int:
        return len(self.words)


@dataclass(frozen=True, eq=False)
class RunIndex:
    """Texts in which shared runs are looked for; see `index_runs`.

    Attributes:
      known: every word's number, from 1.
      content: the numbers of all words; behind every text stands a number that no other has.
      suffixes: where the suffixes of `content` begin, in their order.
      starts: where each text begins in `content`.
    """

    known: dict[str, int] = field(repr=False)
    content: bytes = field(repr=False)
    suffixes: array = field(repr=False)
    starts: list[int] = field(repr=False)

    def longest(self, text: str) -> SharedRun:
        """Returns the longest run of words that a text shares with an indexed one.

        Of several of one length it is the first in the text.
        """
        words = words_of(text)
        query = b"".join(
            self.known[word].to_bytes(_BYTES) if word in self.known else _UNKNOWN for word in words
        )
        best, place, source = 0, 0, 0
        for first in range(len(words)):
            rest = query[_BYTES * first :]
            if len(rest) <= _BYTES * best:
                break
            at = self._place(rest)
            # What shares most with a text stands beside its place in the order.
            for start in self.suffixes[max(at - 1, 0) : at + 1]:
                shared = _shared(self._from(start, len(rest)), rest)
                if shared > best:
                    best, place, source = shared, first, start
        if not best:
            return SharedRun()
        return SharedRun(tuple(words[place : place + best]), bisect_right(self.starts, source) - 1)

    def _place(self, query: bytes) -> int:
        """Returns the number of suffixes that stand before a row of words, in their order."""
        return bisect_left(self.suffixes, query, key=lambda s: self._from(s, len(query)))

    def _from(self, start: int, length: int) -> bytes:
        return self.content[_BYTES * start : _BYTES * start + length]


def index_runs(texts: Iterable[str]) -> RunIndex:
    """Returns an index of `n` texts' words, in which shared runs are found."""
    known: dict[str, int] = {}
    rows = [[known.setdefault(word, len(known) + 1) for word in words_of(text)] for text in texts]
    numbers: list[int] = []
    starts = []
    for number, row in enumerate(rows):
        starts.append(len(numbers))
        # No two texts end alike, and no word is like an end: no run goes beyond its text.
        numbers += [*row, len(known) + 1 + number]
    content = np.array(numbers, np.int64)
    order = array("q", _suffix_array(content).tobytes())
    return RunIndex(known, content.astype(_KIND).tobytes(), order, starts)


def _suffix_array(content: np.ndarray) -> np.ndarray:
    """Returns where the suffixes of `content` `[n]` begin, sorted, by doubling their prefixes."""
    rank, step = content, 1
    while len(content):
        later = np.full(len(rank), -1)
        later[:-step] = rank[step:]
        order = np.lexsort((later, rank))
        new = (np.diff(rank[order]) != 0) | (np.diff(later[order]) != 0)
        if new.all():
            return order
        rank = np.empty_like(rank)
        rank[order] = np.concatenate(([0], np.cumsum(new)))
        step *= 2
    return np.zeros(0, np.int64)


def _shared(one: bytes, other: bytes) -> int:
    """Returns how many words of two rows of them are the same before the first that differs."""
    count, most = 0, min(len(one), len(other))
    while count < most and one[count : count + _BYTES] == other[count : count + _BYTES]:
        count += _BYTES
    return count // _BYTES


@dataclass(frozen=True)
class Copy:
    """The indexed text that a text is most like.

    Attributes:
      similarity: Jaccard similarity of their pairs of words, 1 of equal texts.
      text: its number, the first of several; None where no pair of words is shared.
    """

    similarity: float = 0.0
    text: int | None = None


class CopyIndex:
    """Texts among which near-copies are looked for; it grows."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._postings: dict[Pair, array] = {}
        self._sizes = array("q")
        for text in texts:
            self.add(text)

    def add(self, text: str) -> None:
        """Adds a text, whose number is that of the texts before it."""
        pairs = pairs_of(words_of(text))
        for pair in pairs:
            self._postings.setdefault(pair, array("q")).append(len(self._sizes))
        self._sizes.append(len(pairs))

    def nearest(self, text: str) -> Copy:
        """Returns the text that is most like this one, by Jaccard similarity of pairs of words."""
        pairs = pairs_of(words_of(text))
        found = [self._postings[pair] for pair in pairs if pair in self._postings]
        if not found:
            return Copy()
        shared = np.bincount(np.concatenate(found), minlength=len(self._sizes))
        similarity = shared / (len(pairs) + np.array(self._sizes) - shared)
        best = int(similarity.argmax())
        return Copy(float(similarity[best]), best)


def near_for(text: str, near: float) -> float:
    """Returns from which similarity on a text is a near-copy, at most `near`.

    A copy of `n` different words with one of them changed shares `n - 1` of `n + 3` pairs. Below
    seven words that is less than .6.
    """
    count = len(words_of(text))
    return min(near, (count - 1) / (count + 3)) if 1 < count < SHORT else near


class RunSet:
    """Runs of `n` words of texts; it grows."""

    def __init__(self, texts: Iterable[str] = (), n: int = RUN) -> None:
        self.n, self._runs, self._texts = n, dict[tuple[str, ...], int](), 0
        for text in texts:
            self.add(text)

    def add(self, text: str) -> None:
        """Adds the runs of a text."""
        for run in self._of(text):
            self._runs.setdefault(run, self._texts)
        self._texts += 1

    def shared(self, text: str) -> SharedRun:
        """Returns the first run of `n` words that a text shares with an earlier one, if any."""
        run = next((run for run in self._of(text) if run in self._runs), None)
        return SharedRun() if run is None else SharedRun(run, self._runs[run])

    def _of(self, text: str) -> list[tuple[str, ...]]:
        words = words_of(text)
        return [tuple(words[at : at + self.n]) for at in range(len(words) - self.n + 1)]


def memorisation(
    texts: Sequence[str],
    originals: Sequence[str],
    *,
    run: int = RUN,
    near: float = NEAR,
    examples: int = 5,
) -> dict[str, Any]:
    """Returns what texts repeat of originals, as strict JSON has it.

    Args:
      texts: the `n` texts.
      originals: what they may repeat.
      run: shared words in a row that are called a repetition.
      near: the least similarity of near-copies; see `near_for` for short texts.
      examples: how many of the texts that repeat most are shown.

    Returns:
      `texts`; how many of them share a run of so many words (`with_run`), are near-copies
      (`near_copies`) and are equal in words (`equal`), and of how many words and which similarity
      these are (`run`, `near`); `longest`, the longest shared run; `lengths`, how many texts have
      which length of their longest shared run; `examples`, the texts of the longest shared runs,
      with their numbers and those of the originals, from 0.
    """
    runs, copies = index_runs(originals), CopyIndex(originals)
    shared = [runs.longest(text) for text in texts]
    nearest = [copies.nearest(text) for text in texts]
    lengths = Counter(map(len, shared))
    order = sorted(
        range(len(texts)), key=lambda row: (-len(shared[row]), -nearest[row].similarity, row)
    )
    return {
        "texts": len(texts),
        "run": run,
        "near": near,
        "with_run": sum(len(one) >= run for one in shared),
        "near_copies": sum(
            one.similarity >= near_for(text, near) for text, one in zip(texts, nearest, strict=True)
        ),
        "equal": sum(
            one.text is not None and words_of(text) == words_of(originals[one.text])
            for text, one in zip(texts, nearest, strict=True)
        ),
        "longest": max(lengths, default=0),
        "lengths": {str(length): lengths[length] for length in sorted(lengths)},
        "examples": [
            {
                "text": row,
                "original": shared[row].text,
                "words": " ".join(shared[row].words),
                "length": len(shared[row]),
                "similarity": round(nearest[row].similarity, 4),
            }
            for row in order[:examples]
            if len(shared[row])
        ],
    }
