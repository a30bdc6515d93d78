"""Labelled texts: a file or a dataset in, texts and class numbers out.

Guides and judges must not be trained on the same rows, or a judge would share its guide's mistakes.
A text belongs to half A or B by its hash, so that the halves are the same wherever and in whatever
order the file is read.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coopgen_jax.data.sources import Row, read_rows
from coopgen_jax.errors import UserError
from coopgen_jax.tokenizer import has_half_character

# What a class may be called by: its name, or a number.
NAMES = (str, int, float, np.generic)


@dataclass(frozen=True)
class Labelled:
    """Texts with their classes.

    Attributes:
      texts: `n` texts.
      labels: `[n]` int32 class numbers.
      classes: the classes' names, by number.
      broken: what is wrong with the rows that were left out, one line each.
      sources: the `n` texts that the rows were cut from, empty where nothing was cut.
      shares: `[n, C]` float32 the probability of every class that is learned from (soft labels);
        None where all of it is that of the label.
      teacher: who gave the shares, None where nobody did.
      neutral: `[n]` bool the texts that have no class, None where all have one.
      written: for every text the tokens of the prompt that it was written behind and those that
        were written, None for a text that no language model wrote; empty where none did.
    """

    texts: tuple[str, ...]
    labels: np.ndarray
    classes: tuple[str, ...]
    broken: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    shares: np.ndarray | None = None
    teacher: "Teacher | None" = None
    neutral: np.ndarray | None = None
    written: "tuple[Continuation | None, ...]" = ()

    @property
    def targets(self) -> list[Any]:
        """The class number of every row, or its list of `C` shares."""
        found: list[Any] = (self.labels if self.shares is None else self.shares).tolist()
        return found

    @property
    def origins(self) -> tuple[str, ...]:
        """The `n` texts that the rows come from: the sources where there are any."""
        return self.sources or self.texts

    def rows(self, keep: Sequence[int] | np.ndarray) -> "Labelled":
        """Returns the rows with the numbers `keep`, in that order."""
        chosen = np.asarray(keep, np.int64)
        return Labelled(
            tuple(self.texts[row] for row in chosen),
            self.labels[chosen],
            self.classes,
            sources=tuple(self.sources[row] for row in chosen) if self.sources else (),
            shares=None if self.shares is None else self.shares[chosen],
            teacher=self.teacher,
            neutral=None if self.neutral is None else self.neutral[chosen],
            written=tuple(self.written[row] for row in chosen) if self.written else (),
        )


# The tokens of a prompt and those that were written behind it.
Continuation = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Teacher:
    """Who labelled texts by probabilities. What was trained on them has read its rows, too.

    Attributes:
      name: what it is called.
      weights: hash of its weights or its file, None where there is none.
      rows: `[m]` fingerprint of what it was trained on, None where nobody knows.
    """

    name: str
    weights: str | None = None
    rows: np.ndarray | None = None


def half_of(text: str) -> str:
    """Returns "A" where the first hexadecimal digit of the text's SHA-1 is even, else "B"."""
    return "AB"[int(hashlib.sha1(text.encode()).hexdigest()[0], 16) % 2]


def half(data: Labelled, name: str) -> Labelled:
    """Returns the rows of half `name`, "A" or "B"."""
    return data.rows([row for row, text in enumerate(data.texts) if half_of(text) == name])


def joined(parts: Sequence[Labelled]) -> Labelled:
    """Returns the rows of several sets of the same classes as one set."""
    classes = parts[0].classes
    if any(part.classes != classes for part in parts):
        raise UserError(
            "these sets have different classes, so they cannot be joined: "
            + "; ".join(", ".join(part.classes) for part in parts)
        )
    texts = tuple(text for part in parts for text in part.texts)
    cut = any(part.sources for part in parts)
    sources = tuple(text for part in parts for text in part.origins) if cut else ()
    labels = np.concatenate([part.labels for part in parts])
    soft = any(part.shares is not None for part in parts)
    shares = np.concatenate([all_shares(part) for part in parts]) if soft else None
    teacher = next((part.teacher for part in parts if part.teacher), None)
    calm = [
        np.zeros(len(part.texts), bool) if part.neutral is None else part.neutral for part in parts
    ]
    written = [part.written or (None,) * len(part.texts) for part in parts]
    return Labelled(
        texts, labels, classes, sources=sources, shares=shares, teacher=teacher,
        neutral=np.concatenate(calm) if any(one.any() for one in calm) else None,
        written=sum(written, ()) if any(part.written for part in parts) else (),
    )  # fmt: skip


def all_shares(data: Labelled) -> np.ndarray:
    """Returns the share of every class `[n, C]` float32, all of it the label's where none is."""
    if data.shares is not None:
        return data.shares
    return np.eye(len(data.classes), dtype=np.float32)[data.labels]


