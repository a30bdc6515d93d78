"""Truncation: which tokens of a distribution may be drawn, the others being set to zero.

Every rule maps logits `[..., V]` to logits that are minus infinity where a token may not be drawn;
the softmax of what is left is the renormalised distribution, so rules can follow each other.
No rule sorts the vocabulary: where it is cut is found by bisection, see `leading`.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from coopgen_jax.parallel import mesh as parallel


def top_k_and_nucleus(
    logits: jax.Array, *, top_k: int = 0, top_p: float = 1.0, shards: int = 1
) -> jax.Array:
    """Keeps the `top_k` likeliest tokens, 0 for all, and of those the nucleus.

    That is the smallest set of likeliest tokens whose probability reaches `top_p` (Holtzman et al.,
    2020); at least one token stays, the lower id first among equals. The vocabulary is split over
    so many `shards`; see `parallel.mesh.top_k`.
    """
    vocab = logits.shape[-1]
    if top_k <= 0 or top_k >= vocab:
        return _nucleus(logits, top_p)
    best, tokens = parallel.top_k(logits, top_k, shards=shards)
    kept = _nucleus(best, top_p)
    rows = jnp.arange(logits.size // vocab)[:, None]
    flat = jnp.full((logits.size // vocab, vocab), -jnp.inf, logits.dtype)
    flat = flat.at[rows, tokens.reshape(-1, top_k)].set(kept.reshape(-1, top_k))
    return flat.reshape(logits.shape)


def _nucleus(logits: jax.Array, mass: float) -> jax.Array:
    if mass >= 1:
        return logits
    return jnp.where(leading(logits, jax.nn.softmax(logits), mass), logits, -jnp.inf)


def min_p(logits: jax.Array, share: float) -> jax.Array:
    """Keeps the tokens of at least this share of the likeliest one's probability; 0 keeps all.

    Minh et al., "Turning Up the Heat: Min-p Sampling" (ICLR 2025, arXiv 2407.01082).
    """
    if share <= 0:
        return logits
    floor = jnp.max(logits, axis=-1, keepdims=True) + jnp.log(share)
    return jnp.where(logits >= floor, logits, -jnp.inf)


def typical(logits: jax.Array, mass: float) -> jax.Array:
    """Keeps the tokens whose surprise is nearest the entropy, until their probability is `mass`.

    Meister et al., "Locally Typical Sampling" (TACL 2023, arXiv 2202.00666), equation 9. A mass of
    1 keeps all; at least one token stays, the lower id first among equals.
    """
    if mass >= 1:
        return logits
    log_p = jax.nn.log_softmax(logits, axis=-1)
    p = jnp.exp(log_p)
    away = jnp.abs(-log_p - _entropy(log_p))
    return jnp.where(leading(-away, p, mass), logits, -jnp.inf)


def eta_cutoff(logits: jax.Array, epsilon: float) -> jax.Array:
    """Keeps the tokens of at least the probability eta = min(epsilon, sqrt(epsilon) exp(-entropy)).

    Hewitt, Manning and Liang, "Truncation Sampling as Language Model Desmoothing" (Findings of
    EMNLP 2022, arXiv 2210.15191), section 4.2. An epsilon of 0 keeps all; the likeliest token
    always stays.
    """
    if epsilon <= 0:
        return logits
    log_p = jax.nn.log_softmax(logits, axis=-1)
    cut = jnp.minimum(epsilon, jnp.sqrt(epsilon) * jnp.exp(-_entropy(log_p)))
    best = jnp.max(log_p, axis=-1, keepdims=True)
    return jnp.where((jnp.exp(log_p) >= cut) | (log_p == best), logits, -jnp.inf)


def mirostat(logits: jax.Array, limit: jax.Array) -> jax.Array:
    """Keeps the tokens whose surprise, in bits, is at most `limit` `[...]`; the likeliest stays.

    Basu et al., "Mirostat" (ICLR 2021, arXiv 2007.14966), in its second version.
    """
    log_p = jax.nn.log_softmax(logits, axis=-1)
    best = jnp.max(log_p, axis=-1, keepdims=True)
    return jnp.where((bits(log_p) <= limit[..., None]) | (log_p == best), logits, -jnp.inf)


def mixture(log_proposal: jax.Array, log_full: jax.Array, share: float) -> jax.Array:
    """Returns log((1 - share) q^(y) + share p(y)), the density of a choice between the two.

    A truncated sampler never writes what it cuts off, so weights by its density alone are those of
    another target. With a share of the full distribution, drawn once for a whole text, every text
    can come, and no weight of it exceeds 1 / share. Under the truncated sampler the `log_proposal`
    `[...]` of a text that it cannot write is minus infinity.
    """
    rest, own = (math.log(part) if part else -math.inf for part in (1 - share, share))
    return jnp.logaddexp(log_proposal + rest, log_full + own)


def bits(log_p: jax.Array) -> jax.Array:
    """Returns the surprise -log2 p of natural log-probabilities."""
    return -log_p / jnp.log(2.0)


def leading(order: jax.Array, p: jax.Array, mass: float) -> jax.Array:
    """Marks the tokens of the greatest `order` whose probability adds up to `mass`.

    A token is among them where those in front of it have less than `mass`. The result is that of a
    sort and a running sum, but for the rounding of the sums. It is found by bisection, first over
    the bit patterns of `order`, which are in the order of the numbers, then over the ids of those
    that are equal at the cut: each step adds up `p` once. A sort of a vocabulary takes much longer
    on a CPU, and gathers one that is split over devices; of sums only one number a row crosses.

    `order` `[..., V]` is any float32, minus infinity last, and `p` `[..., V]` 0 or more. At least
    one token is marked, the lower id first among equals, and all where `p` adds up to less.
    """
    keys = _ordered(order)
    ids = jax.lax.broadcasted_iota(jnp.int32, order.shape, order.ndim - 1)

    def of(marked: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(marked, p, 0.0), axis=-1, keepdims=True)

    low, high = (end(keys, axis=-1, keepdims=True) for end in (jnp.min, jnp.max))
    cut = _least(low, high, lambda key: of(keys > key) < mass, steps=32)
    above, equal = keys > cut, keys == cut
    first = jnp.min(jnp.where(equal, ids, order.shape[-1]), axis=-1, keepdims=True)
    last = jnp.max(jnp.where(equal, ids, -1), axis=-1, keepdims=True)

    def within(first: jax.Array, last: jax.Array) -> jax.Array:
        def reached(place: jax.Array) -> jax.Array:
            return of(above | (equal & (ids <= place))) >= mass

        return _least(first, last, reached, steps=order.shape[-1].bit_length())

    # Scores are seldom equal, and then there is nothing to search.
    last = jax.lax.cond(jnp.any(first < last), within, lambda first, last: last, first, last)
    return above | (equal & (ids <= last))


def _ordered(numbers: jax.Array) -> jax.Array:
    """Returns int32 that are in the order of float32 numbers; both zeros are equal."""
    numbers = jnp.where(numbers == 0, 0.0, numbers)
    bits = jax.lax.bitcast_convert_type(numbers.astype(jnp.float32), jnp.int32)
    # A sign and a magnitude: the greater the magnitude, the less is a negative number.
    return jnp.where(bits < 0, bits ^ jnp.int32(0x7FFFFFFF), bits)


def _least(
    low: jax.Array, high: jax.Array, enough: Callable[[jax.Array], jax.Array], *, steps: int
) -> jax.Array:
    """Returns the least int32 of `low` to `high` that is enough, or `high` where none is.

    What is above an `enough` number has to be enough too; `2**steps` numbers can be searched.
    """

    def halve(_: jax.Array, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = (low & high) + ((low ^ high) >> 1)  # their mean, where the sum would overflow
        found = enough(middle)
        return jnp.where(found, low, middle + 1), jnp.where(found, middle, high)

    return jax.lax.fori_loop(0, steps, halve, (low, high))[1]


def _entropy(log_p: jax.Array) -> jax.Array:
    """Returns the entropy in nats, its axis kept; what has no probability adds nothing."""
    p = jnp.exp(log_p)
    return -jnp.sum(jnp.where(p > 0, p * log_p, 0.0), axis=-1, keepdims=True)
