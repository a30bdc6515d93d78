"""Words on the command line as tokens: bags of words in files, words left out, beginnings."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from coopgen_jax.cli.options import GenerateOptions
from coopgen_jax.data.sources import split_lines
from coopgen_jax.decoding.decoder_settings import DecoderSettings
from coopgen_jax.decoding.methods.beam import BeamConfig
from coopgen_jax.decoding.methods.pplm_config import PPLMConfig
from coopgen_jax.decoding.methods.rerank import RerankConfig
from coopgen_jax.decoding.methods.sampling import SamplingConfig
from coopgen_jax.discriminators.bag_of_words import single_tokens
from coopgen_jax.errors import UserError
from coopgen_jax.tokenizer import Tokenizer


def with_words(
    config: DecoderSettings, options: GenerateOptions, tokenizer: Tokenizer
) -> DecoderSettings:
    """Returns the settings with the options' words as tokens.

    Raises:
      UserError: the beginning is longer than the text, or a bag has no word of one token.
    """
    if isinstance(config, PPLMConfig):
        return replace(config, bags=tuple(bag for bag, _ in read_bags(options.bag, tokenizer)))
    if not isinstance(config, SamplingConfig | RerankConfig) or _by_beams(config):
        return config
    # A word stands behind a space or at the beginning of something.
    words = [form for word in options.bad_words for form in (word, f" {word}")]
    try:
        changes: dict[str, Any] = {
            "bad_words": tuple(dict.fromkeys(map(tuple, map(tokenizer.encode_behind, words)))),
            "forced": tuple(tokenizer.encode_behind(options.begin_with or "")),
        }
        return replace(config, rules=replace(config.rules, **changes))
    except ValueError as error:
        raise UserError(str(error)) from error


def _by_beams(config: DecoderSettings) -> bool:
    return isinstance(config, RerankConfig) and isinstance(config.proposal, BeamConfig)


def read_words(path: Path | str) -> list[str]:
    """Returns the words of a file.

    Raises:
      UserError: it cannot be read as UTF-8 or holds no word.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"--bag {path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--bag {path} is not UTF-8: convert it first") from error
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
