"""Hypotheses: the texts that beam searches keep, compare and continue."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
from flax import struct

from coopgen_jax.decoding.job import Job
from coopgen_jax.decoding.rules.repetition import no_repeat_ngram


@struct.dataclass
class Texts:
    """Texts of every group, `[B, G, W]`; where there is none, `log_prob` is minus infinity.

    tokens: `[B, G, W, T]` int32, 0 behind the last; length: `[B, G, W]` int32.
    log_prob: `[B, G, W]` float32 under the plain language model.
    log_class: `[B, G, W, C]` float32 the discriminator's.
    """

    tokens: jax.Array
    length: jax.Array
    log_prob: jax.Array
    log_class: jax.Array


def no_texts(log_class: jax.Array, width: int, new_tokens: int) -> Texts:
    """Returns `width` texts of every tree that are none; `log_class` `[B, G, C]` of the prompts."""
    shape = (*log_class.shape[:2], width)
    return Texts(
        tokens=jnp.zeros((*shape, new_tokens), jnp.int32),
        length=jnp.zeros(shape, jnp.int32),
        log_prob=jnp.full(shape, -jnp.inf, jnp.float32),
        log_class=jnp.broadcast_to(log_class[:, :, None], (*shape, log_class.shape[-1])),
    )


def joined(one: Texts, other: Texts) -> Texts:
    """Returns the texts of both, side by side."""
    both: Texts = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=2), one, other)
    return both


def only(texts: Texts, there: jax.Array) -> Texts:
    """Returns texts of which those elsewhere are none."""
    return replace(texts, log_prob=jnp.where(there, texts.log_prob, -jnp.inf))


def where(rows: jax.Array, one: jax.Array, other: jax.Array) -> jax.Array:
    """Returns one array's entries in the rows `[B]` that are true, the other's elsewhere."""
    return jnp.where(rows.reshape(-1, *(1,) * (one.ndim - 1)), one, other)


def per_length(log_prob: jax.Array, length: jax.Array | int, power: float) -> jax.Array:
    """Returns log p / length^power, which texts of different lengths compare by."""
    return log_prob / jnp.maximum(jnp.asarray(length, jnp.float32), 1.0) ** power


def check_length_penalty(power: float, new_tokens: int) -> None:
    """Raises ValueError where powers of the length leave single precision."""
    if not abs(power) * math.log(new_tokens) <= 80:
        raise ValueError(f"length_penalty is {power}: give a number nearer 0, such as 1")


def log_probs(job: Job, logits: jax.Array, texts: Texts) -> jax.Array:
    """Returns log p `[B, G, W, V]` of every next token, minus infinity where a rule forbids it."""
    log_p = jax.nn.log_softmax(logits)
    own, before = texts.tokens, job.text_before

    def per_text(array: jax.Array) -> jax.Array:
        return jnp.broadcast_to(array[:, None, None], (*own.shape[:3], array.shape[-1]))

    written = jnp.arange(own.shape[-1])[None, None, None] < texts.length[..., None]
    seen = jnp.concatenate([per_text(before.tokens), own], axis=-1)
    mask = jnp.concatenate([per_text(before.mask), written], axis=-1)
    return no_repeat_ngram(log_p, seen, mask, job.config.no_repeat_ngram)
