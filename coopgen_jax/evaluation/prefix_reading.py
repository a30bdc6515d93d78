"""Judgements of the prefixes of a batch of texts: by one reading of each text, or token by token.

Whatever keeps its state along a tree can judge all prefixes of a text from one reading of the text
as a whole. What reads every text anew is asked about some prefixes, since each costs a reading.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from coopgen_jax.data.batches import filled
from coopgen_jax.data.frozen_states import places, read_states
from coopgen_jax.discriminators.discriminator import Discriminator
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.models.language_model import LanguageModel, Nodes, Prompt
from coopgen_jax.models.networks import language_model
from coopgen_jax.models.pretrained.loaded_model import LoadedModel
from coopgen_jax.models.slots import Capacity, commit, move

# Texts of these lengths, in tokens, are compiled for: multiples of it.
STEP = 16


Asked = Literal["every", "doubling", "last"]


@dataclass(frozen=True, eq=False)
class Reader:
    """What reads texts, and how.

    Attributes:
      model: The language model, in whose tokens texts are.
      discriminator: What judges.
      front: The tokens of the prompt that texts stand behind.
      longest: The most tokens of a text.
      asked: At which lengths of a text a discriminator that reads every text anew is asked; see
        `asked_lengths`.
      table: The states of all rows behind the front, `[tokens, J, E]`, or None to read them.
      starts: Where each row begins in the table.
    """

    model: LoadedModel
    discriminator: LoadedDiscriminator
    front: tuple[int, ...]
    longest: int
    asked: Asked = "every"
    table: np.ndarray | None = None
    starts: tuple[int, ...] = ()

    def with_states(self, rows: Sequence[Sequence[int]], *, batch: int, folder: Path) -> "Reader":
        """Returns the reader with the states of all rows, kept in a folder for the next time."""
        guide = self.discriminator.discriminator
        if guide.evaluate_prefixes is None or not guide.taps:
            return self
        whole = [[*self.front, *row] for row in rows]
        table = _states(self.model, guide.taps, whole, batch=batch, folder=folder)
        starts = [0, *np.cumsum([len(row) for row in whole])]
        return replace(self, table=table, starts=tuple(map(int, starts)))

    def judge(
        self, rows: Sequence[Sequence[int]], numbers: Sequence[int], batch: int
    ) -> list[np.ndarray]:
        """Returns log p(class) `[tokens, C]` of every prefix of the rows of some numbers.

        At most `batch` are read at once, padded to as many.
        """
        there = [rows[number] for number in numbers]
        there += there[-1:] * (batch - len(there))
        width = min(self.longest, -(-max(map(len, there)) // STEP) * STEP)
        tokens, _ = filled(there, width)
        guide = self.discriminator.discriminator
        asked = self.asked if guide.tokenizer else "every"
        lengths = asked_lengths([len(row) for row in there], width, asked)
        front = jnp.tile(jnp.asarray(self.front, jnp.int32), (batch, 1))
        prompt = Prompt(front, jnp.ones(front.shape, bool), jnp.arange(batch))
        params = self.discriminator.params
        if guide.evaluate_prefixes is None:
            network = language_model(self.model.config, guide.taps)
            said = _token_by_token(network, guide, self.model.params, params, prompt, tokens)
            lengths = np.tile(np.arange(1, width + 1), (batch, 1))
        else:
            hidden = self._hidden(there, numbers, width)
            said = _at_once(guide, params, prompt, tokens, lengths, hidden)
        spread = [
            one[_last_below(known, len(row))]
            for one, known, row in zip(np.asarray(said), lengths, there, strict=True)
        ]
        return spread[: len(numbers)]

    def _hidden(
        self, rows: Sequence[Sequence[int]], numbers: Sequence[int], width: int
    ) -> np.ndarray:
        """Returns the states `[B, P + T, J, E]` of padded rows behind the front."""
        taps = self.discriminator.discriminator.taps
        size = len(self.front) + width
        found = np.zeros((len(rows), size, len(taps), self.model.config.width), np.float32)
        if not taps:
            return found
        own = rows[: len(numbers)]
        if self.table is None:
            whole = [[*self.front, *row] for row in own]
            table, where = _states(self.model, taps, whole, batch=len(rows)), places(whole)
            starts = [row[0] for row in where]
        else:
            table, starts = self.table, [self.starts[number] for number in numbers]
        for place, (start, row) in enumerate(zip(starts, own, strict=True)):
            count = len(self.front) + len(row)
            found[place, :count] = table[start : start + count]
        return found


def asked_lengths(counts: Sequence[int], width: int, asked: Asked) -> np.ndarray:
    """Returns the lengths `[B, W]` at which texts of so many tokens are judged, the last of each.

    They are "every" length up to the `width`; "doubling" ones, which are 1, 2, 4, 8 and so on and
    the text's own; or the "last" alone. None exceeds the text's own.
    """
    last = np.asarray(counts, np.int32)[:, None]
    if asked == "last":
        return last
    if asked == "every":
        return np.minimum(np.arange(1, width + 1, dtype=np.int32), last)
    doubling = np.minimum(1 << np.arange(width.bit_length(), dtype=np.int32), last)
    return np.concatenate([doubling, last], axis=1)


def _last_below(lengths: np.ndarray, count: int) -> np.ndarray:
    """Returns which of some lengths stands for each of 1 to `count`: the last one at or below."""
    return np.maximum(np.searchsorted(lengths, np.arange(1, count + 1), "right") - 1, 0)


def _states(
    model: LoadedModel,
    taps: tuple[int, ...],
    rows: Sequence[Sequence[int]],
    *,
    batch: int,
    folder: Path | None = None,
) -> np.ndarray:
    return read_states(model, taps, rows, batch=batch, front=(), dtype="float32", folder=folder)


@partial(jax.jit, static_argnums=0)
def _at_once(
    guide: Discriminator,
    params: Any,
    prompt: Prompt,
    tokens: jax.Array,
    lengths: jax.Array,
    hidden: jax.Array,
) -> jax.Array:
    assert guide.evaluate_prefixes is not None
    said: jax.Array = guide.evaluate_prefixes(params, prompt, tokens, lengths, hidden)
    return said


@partial(jax.jit, static_argnums=(0, 1))
def _token_by_token(
    network: LanguageModel,
    discriminator: Discriminator,
    params: Any,
    guide_params: Any,
    prompt: Any,
    tokens: jax.Array,
) -> jax.Array:
    """Returns log p(class | first t + 1 tokens) `[B, T, C]` of texts `[B, T]` behind prompts."""
    batch, length = tokens.shape
    room = Capacity(samples=1, trunk=length, nodes=2)
    _, hidden, cache = network.prefill(params, prompt, capacity=room)
    _, state = discriminator.init(guide_params, prompt, hidden, capacity=room)
    one = (batch, 1, 1)

    def step(states: Any, column: tuple[jax.Array, jax.Array]) -> tuple[Any, jax.Array]:
        cache, state = states
        token, number = column
        nodes = Nodes(
            start=jnp.int32(1),
            token=token.reshape(one),
            parent=jnp.zeros(one, jnp.int32),
            path=jnp.full((*one, 1), -1, jnp.int32),
            depth=jnp.ones(one, jnp.int32),
            committed=jnp.full((batch, 1), number, jnp.int32),
            terminal=jnp.zeros(one, bool),
        )
        _, hidden, cache = network.extend(params, cache, nodes)
        nodes = replace(nodes, hidden=hidden)
        log_class, state = discriminator.evaluate(guide_params, state, nodes)
        # The token is written: its node becomes the root.
        source = jnp.ones((batch, 1, 1), jnp.int32)
        return commit(move((cache, state), source), nodes.committed), log_class[:, 0, 0]

    columns = (tokens.T, jnp.arange(length))
    log_class = jax.lax.scan(step, (cache, state), columns)[1]
    return jnp.swapaxes(log_class, 0, 1)
