"""Drawing the next token from scores that a discriminator has a say in, one lane per text.

What FUDGE with look-ahead and GeDi share: the children of a text are judged before any of them is
read, so that only the token that is drawn costs a call.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
from flax import struct

from coopgen_jax.decoding.generation import Generation, append, row_keys
from coopgen_jax.decoding.job import Job, States, ends, read_token, seen_by, stop_states
from coopgen_jax.decoding.rules.draw import draw, entry_at
from coopgen_jax.decoding.rules.shaping import Seen


@struct.dataclass
class RescoringState:
    """Between two tokens: the logits `[B, R, V]` of the next, both states, the texts, the step."""

    logits: jax.Array
    states: States
    generation: Generation
    step: jax.Array


def seen_of(job: Job, state: RescoringState) -> Seen:
    """Returns what stands in front of the next token of every text, for the rules."""
    return seen_by(job, state.generation, stop_states(state.states))


def choose(
    key: jax.Array,
    job: Job,
    state: RescoringState,
    score: jax.Array,
    tokens: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Chooses a token of every text by scores: a draw, or the best where the config says `greedy`.

    Args:
      key: typed key of the whole job.
      job: the job.
      state: what stands between two tokens.
      score: `[B, R, K]` unnormalised log-probabilities.
      tokens: `[B, R, K]` the tokens they belong to; None where `K` is the vocabulary.

    Returns:
      The tokens `[B, R]` and their log-probabilities, NaN where nothing is drawn.
    """
    keys = None
    if not job.config.greedy:
        keys = row_keys(key, job.prompt, job.config.samples, state.step)
    return draw(job.config.rules, keys, score, tokens, seen=seen_of(job, state))


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
    token, log_proposal = choose(key, job, state, score, tokens)
    end = ends(job, token, stop_states(state.states))
    logits, log_class, states = read_token(job, state.states, generation, token)
    live = ~generation.finished
    written = append(
        replace(
            generation,
            model_tokens=generation.model_tokens + live,
            simulations=generation.simulations + live,
        ),
        token,
        log_prob=entry_at(jax.nn.log_softmax(state.logits), token),
        log_proposal=log_proposal,
        log_class=log_class,
        end=end,
    )
    return RescoringState(logits, states, written, state.step + 1)


def of(array: jax.Array, index: jax.Array) -> jax.Array:
    """Returns the entries of `[B, R, K, ...]` at `index` `[B, R]`."""
    index = index.reshape(*index.shape, *(1,) * (array.ndim - 2))
    return jnp.take_along_axis(array, index, axis=2)[:, :, 0]