def with_shares(
    texts: Sequence[str], classes: Sequence[str], shares: np.ndarray, **more: Any
) -> Labelled:
    """Returns texts with shares of classes `[n, C]`; their labels are the likeliest classes.

    Raises:
      UserError: the shares of a text are not finite, are below 0, or do not sum to 1.
    """
    shares = np.asarray(shares, np.float32)
    wrong = ~(np.isfinite(shares) & (shares >= 0)).all(axis=-1) | (abs(shares.sum(-1) - 1) > 1e-3)
    if wrong.any():
        at = int(wrong.argmax())
        said = ", ".join(f"{share:.3g}" for share in shares[at])
        raise UserError(
            f"the probabilities of {', '.join(classes)} are {said} for the text "
            f"{texts[at][:40]!r}: they must be 0 or more and sum to 1"
        )
    labels = shares.argmax(axis=-1).astype(np.int32)
    return Labelled(tuple(texts), labels, tuple(classes), shares=shares, **more)


def neutral(texts: Sequence[str], data: Labelled, *, balanced: bool = False) -> Labelled:
    """Returns texts that have none of the classes more than others: each has the prior.

    It is the mean of the classes' shares in `data`, or all are alike where they are `balanced`.
    """
    count = len(data.classes)
    prior = np.full(count, 1 / count) if balanced else all_shares(data).mean(axis=0)
    shares = np.tile(prior, (len(texts), 1))
    return with_shares(texts, data.classes, shares, neutral=np.ones(len(texts), bool))


def read_labelled(
    where: str | Path,
    *,
    text: str = "text",
    label: str = "label",
    classes: Sequence[str] | None = None,
    rename: Mapping[str, str] | None = None,
) -> Labelled:
    """Reads labelled texts.

    Args:
      where: a file or a dataset; see `sources.read_rows`.
      text: the column of texts.
      label: the column of class names.
      classes: the classes in their order, or None for those of the file, sorted.
      rename: what classes are called here, by what they are called there.

    Returns:
      Every row that has a text and a class; what is wrong with the others is in `broken`.

    Raises:
      UserError: the source cannot be read, a column is missing, all rows are broken, or a row has a
        class that is not among `classes`.
    """
    broken: list[str] = []
    found = _sound(where, (text,), broken, names=(label,))
    rows = [(row.place, *values) for row, values in found]
    names = [(rename or {}).get(name, name) for _, _, name in rows]
    known = tuple(sorted(set(names)) if classes is None else classes)
    numbers = {name: number for number, name in enumerate(known)}
    for (place, *_), name in zip(rows, names, strict=True):
        if name not in numbers:
            raise UserError(
                f"{where} has the class {name!r} in {place}: it must be {' or '.join(known)}"
            )
    labels = np.array([numbers[name] for name in names], np.int32)
    return Labelled(tuple(own for _, own, _ in rows), labels, known, tuple(broken))


def read_texts(where: str | Path, *, text: str = "text") -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns texts without classes, and what is wrong with other rows; see `read_labelled`."""
    rows, broken = read_columns(where, (text,))
    return tuple(values[0] for values in rows), broken


def read_columns(
    where: str | Path, columns: tuple[str, ...]
) -> tuple[tuple[tuple[str, ...], ...], tuple[str, ...]]:
    """Returns the rows that have all of several columns of texts, and what is wrong with others."""
    broken: list[str] = []
    rows = tuple(tuple(values) for _, values in _sound(where, columns, broken))
    return rows, tuple(broken)


def _sound(
    where: str | Path, columns: tuple[str, ...], broken: list[str], names: tuple[str, ...] = ()
) -> Iterator[tuple[Row, list[str]]]:
    """Yields the rows that have all columns, with their values.

    What is wrong with the others goes to `broken`. Of `columns` the values are texts; of `names`
    they may be numbers too.
    """
    found, rows = read_rows(where)
    for column in (*columns, *names):
        if column not in found:
            raise UserError(f"{where} has no column {column!r}: its columns are {', '.join(found)}")
    kinds = [(column, str) for column in columns] + [(column, NAMES) for column in names]
    sound = False
    for row in rows:
        faults = [_fault(column, row.values.get(column), kind) for column, kind in kinds]
        fault = row.fault or next(filter(None, faults), None)
        if fault:
            broken.append(f"{row.place}: {fault}")
            continue
        sound = True
        yield row, [str(row.values[column]).strip() for column, _ in kinds]
    if not sound and broken:
        raise UserError(f"{where} has no sound row among {len(broken)}: {broken[0]}")
    if not sound:
        raise UserError(f"{where} has no rows below its header: add at least one")


def _fault(column: str, value: Any, kind: Any) -> str | None:
    if value is None or not str(value).strip():
        return f"no {column}"
    if not isinstance(value, kind):
        return f"{column} is not a string" + (" or a number" if kind is NAMES else "")
    return f"half a character in {column}" if has_half_character(str(value)) else None
