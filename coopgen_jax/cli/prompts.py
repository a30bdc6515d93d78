"""Where prompts come from."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path

from coopgen_jax.errors import UserError

FIELDS = ("prompt", "text")


def read_prompts(texts: tuple[str, ...], file: Path | None) -> list[str]:
    """Returns the prompts of a job.

    Args:
      texts: those on the command line; a single "-" is standard input.
      file: a file of prompts.

    Raises:
      UserError: there is none, one is empty, or they cannot be read.
    """
    if texts and file:
        raise UserError("give prompts either on the command line or with --prompts, not both")
    if file:
        return _read_file(file)
    if texts == ("-",) and sys.stdin is None:
        raise UserError("- reads prompts from standard input, which is closed: give them otherwise")
    if texts == ("-",):
        return _lines(_decoded(sys.stdin.buffer.read(), "standard input"), "standard input")
    if "-" in texts:
        raise UserError("- reads every prompt from standard input: give no other prompt beside it")
    if not texts:
        raise UserError(
            "there is no prompt: give one in quotes, a file with --prompts, or - for standard input"
        )
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            raise UserError(f"prompt {number} is empty: give it at least one word to continue")
    return list(texts)


def _read_file(path: Path) -> list[str]:
    if path.suffix not in ("", ".txt", ".jsonl"):
        raise UserError(
            f"{path} is neither a .txt file with one prompt a line nor a .jsonl file with a "
            '"prompt" or "text" in each line'
        )
    try:
        content = path.read_bytes()
    except IsADirectoryError as error:
        raise UserError(f"{path} is a folder: --prompts wants a .txt or .jsonl file") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    text = _decoded(content, str(path))
    if path.suffix == ".jsonl":
        return _some(_json_lines(text, path), str(path))
    return _lines(text, str(path))


def _decoded(content: bytes, label: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"line {line} of {label} is not UTF-8: convert it first") from error


def _split(text: str) -> list[str]:
    # Not splitlines, which also splits at characters that prompts may hold.
    return [line.removesuffix("\r") for line in text.split("\n")]


def _lines(text: str, label: str) -> list[str]:
    return _some((line for line in _split(text) if line.strip()), label)


def _some(prompts: Iterable[str], label: str) -> list[str]:
    found = list(prompts)
    if not found:
        raise UserError(f"{label} holds no prompt: put one on each line")
    return found


def _json_lines(text: str, path: Path) -> Iterable[str]:
    for number, line in enumerate(_split(text), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise UserError(f"line {number} of {path} is not JSON: {error}") from error
        values = (
            [entry[name] for name in FIELDS if name in entry] if isinstance(entry, dict) else []
        )
        if not values or not isinstance(values[0], str):
            raise UserError(
                f'line {number} of {path} is not an object with a "prompt" or a "text" that is a '
                "string"
            )
        if not values[0].strip():
            raise UserError(f"line {number} of {path} has an empty prompt")
        yield values[0]
