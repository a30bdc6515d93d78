"""The encoder against the transformers library, and what padding may not change."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coopgen_jax.models.encoder import EncoderConfig, encode, init_encoder, mean_pool
from coopgen_jax.parallel.platform import made_for

CONFIG = EncoderConfig(vocab_size=41, layers=3, width=16, heads=4, ffn_width=24, context=12)
LENGTHS = (9, 4, 1)


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, CONFIG.vocab_size, (len(LENGTHS), max(LENGTHS)))
    mask = np.arange(max(LENGTHS))[None, :] < np.array(LENGTHS)[:, None]
    return jnp.asarray(tokens, jnp.int32), jnp.asarray(mask)


@pytest.fixture(scope="module")
def reference():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = transformers.BertModel(
        transformers.BertConfig(
            vocab_size=CONFIG.vocab_size,
            hidden_size=CONFIG.width,
            num_hidden_layers=CONFIG.layers,
            num_attention_heads=CONFIG.heads,
            intermediate_size=CONFIG.ffn_width,
            max_position_embeddings=CONFIG.context,
            # Far from 0.02, so that attention is peaked and a wrong scale or mask shows.
            initializer_range=0.5,
        )
    ).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "bias" in name or "LayerNorm" in name:
                weight.add_(0.3 * torch.randn_like(weight))
    return model


def converted(model):
    """The parameter tree of a torch model, written out by hand."""
    state = {name: jnp.asarray(value.numpy()) for name, value in model.state_dict().items()}

    def stack(name):
        return jnp.stack([state[f"encoder.layer.{i}.{name}"] for i in range(CONFIG.layers)])

    def dense(name):
        return {
            "kernel": stack(f"{name}.weight").transpose(0, 2, 1),
            "bias": stack(f"{name}.bias"),
        }

    def norm(name):
        return {"scale": stack(f"{name}.weight"), "bias": stack(f"{name}.bias")}

    return {
        "embedding": {
            "word": state["embeddings.word_embeddings.weight"],
            "position": state["embeddings.position_embeddings.weight"],
            "type": state["embeddings.token_type_embeddings.weight"],
        },
        "embedding_norm": {
            "scale": state["embeddings.LayerNorm.weight"],
            "bias": state["embeddings.LayerNorm.bias"],
        },
        "layers": {
            "query": dense("attention.self.query"),
            "key": dense("attention.self.key"),
            "value": dense("attention.self.value"),
            "output": dense("attention.output.dense"),
            "attention_norm": norm("attention.output.LayerNorm"),
            "up": dense("intermediate.dense"),
            "down": dense("output.dense"),
            "ffn_norm": norm("output.LayerNorm"),
        },
    }


def test_agrees_with_transformers(reference, texts):
    import torch

    tokens, mask = texts
    with torch.no_grad():
        expected = reference(
            torch.tensor(np.asarray(tokens)).long(), torch.tensor(np.asarray(mask)).long()
        ).last_hidden_state.numpy()
    hidden = encode(CONFIG, converted(reference), tokens, mask)
    for row, length in enumerate(LENGTHS):
        np.testing.assert_allclose(
            hidden[row, :length], expected[row, :length], atol=2e-4, rtol=2e-4
        )


def test_random_parameters_have_the_tree_of_converted_ones(reference):
    drawn = init_encoder(jax.random.key(0), CONFIG)
    assert jax.tree.map(jnp.shape, drawn) == jax.tree.map(jnp.shape, converted(reference))
    assert float(drawn["layers"]["up"]["kernel"].std()) == pytest.approx(0.02, rel=0.1)
    first, second = drawn["layers"]["up"]["kernel"][:2]
    assert not np.array_equal(first, second)


def test_padding_changes_nothing(texts):
    tokens, mask = texts
    params = init_encoder(jax.random.key(1), CONFIG)
    hidden = encode(CONFIG, params, tokens, mask)
    other = jnp.where(mask, tokens, 7)
    again = encode(CONFIG, params, other, mask)
    for row, length in enumerate(LENGTHS):
        alone = encode(CONFIG, params, tokens[row : row + 1, :length], mask[row : row + 1, :length])
        np.testing.assert_allclose(hidden[row, :length], alone[0], atol=1e-5)
        np.testing.assert_allclose(hidden[row, :length], again[row, :length], atol=1e-6)


def test_a_text_is_read_in_both_directions(texts):
    tokens, mask = texts
    params = init_encoder(jax.random.key(1), CONFIG)
    changed = tokens.at[0, 8].set((tokens[0, 8] + 1) % CONFIG.vocab_size)
    before, after = (encode(CONFIG, params, ids, mask)[0, 0] for ids in (tokens, changed))
    assert not np.allclose(before, after, atol=1e-6)


def test_half_precision_is_near(texts):
    tokens, mask = texts
    params = init_encoder(jax.random.key(1), CONFIG)
    half = EncoderConfig(**{**vars(CONFIG), "dtype": "bfloat16"})
    full = mean_pool(encode(CONFIG, params, tokens, mask), mask)
    rough = encode(half, params, tokens, mask)
    assert rough.dtype == jnp.float32
    np.testing.assert_allclose(mean_pool(rough, mask), full, atol=0.05)
    with made_for("tpu"):
        assert jax.eval_shape(partial(encode, half), params, tokens, mask).dtype == jnp.bfloat16


def test_mean_pool_by_hand():
    hidden = jnp.array([[[1.0, 2.0], [3.0, 6.0], [100.0, 100.0]], [[9.0, 9.0]] * 3])
    mask = jnp.array([[True, True, False], [False] * 3])
    np.testing.assert_array_equal(mean_pool(hidden, mask), [[2.0, 4.0], [0.0, 0.0]])


def test_errors_name_what_is_wrong(texts):
    params = init_encoder(jax.random.key(0), CONFIG)
    with pytest.raises(ValueError, match="13 word pieces do not fit a context of 12"):
        encode(CONFIG, params, jnp.zeros((1, 13), jnp.int32), jnp.ones((1, 13), bool))
    with pytest.raises(ValueError, match="not a multiple of 5 heads"):
        EncoderConfig(vocab_size=3, layers=1, width=16, heads=5, ffn_width=4)
    with pytest.raises(ValueError, match="unknown activation 'swish'"):
        EncoderConfig(vocab_size=3, layers=1, width=16, heads=4, ffn_width=4, activation="swish")
