"""Log-likelihoods of given tokens without a softmax over the vocabulary in memory.

A plain softmax keeps the logits of a step's texts in float32, which take more memory than anything
else of the step, and reads and writes them many times. Here the largest logit and the sum of
exponentials are all that is kept, and the gradient, softmax minus one-hot, follows from a second
product with the output layer. Where the logits of all tokens would take too much memory, the
layer is applied chunk of vocabulary by chunk (online softmax, Milakov and Gimelshein 2018, arXiv
1805.02867).

Chunks are of the vocabulary rather than of positions: every chunk of positions would add a gradient
of the full output layer to the sum of those before it, where a chunk of the vocabulary writes its
own rows once and adds to the much smaller gradient of the states.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from coopgen_jax.models.product import product, rows_times

# Bytes of logits in memory at a time. A compiler keeps those of one chunk for the gradient instead
# of computing them again, so that fewer bytes cost time.
LOGITS = 2**29
# Tokens that a chunk is a multiple of: the lanes of a TPU's registers.
LANES = 128


def chunk_for(rows: int, vocabulary: int) -> int:
    """Returns the tokens of a chunk: as few chunks as hold `LOGITS` bytes or less, of like size."""
    most = max(LANES, LOGITS // (4 * max(1, rows)))
    count = -(-vocabulary // most)
    return vocabulary if count == 1 else -(-vocabulary // (count * LANES)) * LANES


def log_likelihoods_of_states(
    states: jax.Array,
    output: jax.Array,
    tokens: jax.Array,
    mask: jax.Array,
    *,
    chunk: int | None = None,
) -> jax.Array:
    """Returns log p of every token behind those in front of it, in nats, zero where none counts.

    It is `losses.log_likelihoods` of the logits `states @ output.T`, in any number of rows.

    Args:
      states: `[B, S, E]` what the output layer is applied to, behind every token.
      output: `[V, E]` the output layer, of the same number format.
      tokens: `[B, S]` int32.
      mask: `[B, S]` true at the tokens that count; the first one of a row never does.
      chunk: tokens of the vocabulary whose logits are in memory at a time; None for `chunk_for`.

    Returns:
      `[B, S]` float32.
    """
    batch, length, width = states.shape
    if chunk is None:
        chunk = chunk_for(batch * length, len(output))
    # Every position stays, the last one included: to cut it off would copy all others.
    following = jnp.roll(tokens, -1, axis=1).reshape(-1)
    found = _log_probs(states.reshape(-1, width), output, following, chunk)
    counts = jnp.pad(mask[:, 1:], [(0, 0), (1, 0)])[:, :length]
    return jnp.where(counts, jnp.roll(found.reshape(batch, length), 1, axis=1), 0.0)


def _over_chunks(
    step: Callable[[Any, Any, jax.Array], tuple[Any, Any]],
    carry: Any,
    output: jax.Array,
    chunk: int,
) -> tuple[Any, Any]:
    """Calls `step(carry, first token, rows) -> (carry, result)` for every chunk of `[V, E]`.

    Returns the last carry, and the results, one behind the other along their first axis.
    """
    vocabulary = len(output)
    full, results = vocabulary // chunk, []
    if full > 1:

        def scanned(carry: Any, number: jax.Array) -> tuple[Any, Any]:
            start = number * chunk
            return step(carry, start, jax.lax.dynamic_slice_in_dim(output, start, chunk))

        # In a loop, for a compiler would keep the logits of chunks that stand side by side.
        carry, stacked = jax.lax.scan(scanned, carry, jnp.arange(full))
        results.append(jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), stacked))
    done = full * chunk if full > 1 else 0
    for start in range(done, vocabulary, chunk):
        carry, result = step(carry, start, output[start : start + chunk])
        results.append(result)
    return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts), *results)


def _is_chosen(chosen: jax.Array, start: Any, count: int) -> jax.Array:
    """Returns where in a chunk `[n, count]` the chosen tokens `[n]` are."""
    return start + jnp.arange(count)[None, :] == chosen[:, None]


def _sums(
    states: jax.Array, output: jax.Array, chosen: jax.Array, chunk: int
) -> tuple[jax.Array, jax.Array]:
    """Returns the chosen tokens' logits and the logarithm of the sum over all tokens, `[n]`."""

    def step(carry: Any, start: Any, part: jax.Array) -> tuple[Any, None]:
        largest, total, at = carry
        logits = rows_times(states, part, str(states.dtype))
        higher = jnp.maximum(largest, jnp.max(logits, axis=-1))
        added = jnp.sum(jnp.exp(logits - higher[:, None]), axis=-1)
        here = jnp.where(_is_chosen(chosen, start, len(part)), logits, 0.0)
        total = total * jnp.exp(largest - higher) + added
        return (higher, total, at + jnp.sum(here, axis=-1)), None

    rows = len(states)
    begun = jnp.full(rows, -jnp.inf), jnp.zeros(rows), jnp.zeros(rows)
    (largest, total, at), _ = _over_chunks(step, begun, output, chunk)
    return at, largest + jnp.log(total)


def _log_probs(states: jax.Array, output: jax.Array, chosen: jax.Array, chunk: int) -> jax.Array:
    """Returns log p `[n]` of the chosen tokens `[n]` by states `[n, E]`."""

    @jax.custom_vjp
    def log_probs(states: jax.Array, output: jax.Array) -> jax.Array:
        at, log_total = _sums(states, output, chosen, chunk)
        return at - log_total

    def forward(states: jax.Array, output: jax.Array) -> tuple[jax.Array, tuple]:
        at, log_total = _sums(states, output, chosen, chunk)
        return at - log_total, (states, output, log_total)

    def backward(kept: tuple, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
        states, output, log_total = kept
        dtype = str(states.dtype)

        def step(of_states: jax.Array, start: Any, part: jax.Array) -> tuple[jax.Array, jax.Array]:
            softmax = jnp.exp(rows_times(states, part, dtype) - log_total[:, None])
            one_hot = _is_chosen(chosen, start, len(part)).astype(jnp.float32)
            of_logits = cotangent[:, None] * (one_hot - softmax)
            rows = product("no,ni->oi", of_logits, states, dtype)
            added = product("no,oi->ni", of_logits, part, dtype)
            return of_states + added, rows.astype(output.dtype)

        begun = jnp.zeros(states.shape, jnp.float32)
        of_states, of_output = _over_chunks(step, begun, output, chunk)
        return of_states.astype(states.dtype), of_output

    log_probs.defvjp(forward, backward)
    found: jax.Array = log_probs(states, output)
    return found
