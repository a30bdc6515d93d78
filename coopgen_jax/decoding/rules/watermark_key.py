"""A watermark's key: its secret, how the mark is made, and for which tokens; kept in a file."""

import hashlib
import json
import math
import os
import secrets
import shlex
import stat
import warnings
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_args

from coopgen_jax.decoding.rules.keys import SECRET_WORDS
from coopgen_jax.decoding.rules.watermark import Scheme, Watermark
from coopgen_jax.errors import UserError
from coopgen_jax.tokenizer import Tokenizer

FORMAT = "coopgen_jax watermark key"
VERSION = 1
# Indices of tokens are added in uint32 words.
LARGEST_VOCABULARY = 2**31
# A key file is a few hundred bytes: more is read from no file.
_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class WatermarkKey:
    """What a text is marked with, and what finds the mark again.

    Whoever has the secret can find the mark, imitate it and remove it. It is in no representation
    and in no message of an error.

    Attributes:
      watermark: which mark.
      secret: four words of 32 bits.
      vocab_size: of the language model's logits; messages shift tokens modulo it.
      tokenizer: `Tokenizer.identity` of the tokenizer whose tokens are marked.
      model: name or path of the model that the tokenizer came from.
    """

    watermark: Watermark
    secret: tuple[int, int, int, int] = field(repr=False)
    vocab_size: int
    tokenizer: str
    model: str

    def __post_init__(self) -> None:
        if len(self.secret) != SECRET_WORDS or not all(
            _is_whole(word) and 0 <= word < 2**32 for word in self.secret
        ):
            raise UserError("the key's secret is not four words of 32 bits: make a new key")
        if not _is_whole(self.vocab_size) or not 1 <= self.vocab_size <= LARGEST_VOCABULARY:
            raise UserError(
                f"the key's vocab_size is not a whole number from 1 to {LARGEST_VOCABULARY}: give "
                "the number of the language model's logits"
            )

    @property
    def identity(self) -> str:
        """12 hexadecimal digits that tell this key from others and do not give the secret away.

        They are of the secret and the settings; the model's name is not among them.
        """
        content = {key: value for key, value in _plain(self).items() if key != "model"}
        text = json.dumps(content, sort_keys=True, allow_nan=False)
        return hashlib.sha256(f"{FORMAT}, identity\0{text}".encode()).hexdigest()[:12]

    def check(self, tokenizer: Tokenizer, vocab_size: int | None = None) -> None:
        """Raises UserError where a model's tokens are not those of the key.

        Its `tokenizer` splits texts otherwise, or its network knows another number of tokens.
        """
        if vocab_size is not None and vocab_size != self.vocab_size:
            raise UserError(
                f"key {self.identity} is for {self.vocab_size} tokens, and this language model has "
                f"{vocab_size}: make a key for it"
            )
        if tokenizer.identity != self.tokenizer:
            raise UserError(
                f"key {self.identity} marks the tokens of {self.model}, and the tokenizer given "
                f"splits texts into others: give the tokenizer of {self.model}"
            )


def new_key(
    watermark: Watermark, *, tokenizer: Tokenizer, vocab_size: int, model: str
) -> WatermarkKey:
    """Returns a key with a new secret, of the system's source of randomness.

    Args:
      watermark: which mark.
      tokenizer: the language model's.
      vocab_size: `V`, the number of its logits.
      model: its name or path.

    Raises:
      UserError: the vocabulary is empty or larger than 2^31.
    """
    one, two, three, four = (secrets.randbits(32) for _ in range(SECRET_WORDS))
    return WatermarkKey(watermark, (one, two, three, four), vocab_size, tokenizer.identity, model)


