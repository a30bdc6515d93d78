"""Discriminators at a temperature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import coopgen_jax as cg
from coopgen_jax.discriminators.host.function import reward
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.discriminators.softened import hardened, softened
from coopgen_jax.errors import UserError
from coopgen_jax.testing import ToyLanguage, toy_discriminator, toy_language_model
from tests.explanation.word_model import CLASSES, bag, model

TOY = ToyLanguage(vocab_size=61)
TABLES = jax.tree.map(jnp.asarray, TOY.tables(0))
GUIDE = toy_discriminator(TOY)
ON_TOY = {"language_model": toy_language_model(TOY), "language_model_params": TABLES}


def test_they_keep_the_contract():
    soft = softened(LoadedDiscriminator(GUIDE, TABLES), 3.0)
    cg.testing.check_discriminator(soft.discriminator, soft.params, **ON_TOY, exact_children=True)


@pytest.mark.parametrize("temperature", [0.5, 4.0])
def test_log_odds_are_divided_by_the_temperature_and_come_back(temperature):
    guide = cg.host_function(bag, classes=CLASSES, tokenizer=model().tokenizer)
    config = cg.SamplingConfig(new_tokens=6)
    prompts = ["baba", "dada"]
    plain, soft = (
        cg.generate(model(), prompts, config=config, discriminator=one, seed=3)
        for one in (guide, softened(guide, temperature))
    )
    for one, other in zip(plain, soft, strict=True):
        assert one.tokens == other.tokens
        p, q = (
            np.array([text.class_probabilities[name] for name in CLASSES]) for text in (one, other)
        )
        assert np.log(q[0] / q[1]) == pytest.approx(np.log(p[0] / p[1]) / temperature, abs=1e-5)
        np.testing.assert_allclose(hardened(q, temperature), p, atol=1e-5)


def test_a_temperature_is_no_part_of_the_program():
    guide = LoadedDiscriminator(GUIDE, TABLES)
    assert softened(guide, 2.0).discriminator == softened(guide, 5.0).discriminator
    assert float(softened(guide, 2.0).params["temperature"]) == 2.0
    assert jnp.isfinite(jnp.asarray(hardened(np.array([[0.0, 1.0]]), 9.0))).all()


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf")])
def test_a_temperature_out_of_range_is_told(temperature):
    with pytest.raises(UserError, match="temperature is"):
        softened(LoadedDiscriminator(GUIDE, TABLES), temperature)


def test_a_reward_has_none():
    scores = reward(lambda texts: [1.0] * len(texts), tokenizer=model().tokenizer)
    with pytest.raises(UserError, match="another scale"):
        softened(scores, 2.0)
