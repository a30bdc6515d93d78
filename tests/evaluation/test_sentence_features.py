"""Sentence features in bulk against reading each text alone."""

import jax.numpy as jnp
import numpy as np

from coopgen_jax.discriminators.host.retokenise import word_pieces
from coopgen_jax.evaluation.sentence_features import sentence_features
from coopgen_jax.models.encoder import encode, mean_pool

TEXTS = ["a b c", "", "c", "a a a a a a a a a a a a b c", "b"]


def test_the_last_pieces_are_kept(tiny_encoder):
    assert word_pieces(tiny_encoder.tokenizer, ["a b c", "a", ""], 4) == [
        [1, 4, 5, 2],
        [1, 3, 2],
        [1, 2],
    ]


def test_each_row_is_its_text_read_alone(tiny_encoder):
    found = sentence_features(tiny_encoder, TEXTS, longest=10, batch=2)
    for text, row in zip(TEXTS, found, strict=True):
        pieces = jnp.asarray(word_pieces(tiny_encoder.tokenizer, [text], 10))
        mask = jnp.ones(pieces.shape, bool)
        alone = mean_pool(encode(tiny_encoder.config, tiny_encoder.params, pieces, mask), mask)[0]
        np.testing.assert_allclose(row, alone, atol=1e-5)
