"""Discriminators that report what tokens change, on a bag of words whose weights are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import coopgen_jax as cg
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.discriminators.observed import MOST, observed
from coopgen_jax.testing import ToyLanguage, toy_discriminator, toy_language_model
from tests.explanation.word_model import BAGS, CLASSES, WORDS, bag, model

TOY = ToyLanguage(vocab_size=61)
TABLES = jax.tree.map(jnp.asarray, TOY.tables(0))
CONFIGS = {
    "ahead": cg.FudgeConfig(new_tokens=5, candidates=40, look_ahead=True),
    "read": cg.FudgeConfig(new_tokens=4, candidates=60),
    "search": cg.MCTSConfig(
        new_tokens=3,
        search=cg.SearchConfig(simulations=150, candidates=60, depth=4, c_puct=30.0),
    ),
}


class Heard:
    """Keeps what an observer hears."""

    def __init__(self):
        self.tokens, self.changes = [], []

    def __call__(self, tokens, change):
        assert change.shape == (len(tokens), len(CLASSES)) and change.dtype == np.float32
        self.tokens.append(tokens)
        self.changes.append(change)


def written(guide, config):
    prompts = [f"{WORDS[3]} {WORDS[80]}", WORDS[9]]
    return cg.generate(model(), prompts, config=config, discriminator=guide, target="bright")


@pytest.mark.parametrize("name", CONFIGS)
def test_every_token_changes_what_its_word_weighs(name):
    guide = cg.host_function(bag, classes=CLASSES, tokenizer=model().tokenizer)
    heard = Heard()
    texts = written(observed(guide, heard), CONFIGS[name])
    jax.effects_barrier()
    assert [one.tokens for one in texts] == [one.tokens for one in written(guide, CONFIGS[name])]
    tokens, changes = np.concatenate(heard.tokens), np.concatenate(heard.changes)
    weight = np.zeros(model().tokenizer.vocab_size)
    for words, value in zip(BAGS, (-2.0, 2.0), strict=True):
        for word in words:
            weight[WORDS.index(word)] = value
    assert len(tokens) > 20 and np.abs(weight[tokens]).max() == 2.0, "words of the bags are there"
    expected = np.stack([-weight[tokens], weight[tokens]], axis=-1)
    np.testing.assert_allclose(changes, expected, atol=1e-4)


def test_candidates_are_told_for_every_token_written():
    guide = cg.host_function(bag, classes=CLASSES, tokenizer=model().tokenizer)
    heard = Heard()
    texts = written(observed(guide, heard), CONFIGS["ahead"])
    jax.effects_barrier()
    assert all(len(text.tokens) == 5 for text in texts)
    # Those that are written are read as well, and told of once more.
    assert sum(map(len, heard.tokens)) == 2 * 5 * 40 + 2 * 5


def test_they_keep_the_contract():
    guide = observed(LoadedDiscriminator(toy_discriminator(TOY), TABLES), lambda *told: None)
    cg.testing.check_discriminator(
        guide.discriminator, guide.params, language_model=toy_language_model(TOY),
        language_model_params=TABLES, exact_children=True,
    )  # fmt: skip


def test_changes_between_sure_judgements_are_finite():
    def sure(texts):
        return [float("b" in text) for text in texts]

    guide = cg.host_function(sure, classes=CLASSES, tokenizer=model().tokenizer)
    heard = Heard()
    written(observed(guide, heard), CONFIGS["ahead"])
    jax.effects_barrier()
    changes = np.concatenate(heard.changes)
    assert np.abs(changes).max() == pytest.approx(MOST), "from a half to as good as sure"
    assert np.isfinite(changes).all()


def test_without_foresight_there_is_none():
    from dataclasses import replace

    plain = replace(toy_discriminator(TOY), evaluate_children=None)
    guide = observed(LoadedDiscriminator(plain, TABLES), lambda *told: None)
    assert guide.discriminator.evaluate_children is None
