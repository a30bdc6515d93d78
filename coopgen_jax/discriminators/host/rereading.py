"""Discriminators with another tokenizer than the language model's: every text is read anew.

A node's tokens become a string and then tokens of the discriminator's on the host, in one batched
and memoised callback per wave; its network stays on the device. Nothing that was read of a node's
parent is used again, since a token more can change how a whole word is split.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from coopgen_jax.discriminators.discriminator import Discriminator
from coopgen_jax.discriminators.host.retokenise import Crossing
from coopgen_jax.discriminators.host.token_rows import judging_whole
from coopgen_jax.models.language_model import Bound

# A wave of short texts need not pay for the longest that the width allows.
WIDTH_STEP = 16
# From here on widths double: each is a program that must be compiled.
WIDE = 128


def rereading(
    read: Callable, classes: tuple[str, ...], crossing: Crossing, *, reads_prompt: bool = False
) -> Discriminator:
    """Returns the discriminator; a text without tokens is judged uniformly.

    Args:
      read: `(params, tokens [n, S], mask [n, S]) -> log p(class) [n, C]` of tokens padded behind
        the last; equal where it reads alike.
      classes: names of the `C` classes.
      crossing: from the language model's tokens to those that are read.
      reads_prompt: whether prompt and continuation are judged, or the continuation alone.
    """
    silent = -math.log(max(len(classes), 2))
    return reading_anew(read, classes, crossing, reads_prompt=reads_prompt, silent=silent)


def reading_anew(
    read: Callable,
    classes: tuple[str, ...],
    crossing: Crossing,
    *,
    reads_prompt: bool,
    silent: float,
) -> Discriminator:
    """Returns what says numbers, called `classes`, of every text; see `rereading`.

    Of a text without tokens each of them is `silent`.
    """
    judge = Bound(_judge, (read, silent, crossing))
    tokenizer = crossing.target.identity
    return judging_whole(
        judge, classes, reads_prompt=reads_prompt, tokenizer=tokenizer, source=crossing.source
    )


def widths_up_to(longest: int) -> list[int]:
    """Returns the widths at which waves are read, the last of them `longest`."""
    steps = range(WIDTH_STEP, min(longest, WIDE), WIDTH_STEP)
    doubled = [WIDE << power for power in range(longest.bit_length())]
    return [*steps, *(width for width in doubled if width < longest), longest]


def _judge(
    bound: tuple[Callable, float, Crossing], params: Any, common: jax.Array, own: jax.Array
) -> jax.Array:
    read, silent, crossing = bound
    # Tokens of the texts, -1 behind the last.
    rows = crossing(common, own).reshape(-1, crossing.width)
    count = jnp.sum(rows >= 0, axis=-1)
    widths = widths_up_to(crossing.width)

    def at(cut: int) -> Callable[[], jax.Array]:
        def one() -> jax.Array:
            mask = jnp.arange(cut)[None, :] < count[:, None]
            return read(params, jnp.maximum(rows[:, :cut], 0), mask)

        return one

    shortest = jnp.searchsorted(jnp.asarray(widths), jnp.max(count, initial=0))
    said = jax.lax.switch(shortest, [at(cut) for cut in widths])
    said = jnp.where(count[:, None] > 0, said, silent)
    return said.reshape(*own.shape[:3], -1)
