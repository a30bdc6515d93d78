"""Files that are written whole or not at all."""

import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from coopgen_jax.errors import UserError


def check_writable(path: Path, option: str) -> None:
    """Tries whether `path` could be written, before any long work starts.

    Raises:
      UserError: it could not; `option` is what the message calls the flag.
    """
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


def write_whole(path: Path, content: str) -> None:
    """Writes a UTF-8 file so that it is there whole or, if that fails, as it was before.

    The content goes to a temporary file in the same folder, which then takes the name.

    Raises:
      UserError: the disk is full or cannot be written.
    """
    data = content.encode("utf-8", errors="backslashreplace")
    try:
        if _is_special(path):
            # A device or a pipe must not be replaced by a file.
            with path.open("wb") as file:
                file.write(data)
            return
        final = path.resolve()
        temporary = _temporary(final)
        try:
            with temporary.open("xb") as file:
                file.write(data)
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
