"""Plain decoding: greedy and the sampling rules, on the same cache as the search."""

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
from flax import struct

from coopgen_jax.decoding.decoder_settings import DecoderSettings
from coopgen_jax.decoding.generation import Generation, append, blank, row_keys, so_far
from coopgen_jax.decoding.job import Decoder, Job, States, ends, read_prompts, read_token
from coopgen_jax.decoding.rules.repetition import (
    check_repetition,
    force,
    no_bad_words,
    no_repeat_ngram,
    repetition_penalty,
)
from coopgen_jax.decoding.rules.truncation import (
    bits,
    eta_cutoff,
    min_p,
    mirostat,
    mixture,
    top_k_and_nucleus,
    typical,
)
from coopgen_jax.errors import UserError
from coopgen_jax.models.slots import Capacity


@dataclass(frozen=True)
class SamplingConfig(DecoderSettings):
    """How plain decoding chooses each token.

    The rules are applied in the order in which they stand here, each to the renormalised
    distribution that the ones in front of it have left.

    repetition_penalty: CTRL's, over the prompt and the text so far; 1 for none.
    no_repeat_ngram: n-grams of this length are never written twice; 0 for no such rule.
    bad_words: sequences of tokens that are never completed.
    forced: tokens that every text begins with, whatever the other rules say.
    temperature: 0 is greedy, and what follows has no say then.
    top_k: how many of the likeliest tokens may be drawn, 0 for all.
    top_p: the nucleus' probability.
    min_p: least share of the likeliest token's probability; 0 for none.
    typical_p: probability of the locally typical tokens that may be drawn; 1 for all.
    eta: epsilon of eta sampling; 0 for none.
    mirostat: the surprise in bits that Mirostat 2 steers every text to; 0 for none.
    mirostat_rate: how fast it corrects itself.
    full_share: share of the texts that are drawn from the language model's own distribution, none
      of these rules applied; `log_proposal` is then that of the mixture
      (`rules.truncation.mixture`). A proposal that is to be weighted has to be able to write every
      text.
    """

    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0
    bad_words: tuple[tuple[int, ...], ...] = ()
    forced: tuple[int, ...] = ()
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    eta: float = 0.0
    mirostat: float = 0.0
    mirostat_rate: float = 0.1
    full_share: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature}: give 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}: give a probability above 0, 1 for no nucleus")
        if self.top_k < 0:
            raise ValueError(f"top_k is {self.top_k}: give 0 (all tokens) or more")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p is {self.min_p}: give a share from 0 (no rule) to 1")
        if not 0 < self.typical_p <= 1:
            raise ValueError(
                f"typical_p is {self.typical_p}: give a probability above 0, 1 for all"
            )
        if not 0 <= self.eta < 1:
            raise ValueError(f"eta is {self.eta}: give 0 (no rule) or a probability below 1")
        if not 0 <= self.mirostat < float("inf"):
            raise ValueError(f"mirostat is {self.mirostat}: give 0 (no rule) or bits above it")
        if not 0 < self.mirostat_rate < float("inf"):
            raise ValueError(f"mirostat_rate is {self.mirostat_rate}: it must be above 0")
        if not all(self.bad_words):
            raise ValueError("a bad word has no tokens: leave it out")
        if any(token < 0 for word in (*self.bad_words, self.forced) for token in word):
            raise ValueError("bad words and forced tokens are given as token ids: 0 or more")
        if len(self.forced) > self.new_tokens:
            raise ValueError(
                f"{len(self.forced)} tokens are forced and {self.new_tokens} are to be written: "
                "ask for more new tokens"
            )
        check_repetition(self.repetition_penalty, self.no_repeat_ngram)
        if not 0 <= self.full_share <= 1:
            raise ValueError(f"full_share is {self.full_share}: give a share from 0 (none) to 1")
        if self.full_share and (self.temperature == 0 or self.forced):
            raise ValueError(
                "full_share mixes two ways to draw a text: give a temperature above 0 and no "
                "forced tokens"
            )

    @property
    def deterministic(self) -> bool:
        """Whether all samples of a prompt are bound to be the same text."""
        return self.samples > 1 and self.temperature == 0


