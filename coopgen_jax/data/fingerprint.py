"""Which texts something was trained on, told without the texts.

A fingerprint is the sorted set of 8-byte hashes of texts, white space and case folded. Every
training leaves one beside its card, so that what judges can be compared with what has guided, row
by row, on a machine that has neither's data. Of pieces of longer texts the sources are hashed: two
pieces of one review are not the same text, and a judge that was trained on one knows the review.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from coopgen_jax.data.labelled import half_of
from coopgen_jax.errors import UserError
from coopgen_jax.files import replacing

FILE = "rows.npy"


def fingerprint(texts: Iterable[str]) -> np.ndarray:
    """Returns the sorted uint64 hashes `[m]` of texts, each different text once."""
    hashes = {
        int.from_bytes(hashlib.blake2b(_folded(text).encode(), digest_size=8).digest(), "big")
        for text in texts
    }
    return np.array(sorted(hashes), np.uint64)


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def common_half(texts: Iterable[str]) -> str | None:
    """Returns the half, "A" or "B", to which all texts belong; None where there is no such half."""
    halves = set(map(half_of, texts))
    return halves.pop() if len(halves) == 1 else None


def write_fingerprint(folder: Path, rows: np.ndarray) -> None:
    """Writes a fingerprint into a folder, which is made; what was there is replaced at once."""
    with replacing(folder / FILE) as (unfinished,), unfinished.open("wb") as file:
        np.save(file, rows)


def read_fingerprint(folder: Path) -> np.ndarray | None:
    """Returns a folder's fingerprint, None without any; raises UserError where it is damaged."""
    path = folder / FILE
    if not path.is_file():
        return None
    damaged = UserError(f"{path} is no list of hashes: train anew, or delete it")
    try:
        rows = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise damaged from error
    if getattr(rows, "ndim", 0) != 1 or rows.dtype != np.uint64:
        raise damaged
    return rows
