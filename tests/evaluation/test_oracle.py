"""Likelihoods in bulk against scoring each text alone."""

import jax.numpy as jnp
import numpy as np
import pytest

from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.oracle import log_likelihoods, oracle_perplexity
from coopgen_jax.models.decoder import language_model
from tests.discriminators.trees import prompt_of
from tests.tiny_model import model

PROMPTS = ["so", "a bad film", "x"]
TEXTS = [" good", "", " it is what it is"]


def test_each_texts_likelihood_is_its_own():
    oracle = model()
    found, counts = log_likelihoods(oracle, PROMPTS, TEXTS, batch=2)
    for prompt, text, log_p, count in zip(PROMPTS, TEXTS, found, counts, strict=True):
        ids, front = oracle.tokenizer.encode(text), oracle.tokenizer.encode(prompt)
        assert count == len(ids)
        if not ids:
            assert log_p == 0
            continue
        tokens = jnp.asarray([[ids]])
        alone = language_model(oracle.config).score(
            oracle.params, prompt_of([front], len(front)), tokens, jnp.ones(tokens.shape, bool)
        )
        assert log_p == pytest.approx(float(alone.sum()), rel=1e-4)
    expected = np.exp(-found.sum() / counts.sum())
    assert oracle_perplexity(oracle, PROMPTS, TEXTS) == pytest.approx(expected)


@pytest.mark.parametrize(("prompts", "texts"), [([], []), (["a"], ["b", "c"])])
def test_a_text_without_its_prompt_is_refused(prompts, texts):
    with pytest.raises(UserError, match="give one text for each"):
        log_likelihoods(model(), prompts, texts)
