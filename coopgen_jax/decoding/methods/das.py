"""Discriminative adversarial search: beam search by the discriminator's word on every beginning.

DAS (Scialom et al., ICML 2020, arXiv 2002.10375): at every step the likeliest continuations of all
beams are re-scored by log p(x) + alpha * log p(c | x), and the best W go on. Here log p is divided
by length^penalty as in beam search; a penalty of 0 leaves the sum. The pool that is re-scored is a
call's lanes, and the rows of those that go on are the next step's, so nothing is read twice.

This is the paper's local search. Its global one re-ranks finished beams alone, which is
`RerankConfig(proposal=BeamConfig(beams=W, length_penalty=l), of=W, alpha=alpha / (1 + alpha),
length_penalty=l)`.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp

from coopgen_jax.decoding.decoder_settings import DecoderSettings
from coopgen_jax.decoding.flat_settings import changed
from coopgen_jax.decoding.generation import Generation
from coopgen_jax.decoding.hypotheses import (
    RANKED,
    UNRANKED,
    Texts,
    check_length_penalty,
    joined,
    likeliest,
    log_probs,
    only,
    per_length,
    where,
)
from coopgen_jax.decoding.job import Decoder, Job, ends
from coopgen_jax.decoding.judgement import log_target
from coopgen_jax.decoding.lanes import at, extend_lanes, lane_stops, nodes_of, pick, put
from coopgen_jax.decoding.methods.beam import BeamState, begin_beams, chosen_texts
from coopgen_jax.errors import UserError
from coopgen_jax.models.slots import Capacity


@dataclass(frozen=True)
class DASConfig(DecoderSettings):
    """Re-scores beams by the discriminator at every step (DAS).

    The best texts come first. `log_proposal` is NaN, for nothing is drawn; `simulations` and
    `model_tokens` are each text's share of all candidates that were judged.

    Attributes:
      samples: `R`, how many of the best texts are returned.
      beams: `W`, texts under way at once.
      candidates: `K`, continuations of all beams together that are read and judged at a step, the
        likeliest that go on. Texts that end among the `K` likeliest are judged as they were before
        their end.
      alpha: weight of log p(c|x) beside the log-probability; 0 leaves beam search.
      length_penalty: power of the length that a log-probability is divided by; 0 compares sums.
    """

    beams: int = 4
    candidates: int = 16
    alpha: float = 1.0
    length_penalty: float = 1.0

    refuses: ClassVar[tuple[str, ...]] = (*UNRANKED, "watermark")
    because: ClassVar[str] = RANKED

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_least(1, "beams")
        if self.samples > self.beams:
            raise ValueError(
                f"{self.samples} texts are asked of {self.beams} beams: give as many beams, or ask "
                "for fewer"
            )
        if self.candidates < self.beams:
            raise ValueError(
                f"{self.beams} beams are to go on out of {self.candidates} candidates: give as "
                "many candidates, or fewer beams"
            )
        self._check_least(0, "alpha")
        check_length_penalty(self.length_penalty, self.new_tokens)

    def with_settings(self, **values: Any) -> Self:
        """Returns these settings with others; more beams take as many candidates."""
        beams = values.get("beams", self.beams)
        values.setdefault("candidates", max(beams, self.candidates))
        return changed(self, values)

    @property
    def guided(self) -> bool:
        """Whether it goes by a discriminator."""
        return self.alpha > 0


def begin(job: Job) -> BeamState:
    """Reads the prompts.

    Raises:
      UserError: there is nothing to score texts by, they exceed the context, or more are asked for
        than there can be.
    """
    config: DASConfig = job.config
    if config.alpha > 0 and (job.discriminator is None or job.target is None):
        raise UserError(
            "beams are scored by a discriminator: give one and a target, or an alpha of 0"
        )
    lanes = min(config.candidates, config.beams * job.language_model.vocab_size)
    return begin_beams(job, Capacity(1, 1, nodes_of(lanes, config.new_tokens)))


def advance(key: jax.Array, job: Job, state: BeamState) -> tuple[BeamState, None]:
    """Has the pool read and judged, and continues the best; there is no tree to show."""
    config: DASConfig = job.config
    stop = lane_stops(state.states, state.path, state.step)
    lane, texts = _candidates(job, state, stop)
    token, length = at(texts.tokens, state.step), state.step + 1
    ended = ends(job, token, None if stop is None else jnp.take_along_axis(stop, lane, axis=-1))
    count = min(config.candidates, config.beams * job.language_model.vocab_size)

    # The likeliest that go on are read.
    chosen = jnp.argsort(ended, axis=-1, stable=True)[..., :count]
    pool = jax.tree.map(partial(pick, index=chosen), only(texts, ~ended))
    missing = jnp.isinf(pool.log_prob) | state.done[:, None, None]
    logits, log_class, states, path = extend_lanes(
        job,
        state.states,
        pick(pick(state.path, lane), chosen),
        at(pool.tokens, state.step),
        pool.log_class,
        step=state.step,
        idle=missing,
    )
    # Which lane each candidate was read in.
    row = jnp.cumsum(~ended, axis=-1) - 1
    was_read = ~ended & (row < count)
    row = jnp.clip(row, 0, count - 1)
    likely = jnp.arange(ended.shape[-1])[None, None] < count
    judged = jnp.where(was_read[..., None], pick(log_class, row), texts.log_class)
    texts = only(replace(texts, log_class=judged), was_read | (ended & likely))

    # As in beam search, a text ends only where it is among the W best.
    best = _best(job, texts, config.beams)
    new = jax.tree.map(partial(pick, index=best), only(texts, ended))
    both = joined(state.pool, new)
    finished = jax.tree.map(partial(pick, index=_best(job, both, config.beams)), both)
    finished = jax.tree.map(partial(where, state.done), state.pool, finished)

    live = only(texts, ~ended)
    going = _best(job, live, config.beams)
    beams = jax.tree.map(partial(pick, index=going), live)
    read = state.read + jnp.sum(~missing, axis=(1, 2), dtype=jnp.int32)
    done = state.done | _nothing_better(job, beams, finished, length)
    return BeamState(
        logits=pick(logits, pick(row, going)),
        states=states,
        beams=beams,
        pool=finished,
        path=pick(path, pick(row, going)),
        done=done,
        read=read,
        generation=_generation(job, beams, finished, done, read, length),
        step=length,
    ), None


def _candidates(job: Job, state: BeamState, stop: jax.Array | None) -> tuple[jax.Array, Texts]:
    """Returns the likeliest continuations, best first: their beams `[B, 1, M]`, and the texts.

    M is large enough that `K` of them go on, however many end.
    """
    config: DASConfig = job.config
    total = state.beams.log_prob[..., None] + log_probs(job, state.logits, state.beams, stop)
    log_prob, lane, token = likeliest(job, total, config.candidates, stop)
    came = jax.tree.map(partial(pick, index=lane), state.beams)
    return lane, Texts(
        tokens=put(came.tokens, state.step, token),
        length=jnp.full(token.shape, state.step + 1),
        log_prob=log_prob,
        log_class=came.log_class,
    )


def _scores(job: Job, texts: Texts) -> jax.Array:
    """Returns what texts compare by, `[B, 1, W]`; minus infinity where there is none."""
    config: DASConfig = job.config
    scores = per_length(texts.log_prob, texts.length, config.length_penalty)
    if config.alpha > 0 and job.target is not None:
        scores = scores + config.alpha * log_target(texts.log_class, job.target)
        # What the discriminator rules out is still a text, and comes before none.
        scores = jnp.where(jnp.isfinite(texts.log_prob), jnp.maximum(scores, -1e30), -jnp.inf)
    return scores


def _best(job: Job, texts: Texts, count: int) -> jax.Array:
    best: jax.Array = jax.lax.top_k(_scores(job, texts), count)[1]
    return best


def _nothing_better(job: Job, beams: Texts, pool: Texts, length: jax.Array) -> jax.Array:
    """Returns `[B]`, true where no beam can still end better than what is in the pool."""
    config: DASConfig = job.config
    # A log-probability only falls, and most of it is forgiven at the greatest length.
    last = config.new_tokens if config.length_penalty > 0 else length
    # The discriminator can become sure, whatever it says now.
    sure = replace(
        beams,
        length=jnp.broadcast_to(last, beams.length.shape),
        log_class=jnp.zeros_like(beams.log_class),
    )
    hope = jnp.max(_scores(job, sure), axis=-1)
    return jnp.all(hope <= jnp.min(_scores(job, pool), axis=-1), axis=-1)


def _generation(
    job: Job, beams: Texts, pool: Texts, done: jax.Array, read: jax.Array, length: jax.Array
) -> Generation:
    """Returns the best texts, those under way among them where that is open."""
    config: DASConfig = job.config
    both = joined(pool, only(beams, jnp.broadcast_to(~done[:, None, None], beams.length.shape)))
    order = _best(job, both, config.samples)
    best = jax.tree.map(lambda array: pick(array, order)[:, 0], both)
    ended = (order[:, 0] < config.beams) & jnp.isfinite(best.log_prob)
    over = done | (length == config.new_tokens)
    found = chosen_texts(best, ended & over[:, None], read)
    return replace(found, simulations=found.model_tokens) if config.alpha > 0 else found


DAS = Decoder(begin, advance)
