"""Drawing the next token from scores that a discriminator has a say in, one lane per text.

What FUDGE with look-ahead and GeDi share: the children of a text are judged before any of them is
read, so that only the token that is drawn costs a call.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
from flax import struct

from coopgen_jax.decoding.generation import Generation, append, row_keys, so_far
from coopgen_jax.decoding.job import Job, States, ends, read_token
from coopgen_jax.decoding.rules.repetition import no_repeat_ngram, repetition_penalty


@struct.dataclass
class RescoringState:
    """Between two tokens: the logits `[B, R, V]` of the next, both states, the texts, the step."""

    logits: jax.Array
    states: States
    generation: Generation
    step: jax.Array


def shaped(job: Job, state: RescoringState) -> jax.Array:
    """Returns the logits `[B, R, V]` by the rules: both against repetition, then temperature."""
    config = job.config
    seen, mask = so_far(state.generation, job.text_before)
    logits = repetition_penalty(state.logits, seen, mask, config.repetition_penalty)
    return no_repeat_ngram(logits, seen, mask, config.no_repeat_ngram) / config.temperature


def choose(
    key: jax.Array, job: Job, state: RescoringState, score: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the place `[B, R]` of each text's choice among `[B, R, K]` scores, and its log p.

    The choice is a draw from the softmax of the scores; or the best, whose log p is NaN, where the
    config says `greedy`.
    """
    if job.config.greedy:
        chosen = jnp.argmax(score, axis=-1)
        return chosen, jnp.full(chosen.shape, jnp.nan)
    keys = row_keys(key, job.prompt, job.config.samples, state.step)
    chosen = jax.vmap(jax.vmap(jax.random.categorical))(keys, score)
    return chosen, of(jax.nn.log_softmax(score), chosen)


def write_chosen(
    key: jax.Array,
    job: Job,
    state: RescoringState,
    score: jax.Array,
    tokens: jax.Array | None = None,
) -> RescoringState:
    """Chooses one token of every text that is not finished and has it read alone.

    Args:
      key: typed key of the whole job.
      job: the job.
      state: what stands between two tokens.
      score: `[B, R, K]` unnormalised log-probabilities to draw from.
      tokens: `[B, R, K]` the tokens they belong to; None where `K` is the vocabulary.

    Returns:
      The next state.
    """
    generation = state.generation
    chosen, log_proposal = choose(key, job, state, score)
    token = (chosen if tokens is None else of(tokens, chosen)).astype(jnp.int32)
    logits, log_class, states = read_token(job, state.states, generation, token)
    live = ~generation.finished
    written = append(
        replace(
            generation,
            model_tokens=generation.model_tokens + live,
            simulations=generation.simulations + live,
        ),
        token,
        log_prob=of(jax.nn.log_softmax(state.logits), token),
        log_proposal=log_proposal,
        log_class=log_class,
        end=ends(job, token),
    )
    return RescoringState(logits, states, written, state.step + 1)


def of(array: jax.Array, index: jax.Array) -> jax.Array:
    """Returns the entries of `[B, R, K, ...]` at `index` `[B, R]`."""
    index = index.reshape(*index.shape, *(1,) * (array.ndim - 2))
    return jnp.take_along_axis(array, index, axis=2)[:, :, 0]
