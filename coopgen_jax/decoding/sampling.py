"""Plain decoding: greedy, temperature, top-k and nucleus, on the same cache as the search."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct

from coopgen_jax.decoding.generation import Generation, append, blank, per_sample, row_keys
from coopgen_jax.decoding.job import Job, States, ends, read_nodes, read_prompts, write_all
from coopgen_jax.decoding.rules import (
    check_repetition,
    no_repeat_ngram,
    repetition_penalty,
    truncate,
)
from coopgen_jax.discriminators.discriminator import Discriminator
from coopgen_jax.models.language_model import LanguageModel, Nodes, Prompt
from coopgen_jax.models.slots import Capacity, commit


@dataclass(frozen=True)
class SamplingConfig:
    """How plain decoding chooses each token.

    new_tokens: `T`, the most tokens to write.
    samples: `R`, texts per prompt.
    temperature: 0 is greedy.
    top_k: how many of the likeliest tokens may be drawn, 0 for all.
    top_p: the nucleus' probability.
    repetition_penalty: CTRL's, over the prompt and the text so far; 1 for none.
    no_repeat_ngram: n-grams of this length are never written twice; 0 for no such rule.
    """

    new_tokens: int = 24
    samples: int = 1
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0

    guided: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.new_tokens < 1 or self.samples < 1:
            raise ValueError("new_tokens and samples must be 1 or more")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature}: give 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}: give a probability above 0, 1 for no nucleus")
        if self.top_k < 0:
            raise ValueError(f"top_k is {self.top_k}: give 0 (all tokens) or more")
        check_repetition(self.repetition_penalty, self.no_repeat_ngram)

    @property
    def ahead(self) -> int:
        """Tokens that may be read behind a prompt."""
        return self.new_tokens


@struct.dataclass
class SamplingState:
    """Between two tokens: the logits `[B, R, V]` of the next, both states, the texts, the step."""

    logits: jax.Array
    states: States
    generation: Generation
    step: jax.Array


def begin(job: Job) -> SamplingState:
    """Reads the prompts.

    Raises:
      UserError: a prompt and what is to be written exceed the context.
    """
    config: SamplingConfig = job.config
    capacity = Capacity(config.samples, config.new_tokens, nodes=1)
    logits, log_class, states = read_prompts(job, capacity, config.ahead)
    return SamplingState(logits, states, blank(log_class, config.new_tokens), jnp.int32(0))


def advance(key: jax.Array, job: Job, state: SamplingState) -> tuple[SamplingState, None]:
    """Writes one token of every text that is not finished; there is no tree to show."""
    generation = state.generation
    token, log_proposal = _draw(key, job, state)
    log_probs = jax.nn.log_softmax(state.logits)
    rows = (*token.shape, 1)
    node = Nodes(
        start=jnp.int32(0),
        token=token[..., None],
        parent=jnp.zeros(rows, jnp.int32),
        path=jnp.full((*rows, 1), -1, jnp.int32),
        depth=jnp.ones(rows, jnp.int32),
        committed=generation.length,
        terminal=ends(job, token)[..., None],
    )
    logits, log_class, states = read_nodes(
        job, state.states, node, generation.log_class[:, :, None]
    )
    written = append(
        replace(generation, model_tokens=generation.model_tokens + ~generation.finished),
        token,
        log_prob=jnp.take_along_axis(log_probs, token[..., None], axis=-1)[..., 0],
        log_proposal=log_proposal,
        log_class=log_class[:, :, 0],
        end=node.terminal[..., 0],
    )
    states = commit(states, generation.length)
    return SamplingState(logits[:, :, 0], states, written, state.step + 1), None


def _draw(key: jax.Array, job: Job, state: SamplingState) -> tuple[jax.Array, jax.Array]:
    """Returns a token of every row `[B, R]` and the log-probability with which it was drawn."""
    config: SamplingConfig = job.config
    generation, prompt = state.generation, job.prompt
    written = jnp.arange(config.new_tokens)[None, None] < generation.length[..., None]
    seen = jnp.concatenate([per_sample(prompt.tokens, config.samples), generation.tokens], axis=-1)
    mask = jnp.concatenate([per_sample(prompt.mask, config.samples), written], axis=-1)
    logits = repetition_penalty(state.logits, seen, mask, config.repetition_penalty)
    logits = no_repeat_ngram(logits, seen, mask, config.no_repeat_ngram)
    if config.temperature == 0:
        token = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        return token, jnp.full(token.shape, jnp.nan, jnp.float32)
    shards = job.language_model.vocab_shards
    logits = logits / config.temperature
    kept = truncate(logits, top_k=config.top_k, top_p=config.top_p, shards=shards)
    keys = row_keys(key, prompt, config.samples, state.step)
    token = jax.vmap(jax.vmap(jax.random.categorical))(keys, kept).astype(jnp.int32)
    log_proposal = jnp.take_along_axis(jax.nn.log_softmax(kept), token[..., None], axis=-1)
    return token, log_proposal[..., 0]


def sample(
    key: jax.Array,
    prompt: Prompt,
    *,
    language_model: LanguageModel,
    params: Any,
    discriminator: Discriminator | None = None,
    discriminator_params: Any = None,
    config: SamplingConfig,
) -> Generation:
    """Writes texts by plain decoding; a discriminator, where given, only judges them.

    Args:
      key: typed key of the whole job.
      prompt: what is to be continued.
      language_model: the network's functions; static under `jit`.
      params: its parameters.
      discriminator: judges every text as it grows, or None; static under `jit`.
      discriminator_params: its parameters.
      config: how tokens are chosen; static under `jit`.

    Returns:
      The texts; `log_proposal` is the renormalised, truncated probability of each draw, summed.
    """
    job = Job(
        prompt=prompt,
        params=params,
        discriminator_params=discriminator_params,
        language_model=language_model,
        discriminator=discriminator,
        config=config,
    )
    return write_all(begin, advance, key, job)
