"""Plain decoding: greedy and the sampling rules, on the same cache as the search."""

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import struct

from coopgen_jax.decoding.decoder_settings import DecoderSettings, check_base_share
from coopgen_jax.decoding.generation import Generation, blank, entry_at, row_keys
from coopgen_jax.decoding.job import (
    Decoder,
    Job,
    States,
    read_prompts,
    seen_by,
    shaped,
    stop_states,
    write_token,
)
from coopgen_jax.decoding.rules.draw import draw, log_drawn, per_key
from coopgen_jax.decoding.rules.shaping import log_constrained, log_marked
from coopgen_jax.decoding.rules.truncation import bits, mirostat, mixture
from coopgen_jax.models.slots import Capacity


@dataclass(frozen=True)
class SamplingConfig(DecoderSettings):
    """Draws each token by the rules (plain sampling).

    A temperature of 0 is greedy.

    `log_proposal` is the renormalised, truncated log-probability of each draw, summed; NaN where
    nothing is drawn. A discriminator, where given, only judges the texts.

    Attributes:
      mirostat: the surprise in bits that Mirostat 2 steers every text to; 0 for none.
      mirostat_rate: how fast it corrects itself.
      mix_base: share of the texts that are drawn from the language model's own distribution,
        which constraints alone restrict; `log_proposal` is then that of the mixture
        (`rules.truncation.mixture`). A proposal that is to be weighted must be able to write every
        text.
    """

    mirostat: float = 0.0
    mirostat_rate: float = 0.1
    mix_base: float = 0.0

    method: ClassVar[str] = "sample"
    may_be_greedy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.mirostat < float("inf"):
            raise ValueError(f"mirostat is {self.mirostat}: give 0 (no rule) or bits above it")
        if not 0 < self.mirostat_rate < float("inf"):
            raise ValueError(f"mirostat_rate is {self.mirostat_rate}: it must be above 0")
        check_base_share(self.mix_base)
        if self.mix_base and self.rules.temperature == 0:
            raise ValueError("mix_base mixes two ways to draw a text: give a temperature above 0")

    @property
    def few_candidates(self) -> bool:
        """Whether the tokens that may be drawn are a few."""
        return super().few_candidates and not self.mix_base


@struct.dataclass
class SamplingState:
    """What stands between two tokens.

    logits: `[B, R, V]` of the next one; states: of both networks; generation: the texts.
    limit: `[B, R]` float32 the surprise in bits up to which Mirostat lets tokens be drawn.
    log_ruled: `[B, R]` float32 log-probability of the texts under the rules, drawn by them or not.
    log_full: `[B, R]` float32 that under the language model and the constraints.
    step: tokens written.
    """

    logits: jax.Array
    states: States
    generation: Generation
    limit: jax.Array
    log_ruled: jax.Array
    log_full: jax.Array
    step: jax.Array


def begin(job: Job) -> SamplingState:
    """Reads the prompts.

    Raises:
      UserError: a prompt and what is to be written exceed the context, or a rule names a token
        that the language model does not have.
    """
    config: SamplingConfig = job.config
    capacity = Capacity(config.samples, config.new_tokens, nodes=1)
    logits, log_class, states = read_prompts(job, capacity, config.ahead)
    limit = jnp.full(logits.shape[:2], 2 * config.mirostat, jnp.float32)
    generation = blank(log_class, config.new_tokens)
    none = jnp.zeros_like(generation.log_prob)
    return SamplingState(logits, states, generation, limit, none, none, jnp.int32(0))


def advance(key: jax.Array, job: Job, state: SamplingState) -> tuple[SamplingState, None]:
    """Writes one token of every text that is not finished; there is no tree to show."""
    token, log_ruled, log_full, limit = _draw(key, job, state)
    after = write_token(job, state, token, log_ruled)
    log_ruled, log_full = (
        sum_before + jnp.where(state.generation.finished, 0.0, log_p)
        for sum_before, log_p in ((state.log_ruled, log_ruled), (state.log_full, log_full))
    )
    texts = after.generation
    if share := job.config.mix_base:
        texts = replace(texts, log_proposal=mixture(log_ruled, log_full, share))
    sums = {"log_ruled": log_ruled, "log_full": log_full}
    return replace(after, generation=texts, limit=limit, **sums), None


def _draw(
    key: jax.Array, job: Job, state: SamplingState
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Returns tokens `[B, R]`, their log p by the rules and by the constraints, the next limit."""
    config: SamplingConfig = job.config
    generation, rules = state.generation, config.rules
    seen = seen_by(job, generation, stop_states(state.states))
    kept = shaped(job, state.logits, seen)
    if rules.temperature == 0:
        token, log_ruled = draw(rules, None, kept)
        return token, log_ruled, log_ruled, state.limit
    whole = kept
    if config.mirostat:
        kept = mirostat(whole, state.limit)
    keys = row_keys(key, job.prompt, config.samples, state.step)
    log_p = log_constrained(rules, state.logits, seen, ends=job.language_model.end_tokens)
    log_p = log_marked(rules, log_p, seen)
    drawn_from = kept
    if config.mix_base:
        # Which of the two a text is drawn from stays the same for all of its tokens.
        text = row_keys(key, job.prompt, config.samples, jnp.int32(config.new_tokens))
        chance = partial(jax.random.bernoulli, p=jnp.float32(config.mix_base))
        full = per_key(chance, text)
        drawn_from = jnp.where(full[..., None], log_p, kept)
    token, _ = draw(rules, keys, drawn_from, seen=seen)
    # The surprise that is steered is that of the distribution before Mirostat cut it.
    surprise = bits(entry_at(jax.nn.log_softmax(whole), token))
    missed = jnp.where(generation.length < len(rules.forced), 0.0, surprise - config.mirostat)
    return (
        token,
        log_drawn(rules, kept, token, seen),
        entry_at(log_p, token),
        state.limit - config.mirostat_rate * missed,
    )


SAMPLING = Decoder(begin, advance)
