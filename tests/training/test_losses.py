"""Losses against numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coopgen_jax.training.losses import (
    class_posterior,
    cross_entropy,
    gedi,
    log_likelihoods,
    sequence_kl,
)


def test_cross_entropy_is_minus_the_log_probability_of_the_label():
    log_class = jnp.log(jnp.asarray([0.2, 0.5, 0.3]))
    assert float(cross_entropy(log_class, jnp.int32(1))) == pytest.approx(np.log(2))


def test_every_token_but_the_first_is_predicted_by_those_in_front_of_it():
    logits = jnp.log(jnp.asarray([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]]))
    tokens = jnp.asarray([2, 1, 0])
    found = log_likelihoods(logits, tokens, jnp.asarray([True, True, True]))
    np.testing.assert_allclose(found, [0, np.log(0.25), np.log(0.1)], rtol=1e-6)
    found = log_likelihoods(logits, tokens, jnp.asarray([True, True, False]))
    np.testing.assert_allclose(found, [0, np.log(0.25), 0], rtol=1e-6)


def test_gedi_weighs_judging_against_writing():
    # p(x | c) = 1/16 and 1/4 in two tokens: a token's mean likelihood is 1/4 and 1/2.
    likelihood, length = jnp.log(jnp.asarray([1 / 16, 1 / 4])), jnp.int32(2)
    given = {"log_prior": jnp.log(jnp.asarray([0.5, 0.5])), "scale": jnp.float32(1)}
    posterior = class_posterior(likelihood, length, **given)
    np.testing.assert_allclose(np.exp(posterior), [1 / 3, 2 / 3], rtol=1e-6)
    for weight in (0.0, 0.4, 1.0):
        loss = gedi(likelihood, length, jnp.int32(0), class_weight=weight, **given)
        expected = weight * np.log(3) + (1 - weight) * np.log(4)
        assert float(loss) == pytest.approx(expected, rel=1e-6)
    given = {"log_prior": jnp.log(jnp.asarray([0.8, 0.2])), "scale": jnp.float32(2)}
    posterior = class_posterior(likelihood, length, **given)
    np.testing.assert_allclose(np.exp(posterior), [0.5, 0.5], rtol=1e-5)


def test_the_divergence_of_a_distribution_that_rules_tokens_out():
    impossible = jnp.log(jnp.asarray([[0.5, 0.5, 0.0], [0.25, 0.75, 0.0]]))
    reference = jnp.log(jnp.asarray([[0.25, 0.25, 0.5], [0.5, 0.5, 0.0]]))
    mask = jnp.ones(2, bool)
    # Only the first place is followed by a token.
    found = sequence_kl(impossible, reference, mask)
    assert float(found) == pytest.approx(float(np.log(2)), abs=1e-6)
    assert float(sequence_kl(impossible, impossible, mask)) == 0
    assert not jnp.isnan(jax.grad(sequence_kl)(impossible, reference, mask)).any()
