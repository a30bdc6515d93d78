"""Sequence classifiers of every family against the transformers library."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coopgen_jax.models.deberta import DebertaConfig, position_rows
from coopgen_jax.models.pretrained.classifiers import load_classifier
from coopgen_jax.models.text_classifier import class_scores
from tests.models.classifier_files import CASES, expected_scores, save_classifier
from tests.models.model_files import edit

TEXTS = ("A film that I saw twice", "No", "Well then")


@partial(jax.jit, static_argnums=0)
def scores(config, params, tokens, mask):
    return class_scores(config, params, tokens, mask)


def padded(rows, fill=0):
    mask = np.arange(max(map(len, rows)))[None] < np.array([len(row) for row in rows])[:, None]
    tokens = np.full(mask.shape, fill, np.int32)
    tokens[mask] = np.concatenate(rows)
    return jnp.asarray(tokens), jnp.asarray(mask)


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_transformers(case, tmp_path):
    folder, model = save_classifier(case, tmp_path / case)
    loaded = load_classifier(folder)
    rows = loaded.tokenizer.encode_batch(TEXTS, special=True)
    expected = expected_scores(model, rows)
    assert expected.std() > 0.1
    found = scores(loaded.config, loaded.params, *padded(rows))
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)
    # What stands in the padding is not read.
    again = scores(loaded.config, loaded.params, *padded(rows, fill=7))
    np.testing.assert_allclose(again, found, atol=1e-5, rtol=1e-5)


def test_a_text_that_ends_in_padding_tokens_is_read_in_front_of_them(tmp_path):
    folder, model = save_classifier("gpt2", tmp_path / "gpt2", pad_token_id=256)
    loaded = load_classifier(folder)
    rows = [[65, 66, 67, 256, 256], [65, 66, 256, 67, 68]]
    found = scores(loaded.config, loaded.params, *padded(rows))
    np.testing.assert_allclose(found, expected_scores(model, rows), atol=1e-4, rtol=1e-4)


def test_half_precision_is_near(tmp_path):
    for case in ("deberta-v3", "modernbert", "llama"):
        folder, model = save_classifier(case, tmp_path / case)
        loaded = load_classifier(folder, dtype="bfloat16")
        rows = loaded.tokenizer.encode_batch(TEXTS, special=True)
        found = scores(loaded.config, loaded.params, *padded(rows))
        assert found.dtype == jnp.float32
        expected = expected_scores(model, rows)
        assert 0 < np.abs(found - expected).max() < 0.1 * np.abs(expected).max()


def test_distances_share_positions_as_in_transformers():
    torch = pytest.importorskip("torch")
    from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

    config = DebertaConfig(vocab_size=8, layers=1, width=8, heads=2, ffn_width=8, embedding_width=8)
    distances = torch.arange(-511, 512)
    wanted = make_log_bucket_position(distances, config.buckets, config.reach).long().numpy()
    wanted = np.clip(wanted + config.span, 0, 2 * config.span - 1)
    np.testing.assert_array_equal(position_rows(config, 512), wanted)
    assert len(set(wanted.tolist())) < 1023


def test_older_configurations_of_modernbert_say_the_same(tmp_path):
    folder, _ = save_classifier("modernbert", tmp_path / "it")
    config = load_classifier(folder).config.network
    assert config.local == (False, True, True) and config.window == 4
    edit(
        folder,
        rope_parameters="DROP",
        layer_types="DROP",
        global_attn_every_n_layers=3,
        global_rope_theta=160_000.0,
        local_rope_theta=5_000.0,
    )
    assert load_classifier(folder).config.network == replace(config, local_theta=5_000.0)


@pytest.mark.parametrize("case", ["bert", "deberta-v3", "modernbert"])
def test_a_text_beyond_the_context_is_refused(case, tmp_path):
    loaded = load_classifier(save_classifier(case, tmp_path / case)[0])
    with pytest.raises(ValueError, match=r"65 .* do not fit a context of 64"):
        class_scores(loaded.config, loaded.params, *padded([[5] * 65]))
