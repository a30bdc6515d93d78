"""Sequential Monte Carlo: weighted particles of p(x) p(c|x)^power, resampled as they grow.

The twisted proposals of Zhao et al. (ICML 2024, arXiv 2404.17546) with the discriminator on the
unfinished text as twist; resampling by the effective sample size (Del Moral, Doucet and Jasra 2012,
Bernoulli 18). A particle is a lane, so resampling chooses paths and copies no cache.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import struct

from coopgen_jax.decoding.decoder_settings import DecoderSettings
from coopgen_jax.decoding.generation import (
    Generation,
    append,
    blank,
    entry_at,
    per_sample,
    pick,
    row_keys,
)
from coopgen_jax.decoding.job import Decoder, Job, ends, seen_by, shaped
from coopgen_jax.decoding.judgement import log_target
from coopgen_jax.decoding.lanes import Lanes, begin_lanes, extend_lanes, lane_stops
from coopgen_jax.decoding.rules.draw import draw, per_key
from coopgen_jax.decoding.rules.shaping import REMOVES_SUPPORT, log_constrained, log_marked
from coopgen_jax.errors import UserError

Resampling = Literal["systematic", "residual"]


@dataclass(frozen=True)
class SMCConfig(DecoderSettings):
    """Draws weighted particles of p(x) p(c|x) (sequential Monte Carlo).

    All particles are returned: with `w = exp(log_weight)`, the mean of `w f(x)` over them estimates
    E_p[p(c|x)^power f(x)] without bias, p being the language model under the constraints, with a
    watermark's greenlist. What the rules shape is the proposal alone, and the weights put it right.
    `log_proposal` is NaN: what was drawn has been resampled.

    Attributes:
      samples: `W`, particles of a prompt.
      power: exponent of p(c|x) in the target p(x) p(c|x)^power.
      threshold: particles are resampled where their effective sample size is below this share of
        them; 0 never does (importance sampling), 1 after every token at which they differ.
      resampling: "systematic" (Carpenter and others, 1999) or "residual" (Liu and Chen, 1998).
    """

    samples: int = 8
    power: float = 1.0
    threshold: float = 0.5
    resampling: Resampling = "systematic"

    always_guided: ClassVar[bool] = True
    weighted: ClassVar[bool] = True
    refuses: ClassVar[tuple[str, ...]] = REMOVES_SUPPORT
    because: ClassVar[str] = "particles must be able to become every text that their weights are of"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_least(0, "power")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}: give a share from 0 to 1")
        if self.resampling not in ("systematic", "residual"):
            raise ValueError(f"resampling is {self.resampling!r}: give systematic or residual")


@struct.dataclass
class SMCState:
    """What stands between two tokens.

    lanes: those of the particles; generation: the particles `[B, W]`; step: tokens written.
    """

    lanes: Lanes
    generation: Generation
    step: jax.Array


def begin(job: Job) -> SMCState:
    """Reads the prompts.

    Raises:
      UserError: there is nothing to weigh particles by, or they exceed the context.
    """
    config: SMCConfig = job.config
    if job.discriminator is None or job.target is None:
        raise UserError("particles are weighed by a discriminator: give one and a target")
    count, length = config.samples, config.new_tokens
    lanes, log_class = begin_lanes(job, count, length)
    particles = blank(per_sample(log_class[:, 0], count), length)
    return SMCState(lanes, particles, jnp.int32(0))


def advance(key: jax.Array, job: Job, state: SMCState) -> tuple[SMCState, None]:
    """Resamples the particles where they have become too unequal, and draws a token for each."""
    config: SMCConfig = job.config
    keys, choose = (row_keys(key, job.prompt, count, state.step) for count in (config.samples, 1))
    particles = state.generation
    source, log_weight = resample(
        per_key(partial(jax.random.fold_in, data=config.samples), choose[:, 0]),
        particles.log_weight,
        config=config,
    )
    # A prompt whose particles have all ended is done, whatever the others need.
    over = particles.finished.all(axis=-1, keepdims=True)
    source = jnp.where(over, jnp.arange(config.samples, dtype=jnp.int32)[None], source)
    log_weight = jnp.where(over, particles.log_weight, log_weight)
    read = particles.model_tokens
    lanes = state.lanes.at(source[:, None])
    # What a particle's place has cost stays with the place, whoever stands there now.
    particles = replace(pick(particles, source), log_weight=log_weight, model_tokens=read)

    stop = lane_stops(lanes, state.step)
    stop = None if stop is None else stop[:, 0]
    logits, seen = lanes.logits[:, 0], seen_by(job, particles, stop)
    log_p = log_constrained(config.rules, logits, seen, ends=job.language_model.end_tokens)
    log_p = log_marked(config.rules, log_p, seen)
    token, log_q = draw(config.rules, keys, shaped(job, logits, seen), seen=seen)
    end = ends(job, token, stop)
    lanes, log_class = extend_lanes(
        job,
        lanes,
        token[:, None],
        particles.log_class[:, None],
        step=state.step,
        idle=(end | particles.finished)[:, None],
    )
    # A text of nothing has not been weighed yet.
    before = jnp.where(state.step > 0, _log_potential(job, particles.log_class), 0.0)
    now = _log_potential(job, log_class[:, 0])
    gained = entry_at(log_p, token) - log_q + now - before
    # What has become impossible stays so, and is not the difference of two infinities.
    gained = jnp.where(jnp.isneginf(now) | jnp.isneginf(before), -jnp.inf, gained)
    live = ~particles.finished
    written = append(
        replace(particles, log_weight=particles.log_weight + jnp.where(live, gained, 0.0)),
        token,
        log_prob=entry_at(jax.nn.log_softmax(logits), token),
        log_proposal=jnp.full(token.shape, jnp.nan, jnp.float32),
        log_class=log_class[:, 0],
        end=end,
        model_tokens=1,
    )
    return SMCState(lanes, written, state.step + 1), None


def resample(
    keys: jax.Array, log_weight: jax.Array, *, config: SMCConfig
) -> tuple[jax.Array, jax.Array]:
    """Chooses which particles go on where their effective number has become too small.

    `keys` `[B]` are typed keys, `log_weight` `[B, W]` is unnormalised.

    Returns:
      The particles that go on `[B, W]` int32, and their log weights: all the mean of what they were
      where there was a choice, so that sums of weights keep their expectation.
    """
    count = log_weight.shape[-1]

    def one(key: jax.Array, log_weight: jax.Array) -> tuple[jax.Array, jax.Array]:
        share = jax.nn.softmax(log_weight)
        effective = 1.0 / jnp.sum(share**2)
        chosen = _chosen(key, share, config.resampling)
        mean = jax.nn.logsumexp(log_weight) - jnp.log(float(count))
        unequal = (effective < config.threshold * count * (1 - 1e-6)) & jnp.isfinite(mean)
        same = jnp.arange(count, dtype=jnp.int32)
        return jnp.where(unequal, chosen, same), jnp.where(unequal, mean, log_weight)

    return jax.vmap(one)(keys, log_weight)


def _chosen(key: jax.Array, share: jax.Array, resampling: Resampling) -> jax.Array:
    """Returns `W` particles `[W]`, each `W * share` times in expectation."""
    count = len(share)
    if resampling == "systematic":
        shift = jax.random.uniform(key, dtype=jnp.float32)
        places = (jnp.arange(count, dtype=jnp.float32) + shift) / count
        return _reached(share, places)
    copies = jnp.floor(count * share * (1 + 1e-6))
    sure = jnp.cumsum(copies)
    rest = jnp.maximum(count * share - copies, 0.0)
    drawn = jax.random.categorical(key, jnp.log(rest), shape=(count,))
    place = jnp.arange(count)
    first = jnp.sum(sure[None, :] <= place[:, None], axis=-1)
    return jnp.where(place < sure[-1], jnp.minimum(first, count - 1), drawn).astype(jnp.int32)


def _reached(share: jax.Array, places: jax.Array) -> jax.Array:
    """Returns in whose share each place of the unit interval lies."""
    ends = jnp.cumsum(share)
    found = jnp.searchsorted(ends / ends[-1], places, side="right")
    return jnp.minimum(found, len(share) - 1).astype(jnp.int32)


def _log_potential(job: Job, log_class: jax.Array) -> jax.Array:
    assert job.target is not None
    config: SMCConfig = job.config
    said = log_target(log_class[:, None], job.target)[:, 0]
    return config.power * said if config.power else jnp.zeros_like(said)


def log_evidence(generation: Generation) -> jax.Array:
    """Returns the estimate `[B]` of log E_p[p(c|x)^power]; its exponential is unbiased."""
    count = generation.log_weight.shape[-1]
    return jax.nn.logsumexp(generation.log_weight, axis=-1) - jnp.log(float(count))


SMC = Decoder(begin, advance)