def save_key(key: WatermarkKey, path: Path | str, overwrite: bool = False) -> None:
    """Writes a key to a file that its owner alone can read, in full or not at all.

    Raises:
      UserError: there is a file already and `overwrite` is false, for without its key no mark is
        ever found again; or the file cannot be written.
    """
    path = Path(path)
    text = json.dumps(_plain(key), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        if path.is_dir():
            raise UserError(f"{path} is a folder: name a file in it for the key")
        # Readable by the owner alone from its first byte on.
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            temporary.replace(path)
        else:
            _take_free_name(temporary, path)
    except FileExistsError:
        raise UserError(
            f"{path} exists, and texts marked with a lost key are never found again: choose "
            "another name for the new key"
        ) from None
    except OSError as error:
        raise UserError(
            f"the key cannot be written to {path}: {error.strerror or 'the system refuses'}"
        ) from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _take_free_name(temporary: Path, path: Path) -> None:
    """Gives a file another name, or raises FileExistsError where a file has it."""
    try:
        # A rename would replace what stands there; a link does not.
        path.hardlink_to(temporary)
    except FileExistsError:
        raise
    except OSError:
        # A file system without links: an empty file keeps the name free for the one that follows.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        try:
            temporary.replace(path)
        except OSError:
            path.unlink(missing_ok=True)
            raise


def load_key(path: Path | str) -> WatermarkKey:
    """Returns the key of a file that `save_key` wrote; warns where others can read the file.

    Raises:
      UserError: there is no such file, or it holds no key, or one of another version.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise UserError(f"{path} is a folder: name the key file in it")
        with path.open("rb") as file:
            content, mode = file.read(_MOST_BYTES + 1), os.fstat(file.fileno()).st_mode
    except FileNotFoundError:
        raise UserError(f"there is no key file {path}: name one that was saved") from None
    except OSError as error:
        raise UserError(
            f"the key file {path} cannot be read: {error.strerror or 'the system refuses'}"
        ) from None
    # Sentences about faults leave out the file's content, which is secret.
    try:
        found = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{path} is no key file, for it is not a JSON object: name one saved here")
    key = _KeyFile(path, found).key()
    if os.name != "nt" and stat.S_ISREG(mode) and mode & (stat.S_IRWXG | stat.S_IRWXO):
        warnings.warn(
            f"{path} holds a secret that others on this machine can reach: run chmod 600 "
            f"{shlex.quote(str(path))}",
            stacklevel=2,
        )
    return key


@dataclass(frozen=True)
class _KeyFile:
    """A key file's content, in parts that are checked when they are asked for."""

    path: Path
    content: dict[str, Any] = field(repr=False)

    def key(self) -> WatermarkKey:
        if self.content.get("format") != FORMAT:
            raise UserError(f"{self.path} is no watermark key: name a file that save_key wrote")
        if self._whole(self.content, "version") != VERSION:
            raise UserError(
                f"{self.path} is a key of another version than {VERSION}, the one that this "
                "release of coopgen_jax reads: use the release that made it"
            )
        settings = self._entry(self.content, "watermark", dict, "an object")
        values: dict[str, Any] = {}
        for entry in fields(Watermark):
            match entry.name:
                case "scheme":
                    values["scheme"] = self._entry(settings, "scheme", str, "a text")
                case "mark_repeats":
                    values["mark_repeats"] = self._entry(
                        settings, "mark_repeats", bool, "true or false"
                    )
                case "window" | "layers":
                    values[entry.name] = self._whole(settings, entry.name)
                case _:
                    values[entry.name] = self._real(settings, entry.name)
        # Not by the name itself, which could be anything.
        if values["scheme"] not in get_args(Scheme):
            raise self._fault(f'"scheme" is none of {", ".join(get_args(Scheme))}')
        try:
            watermark = Watermark(**values)
        except ValueError as error:
            raise self._fault(str(error)) from None
        secret = self._entry(self.content, "secret", str, "a text")
        if len(secret) != 8 * SECRET_WORDS or not set(secret) <= set("0123456789abcdef"):
            raise self._fault(f'"secret" is not {8 * SECRET_WORDS} hexadecimal digits')
        one, two, three, four = (int(secret[at : at + 8], 16) for at in range(0, len(secret), 8))
        size = self._whole(self.content, "vocab_size")
        if not 1 <= size <= LARGEST_VOCABULARY:
            raise self._fault(f'"vocab_size" is not a number from 1 to {LARGEST_VOCABULARY}')
        tokenizer = self._entry(self.content, "tokenizer", str, "a text")
        model = self._entry(self.content, "model", str, "a text")
        return WatermarkKey(watermark, (one, two, three, four), size, tokenizer, model)

    def _entry(self, values: dict[str, Any], name: str, kind: type, label: str) -> Any:
        if name not in values:
            raise self._fault(f'"{name}" is missing')
        if not isinstance(values[name], kind):
            raise self._fault(f'"{name}" is not {label}')
        return values[name]

    def _whole(self, values: dict[str, Any], name: str) -> int:
        found: int = self._entry(values, name, int, "a whole number")
        if not _is_whole(found):
            raise self._fault(f'"{name}" is not a whole number')
        return found

    def _real(self, values: dict[str, Any], name: str) -> float:
        if values.get(name) == "infinity":
            return math.inf
        found = self._entry(values, name, int | float, "a number")  # type: ignore[arg-type]
        try:
            if isinstance(found, bool) or not math.isfinite(found):
                raise self._fault(f'"{name}" is not a number')
            return float(found)
        except OverflowError:
            raise self._fault(f'"{name}" is too large') from None

    def _fault(self, why: str) -> UserError:
        return UserError(f"the key file {self.path} is damaged ({why}): take a copy of it")


def _plain(key: WatermarkKey) -> dict[str, Any]:
    """Returns a key as strict JSON has it."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "watermark": key.watermark.on_disc(),
        "secret": "".join(f"{word:08x}" for word in key.secret),
        "vocab_size": key.vocab_size,
        "tokenizer": key.tokenizer,
        "model": key.model,
    }


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
