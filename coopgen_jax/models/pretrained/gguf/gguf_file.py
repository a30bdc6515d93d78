"""The container of a GGUF file: its metadata and its tensors.

The `gguf` package knows the quantisations and is asked for them. Its reader of the header makes an
array out of every string, which takes seconds for a vocabulary, hence the one here (the format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
"""

import struct
from dataclasses import dataclass
from math import gcd, prod
from pathlib import Path
from typing import Any, NoReturn

import gguf
import numpy as np
from gguf.quants import dequantize

from coopgen_jax.errors import UserError

VERSIONS = (2, 3)
# Metadata types 0 to 12 by their numbers; 8 is a string and 9 an array.
SCALARS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
TEXT, ARRAY = 8, 9
# Numbers dequantised together, times 16: as much as the processor caches well.
ROW = 1 << 14


@dataclass(frozen=True)
class Entry:
    """A tensor: its shape, slowest axis first, the number of its type, and its first byte."""

    shape: tuple[int, ...]
    kind: int
    offset: int


class GgufFile:
    """Metadata, with lists for arrays, and tensors, which are read when they are asked for."""

    def __init__(self, path: Path) -> None:
        """Reads the header; raises UserError where it is no GGUF file of a known version."""
        self.label = path.name
        self._data = _map(path)
        self._header = self._data.data
        self._place = 4
        if bytes(self._data[:4]) != b"GGUF":
            raise UserError(f"{path} is not a GGUF file: it does not begin with 'GGUF'")
        version = self._number("I")
        if version not in VERSIONS:
            raise UserError(
                f"{path} is a GGUF file of version {version} or of the other byte order, and only "
                f"little-endian versions {' and '.join(map(str, VERSIONS))} are read: convert it "
                "again with a current llama.cpp"
            )
        count, pairs = self._number("Q"), self._number("Q")
        self.metadata: dict[str, Any] = {}
        for _ in range(pairs):
            key = self._text()
            self.metadata[key] = self._value(self._number("I"))
        tensors = [self._tensor() for _ in range(count)]
        alignment = self.metadata.get("general.alignment", 32)
        start = -(-self._place // alignment) * alignment
        self.tensors = {
            name: Entry(shape, kind, start + offset) for name, shape, kind, offset in tensors
        }

    def find(self, name: str) -> str | None:
        """Returns `name` if there is a tensor of that name."""
        return name if name in self.tensors else None

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of a tensor, slowest axis first."""
        return self.tensors[name].shape

    def read(self, name: str) -> np.ndarray:
        """Returns a tensor, dequantised; raises UserError where its quantisation is unknown."""
        entry = self.tensors[name]
        try:
            kind = gguf.GGMLQuantizationType(entry.kind)
            block, size = gguf.GGML_QUANT_SIZES[kind]
            blocks = prod(entry.shape) // block
            raw = self._data[entry.offset : entry.offset + blocks * size]
            if len(raw) < blocks * size:
                self._cut_short()
            # The package works on 16 rows at a time, which is slow on short rows; blocks are
            # independent of each other, so rows may be of any length.
            row = gcd(blocks, ROW // block or 1)
            values = dequantize(raw.reshape(-1, row * size), kind)
        except (KeyError, NotImplementedError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"tensor {name!r} of {self.label} is stored in a way that is not read (GGUF type "
                f"{entry.kind}): use F32, F16, BF16, Q8_0, Q6_K, Q5_K, Q4_K, Q4_1 or Q4_0"
            ) from error
        return values.reshape(entry.shape)

    def _cut_short(self) -> NoReturn:
        raise UserError(f"{self.label} is cut short or damaged: fetch it again")

    def _number(self, code: str) -> Any:
        try:
            (value,) = struct.unpack_from("<" + code, self._header, self._place)
        except struct.error:
            self._cut_short()
        self._place += struct.calcsize("<" + code)
        return value

    def _text(self) -> str:
        length = self._number("Q")
        raw = self._bytes(length)
        # Some vocabularies hold pieces of characters as they are.
        return raw.decode("utf-8", "replace")

    def _bytes(self, length: int) -> bytes:
        raw = bytes(self._header[self._place : self._place + length])
        if len(raw) < length:
            self._cut_short()
        self._place += length
        return raw

    def _value(self, kind: int) -> Any:
        if kind == TEXT:
            return self._text()
        if kind in SCALARS:
            return self._number(SCALARS[kind])
        if kind != ARRAY:
            self._cut_short()
        item, length = self._number("I"), self._number("Q")
        if item in SCALARS:
            code = SCALARS[item]
            return list(
                struct.unpack(f"<{length}{code}", self._bytes(length * struct.calcsize(code)))
            )
        return [self._value(item) for _ in range(length)]

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._text()
        axes = [self._number("Q") for _ in range(self._number("I"))]
        return name, tuple(reversed(axes)), self._number("I"), self._number("Q")


def _map(path: Path) -> np.ndarray:
    if path.stat().st_size < 4:
        raise UserError(f"{path} is not a GGUF file: it is empty")
    try:
        data = np.memmap(path, mode="r")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): change its rights") from error
    # A plain array: slicing a memmap costs more than what is read.
    return data.view(np.ndarray)
