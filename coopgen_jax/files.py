"""Files that are there in full, or as they were before.

`replacing` and `write_json` are for what the library keeps in folders of its own. A file that a
user names may be a device or a link, and two commands may name one: `write_whole` is for those.
"""

import hashlib
import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
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


def sha256_of(path: Path) -> str:
    """Returns the sha256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def strict(value: Any) -> Any:
    """Returns a value of plain JSON, with None in place of numbers that are not finite."""
    if isinstance(value, dict):
        return {str(key): strict(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [strict(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def to_json(value: Any, *, indent: int | None = None, ascii_only: bool = False) -> str:
    """Returns strict JSON: no NaN, no infinity."""
    return json.dumps(strict(value), ensure_ascii=ascii_only, allow_nan=False, indent=indent)


def write_json(path: Path, values: Any) -> None:
    """Writes a JSON file; see `replacing`."""
    with replacing(path) as (unfinished,):
        text = json.dumps(values, indent=2, ensure_ascii=False)
        unfinished.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path, *, way_out: str = "delete it and start again") -> dict[str, Any]:
    """Returns a JSON file's object, or raises UserError, ending with `way_out`: it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
        why: object = "it holds no object"
    except (OSError, ValueError) as error:
        why = error
    raise UserError(f"{path} is damaged ({why}): {way_out}")


def read_text(path: Path, way_out: str = "convert it first", *, label: str = "") -> str:
    """Returns a UTF-8 file's text; raises UserError, ending with `way_out`, where it is none."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{label}{path} is not UTF-8: {way_out}") from error
    except OSError as error:
        raise UserError(f"{label}{path} cannot be read: {error.strerror or error}") from error


def append_bytes(path: Path, content: bytes) -> None:
    """Adds bytes to a file of a long work, which are on the disk when it returns.

    Its folder is made.

    Raises:
      UserError: they cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(
            f"{path} cannot be written: {error.strerror or error}; start the same command again to "
            "go on"
        ) from error


def check_writable(path: Path, option: str) -> None:
    """Raises UserError, which names the flag `option`, where a file could not be written."""
    try:
        if path.is_dir():
            raise UserError(f"{option} {path} is a folder: name a file in it")
        if _is_special(path):
            if not os.access(path, os.W_OK):
                raise UserError(f"{option} {path} cannot be written")
            return
        final = path.resolve()
        if not final.parent.is_dir():
            raise UserError(f"{option} {path}: there is no folder {final.parent}")
        temporary = _temporary(final)
        temporary.touch(exist_ok=False)
        temporary.unlink()
    except OSError as error:
        raise UserError(f"{option} {path} cannot be written: {error.strerror or error}") from error


def check_apart(out: Path, inputs: Mapping[str, str | Path | None], option: str = "--out") -> None:
    """Raises UserError where what `option` writes is a file that is read, and would be destroyed.

    `inputs` has the path of each file that is read by its flag, None where there is none.
    """
    for flag, path in inputs.items():
        if path is not None and out.resolve() == Path(path).resolve():
            raise UserError(f"{option} {out} is {flag}: name another file")


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file so that it is there whole or, if UserError is raised, as it was before.

    The content, text as UTF-8, goes to a temporary file in the same folder, which then takes the
    name.
    """
    if isinstance(content, str):
        content = content.encode("utf-8", errors="backslashreplace")
    try:
        if _is_special(path):
            # A device or a pipe must not be replaced by a file.
            with path.open("wb") as file:
                file.write(content)
            return
        final = path.resolve()
        temporary = _temporary(final)
        try:
            with temporary.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if final.exists():
                shutil.copymode(final, temporary)
            temporary.replace(final)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(
            f"{path} could not be written: {error.strerror or error}; nothing was left half-written"
        ) from error


def _is_special(path: Path) -> bool:
    return path.exists() and not path.is_file()


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
