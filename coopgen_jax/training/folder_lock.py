"""One process trains in a folder at a time; the system frees a folder when its process ends."""

import fcntl
import os
from contextlib import suppress
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from coopgen_jax.errors import UserError

NAME = ".lock"
# The locks of this process by path. It may train in one folder several times, one after another.
_held: dict[Path, int] = {}


def lock(folder: Path) -> None:
    """Locks a folder, which is made, for the life of this process.

    Of several processes that train as one the first takes the lock for all. A file system without
    locks lets everyone in. Raises UserError where another process trains in the folder.
    """
    free = jax.process_index() > 0 or _take(folder)
    if jax.process_count() > 1:
        free = bool(multihost_utils.broadcast_one_to_all(np.int32(free)))
    if not free:
        raise UserError(
            f"another process trains in {folder}: wait until it ends, or give another folder"
        )


def _take(folder: Path) -> bool:
    """Returns False if another process holds the lock."""
    # A folder that cannot be written is reported when the training writes to it.
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    # Network file systems lock files alone.
    for path, mode in ((folder, os.O_RDONLY), (folder / NAME, os.O_RDWR | os.O_CREAT)):
        try:
            file = os.open(path, mode, 0o666)
        except OSError:
            continue
        held = _held.get(path.resolve())
        if held is not None and os.path.samestat(os.fstat(held), os.fstat(file)):
            os.close(file)
            return True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(file)
            if isinstance(error, BlockingIOError):
                return False
        else:
            _held[path.resolve()] = file
            return True
    return True
