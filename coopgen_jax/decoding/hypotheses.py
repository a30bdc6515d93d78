"""Hypotheses: the texts that beam searches keep, compare and continue."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
from flax import struct

from coopgen_jax.decoding.generation import pick
from coopgen_jax.decoding.job import Job, seen_by
from coopgen_jax.decoding.judgement import log_target
from coopgen_jax.decoding.lanes import put
from coopgen_jax.decoding.rules.shaping import SHAPING, log_marked, unrepeated
from coopgen_jax.parallel.mesh import top_k

# What beams, which rank log p and draw nothing, cannot honour.
UNRANKED = tuple(name for name in SHAPING if name != "no_repeat_ngram")
RANKED = "beams rank log p and shape nothing"


@struct.dataclass
class Texts:
    """Texts of every group, `[B, G, W]`; where there is none, `log_prob` is minus infinity.

    tokens: `[B, G, W, T]` int32, 0 behind the last; length: `[B, G, W]` int32.
    log_prob: `[B, G, W]` float32 what texts are ranked by: under the plain language model, but that
      a watermark's greenlist has raised it by `gained`.
    gained: `[B, G, W]` float32.
    log_class: `[B, G, W, C]` float32 the discriminator's.
    """

    tokens: jax.Array
    length: jax.Array
    log_prob: jax.Array
    gained: jax.Array
    log_class: jax.Array


def no_texts(log_class: jax.Array, width: int, new_tokens: int) -> Texts:
    """Returns `width` texts of every tree that are none; `log_class` `[B, G, C]` of the prompts."""
    shape = (*log_class.shape[:2], width)
    return Texts(
        tokens=jnp.zeros((*shape, new_tokens), jnp.int32),
        length=jnp.zeros(shape, jnp.int32),
        log_prob=jnp.full(shape, -jnp.inf, jnp.float32),
        gained=jnp.zeros(shape, jnp.float32),
        log_class=jnp.broadcast_to(log_class[:, :, None], (*shape, log_class.shape[-1])),
    )


def joined(one: Texts, other: Texts) -> Texts:
    """Returns the texts of both, side by side."""
    both: Texts = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=2), one, other)
    return both


def only(texts: Texts, there: jax.Array) -> Texts:
    """Returns texts of which those elsewhere are none."""
    return replace(texts, log_prob=jnp.where(there, texts.log_prob, -jnp.inf))


def continued(
    texts: Texts, lane: jax.Array, step: jax.Array, token: jax.Array, log_prob: jax.Array
) -> Texts:
    """Returns the texts of the lanes `lane` `[B, G, K]`, each with one token more."""
    came = pick(texts, lane)
    length = jnp.full(token.shape, step + 1)
    return replace(came, tokens=put(came.tokens, step, token), length=length, log_prob=log_prob)


def per_length(log_prob: jax.Array, length: jax.Array | int, power: float) -> jax.Array:
    """Returns log p / length^power, which texts of different lengths compare by."""
    return log_prob / jnp.maximum(jnp.asarray(length, jnp.float32), 1.0) ** power


def scores(job: Job, texts: Texts) -> jax.Array:
    """Returns what texts compare by: log p / length^penalty + alpha log p(target | text)."""
    config = job.config
    found = per_length(texts.log_prob, texts.length, config.length_penalty)
    if config.alpha > 0 and job.target is not None:
        found = found + config.alpha * log_target(texts.log_class, job.target)
        # What the discriminator rules out is still a text, and comes before none.
        found = jnp.where(jnp.isfinite(texts.log_prob), jnp.maximum(found, -1e30), -jnp.inf)
    return found


def best(job: Job, texts: Texts, count: int) -> jax.Array:
    """Returns the lanes `[B, G, count]` of the texts with the best scores, the best in front."""
    lanes: jax.Array = jax.lax.top_k(scores(job, texts), count)[1]
    return lanes


def check_beams(samples: int, beams: int) -> None:
    """Raises ValueError where more texts are asked for than there are beams."""
    if samples > beams:
        raise ValueError(
            f"{samples} texts are asked of {beams} beams: give as many beams, or ask for fewer"
        )


def check_length_penalty(power: float, new_tokens: int) -> None:
    """Raises ValueError where powers of the length leave single precision."""
    if not abs(power) * math.log(new_tokens) <= 80:
        raise ValueError(f"length_penalty is {power}: give a number nearer 0, such as 1")


def log_probs(job: Job, logits: jax.Array, texts: Texts, stop: jax.Array | None) -> jax.Array:
    """Returns log p of every next token by the logits, minus infinity where a rule forbids it.

    Both are `[B, G, W, V]`; `stop` `[B, G, W]` are the states of the stop strings behind the texts.
    A watermark's greenlist has raised it.
    """
    allowed, gain = _allowed(job, logits, texts, stop)
    return allowed if gain is None else allowed + gain


def _allowed(
    job: Job, logits: jax.Array, texts: Texts, stop: jax.Array | None
) -> tuple[jax.Array, jax.Array | None]:
    """Returns log p `[B, G, W, V]` under the rules, and what a greenlist raises it by, if any."""
    ends, seen = job.language_model.end_tokens, seen_by(job, texts, stop)
    log_p = jax.nn.log_softmax(logits)
    allowed = unrepeated(job.config.rules, log_p, seen, ends=ends)
    if job.marking is None:
        return allowed, None
    gain = log_marked(job.config.rules, log_p, seen) - log_p
    gain = jnp.where(jnp.isfinite(log_p), gain, 0.0)
    # Where the rules leave nothing green, a list that is hard has no say.
    some = jnp.isfinite(allowed + gain).any(axis=-1, keepdims=True)
    return allowed, jnp.where(some, gain, 0.0)


def with_gains(
    job: Job, texts: Texts, logits: jax.Array, before: Texts, lane: jax.Array, token: jax.Array
) -> Texts:
    """Returns the texts `[B, G, K]` with what a greenlist has raised their log p by.

    They are those `before` `[B, G, W]` on the lanes `lane`, with one `token` more by the `logits`
    `[B, G, W, V]` behind those.
    """
    _, gain = _allowed(job, logits, before, None)
    if gain is None:
        return texts
    places = lane * gain.shape[-1] + token
    found = jnp.take_along_axis(gain.reshape(*gain.shape[:2], -1), places, axis=-1)
    # Where there is no text there is nothing to gain.
    return replace(texts, gained=texts.gained + jnp.where(jnp.isfinite(found), found, 0.0))


def likeliest(
    job: Job, scores: jax.Array, going: int, stop: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the best continuations of some beams, best first, so many that `going` go on.

    They compare by `scores` `[..., W, V]`; `stop` `[..., W]` are the states of the stop strings
    behind the beams, None without any.

    Returns:
      Scores, beams and tokens `[..., M]`; where a score is minus infinity there is none.
    """
    model, width = job.language_model, scores.shape[-2]

    def top(scores: jax.Array, wanted: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        count = min(wanted, model.vocab_size)
        # The best of every beam, then of all of them.
        value, tokens = top_k(scores, count, shards=model.vocab_shards)
        shape = (*scores.shape[:-2], width * count)
        value, rank = jax.lax.top_k(value.reshape(shape), min(wanted, width * count))
        token = jnp.take_along_axis(tokens.reshape(shape), rank, axis=-1)
        return value, rank // count, token.astype(jnp.int32)

    wanted = going + width * len(model.end_tokens)
    if stop is None:
        return top(scores, wanted)
    # Any number of tokens may complete a stop string, so those are ranked by themselves.
    over = job.config.rules.stop.completing(stop)
    rest = top(jnp.where(over, -jnp.inf, scores), wanted)
    ended = top(jnp.where(over, scores, -jnp.inf), going)
    both = [jnp.concatenate(pair, axis=-1) for pair in zip(rest, ended, strict=True)]
    order = jnp.argsort(-both[0], axis=-1, stable=True)
    value, lane, token = pick(both, order)
    return value, lane, token
