"""Discriminators out of functions in a file of Python, named as python:FILE.py:FUNCTION.

The file is executed, with the rights of whoever starts the command: name only files that you trust.
"""

import hashlib
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from coopgen_jax.discriminators.host.function import class_rows, host_function, reward, reward_rows
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.errors import UserError
from coopgen_jax.tokenizer import Tokenizer

PREFIX = "python:"
# What a function is asked once, to see what it gives.
TRIAL = "The weather was fine."
REWARD = ("reward",)


@dataclass(frozen=True, eq=False)
class FileFunction:
    """A function of a file, which is called as it is; what fails in it becomes a sentence.

    Attributes:
      name: python:FILE.py:FUNCTION, as it was given.
      path: The file.
      function: From a list of texts to probabilities or rewards.
      sha256: Of the file; what it imports does not count.
      classes: The names of the classes, "reward" alone for a reward.
    """

    name: str
    path: Path
    function: Callable[[list[str]], Any]
    sha256: str
    classes: tuple[str, ...] = REWARD

    def __call__(self, texts: list[str]) -> Any:
        """Returns what the function gives; raises UserError where it fails."""
        try:
            return self.function(texts)
        except (Exception, SystemExit) as error:
            raise UserError(f"{self.name} failed: {_told(error, self.path)}") from error

    def rows(self, result: Any, count: int) -> np.ndarray:
        """Returns what the function gave for `count` texts as `[count, C]`.

        Raises:
          UserError: those are no probabilities of its classes, or no rewards.
        """
        try:
            if self.classes == REWARD:
                return reward_rows(result, count)
            return class_rows(result, count, self.classes)
        except UserError as error:
            raise UserError(f"{self.name}: {error}") from error
        except (TypeError, ValueError, KeyError) as error:
            kind = type(result).__name__
            raise UserError(
                f"{self.name} returned a {kind} that is neither probabilities nor numbers ({error})"
            ) from error


def is_python(name: object) -> bool:
    """Tells whether a discriminator's name names a function of a file."""
    return str(name).startswith(PREFIX)


def file_of(name: str) -> tuple[Path, str]:
    """Returns the file and the function that python:FILE.py:FUNCTION names.

    A path may have colons too: the last one counts.

    Raises:
      UserError: there is no such file, or no function is named.
    """
    file, _, function = name.removeprefix(PREFIX).rpartition(":")
    if not file or not function.isidentifier():
        raise UserError(f"{name} names no function: give python:FILE.py:FUNCTION")
    path = Path(file).expanduser()
    if not path.is_file():
        raise UserError(f"{name}: there is no file {path}")
    return path, function


def read_function(name: str) -> FileFunction:
    """Executes the file of python:FILE.py:FUNCTION and asks the function once what it gives.

    The folder of the file is put in front of `sys.path`. A file that has not changed since is not
    executed again.

    Returns:
      The function with its classes: those that it names in an attribute `classes`, else the keys of
      the mapping that it returns or its labels in the order of the alphabet, else "reward" where it
      returns one number a text.

    Raises:
      UserError: there is no such file or function, one of them fails, or it returns something else.
    """
    path, _ = file_of(name)
    try:
        source = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    return _read(name, str(path.resolve()), source)


def load_function(name: str, *, tokenizer: Tokenizer) -> LoadedDiscriminator:
    """Makes a discriminator of python:FILE.py:FUNCTION; see `read_function`.

    Args:
      name: python:FILE.py:FUNCTION.
      tokenizer: the language model's.

    Returns:
      A `host_function`, or a `reward` with its class "reward". The card holds the file's sha256.
    """
    found = read_function(name)
    if found.classes == REWARD:
        loaded = reward(found, tokenizer=tokenizer)
    else:
        loaded = host_function(found, classes=found.classes, tokenizer=tokenizer)
    card = {
        "kind": "python",
        "name": name,
        "classes": list(found.classes),
        "sha256": found.sha256,
    }
    return LoadedDiscriminator(loaded.discriminator, loaded.params, card, loaded.calls)


@cache
def _read(name: str, resolved: str, source: bytes) -> FileFunction:
    path, attribute = Path(resolved), name.rpartition(":")[2]
    digest = hashlib.sha256(source).hexdigest()
    module = _executed(path, source, f"_coopgen_{digest[:16]}")
    function = getattr(module, attribute, None)
    if function is None:
        raise UserError(f"{name}: {path.name} has no function {attribute}")
    if not callable(function):
        raise UserError(
            f"{name}: {attribute} is of the type {type(function).__name__}, no function"
        )
    unasked = FileFunction(name, path, function, digest)
    said = unasked([TRIAL])
    asked = FileFunction(name, path, function, digest, _classes(name, function, said))
    asked.rows(said, 1)
    return asked


def _executed(path: Path, source: bytes, name: str) -> ModuleType:
    """Returns the file as a module, made of the bytes that were read and no compiled copy."""
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    module = ModuleType(name)
    module.__file__ = str(path)
    # Classes that look up their own module, such as dataclasses, find it here.
    sys.modules[name] = module
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UserError(f"{path} cannot be imported: {_told(error, path)}") from error
    return module


def _told(error: BaseException, path: Path) -> str:
    """Returns an exception's type and message, and the line of the file that it came from."""
    if isinstance(error, UserError):
        return str(error)
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    lines = [
        number
        for frame, number in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename == str(path)
    ]
    if isinstance(error, SyntaxError) and error.filename == str(path) and error.lineno:
        lines.append(error.lineno)
    place = f" (line {lines[-1]})" if lines else ""
    words = " ".join(str(message).split())
    return f"{type(error).__name__}{': ' if words else ''}{words}{place}"


def _classes(name: str, function: Callable, said: Any) -> tuple[str, ...]:
    """Returns the classes of a function that gave `said` for one text."""
    declared = getattr(function, "classes", None)
    if declared is not None:
        return _declared(name, declared)
    first = said[0] if isinstance(said, Sequence) and not isinstance(said, str) and said else None
    if isinstance(first, Sequence) and first and all(isinstance(one, Mapping) for one in first):
        # Pipelines sort labels by score, which differs from text to text.
        found = sorted(str(entry["label"]) for entry in first if "label" in entry)
        return _declared(name, found)
    if isinstance(first, Mapping):
        if {"label", "score"} <= set(first):
            raise UserError(
                f"{name} gives the best label alone: have it give all of them (top_k=None)"
            )
        return _declared(name, tuple(first))
    return _unnamed(name, said)


def _declared(name: str, classes: Any) -> tuple[str, ...]:
    listed = isinstance(classes, Sequence) and not isinstance(classes, str)
    names = tuple(classes) if listed else ()
    if len(set(names)) < 2 or len(set(names)) < len(names) or not all(map(_is_text, names)):
        raise UserError(f"the classes of {name} are {classes!r}: they must be two or more names")
    return names


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _unnamed(name: str, said: Any) -> tuple[str, ...]:
    """Returns "reward" of one number; raises UserError of several, whose classes nobody names."""
    try:
        shape = np.asarray(said, np.float32).shape
    except (TypeError, ValueError):
        return REWARD  # the rows will say what is wrong
    if len(shape) == 2 and shape[0] == 1 and shape[1] > 1:
        function = name.rpartition(":")[2]
        raise UserError(
            f"{name} gives {shape[1]} numbers a text and does not name their classes: write "
            f"{function}.classes = ('first', 'second', ...) below it, a name for each column"
        )
    return REWARD
