"""Sentence features in bulk against reading each text alone."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np

from coopgen_jax.discriminators.sentences import cached_features, sentence_features, word_pieces
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


def test_features_are_kept_by_encoder_texts_and_length(tiny_encoder, tmp_path):
    first = cached_features(tiny_encoder, TEXTS, tmp_path, longest=10)
    (path,) = tmp_path.iterdir()
    np.save(path, first + 1)
    np.testing.assert_array_equal(
        cached_features(tiny_encoder, TEXTS, tmp_path, longest=10), first + 1
    )
    other = SimpleNamespace(**{**vars(tiny_encoder), "sha256": "y"})
    for again in (
        cached_features(tiny_encoder, TEXTS, None, longest=10),
        cached_features(other, TEXTS, tmp_path, longest=10),
    ):
        np.testing.assert_array_equal(again, first)
    assert not np.allclose(cached_features(tiny_encoder, TEXTS, tmp_path, longest=4), first)
    assert len(list(tmp_path.iterdir())) == 3
