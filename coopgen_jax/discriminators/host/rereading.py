"""Discriminators with another tokenizer than the language model's: every text is read anew.

A node's tokens become a string and then tokens of the discriminator's on the host, in one batched
and memoised callback per wave; its network stays on the device. Nothing that was read of a node's
parent is used again, since a token more can change how a whole word is split.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from coopgen_jax.discriminators.discriminator import Discriminator, uniform
from coopgen_jax.discriminators.host.retokenise import Crossing
from coopgen_jax.discriminators.host.token_rows import Spelled, begin, of_nodes, of_prompt
from coopgen_jax.models.language_model import Bound, Nodes, Prompt
from coopgen_jax.models.slots import Capacity

# A wave of short texts need not pay for the longest that the width allows.
WIDTH_STEP = 16


@dataclass(frozen=True)
class RereadingConfig:
    """What reads, and how its tokens come to be.

    Attributes:
      read: `(params, tokens [n, S], mask [n, S]) -> log p(class) [n, C]` of tokens padded behind
        the last; equal where it reads alike.
      classes: names of the `C` classes.
      crossing: from the language model's tokens to those that are read.
      reads_prompt: whether prompt and continuation are judged, or the continuation alone.
    """

    read: Callable
    classes: tuple[str, ...]
    crossing: Crossing
    reads_prompt: bool = False


def rereading(config: RereadingConfig) -> Discriminator:
    """Returns the discriminator; a text without a token of its own is judged uniformly."""
    return Discriminator(
        init=Bound(_init, config),
        evaluate=Bound(_evaluate, config),
        classes=config.classes,
        reads_prompt=config.reads_prompt,
        tokenizer=config.crossing.target.identity,
    )


def read_rows(read: Callable, classes: int, params: Any, rows: jax.Array) -> jax.Array:
    """Returns log p(class | text) `[n, C]` float32.

    Args:
      read: see `RereadingConfig`.
      classes: `C`.
      params: the discriminator's.
      rows: `[n, width]` int32 tokens, -1 behind the last; a text without any is judged uniformly.
    """
    width = rows.shape[1]
    count = jnp.sum(rows >= 0, axis=-1)
    widths = [*range(WIDTH_STEP, width, WIDTH_STEP), width]

    def at(cut: int) -> Callable[[], jax.Array]:
        def one() -> jax.Array:
            mask = jnp.arange(cut)[None, :] < count[:, None]
            log_class: jax.Array = read(params, jnp.maximum(rows[:, :cut], 0), mask)
            return log_class

        return one

    shortest = jnp.searchsorted(jnp.asarray(widths), jnp.max(count, initial=0))
    log_class = jax.lax.switch(shortest, [at(cut) for cut in widths])
    return jnp.where(count[:, None] > 0, log_class, uniform(len(rows), classes))


def _judge(config: RereadingConfig, params: Any, common: jax.Array, own: jax.Array) -> jax.Array:
    """Returns log p `[B, R, W, C]` of texts: `common` `[B, R, M]`, then `own` `[B, R, W, D]`."""
    rows = config.crossing(common, own).reshape(-1, config.crossing.width)
    log_class = read_rows(config.read, len(config.classes), params, rows)
    return log_class.reshape(*own.shape[:3], -1)


def _init(
    config: RereadingConfig,
    params: Any,
    prompt: Prompt,
    hidden: jax.Array,
    *,
    capacity: Capacity,
) -> tuple[jax.Array, Spelled]:
    state = begin(prompt, capacity=capacity, reads_prompt=config.reads_prompt)
    if config.reads_prompt:
        return _judge(config, params, *of_prompt(state))[:, 0, 0], state
    return uniform(len(prompt.tokens), len(config.classes)), state


def _evaluate(
    config: RereadingConfig, params: Any, state: Spelled, nodes: Nodes
) -> tuple[jax.Array, Spelled]:
    common, own, state = of_nodes(state, nodes)
    return _judge(config, params, common, own), state
