"""Sentence features in bulk against reading each text alone."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from coopgen_jax.discriminators.sentences import cached_features, sentence_features, word_pieces
from coopgen_jax.models.encoder import EncoderConfig, encode, init_encoder, mean_pool
from coopgen_jax.text import Tokenizer

TEXTS = ["a b c", "", "c", "a a a a a a a a a a a a b c", "b"]


@pytest.fixture(scope="module")
def encoder():
    vocabulary = {word: n for n, word in enumerate(["[UNK]", "[CLS]", "[SEP]", "a", "b", "c"])}
    core = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    config = EncoderConfig(vocab_size=6, layers=1, width=8, heads=2, ffn_width=8, context=32)
    params = init_encoder(jax.random.key(0), config)
    params["embedding"]["word"] *= 50
    return SimpleNamespace(config=config, params=params, tokenizer=Tokenizer(core), sha256="x")


def test_the_last_pieces_are_kept(encoder):
    assert word_pieces(encoder.tokenizer, ["a b c", "a", ""], 4) == [
        [1, 4, 5, 2],
        [1, 3, 2],
        [1, 2],
    ]


def test_each_row_is_its_text_read_alone(encoder):
    found = sentence_features(encoder, TEXTS, longest=10, batch=2)
    for text, row in zip(TEXTS, found, strict=True):
        pieces = jnp.asarray(word_pieces(encoder.tokenizer, [text], 10))
        mask = jnp.ones(pieces.shape, bool)
        alone = mean_pool(encode(encoder.config, encoder.params, pieces, mask), mask)[0]
        np.testing.assert_allclose(row, alone, atol=1e-5)


def test_features_are_kept_by_encoder_texts_and_length(encoder, tmp_path):
    first = cached_features(encoder, TEXTS, tmp_path, longest=10)
    (path,) = tmp_path.iterdir()
    np.save(path, first + 1)
    np.testing.assert_array_equal(cached_features(encoder, TEXTS, tmp_path, longest=10), first + 1)
    other = SimpleNamespace(**{**vars(encoder), "sha256": "y"})
    for again in (
        cached_features(encoder, TEXTS, None, longest=10),
        cached_features(other, TEXTS, tmp_path, longest=10),
    ):
        np.testing.assert_array_equal(again, first)
    assert not np.allclose(cached_features(encoder, TEXTS, tmp_path, longest=4), first)
    assert len(list(tmp_path.iterdir())) == 3
