"""Losses of one sequence, as free functions; `jax.vmap` makes them those of a batch."""

import jax
import jax.numpy as jnp


def cross_entropy(log_class: jax.Array, label: jax.Array) -> jax.Array:
    """Returns -log p(label) in nats, `[]`, of `[C]` log-probabilities.

    A label may be the shares of all classes `[C]`, which weigh their -log p.
    """
    return -jnp.sum(label * log_class) if label.ndim else -log_class[label]


def searched_value(log_class: jax.Array, target: jax.Array, value: jax.Array) -> jax.Array:
    """Returns -V log p(c) - (1 - V) log(1 - p(c)) in nats, `[]`, of `[C]` log-probabilities.

    V is what a search for the class c, the `target`, says that a text is worth: its guide's mean
    probability of c over the continuations that it has looked at. The least loss is at p(c) = V,
    as of AlphaZero's value (Silver et al., Nature 2017, equation 1) by cross-entropy.
    """
    others = jnp.where(jnp.arange(len(log_class)) == target, -jnp.inf, log_class)
    return -value * log_class[target] - (1 - value) * jax.nn.logsumexp(others)


def log_likelihoods(logits: jax.Array, tokens: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns log p of every token behind those in front of it, `[S]`, zero where there is none.

    The logits `[S, V]` stand behind every token, and the mask is true at the tokens that count; the
    first one of a sequence never does, for nothing in front of it says anything.
    """
    log_probs = jax.nn.log_softmax(logits[:-1].astype(jnp.float32))
    chosen = jnp.take_along_axis(log_probs, tokens[1:, None], axis=-1)[:, 0]
    return jnp.concatenate([jnp.zeros(1), jnp.where(mask[1:], chosen, 0.0)])


def weighted_likelihood(log_p: jax.Array, weight: jax.Array) -> jax.Array:
    """Returns -w sum_t log p(x_t | x_<t) in nats, `[]`, of `[S]` log-likelihoods.

    Without weight it is 0: 0 times the infinite likelihood of padding would be NaN.
    """
    return jnp.where(weight == 0, 0.0, -weight * jnp.sum(log_p))


def sequence_kl(logits: jax.Array, reference: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns the sum over a text's tokens of KL(p || p_reference) for the next one, in nats `[]`.

    Of texts that p has written its expectation is the divergence of the two as distributions of
    texts. Every position's full distribution counts, so the choice of tokens adds no noise. Logits
    and mask are as in `log_likelihoods`, the `reference` `[S, V]` those of another model.
    """
    log_p, log_r = (jax.nn.log_softmax(x[:-1].astype(jnp.float32)) for x in (logits, reference))
    # What p rules out adds nothing, whatever the reference says of it.
    there = log_p > -jnp.inf
    ratio = jnp.where(there, log_p, 0.0) - jnp.where(there, log_r, 0.0)
    each = jnp.sum(jnp.exp(log_p) * ratio, axis=-1)
    return jnp.sum(jnp.where(mask[1:], each, 0.0))


def class_posterior(
    log_likelihood: jax.Array, length: jax.Array, log_prior: jax.Array, scale: jax.Array
) -> jax.Array:
    """Returns GeDi's log p(c | x) `[C]` (Krause et al. 2021, arXiv 2009.06367, equation 3).

    It follows from log p(x | c) and the prior, both `[C]`; `scale` is the exponent of the mean
    likelihood of a token.
    """
    power = scale / jnp.maximum(length, 1)
    return jax.nn.log_softmax(log_prior + power * log_likelihood)


def gedi(
    log_likelihood: jax.Array,
    length: jax.Array,
    label: jax.Array,
    *,
    log_prior: jax.Array,
    scale: jax.Array,
    class_weight: float,
) -> jax.Array:
    """Returns GeDi's loss, equation 6: a mean of the language loss and the class loss.

    class_weight * -log p(c | x) + (1 - class_weight) * -log p(x | c) / length, in nats: from 0, a
    language model per class, to 1, a classifier. See `class_posterior`.
    """
    posterior = class_posterior(log_likelihood, length, log_prior, scale)
    language = -log_likelihood[label] / jnp.maximum(length, 1)
    return class_weight * cross_entropy(posterior, label) + (1 - class_weight) * language
