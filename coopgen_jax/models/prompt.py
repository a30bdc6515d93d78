"""Prompts: texts as one batch of tokens, padded to a few lengths.

Padding goes on the left and to a bucketed length, so that the last column holds every prompt's last
token and mixed lengths compile once per bucket.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, count
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from coopgen_jax.errors import UserError
from coopgen_jax.models.language_model import Prompt
from coopgen_jax.tokenizer import Tokenizer


def bucket(length: int, multiple: int = 16) -> int:
    """Returns the padded length: the next of 1, 2, 3, 4, 6, 8, 12, 16, 24 ... times `multiple`.

    At most half of the columns are padding beyond the first bucket, and a handful of lengths cover
    every prompt.
    """
    doublings = chain.from_iterable((2**power, 3 * 2 ** (power - 1)) for power in count(1))
    steps = chain([1], doublings)
    return next(step * multiple for step in steps if step * multiple >= length)


def make_prompt(
    tokenizer: Tokenizer,
    texts: Sequence[str | Sequence[int]],
    *,
    first_index: int = 0,
    numbers: Sequence[int] | None = None,
    context: int | None = None,
    reserve: int = 0,
    multiple: int = 16,
) -> Prompt:
    """Returns texts as one padded batch.

    Args:
      tokenizer: the language model's.
      texts: `B` texts to be continued, or their ids.
      first_index: number of the first text in the whole job.
      numbers: number of every text in the whole job, where they do not follow one another.
      context: the longest text that the model reads, None for no limit.
      reserve: how many tokens are to be written after each prompt.
      multiple: of which the padded lengths are multiples; see `bucket`.

    Returns:
      Tokens and mask `[B, P]`, padded on the left, and the texts' numbers `[B]`.

    Raises:
      UserError: there is no text, one of them is empty, or too long.
    """
    if not texts:
        raise UserError("there is no prompt to continue: give at least one")
    rows = [wrapped(tokenizer, ids) for ids in ids_of(tokenizer, texts)]
    numbers = range(first_index, first_index + len(rows)) if numbers is None else numbers
    for number, text, row in zip(numbers, texts, rows, strict=True):
        if not text or not row:
            raise UserError(f"prompt {number + 1} is empty: give it at least one word to continue")
        if context is not None and len(row) + reserve > context:
            raise UserError(
                f"prompt {number + 1} has {len(row)} tokens, and with {reserve} new ones they are "
                f"more than the {context} that the model reads: shorten it or ask for fewer"
            )
    longest = max(map(len, rows))
    length = bucket(longest, multiple)
    if context is not None:
        length = min(length, context - reserve)
    tokens, mask = map(jnp.asarray, left_padded(rows, length))
    return Prompt(tokens, mask, jnp.asarray(np.asarray(numbers, np.int32)))


def behind_vectors(prompt: Prompt, vectors: jax.Array) -> Prompt:
    """Returns prompts that continue vectors, `[B, K + P]`: padding, the vectors, the tokens.

    Args:
      prompt: `[B, P]` as `make_prompt` returns it, without embeddings.
      vectors: `[B, K, E]` what stands in front of every prompt, such as an image's prefix.
    """
    size, length = vectors.shape[1], prompt.tokens.shape[1]
    padding = length - jnp.sum(prompt.mask, axis=-1, keepdims=True)
    at = jnp.arange(size + length)[None] - padding
    embedded = (at >= 0) & (at < size)
    tokens = jnp.pad(prompt.tokens, ((0, 0), (size, 0)))
    return replace(
        prompt,
        tokens=jnp.where(embedded, 0, tokens),
        mask=at >= 0,
        embeddings=jnp.take_along_axis(vectors, jnp.clip(at, 0, size - 1)[..., None], axis=1),
        embedded=embedded,
    )


def check_context(context: Any, count: int) -> None:
    """Raises UserError where a context does not have a row for each of so many prompts.

    A function that gives the rows is not called.
    """
    for leaf in () if callable(context) else jax.tree.leaves(context):
        if jnp.ndim(leaf) == 0 or len(leaf) != count:
            found = "a single number" if jnp.ndim(leaf) == 0 else f"an array of {len(leaf)} rows"
            raise UserError(
                f"the context has {found} for {count} prompts: give arrays with a row a prompt"
            )


def with_context(prompt: Prompt, context: Any, rows: Sequence[int]) -> Prompt:
    """Returns a prompt with some rows of a context, one for each of its rows; see `Prompt`.

    Raises:
      UserError: the context is a function, and gives another number of rows.
    """
    chosen = np.asarray(rows, np.int32)
    if callable(context):
        found = context(chosen)
        check_context(found, len(chosen))
        return replace(prompt, context=jax.tree.map(jnp.asarray, found))
    return replace(prompt, context=jax.tree.map(lambda leaf: jnp.asarray(leaf)[chosen], context))


def left_padded(
    rows: Sequence[Sequence[int] | np.ndarray], length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns rows of ids behind zeros `[n, length]` int32, and where they stand, bool."""
    tokens = np.zeros((len(rows), length), np.int32)
    mask = np.zeros((len(rows), length), bool)
    for place, row in enumerate(rows):
        tokens[place, length - len(row) :] = row
        mask[place, length - len(row) :] = True
    return tokens, mask


def ids_of(tokenizer: Tokenizer, texts: Sequence[str | Sequence[int]]) -> list[list[int]]:
    """Returns the ids of every prompt, of which some may be given already."""
    coded = iter(tokenizer.encode_batch([text for text in texts if isinstance(text, str)]))
    return [next(coded) if isinstance(text, str) else list(text) for text in texts]


def wrapped(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    """Returns a prompt's tokens with what the model expects in front of them and behind them."""
    begin, close = list(tokenizer.begin_tokens), list(tokenizer.close_tokens)
    # A chat template writes the first token itself, and so may a prompt.
    if ids[: len(begin)] != begin:
        ids = begin + (ids[1:] if ids[:1] == begin[:1] else ids)
    return ids if ids[len(ids) - len(close) :] == close else ids + close
