"""Truncation: which tokens of a distribution may be drawn, the others being set to zero.

Every rule maps logits `[..., V]` to logits that are minus infinity where a token may not be drawn;
the softmax of what is left is the renormalised distribution, so rules can follow each other.
"""

import jax
import jax.numpy as jnp

from coopgen_jax import parallel


def top_k_and_nucleus(
    logits: jax.Array, *, top_k: int = 0, top_p: float = 1.0, shards: int = 1
) -> jax.Array:
    """Keeps the likeliest tokens of `logits` `[..., V]`, the rest become minus infinity.

    Args:
      logits: unnormalised log-probabilities.
      top_k: how many to keep, 0 for all; the lower id first among equals.
      top_p: nucleus (Holtzman et al., 2020): the smallest set of likeliest tokens whose
        probability, after `top_k`, reaches this; at least one token stays.
      shards: over how many devices the vocabulary is split; see `parallel.top_k`.

    Returns:
      Logits whose softmax is the renormalised, truncated distribution.
    """
    vocab = logits.shape[-1]
    if top_k <= 0 and top_p >= 1.0:
        return logits
    count = vocab if top_k <= 0 else min(top_k, vocab)
    best, tokens = parallel.top_k(logits, count, shards=shards)
    probs = jax.nn.softmax(best, axis=-1)
    before = jnp.cumsum(probs, axis=-1) - probs
    kept = jnp.where(before < top_p, best, -jnp.inf).at[..., 0].set(best[..., 0])
    rows = jnp.arange(logits.size // vocab)[:, None]
    flat = jnp.full((logits.size // vocab, vocab), -jnp.inf, logits.dtype)
    flat = flat.at[rows, tokens.reshape(-1, count)].set(kept.reshape(-1, count))
    return flat.reshape(logits.shape)


def min_p(logits: jax.Array, share: float) -> jax.Array:
    """Keeps the tokens of at least this share of the likeliest one's probability.

    Minh et al., "Turning Up the Heat: Min-p Sampling" (ICLR 2025, arXiv 2407.01082).

    Args:
      logits: `[..., V]`.
      share: from 0, which keeps all, to 1.
    """
    if share <= 0:
        return logits
    floor = jnp.max(logits, axis=-1, keepdims=True) + jnp.log(share)
    return jnp.where(logits >= floor, logits, -jnp.inf)


def typical(logits: jax.Array, mass: float) -> jax.Array:
    """Keeps the tokens whose surprise is nearest the entropy, until their probability is `mass`.

    Meister et al., "Locally Typical Sampling" (TACL 2023, arXiv 2202.00666), equation 9.

    Args:
      logits: `[..., V]`.
      mass: above 0; 1 keeps all. At least one token stays, the lower id first among equals.
    """
    if mass >= 1:
        return logits
    log_p = jax.nn.log_softmax(logits, axis=-1)
    p = jnp.exp(log_p)
    away = jnp.abs(-log_p - _entropy(log_p))
    order = jnp.argsort(away, axis=-1, stable=True)
    sorted_p = jnp.take_along_axis(p, order, axis=-1)
    kept = (jnp.cumsum(sorted_p, axis=-1) - sorted_p < mass).at[..., 0].set(True)
    rank = jnp.argsort(order, axis=-1)
    return jnp.where(jnp.take_along_axis(kept, rank, axis=-1), logits, -jnp.inf)


def eta_cutoff(logits: jax.Array, epsilon: float) -> jax.Array:
    """Keeps the tokens of at least the probability eta = min(epsilon, sqrt(epsilon) exp(-entropy)).

    Hewitt, Manning and Liang, "Truncation Sampling as Language Model Desmoothing" (Findings of
    EMNLP 2022, arXiv 2210.15191), section 4.2.

    Args:
      logits: `[..., V]`.
      epsilon: from 0, which keeps all, to below 1; the likeliest token always stays.
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


def bits(log_p: jax.Array) -> jax.Array:
    """Returns the surprise -log2 p of natural log-probabilities."""
    return -log_p / jnp.log(2.0)


def _entropy(log_p: jax.Array) -> jax.Array:
    """Returns the entropy in nats, its axis kept; what has no probability adds nothing."""
    p = jnp.exp(log_p)
    return -jnp.sum(jnp.where(p > 0, p * log_p, 0.0), axis=-1, keepdims=True)
