"""Tensors out of a file of torch's first format, without torch and without running a pickle.

Such a file is five pickles (a number, a version, the machine's sizes, the table of tensors, the
names of their storages) and then the storages' bytes. A pickle can name any function of any module
and call it. Here the names that a table of tensors needs are a closed list, each stands for a
function of this module, and every other name is refused before anything is imported.
"""

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from coopgen_jax.errors import UserError

MAGIC = 0x1950A86A20F9469CFC6C
VERSION = 1001


class _Kind(NamedTuple):
    """What a storage holds; it cannot be called."""

    dtype: str


class _Storage(NamedTuple):
    key: str
    kind: _Kind
    size: int


class _View(NamedTuple):
    """A tensor: where it begins in a storage, its shape, and its steps along the axes."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    steps: tuple[int, ...]


class _Rebuild(NamedTuple):
    """Stands for torch's function that makes a tensor; a pickle can set nothing on it."""

    def __call__(self, storage: Any, offset: Any, shape: Any, steps: Any, *_: Any) -> _View:
        """Returns the tensor, without what torch says of gradients and hooks."""
        if not isinstance(storage, _Storage):
            raise ValueError("a tensor has no storage")
        return _View(storage, int(offset), tuple(map(int, shape)), tuple(map(int, steps)))


# All that a table of tensors names, and what it stands for.
KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "FloatStorage"): _Kind("<f4"),
    ("torch", "LongStorage"): _Kind("<i8"),
    ("torch._utils", "_rebuild_tensor_v2"): _Rebuild(),
}


class _Unpickler(pickle.Unpickler):
    """Reads a pickle in which no name but those of a closed list is known."""

    def __init__(self, file: BinaryIO, known: dict[tuple[str, str], Any]) -> None:
        super().__init__(file, encoding="utf-8")
        self.known = known

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.known:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return self.known[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        mark, kind, key, _, size, view = pid
        if mark != "storage" or not isinstance(kind, _Kind) or view is not None or not self.known:
            raise pickle.UnpicklingError("it has a storage of an unknown kind")
        return _Storage(str(key), kind, int(size))


class TorchFile:
    """The tensors of a file, as `assemble.Weights`."""

    def __init__(self, path: Path) -> None:
        """Reads all of a file.

        Raises:
          UserError: it is not of this format, is damaged, or asks for what no table of tensors
            needs.
        """
        self.label = str(path)
        try:
            with path.open("rb") as file:
                self._tensors = _read(file, path.stat().st_size)
        # What a damaged pickle raises is anything.
        except Exception as error:
            what = " ".join(f"{error or type(error).__name__}".split())
            raise UserError(
                f"{path} is not a table of tensors in torch's first format, or is damaged "
                f"({what}): fetch it again"
            ) from error

    def find(self, name: str) -> str | None:
        """Returns the name of a tensor, None where there is none."""
        return name if name in self._tensors else None

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of a tensor."""
        shape: tuple[int, ...] = self._tensors[name].shape
        return shape

    def read(self, name: str) -> np.ndarray:
        """Returns a tensor; raises UserError where it holds whole numbers."""
        if self._tensors[name].dtype.kind != "f":
            raise UserError(f"tensor {name!r} of {self.label} holds whole numbers: fetch it again")
        return self._tensors[name]


def _read(file: BinaryIO, size: int) -> dict[str, np.ndarray]:
    for wanted in (MAGIC, VERSION):
        if _Unpickler(file, {}).load() != wanted:
            raise ValueError("it does not begin as such a file does")
    machine = _Unpickler(file, {}).load()
    if machine.get("little_endian") is not True:
        raise ValueError("its numbers have another order of bytes")
    table = _Unpickler(file, KNOWN).load()
    keys = _Unpickler(file, {}).load()
    if not isinstance(table, dict) or not isinstance(keys, list):
        raise ValueError("it holds no table of tensors")
    views = {name: view for name, view in table.items() if isinstance(view, _View)}
    if len(views) < len(table):
        raise ValueError("it holds more than tensors")
    storages = {view.storage.key: view.storage for view in views.values()}
    held = {key: _numbers(file, storages[key], size) for key in keys}
    return {str(name): _tensor(held[view.storage.key], view) for name, view in views.items()}


def _numbers(file: BinaryIO, storage: _Storage, size: int) -> np.ndarray:
    kind = np.dtype(storage.kind.dtype)
    count = int.from_bytes(file.read(8), "little")
    if count != storage.size or count * kind.itemsize > size:
        raise ValueError(f"storage {storage.key} has another size")
    content = file.read(count * kind.itemsize)
    return np.frombuffer(content, kind, count)


def _tensor(numbers: np.ndarray, view: _View) -> np.ndarray:
    # In Python's own whole numbers, which do not overflow.
    last = view.offset + sum(
        step * (count - 1) for step, count in zip(view.steps, view.shape, strict=True)
    )
    least = min(view.offset, *view.steps, *(count - 1 for count in view.shape), 0)
    if least < 0 or last >= len(numbers):
        raise ValueError("a tensor reaches beyond its storage")
    steps = [step * numbers.itemsize for step in view.steps]
    found = np.lib.stride_tricks.as_strided(
        numbers[view.offset :], view.shape, steps, writeable=False
    )
    return found
