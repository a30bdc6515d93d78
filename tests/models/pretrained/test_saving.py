"""A saved model is loaded again as it was, here and by transformers."""

import dataclasses

import jax
import numpy as np
import pytest
import torch
import transformers
from tokenizers import decoders, processors

from coopgen_jax.errors import UserError
from coopgen_jax.models.layer_layout import separate_layers
from coopgen_jax.models.pretrained.loaded_model import load, load_encoder
from coopgen_jax.models.pretrained.saving import save_encoder, save_model
from coopgen_jax.testing import TINY_GPT2
from coopgen_jax.tokenizer import Tokenizer
from tests.full_disk import full_behind
from tests.models.model_files import byte_tokenizer, hf_model, save

SCALED = {"rope_type": "linear", "factor": 4.0, "rope_theta": 5000.0}


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("gpt2", {}),
        ("llama", {"tie_word_embeddings": False, "rope_parameters": SCALED}),
        ("llama", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
        ("qwen2", {"tie_word_embeddings": True}),
    ],
)
def test_a_saved_model_is_loaded_as_it_was(tmp_path, family, options):
    original = hf_model(family, **options).eval()
    first = load(save(original, tmp_path / "first"))
    save_model(tmp_path / "second", first.config, first.params, first.tokenizer, dtype="float32")
    second = load(tmp_path / "second")
    assert second.config == first.config
    assert second.tokenizer.end_tokens == first.tokenizer.end_tokens
    assert jax.tree.structure(second.params) == jax.tree.structure(first.params)
    jax.tree.map(np.testing.assert_array_equal, second.params, first.params)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "second").eval()
    tokens = torch.randint(0, 256, (2, 9))
    with torch.no_grad():
        np.testing.assert_allclose(
            again(tokens).logits.numpy(), original(tokens).logits.numpy(), atol=1e-5
        )
    assert not list((tmp_path / "second").glob("*.part"))


def test_a_saved_encoder_is_loaded_as_it_was(tmp_path):
    torch.manual_seed(0)
    original = transformers.BertModel(
        transformers.BertConfig(
            vocab_size=259, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
            intermediate_size=48, max_position_embeddings=40,
        ),
        add_pooling_layer=False,
    ).eval()  # fmt: skip
    save(original, tmp_path / "first")
    core = byte_tokenizer()
    core.add_special_tokens(["[CLS]", "[SEP]"])
    special = [(name, core.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=special
    )
    core.save(str(tmp_path / "first" / "tokenizer.json"))
    first = load_encoder(tmp_path / "first")
    folder = tmp_path / "second"
    save_encoder(folder, first.config, first.params, first.tokenizer, dtype="float32")
    second = load_encoder(folder)
    assert second.config == first.config and second.tokenizer == first.tokenizer
    numbers = [number for _, number in special]
    around = [numbers[0], *first.tokenizer.encode("ab"), numbers[1]]
    assert second.tokenizer.encode("ab", special=True) == around
    jax.tree.map(np.testing.assert_array_equal, second.params, first.params)
    again = transformers.AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
    tokens = torch.randint(0, 256, (2, 9))
    with torch.no_grad():
        np.testing.assert_allclose(
            again(tokens).last_hidden_state, original(tokens).last_hidden_state, atol=1e-5
        )


def test_begin_tokens_and_template_are_kept(tmp_path):
    core = byte_tokenizer()
    core.decoder = decoders.ByteLevel()
    tokenizer = Tokenizer(
        core, begin_tokens=[256], end_tokens=[256], chat_template="Q {{ messages[0]['content'] }}"
    )
    first = load(save(hf_model("llama"), tmp_path / "first"))
    save_model(tmp_path / "second", first.config, first.params, tokenizer, dtype="bfloat16")
    second = load(tmp_path / "second")
    assert second.tokenizer.begin_tokens == (256,)
    assert second.tokenizer.encode("ab") == tokenizer.encode("ab")
    assert second.tokenizer.chat("x") == tokenizer.chat("x") == "Q x"
    rounded = first.params["embedding"].astype("bfloat16").astype("float32")
    np.testing.assert_array_equal(second.params["embedding"], rounded)


def test_what_cannot_be_saved_is_told(tmp_path):
    first = load(save(hf_model("gpt2"), tmp_path / "first"))
    separate = separate_layers(first.params)
    with pytest.raises(UserError, match="only layers in one stack of numbers can be saved"):
        save_model(tmp_path / "x", first.config, separate, first.tokenizer, dtype="float32")
    odd = dataclasses.replace(TINY_GPT2, positions="rotary")
    with pytest.raises(UserError, match="no family of Hugging Face's has a network of this shape"):
        save_model(tmp_path / "x", odd, first.params, first.tokenizer, dtype="float32")
    assert not (tmp_path / "x").exists()


def test_a_full_disk_leaves_the_model_that_was_there(tmp_path):
    first = load(save(hf_model("gpt2"), tmp_path / "first"))
    folder = tmp_path / "second"
    save_model(folder, first.config, first.params, first.tokenizer, dtype="float32")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    sizes = {name: len(content) for name, content in before.items()}
    assert sizes["config.json"] < sizes["tokenizer.json"] < sizes["model.safetensors"]
    other = jax.tree.map(lambda leaf: 2 * leaf, first.params)
    # Full in the shape, in the words, and in the weights.
    for size in (100, sizes["tokenizer.json"] - 1, sizes["model.safetensors"] - 1):
        with (
            full_behind(size),
            pytest.raises(UserError, match=r"second/.* cannot be written .*rge"),
        ):
            save_model(folder, first.config, other, first.tokenizer, dtype="float32")
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    save_model(folder, first.config, other, first.tokenizer, dtype="float32")
    assert (folder / "model.safetensors").read_bytes() != before["model.safetensors"]
    # A folder of nothing holds nothing then either.
    with full_behind(100), pytest.raises(UserError, match="make room and start again"):
        save_model(tmp_path / "third", first.config, other, first.tokenizer, dtype="float32")
    assert not list((tmp_path / "third").iterdir())
