"""Beam search, plain and diverse: the best beginnings of every length are kept and continued.

Every beam is a path through the node slots, so nothing is copied where beams branch or end. A text
that ends leaves its beam for the pool of finished ones; texts compare by log p / length^penalty (Wu
et al. 2016, arXiv 1609.08144, in the form of the transformers library). Diverse beam search
(Vijayakumar et al. 2018, arXiv 1610.02424) has groups of beams choose one after another, a token
costing every group a penalty for each earlier beam that took it at the same step.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import struct

from coopgen_jax.decoding.decoder_settings import DecoderSettings
from coopgen_jax.decoding.generation import Generation, blank, per_sample, pick, where
from coopgen_jax.decoding.hypotheses import (
    RANKED,
    UNRANKED,
    Texts,
    best,
    check_beams,
    check_length_penalty,
    continued,
    joined,
    likeliest,
    log_probs,
    no_texts,
    only,
    scores,
    with_gains,
)
from coopgen_jax.decoding.job import Decoder, Job
from coopgen_jax.decoding.lanes import (
    Lanes,
    at,
    begin_lanes,
    ends_behind,
    extend_lanes,
    lane_stops,
)
from coopgen_jax.errors import UserError


@dataclass(frozen=True)
class BeamConfig(DecoderSettings):
    """Finds the likeliest texts (beam search, plain or diverse).

    The best texts come first. `log_proposal` is NaN, and `model_tokens` is each text's share of all
    tokens read.

    Attributes:
      samples: `R`, how many of the best texts are returned.
      beams: `W`, texts under way at once, in every group.
      groups: `G`, groups of beams; more than one search diversely.
      diversity: what a token costs for each beam of an earlier group that took it at the same step.
      length_penalty: power of the length that a log-probability is divided by; 0 compares sums.
    """

    beams: int = 4
    groups: int = 1
    diversity: float = 0.0
    length_penalty: float = 1.0

    refuses: ClassVar[tuple[str, ...]] = UNRANKED
    because: ClassVar[str] = RANKED
    # No discriminator has a say.
    alpha: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.beams, self.groups) < 1:
            raise ValueError(f"beams is {self.beams} and groups {self.groups}: give 1 or more")
        check_beams(self.samples, self.groups * self.beams)
        self._check_least(0, "diversity")
        if (self.groups > 1) != (self.diversity > 0):
            raise ValueError(
                f"{self.groups} groups with a diversity of {self.diversity}: several groups need a "
                "diversity above 0, and it needs several groups"
            )
        check_length_penalty(self.length_penalty, self.new_tokens)

    @property
    def draws(self) -> bool:
        """Whether every token that is written is drawn: they are ranked."""
        return False


@struct.dataclass
class BeamState:
    """What stands between two tokens.

    lanes: those of the beams; beams: the texts under way; pool: the best that have ended.
    done: `[B]` bool, true where nothing better can come; read: `[B]` int32 tokens read.
    generation: the best texts so far; step: tokens written.
    """

    lanes: Lanes
    beams: Texts
    pool: Texts
    done: jax.Array
    read: jax.Array
    generation: Generation
    step: jax.Array


def begin(job: Job) -> BeamState:
    """Reads the prompts.

    Raises:
      UserError: a prompt and what is to be written exceed the context, or more texts are asked for
        than there can be.
    """
    return begin_beams(job, job.config.beams)


def begin_beams(job: Job, read: int) -> BeamState:
    """Reads the prompts for beams of which `read` lanes are read at a step; see `begin`."""
    config, vocab = job.config, job.language_model.vocab_size
    if config.samples > vocab ** min(2, config.new_tokens):
        raise UserError(
            f"{config.samples} texts of {config.new_tokens} tokens are asked of a vocabulary of "
            f"{vocab}: ask for fewer"
        )
    width, length = config.beams, config.new_tokens
    lanes, log_class = begin_lanes(job, width, length, trees=config.groups, read=read)
    texts = no_texts(log_class, width, length)
    return BeamState(
        lanes=lanes,
        # All beams are the bare prompt, and one of them is enough.
        beams=replace(texts, log_prob=texts.log_prob.at[..., 0].set(0.0)),
        pool=texts,
        done=jnp.zeros(len(log_class), bool),
        read=jnp.zeros(len(log_class), jnp.int32),
        generation=blank(per_sample(log_class[:, 0], config.samples), length),
        step=jnp.int32(0),
    )


def advance(key: jax.Array, job: Job, state: BeamState) -> tuple[BeamState, None]:
    """Continues every beam by one token; nothing is drawn, and there is no tree to show."""
    stop = lane_stops(state.lanes, state.step)
    lane, token, log_prob, chosen = _continuations(job, state, stop)
    texts = continued(state.beams, lane, state.step, token, log_prob)
    texts = with_gains(job, texts, state.lanes.logits, state.beams, lane, token)
    over = ends_behind(job, stop, lane, token)
    # As in the transformers library, a text ends only where it is among the W best.
    ended = only(texts, over & (jnp.arange(token.shape[-1]) < job.config.beams)[None, None])

    beams = pick(only(texts, ~over), chosen)
    missing = jnp.isinf(beams.log_prob) | state.done[:, None, None]
    lanes, log_class = extend_lanes(
        job,
        state.lanes.at(pick(lane, chosen)),
        at(beams.tokens, state.step),
        beams.log_class,
        step=state.step,
        idle=missing,
    )
    beams = replace(beams, log_class=log_class)
    return next_state(job, state, lanes, beams, ended, idle=missing), None


def _continuations(
    job: Job, state: BeamState, stop: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Returns the best continuations of every group's beams, so many that W of them go on.

    That is their beams, tokens and log-probabilities `[B, G, K]`, best first, and which W go on.
    """
    config: BeamConfig = job.config
    log_p = log_probs(job, state.lanes.logits, state.beams, stop)
    taken = jnp.zeros((log_p.shape[0], log_p.shape[-1]), jnp.float32)
    found = []
    for group in range(config.groups):
        total = state.beams.log_prob[:, group, :, None] + log_p[:, group]
        compared = total - config.diversity * taken[:, None]
        stops = None if stop is None else stop[:, group]
        score, lane, token = likeliest(job, compared, config.beams, stops)
        own = total[jnp.arange(len(total))[:, None], lane, token]
        log_prob = jnp.where(jnp.isneginf(score), -jnp.inf, own)
        stays = ~ends_behind(job, stops, lane, token)
        going = jnp.argsort(~stays, axis=-1, stable=True)[:, : config.beams]
        found.append((lane, token, log_prob, going))
        there, next_token = pick((stays & jnp.isfinite(log_prob), token), going)
        taken = jax.vmap(lambda row, at, more: row.at[at].add(more))(
            taken, next_token, there.astype(jnp.float32)
        )
    lane, token, log_prob, going = (jnp.stack(part, axis=1) for part in zip(*found, strict=True))
    return lane, token, log_prob, going


