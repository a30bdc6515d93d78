"""Files that a training keeps and reads back: there whole, or as they were before.

A file that a user names may be a device or a link, and two commands may name one: `cli.files` has
what is written there.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from coopgen_jax.errors import UserError


@contextmanager
def replacing(*paths: Path) -> Iterator[tuple[Path, ...]]:
    """Gives every file a name beside it to be written under; behind the block it takes its place.

    Where a block fails, what it has begun is removed and all files are as they were. Their folder
    is made.

    Raises:
      UserError: something cannot be written, as where the disk is full.
    """
    unfinished = tuple(path.with_name(f"{path.name}.part") for path in paths)
    try:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
        yield unfinished
        for begun, path in zip(unfinished, paths, strict=True):
            begun.replace(path)
    except (OSError, SafetensorError) as error:
        why = (isinstance(error, OSError) and error.strerror) or error
        raise UserError(
            f"{paths[-1]} cannot be written ({why}): make room and start again; nothing was left "
            "half-written"
        ) from error
    finally:
        for begun in unfinished:
            with suppress(OSError):
                begun.unlink(missing_ok=True)


def write_json(path: Path, values: Any) -> None:
    """Writes a JSON file; see `replacing`."""
    with replacing(path) as (unfinished,):
        text = json.dumps(values, indent=2, ensure_ascii=False)
        unfinished.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path, *, way_out: str = "delete it and start again") -> dict[str, Any]:
    """Returns the object in a JSON file.

    Raises:
      UserError: it is damaged; the message ends with `way_out`.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
        why: object = "it holds no object"
    except (OSError, ValueError) as error:
        why = error
    raise UserError(f"{path} is damaged ({why}): {way_out}")
