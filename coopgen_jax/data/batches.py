"""From tokenised texts to batches: shuffled, balanced, cut to prefixes, padded, shared by hosts.

A batch is a pure function of its number (grain's `MapDataset`), so a training that resumes at a
step reads what it would have read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import grain
import numpy as np

from coopgen_jax.errors import UserError

# Lengths of batches are multiples of this, so that few of them are compiled.
MULTIPLE = 16


@dataclass(frozen=True)
class BatchConfig:
    """How batches are made.

    Attributes:
      rows: texts in a batch, of all processes together.
      longest: tokens read of a text, the first ones.
      shortest: every batch is cut to a random number of tokens from here to its longest text
        (Chaffin et al. 2022, arXiv 2204.11586), so that unfinished texts are seen;
        None to cut nothing.
      balanced: whether every class is drawn as often as any other.
      seed: of the order of the rows and of the cuts.
    """

    rows: int = 32
    longest: int = 64
    shortest: int | None = 1
    balanced: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rows < 1 or self.longest < 1:
            raise UserError(
                f"batches of {self.rows} rows of {self.longest} tokens: give 1 or more of each"
            )
        if not 0 <= self.seed < 1 << 32:
            raise UserError(f"seed is {self.seed}: give a number from 0 to {(1 << 32) - 1}")
        if self.shortest is not None and not 1 <= self.shortest <= self.longest:
            raise UserError(
                f"the shortest cut is {self.shortest} tokens: it must be 1 to {self.longest}"
            )


def filled(rows: Sequence[Sequence[int]], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns rows of ids as tokens `[B, width]` int32, padded on the right, and their mask."""
    tokens = np.zeros((len(rows), width), np.int32)
    mask = np.zeros((len(rows), width), bool)
    for place, row in enumerate(rows):
        tokens[place, : len(row)], mask[place, : len(row)] = row, True
    return tokens, mask


def pad(
    rows: Sequence[Sequence[int]], labels: Sequence[Any], index: Any, longest: int = 1
) -> dict[str, np.ndarray]:
    """Returns a batch of rows of ids, padded on the right to a multiple of `MULTIPLE`.

    Returns:
      tokens `[B, S]` int32, with room for `longest` at least, mask `[B, S]` bool, label `[B]`
      int32 or `[B, C]` float32 as `Labelled.targets` are, and index `[B]` int32, the number of
      every row in its batch.
    """
    width = -(-max(longest, *map(len, rows)) // MULTIPLE) * MULTIPLE
    tokens, mask = filled(rows, width)
    label = np.asarray(labels)
    return {
        "tokens": tokens,
        "mask": mask,
        "label": label.astype(np.int32 if label.ndim == 1 else np.float32),
        "index": np.asarray(index, np.int32),
    }


def training_batches(
    rows: Sequence[Sequence[int]],
    labels: Sequence[Any],
    config: BatchConfig,
    *,
    process: int = 0,
    processes: int = 1,
) -> Any:
    """Returns endless batches of tokenised texts as `pad` makes them, a `grain.MapDataset`.

    Each of `processes` processes, which divide `config.rows`, gets its part of a batch's rows.

    Raises:
      UserError: there are no rows, a row is empty, or the processes do not divide a batch.
    """
    if not len(rows):
        raise UserError("there are no texts to train on")
    if len(labels) != len(rows):
        raise UserError(f"there are {len(rows)} texts and {len(labels)} classes: give one for each")
    if not all(len(row) for row in rows):
        raise UserError("a text to train on has no tokens: leave empty texts out")
    if config.rows % processes:
        raise UserError(
            f"a batch of {config.rows} rows cannot be shared by {processes} processes: give a "
            f"multiple of {processes}"
        )

    def order(numbers: Sequence[int], seed: int) -> Any:
        return grain.MapDataset.source(numbers).seed(seed).shuffle().repeat()

    numbers = range(len(rows))
    if config.balanced:
        names = [_group(label) for label in labels]
        members = [[n for n in numbers if names[n] == name] for name in sorted(set(names))]
        parts = [order(own, config.seed + 1 + at) for at, own in enumerate(members)]
        chosen = grain.MapDataset.mix(parts, [1 / len(parts)] * len(parts))
    else:
        chosen = order(numbers, config.seed)
    batches = chosen.batch(config.rows, batch_fn=list)
    make = partial(_batch, rows, labels, config, process, processes)
    return batches.seed(config.seed).random_map(make)


def _group(label: Any) -> int:
    """Returns the likeliest class of a row, -1 where all classes have the same share."""
    if not isinstance(label, Sequence):
        return int(label)
    return -1 if max(label) - min(label) < 1e-6 else int(np.argmax(label))


def _batch(
    rows: Sequence[Sequence[int]],
    labels: Sequence[Any],
    config: BatchConfig,
    process: int,
    processes: int,
    numbers: list[int],
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    chosen = [rows[number][: config.longest] for number in numbers]
    # The cut is drawn from the whole batch, so that all processes draw the same one.
    cut = max(map(len, chosen))
    if config.shortest is not None:
        cut = int(rng.integers(min(config.shortest, cut), cut, endpoint=True))
    share = len(numbers) // processes
    own = slice(process * share, (process + 1) * share)
    return pad(
        [row[:cut] for row in chosen[own]],
        [labels[number] for number in numbers[own]],
        np.arange(len(numbers))[own],
        longest=cut,
    )


def in_order(
    rows: Sequence[Sequence[int]], labels: Sequence[Any], *, size: int, longest: int
) -> list[dict[str, np.ndarray]]:
    """Returns all rows once, by length, in batches of `size`; the last is filled with empty rows.

    An empty row's mask is false everywhere, so that it weighs nothing.
    """
    numbers = sorted(range(len(rows)), key=lambda number: len(rows[number]))
    batches = []
    for at in range(0, len(numbers), size):
        chosen = numbers[at : at + size]
        missing = size - len(chosen)
        tokens = [list(rows[number][:longest]) for number in chosen] + [[]] * missing
        own = [labels[number] for number in chosen] + [labels[chosen[0]]] * missing
        batches.append(pad(tokens, own, np.arange(size)))
    return batches


def packed(rows: Sequence[Sequence[int]], *, length: int, end: int) -> np.ndarray:
    """Returns texts one behind the other, each closed by `end`, as windows `[n, length]`.

    What is left over at the end is dropped: a window has no padding. Raises UserError where all
    texts together are shorter than one.
    """
    stream = [number for row in rows for number in (*row, end)]
    count = len(stream) // length
    if count == 0:
        raise UserError(
            f"all texts together have {len(stream)} tokens: windows of {length} need at least one"
        )
    return np.asarray(stream[: count * length], np.int32).reshape(count, length)
