"""Labelled texts: a CSV file with a header in, texts and class numbers out.

Guides and judges must not learn the same rows, or a judge would share its guide's mistakes. A text
belongs to half A or B by its hash, so that the halves are the same wherever and in whatever order
the file is read.
"""

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coopgen_jax.errors import UserError


@dataclass(frozen=True)
class Labelled:
    """Texts with their classes.

    texts: `n` texts.
    labels: `[n]` int32 class numbers.
    classes: the classes' names, by number.
    """

    texts: tuple[str, ...]
    labels: np.ndarray
    classes: tuple[str, ...]

    def rows(self, keep: Sequence[int]) -> "Labelled":
        """Returns the rows with the numbers `keep`, in that order."""
        chosen = np.asarray(keep, np.int64)
        return Labelled(tuple(self.texts[row] for row in chosen), self.labels[chosen], self.classes)


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
    return Labelled(texts, np.concatenate([part.labels for part in parts]), classes)


def read_labelled(
    path: str | Path,
    *,
    text: str = "text",
    label: str = "label",
    classes: Sequence[str] | None = None,
) -> Labelled:
    """Reads a CSV file in UTF-8 with a header.

    Args:
      path: the file.
      text: name of the column of texts.
      label: name of the column of class names.
      classes: the classes in their order, or None for those of the file, sorted.

    Returns:
      Every row of the file.

    Raises:
      UserError: the file is missing, empty or no UTF-8, a column is missing, or a row has a class
        that is not among `classes`.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} is not a file: give a CSV file with columns {text} and {label}")
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream)
            header = reader.fieldnames or ()
            for column in (text, label):
                if column not in header:
                    raise UserError(
                        f"{path} has no column {column!r}: its columns are {', '.join(header)}"
                    )
            rows = [(row[text] or "", row[label] or "") for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a CSV file in UTF-8: {error}") from error
    if not rows:
        raise UserError(f"{path} has no rows below its header: add at least one")
    names = tuple(sorted({name for _, name in rows}) if classes is None else classes)
    numbers = {name: number for number, name in enumerate(names)}
    for line, (_, name) in enumerate(rows, start=1):
        if name not in numbers:
            raise UserError(
                f"{path} has the class {name!r} in row {line}: it must be {' or '.join(names)}"
            )
    labels = np.array([numbers[name] for _, name in rows], np.int32)
    return Labelled(tuple(one for one, _ in rows), labels, names)
