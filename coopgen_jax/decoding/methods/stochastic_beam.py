"""Stochastic beam search: several texts drawn without replacement, with their weights.

Kool, van Hoof and Welling (ICML 2019, arXiv 1903.06059). The texts of largest log q(y) + Gumbel
noise are a sample without replacement of q, the language model at a temperature. No text need be
known for that: a beginning's perturbed log-probability G is the largest of its texts', so it is
drawn first. Those of its continuations, G' with maximum Z, are then moved to where their maximum is
G: -log(exp(-G) - exp(-Z) + exp(-G')), computed in the paper's stable form. A beam is a lane, and
what has ended keeps its lane for as long as it is among the best.

Horvitz-Thompson weights: let kappa be the largest G of all texts that were not drawn; one lane more
than there are texts tells it. Given kappa, a text is drawn with probability
1 - exp(-exp(log q(y) - kappa)), and the sum over the texts of p(y) f(y) divided by it has the
expectation E_p[f(y)].
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct

from coopgen_jax.decoding.decoder_settings import DecoderSettings
from coopgen_jax.decoding.generation import Generation, append, blank, per_sample, pick, row_keys
from coopgen_jax.decoding.job import Decoder, Job, seen_by, shaped
from coopgen_jax.decoding.lanes import (
    Lanes,
    begin_lanes,
    ends_behind,
    extend_lanes,
    lane_stops,
)
from coopgen_jax.decoding.rules.draw import per_key
from coopgen_jax.decoding.rules.shaping import REMOVES_SUPPORT, log_constrained
from coopgen_jax.parallel.mesh import top_k


@dataclass(frozen=True)
class StochasticBeamConfig(DecoderSettings):
    """Draws different texts without replacement, with weights.

    `W` different texts of every prompt are returned, by their perturbed log-probability, the
    largest first: the order in which they would have been drawn one by one. `log_proposal` is the
    log-probability of each draw given the texts in front of it. With `w = exp(log_weight)`, the sum
    of `w f(x)` over a prompt's texts estimates E_p[f(x)] without bias, and the sum of `w` estimates
    1; p is the language model under the constraints. Where there are fewer texts than `W`, the last
    are empty, their `log_prob` and `log_weight` minus infinity; where all texts are found, the
    weights are their probabilities.

    Attributes:
      samples: `W`, beams and texts of a prompt; all are returned, with their weights.
    """

    samples: int = 4

    weighted: ClassVar[bool] = True
    refuses: ClassVar[tuple[str, ...]] = REMOVES_SUPPORT
    because: ClassVar[str] = "texts are weighed by what they were drawn from, which must be all"

    undrawn: ClassVar[str] = "the noise here draws whole texts"

    @property
    def draws(self) -> bool:
        """Whether every token that is written is drawn: texts are, and tokens are ranked."""
        return False


@struct.dataclass
class StochasticBeamState:
    """What stands between two tokens; there are `W + 1` lanes, the best in front.

    texts: of the lanes `[B, W + 1]`; their `log_proposal` is log q of the text so far, their
      `log_weight` log p under the constraints.
    perturbed: `[B, W + 1]` float32 `G` of every lane, minus infinity where there is no text.
    read: `[B]` int32 tokens read.
    generation: the texts `[B, W]`; step: tokens written.
    """

    lanes: Lanes
    texts: Generation
    perturbed: jax.Array
    read: jax.Array
    generation: Generation
    step: jax.Array


def begin(job: Job) -> StochasticBeamState:
    """Reads the prompts.

    Raises:
      UserError: a prompt and what is to be written exceed the context.
    """
    config: StochasticBeamConfig = job.config
    count, length = config.samples + 1, config.new_tokens
    lanes, log_class = begin_lanes(job, count, length)
    bare = log_class[:, 0]
    return StochasticBeamState(
        lanes=lanes,
        texts=blank(per_sample(bare, count), length),
        # All lanes are the bare prompt, and one of them is enough.
        perturbed=jnp.full((len(bare), count), -jnp.inf, jnp.float32).at[:, 0].set(0.0),
        read=jnp.zeros(len(bare), jnp.int32),
        generation=blank(per_sample(bare, config.samples), length),
        step=jnp.int32(0),
    )


def advance(key: jax.Array, job: Job, state: StochasticBeamState) -> tuple[Any, None]:
    """Perturbs the continuations of all lanes and keeps the best; there is no tree to show."""
    config: StochasticBeamConfig = job.config
    model, logits = job.language_model, state.lanes.logits[:, 0]
    count, vocab = config.samples + 1, logits.shape[-1]
    # A prompt whose texts have all ended is done: the lane behind them cannot get in front.
    done = ~_live(state)[:, : config.samples].any(axis=-1, keepdims=True)
    log_p = jax.nn.log_softmax(logits)
    stop = lane_stops(state.lanes, state.step)
    seen = seen_by(job, state.texts, None if stop is None else stop[:, 0])
    allowed = log_constrained(config.rules, logits, seen, ends=model.end_tokens)
    log_q = jax.nn.log_softmax(shaped(job, logits, seen))
    keys = row_keys(key, job.prompt, count, state.step)
    gumbel = partial(jax.random.gumbel, shape=(vocab,), dtype=jnp.float32, mode="high")
    noise = per_key(gumbel, keys)
    free = state.texts.log_proposal[..., None] + log_q + noise
    # Nothing is known of the prompt's own maximum, so that it is whatever its continuations' is.
    shaken = jnp.where(state.step == 0, free, conditioned(free, state.perturbed))
    # A text that does not go on is its own only continuation.
    itself = jnp.where(jnp.arange(vocab)[None, None] == 0, state.perturbed[..., None], -jnp.inf)
    shaken = jnp.where(_live(state)[..., None], shaken, itself)

    width = min(count, vocab)
    best, tokens = top_k(shaken, width, shards=model.vocab_shards)
    perturbed, rank = jax.lax.top_k(best.reshape(len(best), -1), count)
    lane = rank // width
    found = (tokens, *pick((log_p, log_q, allowed), tokens))
    found = jax.tree.map(lambda array: array.reshape(len(array), -1), found)
    token, log_prob, log_proposal, weighed = pick(found, rank)
    token = token.astype(jnp.int32)
    texts = pick(state.texts, lane)
    end = ends_behind(job, seen.stop, lane, token)
    idle = end | texts.finished | jnp.isneginf(perturbed) | done
    lanes, log_class = extend_lanes(
        job,
        state.lanes.at(lane[:, None]),
        token[:, None],
        texts.log_class[:, None],
        step=state.step,
        idle=idle[:, None],
    )
    live = ~texts.finished
    texts = append(
        replace(texts, log_weight=texts.log_weight + jnp.where(live, weighed, 0.0)),
        token,
        log_prob=log_prob,
        log_proposal=log_proposal,
        log_class=log_class[:, 0],
        end=end,
    )
    read = state.read + jnp.sum(~idle, axis=-1, dtype=jnp.int32)
    generation = _generation(config, texts, perturbed, read)
    step = state.step + 1
    return StochasticBeamState(lanes, texts, perturbed, read, generation, step), None


def conditioned(free: jax.Array, parent: jax.Array) -> jax.Array:
    """Moves noisy log-probabilities `[..., V]` to where their maximum is their parent's `[...]`.

    They are draws of the same given that maximum; their order stays.
    """
    above = parent[..., None]
    v = above - free + _log1mexp(free - jnp.max(free, axis=-1, keepdims=True))
    return above - jnp.maximum(v, 0.0) - jnp.log1p(jnp.exp(-jnp.abs(v)))


def log_inclusion(log_q: jax.Array, kappa: jax.Array) -> jax.Array:
    """Returns log(1 - exp(-exp(log q - kappa))), with which a text is drawn given `kappa`."""
    above = log_q - kappa
    # Far below the threshold the probability is its own exponent.
    return jnp.where(above < -15, above, _log1mexp(-jnp.exp(jnp.maximum(above, -15.0))))


def _log1mexp(x: jax.Array) -> jax.Array:
    """Returns log(1 - exp(x)) of `x <= 0`, exact at both ends (Maechler 2012)."""
    near = jnp.log(-jnp.expm1(x))
    return jnp.where(x > -0.6931472, near, jnp.log1p(-jnp.exp(x)))


def _live(state: StochasticBeamState) -> jax.Array:
    """Returns `[B, W + 1]`, true where there is a text that has not ended."""
    return jnp.isfinite(state.perturbed) & ~state.texts.finished


def _generation(
    config: StochasticBeamConfig, texts: Generation, perturbed: jax.Array, read: jax.Array
) -> Generation:
    """Returns the texts without the lane that is there for its `G` alone."""
    texts = jax.tree.map(lambda array: array[:, : config.samples], texts)
    there = jnp.isfinite(perturbed[:, : config.samples])
    log_q = jnp.where(there, texts.log_proposal, -jnp.inf)
    share = jnp.exp(log_q)
    before = jnp.minimum(jnp.cumsum(share, axis=-1) - share, 1.0)
    # What is left is at least the text itself, whatever the sum was rounded to.
    log_left = jnp.maximum(jnp.log1p(-before), log_q)
    log_weight = texts.log_weight - log_inclusion(log_q, perturbed[:, config.samples :])
    return replace(
        texts,
        tokens=jnp.where(there[..., None], texts.tokens, 0),
        length=jnp.where(there, texts.length, 0),
        finished=texts.finished & there,
        log_prob=jnp.where(there, texts.log_prob, -jnp.inf),
        log_proposal=jnp.where(there, log_q - log_left, jnp.nan),
        log_weight=jnp.where(there, log_weight, -jnp.inf),
        # What one search has read for all its texts is shared among them.
        model_tokens=jnp.broadcast_to(-(-read // config.samples)[:, None], there.shape),
    )


STOCHASTIC_BEAM = Decoder(begin, advance)