@struct.dataclass
class SamplingState:
    """What stands between two tokens.

    logits: `[B, R, V]` of the next one; states: of both networks; generation: the texts.
    limit: `[B, R]` float32 the surprise in bits up to which Mirostat lets tokens be drawn.
    log_ruled: `[B, R]` float32 log-probability of the texts under the rules, drawn by them or not.
    step: tokens written.
    """

    logits: jax.Array
    states: States
    generation: Generation
    limit: jax.Array
    log_ruled: jax.Array
    step: jax.Array


def begin(job: Job) -> SamplingState:
    """Reads the prompts.

    Raises:
      UserError: a prompt and what is to be written exceed the context, or a rule names a token
        that the language model does not have.
    """
    config: SamplingConfig = job.config
    named = max((token for word in (*config.bad_words, config.forced) for token in word), default=0)
    if named >= job.language_model.vocab_size:
        raise UserError(
            f"token {named} is ruled out or forced, and the language model has "
            f"{job.language_model.vocab_size}, numbered from 0"
        )
    capacity = Capacity(config.samples, config.new_tokens, nodes=1)
    logits, log_class, states = read_prompts(job, capacity, config.ahead)
    limit = jnp.full(logits.shape[:2], 2 * config.mirostat, jnp.float32)
    generation = blank(log_class, config.new_tokens)
    return SamplingState(
        logits, states, generation, limit, jnp.zeros_like(generation.log_prob), jnp.int32(0)
    )


def advance(key: jax.Array, job: Job, state: SamplingState) -> tuple[SamplingState, None]:
    """Writes one token of every text that is not finished; there is no tree to show."""
    generation = state.generation
    token, log_proposal, limit = _draw(key, job, state)
    log_probs = jax.nn.log_softmax(state.logits)
    logits, log_class, states = read_token(job, state.states, generation, token)
    written = append(
        replace(generation, model_tokens=generation.model_tokens + ~generation.finished),
        token,
        log_prob=jnp.take_along_axis(log_probs, token[..., None], axis=-1)[..., 0],
        log_proposal=log_proposal,
        log_class=log_class,
        end=ends(job, token),
    )
    log_ruled = state.log_ruled + jnp.where(generation.finished, 0.0, log_proposal)
    if share := job.config.full_share:
        written = replace(written, log_proposal=mixture(log_ruled, written.log_prob, share))
    return SamplingState(logits, states, written, limit, log_ruled, state.step + 1), None


def _draw(key: jax.Array, job: Job, state: SamplingState) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns a token of every row `[B, R]`, its log-probability as drawn, and the next limit."""
    config: SamplingConfig = job.config
    generation, prompt = state.generation, job.prompt
    seen, mask = so_far(generation, job.text_before)
    logits = repetition_penalty(state.logits, seen, mask, config.repetition_penalty)
    logits = no_repeat_ngram(logits, seen, mask, config.no_repeat_ngram)
    logits = no_bad_words(logits, seen, mask, config.bad_words)
    logits = force(logits, generation.length, config.forced)
    if config.temperature == 0:
        token = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        return token, jnp.full(token.shape, jnp.nan, jnp.float32), state.limit
    shards = job.language_model.vocab_shards
    kept = logits / config.temperature
    kept = top_k_and_nucleus(kept, top_k=config.top_k, top_p=config.top_p, shards=shards)
    kept = min_p(kept, config.min_p)
    kept = typical(kept, config.typical_p)
    whole = kept = eta_cutoff(kept, config.eta)
    if config.mirostat:
        kept = mirostat(whole, state.limit)
    keys = row_keys(key, prompt, config.samples, state.step)
    drawn_from = kept
    if config.full_share:
        # Which of the two a text is drawn from stays the same for all of its tokens.
        text = row_keys(key, prompt, config.samples, jnp.int32(config.new_tokens))
        full = jax.vmap(jax.vmap(partial(jax.random.bernoulli, p=config.full_share)))(text)
        drawn_from = jnp.where(full[..., None], state.logits, kept)
    token = jax.vmap(jax.vmap(jax.random.categorical))(keys, drawn_from).astype(jnp.int32)

    def log_p(logits: jax.Array) -> jax.Array:
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), token[..., None], axis=-1)
        return chosen[..., 0]

    # The surprise that is steered is that of the distribution before Mirostat cut it.
    missed = jnp.where(
        generation.length < len(config.forced), 0.0, bits(log_p(whole)) - config.mirostat
    )
    return token, log_p(kept), state.limit - config.mirostat_rate * missed


SAMPLING = Decoder(begin, advance)
