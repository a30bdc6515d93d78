"""Blockwise best-of-n: of several continuations of some tokens the one judged best is kept.

Blockwise controlled decoding (Mudgal et al., ICML 2024, arXiv 2310.17022, there best-of-K): n
blocks of M tokens are drawn from the language model behind the text so far, the one of largest
log p(c | text) is written, and so on to the end. With M = 1 it is best-of-n for every token, with M
as long as the text it is re-ranking. The n blocks are lanes below a root, and the chosen one's
slots are committed to the trunk, so nothing is read twice.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import struct

from coopgen_jax.decoding.decoder_settings import DecoderSettings
from coopgen_jax.decoding.generation import (
    Generation,
    append,
    blank,
    entry_at,
    grouped,
    row_keys,
    where,
)
from coopgen_jax.decoding.job import Decoder, Job, States, ends, seen_by, shaped
from coopgen_jax.decoding.judgement import log_target
from coopgen_jax.decoding.lanes import Lanes, at, begin_lanes, extend_lanes, lane_stops
from coopgen_jax.decoding.rules.draw import draw
from coopgen_jax.errors import UserError
from coopgen_jax.models.slots import commit, move


@dataclass(frozen=True)
class BlockwiseConfig(DecoderSettings):
    """Keeps the best of several blocks of tokens, block after block.

    `log_proposal` is NaN, for nobody can tell how likely the best of several blocks is;
    `simulations` counts the blocks that were compared, `model_tokens` the tokens of all of them.

    Attributes:
      block: `M`, tokens of a block; the last may be shorter.
      of: `n`, how many blocks one is chosen from.
    """

    block: int = 8
    of: int = 16

    always_guided: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.block, self.of) < 1:
            raise ValueError(f"block is {self.block} and of {self.of}: give 1 or more")

    @property
    def lanes(self) -> int:
        """How many texts of a prompt are drawn side by side."""
        return self.samples * self.of

    @property
    def longest(self) -> int:
        """Tokens of the longest block that there is room for."""
        return min(self.block, self.new_tokens)


@struct.dataclass
class BlockwiseState:
    """What stands between two tokens.

    lanes: `n` of every text, with paths `[B, R, n, M]` of the tokens in this block.
    texts: those of the lanes, with their open blocks, `[B, R * n]`.
    read: `[B, R]` int32 tokens read.
    generation: the texts without an open block, `[B, R]`; step: tokens written.
    """

    lanes: Lanes
    texts: Generation
    read: jax.Array
    generation: Generation
    step: jax.Array


def begin(job: Job) -> BlockwiseState:
    """Reads the prompts.

    Raises:
      UserError: there is nothing to judge blocks by, or the prompts exceed the context.
    """
    config: BlockwiseConfig = job.config
    if job.discriminator is None or job.target is None:
        raise UserError("blocks are judged by a discriminator: give one and a target")
    size = {"trees": config.samples, "trunk": config.new_tokens}
    lanes, log_class = begin_lanes(job, config.of, config.longest, **size)
    generation = blank(log_class, config.new_tokens)
    return BlockwiseState(
        lanes=lanes,
        texts=_repeated(generation, config.of),
        read=generation.model_tokens,
        generation=generation,
        step=jnp.int32(0),
    )


def advance(key: jax.Array, job: Job, state: BlockwiseState) -> tuple[BlockwiseState, None]:
    """Draws a token for every lane; where their blocks are full, writes the best one."""
    config: BlockwiseConfig = job.config
    assert job.target is not None
    inside, step = state.step % config.block, state.step + 1
    live = ~state.texts.finished
    stop = lane_stops(state.lanes, inside)
    stop = None if stop is None else stop.reshape(live.shape)
    token, log_prob = _draw(key, job, state, stop)
    end = ends(job, token, stop)
    lanes, log_class = extend_lanes(
        job,
        state.lanes,
        grouped(token, config.of),
        grouped(state.texts.log_class, config.of),
        step=inside,
        idle=grouped(end | ~live, config.of),
        committed=state.generation.length,
    )
    texts = append(
        state.texts,
        token,
        log_prob=log_prob,
        log_proposal=jnp.full(token.shape, jnp.nan),
        log_class=log_class.reshape(*token.shape, -1),
        end=end,
    )
    read = state.read + jnp.sum(grouped(live, config.of), axis=-1, dtype=jnp.int32)

    best = jnp.argmax(log_target(log_class, job.target), axis=-1)
    full = (inside + 1 == config.block) | (step == config.new_tokens)
    # A text all of whose blocks have come to an end need not wait for the last token.
    over = full | grouped(texts.finished, config.of).all(axis=-1)
    over = over & ~state.generation.finished
    chosen = entry_at(grouped(texts, config.of), best)
    simulations = state.generation.simulations + config.of
    chosen = replace(chosen, simulations=simulations, model_tokens=read)
    generation = where(over, chosen, state.generation)
    lanes = Lanes(
        logits=jnp.where(full, entry_at(lanes.logits, best)[:, :, None], lanes.logits),
        states=_committed(
            lanes.states,
            entry_at(lanes.path, best),
            state.generation.length,
            count=jnp.where(full & (step < config.new_tokens), config.longest, 0),
        ),
        path=jnp.where(full, -1, lanes.path),
    )
    return BlockwiseState(
        lanes=lanes,
        texts=where(jnp.repeat(over, config.of, axis=1), _repeated(generation, config.of), texts),
        read=read,
        generation=generation,
        step=step,
    ), None


def _draw(
    key: jax.Array, job: Job, state: BlockwiseState, stop: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """Returns a token of every lane `[B, R * n]` and its log p under the plain language model."""
    batch, lanes = state.texts.length.shape
    logits = state.lanes.logits.reshape(batch, lanes, -1)
    seen = seen_by(job, state.texts, stop)
    keys = row_keys(key, job.prompt, lanes, state.step)
    token, _ = draw(job.config.rules, keys, shaped(job, logits, seen), seen=seen)
    return token, entry_at(jax.nn.log_softmax(logits), token)


def _committed(states: States, path: jax.Array, before: jax.Array, *, count: jax.Array) -> States:
    """Returns the states with the first `count` slots of the paths `[B, R, M]` in the trunks."""

    def one(place: jax.Array, states: States) -> States:
        # Each becomes the root on its way, the last one for good.
        return commit(move(states, at(path, place)[..., None]), before + place)

    return jax.lax.fori_loop(0, count, one, states)


def _repeated(generation: Generation, count: int) -> Generation:
    """Returns every text `[B, R]` so many times, `[B, R * n]`."""
    lanes: Generation = jax.tree.map(lambda array: jnp.repeat(array, count, axis=1), generation)
    return lanes


BLOCKWISE = Decoder(begin, advance)
