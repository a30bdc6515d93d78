"""A file of texts that grows: a header, then a line a text, a whole batch at once.

What a run that was broken off left behind is kept up to the last whole batch, so that going on
gives the batches, and so the texts, of a run that was never broken off.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coopgen_jax.decoding.names_on_disc import same_texts
from coopgen_jax.errors import UserError
from coopgen_jax.files import append_bytes, strict, to_json


def make_folder(folder: Path) -> None:
    """Makes a folder that files are to grow in; raises UserError where it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made: {error.strerror or error}") from error


def resume(
    path: Path, header: dict[str, Any], batches: Sequence[int], *, what: str = "texts"
) -> int:
    """Prepares a file to be gone on with, made where there is none; returns its number of batches.

    A line that was half written and a batch that has fewer texts than `batches` says are cut off.
    Messages call the rows `what`.

    Raises:
      UserError: it holds texts of other settings or something else, or cannot be written.
    """
    try:
        content = path.read_bytes() if path.exists() else b""
        kept, done = _whole(path, content, strict(header), batches, what)
        if done is None:
            kept, done = len(content), 0
            path.write_bytes(_line(header))
        elif kept < len(content):
            os.truncate(path, kept)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error
    return done


def _whole(
    path: Path, content: bytes, header: dict[str, Any], batches: Sequence[int], what: str
) -> tuple[int, int | None]:
    """Returns how many bytes are whole batches, and how many batches; None without a header."""
    lines = content.split(b"\n")[:-1]
    if not lines and _line(header).startswith(content):
        return 0, None
    found = _parsed(path, 1, lines[0]) if lines else None
    if not isinstance(found, dict) or "settings" not in found:
        raise UserError(f"{path} has no texts of this command: name another --out")
    if not same_texts(found, header):
        if len(lines) == 1:
            return 0, None  # nothing stands under it
        raise UserError(
            f"{path} holds {what} of {_difference(found, header)}: name another --out, or delete it"
        )
    at, kept, number = 1, len(lines[0]) + 1, 0
    for number, size in enumerate(batches):
        there = lines[at : at + size]
        for line, text in enumerate(there, start=at + 1):
            _parsed(path, line, text)
        if len(there) < size:
            return kept, number
        kept += sum(len(text) + 1 for text in there)
        at += size
    if len(lines) > at:
        raise UserError(f"{path} holds more {what} than are to be written: name another --out")
    return kept, len(batches)


def _line(value: dict[str, Any]) -> bytes:
    return to_json(value).encode("utf-8", errors="backslashreplace") + b"\n"


def _parsed(path: Path, number: int, line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise UserError(f"line {number} of {path} is not JSON: delete the file") from error


def _difference(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Returns what differs first between two headers, in words."""
    for part, other in wanted.items():
        one = found.get(part)
        if one == other:
            continue
        if isinstance(one, dict) and isinstance(other, dict):
            names = [name for name in {**other, **one} if one.get(name) != other.get(name)]
            if names:
                return f"another {names[0].replace('_', ' ')}"
        return f"another {part}"
    return "other settings"


def rows_in(path: Path) -> list[dict[str, Any]]:
    """Returns the rows under the header of a file that `resume` has prepared."""
    lines = path.read_text(encoding="utf-8").split("\n")[1:-1]
    return [json.loads(line) for line in lines]


def append(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Adds the texts of a batch, which are on the disk when it returns, or raises UserError."""
    append_bytes(path, b"".join(map(_line, rows)))
