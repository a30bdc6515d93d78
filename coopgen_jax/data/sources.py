"""Where texts come from: CSV, TSV, JSON lines, plain lines, and TensorFlow Datasets.

A source is a sequence of rows, each a mapping from column to value with a place to name it by. A
fault of one row (too few fields, no JSON) makes that row broken: it is left out, counted and named.
A fault of the source (no such column, bytes that are not text) is an error.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from coopgen_jax.errors import UserError

TFDS = "tfds:"


@dataclass(frozen=True)
class Row:
    """One row of a source.

    Attributes:
      place: where the row stands, such as "row 3".
      values: what each column holds.
      fault: what is wrong with the row, None where nothing is.
    """

    place: str
    values: Mapping[str, Any]
    fault: str | None = None


# The names of the columns, and the rows.
Source = tuple[tuple[str, ...], Iterator[Row]]


def left_out(broken: Sequence[str], named: int = 3, *, what: str = "row") -> list[str]:
    """Returns a sentence that counts the `broken` rows and names the first, or nothing.

    `what` is the word for one of them.
    """
    if not broken:
        return []
    more = ", ..." if len(broken) > named else ""
    rows = what if len(broken) == 1 else f"{what}s"
    return [f"{len(broken)} {rows} left out ({', '.join(broken[:named])}{more})"]


def split_lines(content: str) -> list[str]:
    r"""Returns the lines of a file, which end at "\n" or "\r\n" alone.

    `str.splitlines` also ends a line at characters that a text may hold, such as U+2028 or a form
    feed.
    """
    return [line.removesuffix("\r") for line in content.split("\n")]


def read_rows(where: str | Path) -> Source:
    """Opens a source.

    Args:
      where: a file that ends in .csv or .tsv (with a header), .jsonl (an object a line) or .txt (a
        text a line, in the column "text"), in UTF-8; or `tfds:NAME/SPLIT`, a dataset that
        TensorFlow Datasets has or can prepare.

    Returns:
      The names of the columns (of JSON lines those of the first object), and the rows.

    Raises:
      UserError: there is no such file or dataset, its kind is unknown, it is empty or not in UTF-8.
    """
    if str(where).startswith(TFDS):
        return _tfds(str(where).removeprefix(TFDS))
    path = Path(where).expanduser()
    if path.suffix.lower() not in FORMATS:
        raise UserError(
            f"{path} is of an unknown kind: give a file that ends in {', '.join(FORMATS)}, or "
            "tfds:NAME/SPLIT"
        )
    if not path.is_file():
        raise UserError(f"{path} is not a file: give one that ends in {', '.join(FORMATS)}")
    try:
        # Line breaks inside quotes belong to a CSV field, so they are left as they are.
        with path.open(encoding="utf-8-sig", newline="") as stream:
            content = stream.read()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not in UTF-8 (byte {error.start} is {error.object[error.start]:#x}): "
            "convert it first"
        ) from error
    if "\n" not in content:
        # Old files end their lines with "\r" alone.
        content = content.replace("\r", "\n")
    if not content.strip():
        raise UserError(f"{path} is empty: give a file with at least one row")
    return FORMATS[path.suffix.lower()](path, content)


def _separated(path: Path, content: str, *, delimiter: str) -> Source:
    # A stream ends lines at "\n" alone; what follows a bare "\r" outside quotes is an error.
    reader = csv.reader(io.StringIO(content, newline="\n"), delimiter=delimiter)
    try:
        header = tuple(next(reader))
    except csv.Error as error:
        raise UserError(f"{path} has a header that cannot be read: {error}") from error

    def rows() -> Iterator[Row]:
        number = 0
        while True:
            fault = None
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                fields, fault = [], str(error)
            if not fields and fault is None:
                continue
            number += 1
            if fault is None and len(fields) != len(header):
                fault = f"{len(fields)} fields instead of {len(header)}"
            yield Row(f"row {number}", dict(zip(header, fields, strict=False)), fault)

    return header, rows()


def _json_lines(path: Path, content: str) -> Source:
    def rows() -> Iterator[Row]:
        for number, line in enumerate(split_lines(content), start=1):
            if not line.strip():
                continue
            try:
                values = json.loads(line)
            except ValueError:
                yield Row(f"line {number}", {}, "no JSON")
                continue
            fault = None if isinstance(values, dict) else "no JSON object"
            yield Row(f"line {number}", values if fault is None else {}, fault)

    columns = next((tuple(row.values) for row in rows() if row.fault is None), ())
    return columns, rows()


def _lines(path: Path, content: str) -> Source:
    lines = enumerate(split_lines(content), start=1)
    return ("text",), (Row(f"line {n}", {"text": line}) for n, line in lines if line.strip())


FORMATS: dict[str, Callable[[Path, str], Source]] = {
    ".csv": partial(_separated, delimiter=","),
    ".tsv": partial(_separated, delimiter="\t"),
    ".jsonl": _json_lines,
    ".txt": _lines,
}


def _tfds(name: str) -> Source:
    dataset, _, split = name.rpartition("/")
    if not dataset or not split:
        raise UserError(
            f"{TFDS}{name} names no split: give tfds:NAME/SPLIT, such as tfds:imdb/train"
        )
    try:
        import tensorflow_datasets as tfds

        builder = tfds.builder(dataset, file_format="array_record")
        builder.download_and_prepare()
        source = builder.as_data_source(split=split)
        features = builder.info.features
    except Exception as error:  # the library raises whatever its parts raise
        reason = str(error).strip().splitlines()
        raise UserError(
            f"{TFDS}{name} cannot be read ({reason[0] if reason else type(error).__name__}): see "
            "its name and splits on tensorflow.org/datasets"
        ) from error

    def plain(column: str, value: Any) -> Any:
        if isinstance(value, bytes):
            return value.decode("utf-8", errors="replace")
        names = getattr(features[column], "names", None)
        return names[int(value)] if names else value

    def rows() -> Iterator[Row]:
        for number in range(len(source)):
            values = {column: plain(column, value) for column, value in source[number].items()}
            yield Row(f"row {number + 1}", values)

    return tuple(features), rows()
