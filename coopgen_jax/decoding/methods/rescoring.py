"""Drawing the next token from scores that a discriminator has a say in: FUDGE, GeDi and PPLM."""

import jax
import jax.numpy as jnp
from flax import struct

from coopgen_jax.decoding.generation import Generation, blank, row_keys
from coopgen_jax.decoding.job import Job, States, read_prompts, seen_by, stop_states
from coopgen_jax.decoding.rules.draw import draw
from coopgen_jax.decoding.rules.shaping import Seen
from coopgen_jax.models.slots import Capacity


@struct.dataclass
class RescoringState:
    """Between two tokens: the logits `[B, R, V]` of the next, both states, the texts, the step."""

    logits: jax.Array
    states: States
    generation: Generation
    step: jax.Array


def begin_rescoring(job: Job, *, nodes: int = 1) -> RescoringState:
    """Reads the prompts, with room for so many node slots of a sample; see `read_prompts`."""
    config = job.config
    capacity = Capacity(config.samples, config.new_tokens, nodes)
    logits, log_class, states = read_prompts(job, capacity, config.ahead)
    return RescoringState(logits, states, blank(log_class, config.new_tokens), jnp.int32(0))


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

    The scores `[B, R, K]` are unnormalised log-probabilities of the `tokens` `[B, R, K]`, which are
    None where `K` is the vocabulary.

    Returns:
      The tokens `[B, R]` and their log-probabilities, NaN where nothing is drawn.
    """
    keys = None
    if not job.config.greedy:
        keys = row_keys(key, job.prompt, job.config.samples, state.step)
    return draw(job.config.rules, keys, score, tokens, seen=seen_of(job, state))
