"""Vectors in front of a text: read at once they say what they say token by token."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coopgen_jax.models.decoder import language_model
from coopgen_jax.models.image_prefix import (
    ImagePrefixConfig,
    image_prefix,
    init_image_prefix,
    read_behind,
)
from coopgen_jax.models.language_model import Prompt
from coopgen_jax.models.prompt import behind_vectors, left_padded
from coopgen_jax.models.transformer import init_decoder, unembed
from coopgen_jax.testing import TINY_LLAMA
from tests.compiled import compiled

CONFIG = ImagePrefixConfig(inputs=5, tokens=3, width=TINY_LLAMA.width, hidden=7)
ROWS = [[9], [3, 4], [5, 6, 7]]


def prompts() -> Prompt:
    tokens, mask = left_padded(ROWS, 4)
    return Prompt(jnp.asarray(tokens), jnp.asarray(mask), jnp.arange(3))


@pytest.fixture(scope="module")
def world():
    params = init_decoder(jax.random.key(0), TINY_LLAMA)
    prefix = init_image_prefix(jax.random.key(1), CONFIG)
    features = jax.random.normal(jax.random.key(2), (3, CONFIG.inputs))
    return params, prefix, features


def test_the_network_is_its_formula(world):
    _, prefix, features = world
    prefix = dict(prefix, centre=jnp.arange(5.0), scale=jnp.linspace(0.5, 1, 5))
    found = image_prefix(CONFIG, prefix, features)
    layers = jax.tree.map(lambda leaf: np.asarray(leaf, float), prefix)
    x = (np.asarray(features, float) - layers["centre"]) * layers["scale"]
    x = np.tanh(x @ layers["hidden"]["kernel"] + layers["hidden"]["bias"])
    x = x @ layers["output"]["kernel"] + layers["output"]["bias"]
    np.testing.assert_allclose(found, x.reshape(3, 3, TINY_LLAMA.width), atol=1e-5)


def test_vectors_stand_between_padding_and_tokens():
    vectors = jnp.arange(3 * 2 * 4.0).reshape(3, 2, 4)
    found = behind_vectors(prompts(), vectors)
    for row, ids in enumerate(ROWS):
        padding = 4 - len(ids)
        assert found.mask[row].tolist() == [False] * padding + [True] * (2 + len(ids))
        wanted = [False] * padding + [True] * 2 + [False] * len(ids)
        assert found.embedded[row].tolist() == wanted
        assert found.tokens[row, padding + 2 :].tolist() == ids
        np.testing.assert_array_equal(found.embeddings[row, padding : padding + 2], vectors[row])
    assert found.spelt.sum() == sum(map(len, ROWS))


def test_reading_rows_behind_vectors_is_scoring_them_behind_such_prompts(world):
    """Padding on the left, as in decoding, and on the right, as in training, changes nothing."""
    params, prefix, features = world
    vectors = image_prefix(CONFIG, prefix, features)
    texts = np.asarray([[8, 2, 5], [1, 7, 0], [6, 0, 0]])
    there = np.asarray([[1, 1, 1], [1, 1, 0], [1, 0, 0]], bool)
    score = compiled(language_model(TINY_LLAMA)).score
    prompt = behind_vectors(prompts(), vectors)
    wanted = score(params, prompt, jnp.asarray(texts)[:, None], jnp.asarray(there)[:, None])[:, 0]

    tokens, mask = np.zeros((3, 6), int), np.zeros((3, 6), bool)
    for row, ids in enumerate(ROWS):
        whole = [*ids, *texts[row, there[row]]]
        tokens[row, : len(whole)], mask[row, : len(whole)] = whole, True

    @jax.jit
    def log_probs(tokens, mask):
        stream, read = read_behind(TINY_LLAMA, params, vectors, tokens, mask)
        return jax.nn.log_softmax(unembed(TINY_LLAMA, params, stream)), read

    found, read = log_probs(jnp.asarray(tokens), jnp.asarray(mask))
    assert read.shape == (3, CONFIG.tokens + 6) and not read[:, : CONFIG.tokens].any()
    for row, ids in enumerate(ROWS):
        for place in range(there[row].sum()):
            at = CONFIG.tokens + len(ids) + place - 1
            log_p = found[row, at, texts[row, place]]
            assert float(log_p) == pytest.approx(float(wanted[row, place]), abs=1e-4)


def test_the_image_changes_what_follows(world):
    params, prefix, features = world
    prefill = compiled(language_model(TINY_LLAMA)).score
    text = jnp.full((3, 1, 2), 4)
    said = []
    for other in (features, features[::-1]):
        prompt = behind_vectors(prompts(), image_prefix(CONFIG, prefix, other))
        said.append(prefill(params, prompt, text, jnp.ones(text.shape, bool)))
    same = np.isclose(said[0], said[1], atol=1e-6).all(axis=(1, 2))
    assert same.tolist() == [False, True, False]


def test_shapes_are_equal_when_their_numbers_are():
    assert dataclasses.replace(CONFIG) == CONFIG and hash(dataclasses.replace(CONFIG))
