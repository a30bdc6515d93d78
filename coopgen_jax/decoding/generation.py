"""What every decoder returns, and the pieces that all of them share."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from coopgen_jax.models.language_model import Prompt


@struct.dataclass
class Generation:
    """Texts under way or finished, `R` for each of `B` prompts.

    tokens: `[B, R, T]` int32 the new tokens, the token that ended the text included; 0 behind them.
    length: `[B, R]` int32 how many there are.
    finished: `[B, R]` bool, true where the text ended by an end token.
    log_prob: `[B, R]` float32 log p(new tokens | prompt) under the plain language model.
    log_proposal: `[B, R]` float32 log-probability with which the decoder itself drew the text, NaN
      where a choice was not a draw.
    log_weight: `[B, R]` float32 proper log weight of a weighted sample, zero elsewhere; the
      decoder says whether the mean or the sum over a prompt's texts is an estimate.
    log_class: `[B, R, C]` float32 the discriminator's log p(class | text); `C` is 0 without one.
    simulations: `[B, R]` int32 evaluations spent on the search.
    model_tokens: `[B, R]` int32 tokens that the language model read for this text.
    deepest: `[B, R]` int32 depth of the deepest tree node.
    """

    tokens: jax.Array
    length: jax.Array
    finished: jax.Array
    log_prob: jax.Array
    log_proposal: jax.Array
    log_weight: jax.Array
    log_class: jax.Array
    simulations: jax.Array
    model_tokens: jax.Array
    deepest: jax.Array


def blank(log_class: jax.Array, new_tokens: int) -> Generation:
    """Returns empty texts: `log_class` `[B, R, C]` are those of the bare prompts."""
    rows = log_class.shape[:2]
    counter = jnp.zeros(rows, jnp.int32)
    zero = jnp.zeros(rows, jnp.float32)
    return Generation(
        tokens=jnp.zeros((*rows, new_tokens), jnp.int32),
        length=counter,
        finished=jnp.zeros(rows, bool),
        log_prob=zero,
        log_proposal=zero,
        log_weight=zero,
        log_class=log_class,
        simulations=counter,
        model_tokens=counter,
        deepest=counter,
    )


def append(
    generation: Generation,
    token: jax.Array,
    *,
    log_prob: jax.Array,
    log_proposal: jax.Array,
    log_class: jax.Array,
    end: jax.Array,
    model_tokens: int = 0,
    simulations: int = 0,
) -> Generation:
    """Appends one `token` `[B, R]` to every text that is not finished; others stay as they are.

    What is given of the token is as for a `Generation`; `end` is true where it ends the text.
    """
    live = ~generation.finished
    at = jnp.arange(generation.tokens.shape[-1])[None, None] == generation.length[..., None]
    return replace(
        generation,
        tokens=jnp.where(at & live[..., None], token[..., None], generation.tokens),
        length=generation.length + live,
        finished=generation.finished | end,
        log_prob=generation.log_prob + jnp.where(live, log_prob, 0.0),
        log_proposal=generation.log_proposal + jnp.where(live, log_proposal, 0.0),
        log_class=jnp.where(live[..., None], log_class, generation.log_class),
        model_tokens=generation.model_tokens + model_tokens * live,
        simulations=generation.simulations + simulations * live,
    )


def row_keys(key: jax.Array, prompt: Prompt, samples: int, step: jax.Array) -> jax.Array:
    """Returns typed keys `[B, R]`: of a prompt's number, the sample and the step alone."""

    def row(index: jax.Array, sample: jax.Array) -> jax.Array:
        fold = jax.random.fold_in
        return fold(fold(fold(key, index), sample), step)

    across = jax.vmap(row, (None, 0))
    return jax.vmap(across, (0, None))(prompt.index, jnp.arange(samples))


def per_sample(array: jax.Array, samples: int) -> jax.Array:
    """Gives every sample of a prompt its prompt's entry: `[B, ...]` to `[B, R, ...]`."""
    return jnp.broadcast_to(array[:, None], (array.shape[0], samples, *array.shape[1:]))


def pick(arrays: Any, index: jax.Array) -> Any:
    """Returns the entries `[B, ..., K, *]` of arrays `[B, ..., W, *]` at `index` `[B, ..., K]`."""

    def picked(array: jax.Array) -> jax.Array:
        places = index.reshape(*index.shape, *(1,) * (array.ndim - index.ndim))
        return jnp.take_along_axis(array, places, axis=index.ndim - 1)

    return jax.tree.map(picked, arrays)


def entry_at(arrays: Any, index: jax.Array) -> Any:
    """Returns the entries `[..., *]` of arrays `[..., K, *]` at `index` `[...]`."""
    one = pick(arrays, index[..., None])
    return jax.tree.map(lambda array: array.squeeze(index.ndim), one)


def where(rows: jax.Array, one: Any, other: Any) -> Any:
    """Returns one's entries in the `rows` `[B, ...]` that are true, the other's elsewhere."""

    def merged(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.where(rows.reshape(*rows.shape, *(1,) * (a.ndim - rows.ndim)), a, b)

    return jax.tree.map(merged, one, other)


def grouped(arrays: Any, count: int) -> Any:
    """Returns arrays `[B, R * count, *]` of texts in groups of `count`, `[B, R, count, *]`."""

    def parted(array: jax.Array) -> jax.Array:
        rows, texts, *item = array.shape
        return array.reshape(rows, texts // count, count, *item)

    return jax.tree.map(parted, arrays)