def next_state(
    job: Job, state: BeamState, lanes: Lanes, beams: Texts, ended: Texts, *, idle: jax.Array
) -> BeamState:
    """Returns the state behind one more token.

    `beams` are the texts that go on and `ended` those that may join the pool; lanes that are `idle`
    `[B, G, W]` have not been read.
    """
    width, length = job.config.beams, state.step + 1
    pool = joined(state.pool, ended)
    pool = where(state.done, state.pool, pick(pool, best(job, pool, width)))
    read = state.read + jnp.sum(~idle, axis=(1, 2), dtype=jnp.int32)
    done = state.done | _nothing_better(job, beams, pool, length)
    generation = _generation(job, beams, pool, done, read, length)
    return BeamState(lanes, beams, pool, done, read, generation, length)


def _nothing_better(job: Job, beams: Texts, pool: Texts, length: jax.Array) -> jax.Array:
    """Returns `[B]`, true where no beam can still end better than what is in its group's pool."""
    config = job.config
    if config.groups > 1:
        # What is best of a group may be another's too, and the next best be asked for.
        return jnp.zeros(beams.log_prob.shape[0], bool)
    # A log-probability only falls, and most of it is forgiven at the greatest length.
    last = config.new_tokens if config.length_penalty > 0 else length
    # A discriminator can become sure, whatever it says now.
    sure = replace(
        beams,
        length=jnp.broadcast_to(last, beams.length.shape),
        log_class=jnp.zeros_like(beams.log_class),
    )
    hope = jnp.max(scores(job, sure), axis=-1)
    return jnp.all(hope <= jnp.min(scores(job, pool), axis=-1), axis=-1)


def _generation(
    job: Job, beams: Texts, pool: Texts, done: jax.Array, read: jax.Array, length: jax.Array
) -> Generation:
    """Returns the best texts of all groups, those under way among them where that is open."""
    config = job.config
    live = only(beams, ~done[:, None, None])
    rows = len(done), 1, config.groups * 2 * config.beams
    texts: Texts = jax.tree.map(
        lambda array: array.reshape(*rows, *array.shape[3:]), joined(pool, live)
    )
    compared = scores(job, texts)
    if config.groups > 1:
        # Groups can find the same text: it counts once, unless there are too few others.
        compared = jnp.where(_again(texts)[:, None], compared - 1e30, compared)
    order = jax.lax.top_k(compared, config.samples)[1]
    chosen: Texts = jax.tree.map(lambda array: array[:, 0], pick(texts, order))
    ended = (order[:, 0] % (2 * config.beams) < config.beams) & jnp.isfinite(chosen.log_prob)
    over = done | (length == config.new_tokens)
    # What one search has read for all its texts is shared among them.
    cost = jnp.broadcast_to(-(-read // config.samples)[:, None], ended.shape)
    return replace(
        blank(chosen.log_class, config.new_tokens),
        tokens=chosen.tokens,
        length=chosen.length,
        finished=ended & over[:, None],
        log_prob=chosen.log_prob - chosen.gained,
        log_proposal=jnp.full(ended.shape, jnp.nan, jnp.float32),
        model_tokens=cost,
        simulations=cost if config.alpha > 0 else jnp.zeros_like(cost),
    )


def _again(texts: Texts) -> jax.Array:
    """Returns `[B, K]` of `[B, 1, K]` texts, true where one before is the same."""
    tokens, length = texts.tokens[:, 0], texts.length[:, 0]
    same = jnp.all(tokens[:, :, None] == tokens[:, None], axis=-1)
    same = same & (length[:, :, None] == length[:, None])
    there = jnp.isfinite(texts.log_prob[:, 0])
    before = jnp.tril(jnp.ones(same.shape[1:], bool), k=-1)[None]
    return jnp.any(same & before & there[:, None], axis=-1)


BEAM = Decoder(begin, advance)
