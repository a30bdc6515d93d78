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
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp

from coopgen_jax.decoding.decoder_settings import DecoderSettings
from coopgen_jax.decoding.flat_settings import changed
from coopgen_jax.decoding.generation import pick
from coopgen_jax.decoding.hypotheses import (
    RANKED,
    UNRANKED,
    best,
    check_beams,
    check_length_penalty,
    continued,
    likeliest,
    log_probs,
    only,
    with_gains,
)
from coopgen_jax.decoding.job import Decoder, Job
from coopgen_jax.decoding.lanes import at, ends_behind, extend_lanes, lane_stops
from coopgen_jax.decoding.methods.beam import BeamState, begin_beams, next_state
from coopgen_jax.errors import UserError


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

    refuses: ClassVar[tuple[str, ...]] = UNRANKED
    because: ClassVar[str] = RANKED
    groups: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_least(1, "beams")
        check_beams(self.samples, self.beams)
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
    def draws(self) -> bool:
        """Whether every token that is written is drawn: they are ranked."""
        return False

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
    if job.config.alpha > 0 and (job.discriminator is None or job.target is None):
        raise UserError(
            "beams are scored by a discriminator: give one and a target, or an alpha of 0"
        )
    return begin_beams(job, _lanes(job))


def _lanes(job: Job) -> int:
    return min(job.config.candidates, job.config.beams * job.language_model.vocab_size)


def advance(key: jax.Array, job: Job, state: BeamState) -> tuple[BeamState, None]:
    """Has the pool read and judged, and continues the best; there is no tree to show."""
    config: DASConfig = job.config
    stop = lane_stops(state.lanes, state.step)
    # The likeliest continuations, best first, so many that `K` of them go on, however many end.
    total = state.beams.log_prob[..., None] + log_probs(job, state.lanes.logits, state.beams, stop)
    log_prob, lane, token = likeliest(job, total, config.candidates, stop)
    texts = continued(state.beams, lane, state.step, token, log_prob)
    texts = with_gains(job, texts, state.lanes.logits, state.beams, lane, token)
    ended = ends_behind(job, stop, lane, token)
    count = _lanes(job)

    # The likeliest that go on are read.
    chosen = jnp.argsort(ended, axis=-1, stable=True)[..., :count]
    pool = pick(only(texts, ~ended), chosen)
    missing = jnp.isinf(pool.log_prob) | state.done[:, None, None]
    lanes, log_class = extend_lanes(
        job,
        state.lanes.at(pick(lane, chosen)),
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
    over = pick(only(texts, ended), best(job, texts, config.beams))
    live = only(texts, ~ended)
    going = best(job, live, config.beams)
    lanes, beams = lanes.at(pick(row, going)), pick(live, going)
    return next_state(job, state, lanes, beams, over, idle=missing), None


DAS = Decoder(begin, advance)
