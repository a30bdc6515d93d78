"""Options in words that stand for settings in tokens."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from tyro.conf import UseAppendAction

from coopgen_jax.data.sources import split_lines
from coopgen_jax.decoding.decoder_settings import DecoderSettings
from coopgen_jax.discriminators.bag_of_words import single_tokens
from coopgen_jax.errors import UserError
from coopgen_jax.files import read_text
from coopgen_jax.tokenizer import Tokenizer


@dataclass(frozen=True)
class WordOption:
    """An option in words that stands for a setting in tokens; its name has underscores."""

    option: str
    kind: Any
    metavar: str
    help: str
    default: Any = ()


# By the setting that they stand for.
WORDS = {
    "bad_words": WordOption(
        "bad_words", UseAppendAction[tuple[str, ...]], "WORD",
        "A word that is never written, also not within a longer one; repeatable.",
    ),
    "forced": WordOption(
        "begin_with", str, "TEXT",
        "How every continuation begins; it counts among the new tokens.", "",
    ),
    "stop": WordOption(
        "stop", UseAppendAction[tuple[str, ...]], "TEXT",
        "A text ends in front of this; \\n is a line break; repeatable.",
    ),
    "token_bias": WordOption(
        "token_bias", UseAppendAction[tuple[str, ...]], "WORD=X",
        "Add X to the logits of a word of one token; repeatable.",
    ),
    "bags": WordOption(
        "bag", UseAppendAction[tuple[Path, ...]], "FILE",
        "Words to write towards, one a line, with a --target or without; words of several tokens "
        "are left out; repeatable.",
    ),
}  # fmt: skip


def with_words(
    config: DecoderSettings, words: Mapping[str, Any], tokenizer: Tokenizer
) -> DecoderSettings:
    """Returns the settings with words as tokens of the language model.

    `words` are the values of the options in `WORDS` that are given, by the options' names.

    Raises:
      UserError: the beginning is longer than the text, a bag has no word of one token, or a biased
        word has several.
    """
    changes: dict[str, Any] = {}
    own: dict[str, Any] = {}
    if bad := words.get("bad_words"):
        # A word stands behind a space or at the beginning of something.
        forms = [form for word in bad for form in (word, f" {word}")]
        changes["bad_words"] = tuple(dict.fromkeys(map(tuple, map(tokenizer.encode_behind, forms))))
    if text := words.get("begin_with"):
        changes["forced"] = tuple(tokenizer.encode_behind(text))
    if stop := words.get("stop"):
        changes["stop"] = tuple(text.replace("\\n", "\n") for text in stop)
    if biases := words.get("token_bias"):
        pairs = (_biases(entry, tokenizer) for entry in biases)
        changes["token_bias"] = tuple(chain.from_iterable(pairs))
    if bags := words.get("bag"):
        own["bags"] = tuple(bag for bag, _ in read_bags(bags, tokenizer))
    try:
        return replace(config, rules=replace(config.rules, **changes), **own)
    except ValueError as error:
        raise UserError(str(error)) from error


def _biases(entry: str, tokenizer: Tokenizer) -> list[tuple[int, float]]:
    """Returns the tokens of a word that are biased, and by how much."""
    word, separator, value = entry.rpartition("=")
    try:
        bias = float(value)
    except ValueError:
        bias = math.nan
    if not separator or not word or not math.isfinite(bias):
        raise UserError(f"--token-bias {entry}: give a word and a number as WORD=X")
    ids, _ = single_tokens([word], tokenizer=tokenizer)
    if not ids:
        raise UserError(
            f"--token-bias {entry}: {word!r} is not one token of this language model: give another "
            "word, or rule it out by --bad-words"
        )
    return [(token, bias) for token in ids]


def read_words(path: Path | str) -> list[str]:
    """Returns the words of a file.

    Raises:
      UserError: it cannot be read as UTF-8 or holds no word.
    """
    text = read_text(Path(path), label="--bag ")
    words = [word for line in split_lines(text) if (word := line.strip())]
    if not words:
        raise UserError(f"--bag {path} holds no word: put one on each line")
    return words


def read_bags(
    paths: Iterable[Path | str], tokenizer: Tokenizer
) -> list[tuple[tuple[int, ...], list[str]]]:
    """Returns, for every file, its words' ids and the words that are not one token.

    Raises:
      UserError: see `read_words`, or none of a file's words is one token.
    """
    bags = []
    for path in paths:
        ids, left = single_tokens(read_words(path), tokenizer=tokenizer)
        if not ids:
            raise UserError(
                f"--bag {path}: none of the {len(left)} words is one token of this language model, "
                f"not even {left[0]!r}: give others"
            )
        bags.append((ids, left))
    return bags


def left_out(paths: Iterable[Path], tokenizer: Tokenizer) -> list[str]:
    """Returns a line for every file of which words are left out."""
    paths = list(paths)
    return [
        f"--bag {path}: {len(left)} of {len(read_words(path))} words are not one token of this "
        f"language model and are left out, such as {left[0]!r}"
        for path, (_, left) in zip(paths, read_bags(paths, tokenizer), strict=True)
        if left
    ]
