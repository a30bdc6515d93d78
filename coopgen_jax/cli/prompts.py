"""Where prompts come from.

A broken row is left out, counted and named. It keeps its number, as do those behind it: a prompt's
noise depends on its number.
"""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import starmap
from pathlib import Path

from coopgen_jax.data.sources import left_out, split_lines
from coopgen_jax.errors import UserError
from coopgen_jax.tokenizer import Tokenizer, has_half_character

FIELDS = ("prompt", "text")


def read_prompts(
    texts: tuple[str, ...], file: Path | None, note: Callable[[str], None] = lambda sentence: None
) -> list[str | None]:
    """Returns the prompts of a job, None in the place of a broken one.

    Of the `texts` on the command line a single "-" is standard input; `note` hears how many are
    left out, and which.

    Raises:
      UserError: there is none that is sound, one on the command line is empty, or they cannot be
        read.
    """
    if texts and file:
        raise UserError("give prompts either on the command line or with --prompts, not both")
    if file:
        return _read_file(file, note)
    if texts == ("-",) and sys.stdin is None:
        raise UserError("- reads prompts from standard input, which is closed: give them otherwise")
    if texts == ("-",):
        content = _decoded(sys.stdin.buffer.read(), "standard input")
        rows = starmap(_checked, _lines(content, "standard input"))
        return _sound(rows, "standard input", note)
    if "-" in texts:
        raise UserError("- reads every prompt from standard input: give no other prompt beside it")
    if not texts:
        raise UserError(
            "there is no prompt: give one in quotes, a file with --prompts, or - for standard input"
        )
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            raise UserError(f"prompt {number} is empty: give it at least one word to continue")
    checked = (_checked(text, f"prompt {number}") for number, text in enumerate(texts, start=1))
    return _sound(checked, "the command line", note)


def read_messages(file: Path | None, default: int, count: int) -> list[int]:
    """Returns what the mark of every prompt's texts says: a line's "message", or the default.

    Raises:
      UserError: a line's message is no whole number of 0 or more.
    """
    if file is None or file.suffix != ".jsonl":
        return [default] * count
    found = []
    for line, place in _lines(_decoded(file.read_bytes(), str(file)), str(file)):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        said = entry.get("message", default) if isinstance(entry, dict) else default
        if not isinstance(said, int) or isinstance(said, bool) or said < 0:
            raise UserError(f'{place} has a "message" that is no whole number of 0 or more')
        found.append(said)
    return found


def as_read(
    tokenizer: Tokenizer,
    prompts: Sequence[str | None],
    *,
    chat: bool = False,
    control_strings: bool = False,
    note: Callable[[str], None] = lambda sentence: None,
) -> list[str | list[int] | None]:
    """Returns prompts as the model reads them: themselves, or the ids of a chat about each.

    With `control_strings`, names of special tokens in a prompt are those tokens in a chat too;
    without, `note` hears which prompts hold such names.

    Raises:
      UserError: see `Tokenizer.chat_ids`.
    """
    if not control_strings:
        _note_control_strings(tokenizer, prompts, chat, note)
    if not chat:
        return list(prompts)
    return [
        None if text is None else tokenizer.chat_ids(text, control_strings=control_strings)
        for text in prompts
    ]


def _note_control_strings(
    tokenizer: Tokenizer,
    prompts: Sequence[str | None],
    chat: bool,
    note: Callable[[str], None],
) -> None:
    # Without a chat a prompt may begin with the token that begins a text.
    front = "" if chat or tokenizer.bos_token is None else tokenizer.bos_token
    found = {
        number: names
        for number, text in enumerate(prompts, start=1)
        if text is not None and (names := tokenizer.control_strings(text.removeprefix(front)))
    }
    if not found:
        return
    number, names = next(iter(found.items()))
    more = f" and {len(found) - 1} others hold" if len(found) > 1 else " holds"
    read = (
        "text: --control-strings has them read as control tokens"
        if chat
        else "control tokens: --chat reads them as text"
    )
    note(f"prompt {number}{more} control strings ({', '.join(names)}), which are read as {read}")


def _read_file(path: Path, note: Callable[[str], None]) -> list[str | None]:
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
    row_of = _json_row if path.suffix == ".jsonl" else _checked
    rows = starmap(row_of, _lines(_decoded(content, str(path)), str(path)))
    return _sound(rows, str(path), note)


def _decoded(content: bytes, label: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"line {line} of {label} is not UTF-8: convert it first") from error


def _sound(
    rows: Iterable[str | UserError], label: str, note: Callable[[str], None]
) -> list[str | None]:
    """Returns the prompts, None for a broken one, which stands there as what is wrong with it."""
    found = list(rows)
    broken = [str(row) for row in found if isinstance(row, UserError)]
    if not found:
        raise UserError(f"{label} holds no prompt: put one on each line")
    if len(broken) == len(found):
        raise UserError(f"{label} holds no sound prompt among {len(broken)}: {broken[0]}")
    for sentence in left_out(broken):
        note(sentence)
    return [None if isinstance(row, UserError) else row for row in found]


def _checked(text: str, place: str) -> str | UserError:
    if has_half_character(text):
        return UserError(f"{place} holds half a character: it is not valid Unicode")
    return text


def _lines(text: str, label: str) -> Iterable[tuple[str, str]]:
    """Yields the lines that are not blank, and what each is called."""
    for number, line in enumerate(split_lines(text), start=1):
        if line.strip():
            yield line, f"line {number} of {label}"


def _json_row(line: str, place: str) -> str | UserError:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        return UserError(f"{place} is not JSON: {error}")
    values = [entry[name] for name in FIELDS if name in entry] if isinstance(entry, dict) else []
    if not values or not isinstance(values[0], str):
        return UserError(f'{place} is not an object with a "prompt" or a "text" that is a string')
    if not values[0].strip():
        return UserError(f"{place} has an empty prompt")
    return _checked(values[0], place)
