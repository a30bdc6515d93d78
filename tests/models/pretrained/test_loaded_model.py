"""Loading: every parameter lands where it belongs."""

import hashlib
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
import tokenizers
import torch
import transformers

from coopgen_jax.errors import UserError
from coopgen_jax.models.pretrained.loaded_model import load, load_encoder
from coopgen_jax.models.pretrained.packaged import PACKAGED
from tests.models.model_files import (
    FFN,
    LAYERS,
    VOCABULARY,
    WIDTH,
    byte_tokenizer,
    check_layout,
    edit,
    hf_model,
    save,
    state,
    tensors,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(hf_model("llama"), tmp_path / "llama")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral"])
def test_llama_family_folder(family: str, tied: bool, tmp_path: Path) -> None:
    model = hf_model(family, tie_word_embeddings=tied)
    loaded = load(save(model, tmp_path))
    check_layout(loaded.config, loaded.params)
    assert loaded.config.tied == tied
    assert loaded.config.qkv_bias == (family == "qwen2")
    assert loaded.config.end_tokens == loaded.tokenizer.end_tokens == (256,)
    found, layers = state(model), loaded.params["layers"]
    np.testing.assert_array_equal(loaded.params["embedding"], found["model.embed_tokens.weight"])
    np.testing.assert_array_equal(loaded.params["final_norm"]["scale"], found["model.norm.weight"])
    if not tied:
        np.testing.assert_array_equal(loaded.params["head"], found["lm_head.weight"])
    for layer in range(LAYERS):
        for part, name in {
            "query": "self_attn.q_proj",
            "key": "self_attn.k_proj",
            "value": "self_attn.v_proj",
            "output": "self_attn.o_proj",
            "gate": "mlp.gate_proj",
            "up": "mlp.up_proj",
            "down": "mlp.down_proj",
        }.items():
            name = f"model.layers.{layer}.{name}"
            np.testing.assert_array_equal(layers[part]["kernel"][layer], found[f"{name}.weight"])
            if f"{name}.bias" in found:
                np.testing.assert_array_equal(layers[part]["bias"][layer], found[f"{name}.bias"])
        for part, name in {
            "attention_norm": "input_layernorm",
            "ffn_norm": "post_attention_layernorm",
        }.items():
            expected = found[f"model.layers.{layer}.{name}.weight"]
            np.testing.assert_array_equal(layers[part]["scale"][layer], expected)


@pytest.mark.parametrize("bare", [False, True])
def test_gpt2_folder(bare: bool, tmp_path: Path) -> None:
    model = hf_model("gpt2")
    loaded = load(save(model.transformer if bare else model, tmp_path))
    check_layout(loaded.config, loaded.params)
    found, layers = state(model.transformer), loaded.params["layers"]
    np.testing.assert_array_equal(loaded.params["positions"], found["wpe.weight"])
    for layer in range(LAYERS):
        fused = np.split(found[f"h.{layer}.attn.c_attn.weight"], 3, axis=1)
        biases = np.split(found[f"h.{layer}.attn.c_attn.bias"], 3)
        for part, kernel, bias in zip(("query", "key", "value"), fused, biases, strict=True):
            np.testing.assert_array_equal(layers[part]["kernel"][layer], kernel.T)
            np.testing.assert_array_equal(layers[part]["bias"][layer], bias)
        for part, name in {"output": "attn.c_proj", "up": "mlp.c_fc", "down": "mlp.c_proj"}.items():
            expected = found[f"h.{layer}.{name}.weight"].T
            np.testing.assert_array_equal(layers[part]["kernel"][layer], expected)
        for part, name in {"attention_norm": "ln_1", "ffn_norm": "ln_2"}.items():
            expected = found[f"h.{layer}.{name}.bias"]
            np.testing.assert_array_equal(layers[part]["bias"][layer], expected)


def test_llama_with_biases_keeps_them(tmp_path: Path) -> None:
    model = hf_model("llama", attention_bias=True, mlp_bias=True)
    loaded = load(save(model, tmp_path))
    check_layout(loaded.config, loaded.params)
    expected = state(model)["model.layers.1.mlp.gate_proj.bias"]
    np.testing.assert_array_equal(loaded.params["layers"]["gate"]["bias"][1], expected)


def test_encoder_folder(tmp_path: Path) -> None:
    config = transformers.BertConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=FFN, max_position_embeddings=40,
    )  # fmt: skip
    model = transformers.BertModel(config)
    loaded = load_encoder(save(model, tmp_path))
    found, params = state(model), loaded.params
    tables = {"word": "word", "position": "position", "type": "token_type"}
    for part, name in tables.items():
        expected = found[f"embeddings.{name}_embeddings.weight"]
        np.testing.assert_array_equal(params["embedding"][part], expected)
    for part, name in {
        "query": "attention.self.query",
        "output": "attention.output.dense",
        "up": "intermediate.dense",
        "down": "output.dense",
    }.items():
        expected = found[f"encoder.layer.1.{name}.weight"].T
        np.testing.assert_array_equal(params["layers"][part]["kernel"][1], expected)
    assert (loaded.config.context, loaded.config.norm_epsilon) == (40, 1e-12)
    assert set(params["layers"]["ffn_norm"]) == {"scale", "bias"}


def test_old_bert_files_call_scales_gamma(tmp_path: Path) -> None:
    config = transformers.BertConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=4,
        intermediate_size=FFN,
    )  # fmt: skip
    save(transformers.BertModel(config), tmp_path)
    renamed = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): value
        for name, value in tensors(tmp_path).items()
    }
    renamed["embeddings.LayerNorm.gamma"] = np.full(WIDTH, 3.0, np.float32)
    safetensors.numpy.save_file(renamed, tmp_path / "model.safetensors")
    assert (load_encoder(tmp_path).params["embedding_norm"]["scale"] == 3).all()


def test_shards_and_their_sum(tmp_path: Path) -> None:
    model = hf_model("llama")
    whole = load(save(model, tmp_path / "whole"))
    sharded = load(save(model, tmp_path / "shards", max_shard_size="40KB"))
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    jax.tree.map(np.testing.assert_array_equal, whole.params, sharded.params)
    data = (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert whole.sha256 == hashlib.sha256(data).hexdigest() != sharded.sha256


@pytest.mark.parametrize("stored", ["float16", "bfloat16"])
def test_half_precision_files(stored: str, tmp_path: Path) -> None:
    model = hf_model("llama").to(getattr(torch, stored))
    loaded = load(save(model, tmp_path))
    expected = model.state_dict()["model.layers.2.mlp.up_proj.weight"].float().numpy()
    np.testing.assert_array_equal(loaded.params["layers"]["up"]["kernel"][2], expected)
    assert loaded.params["embedding"].dtype == np.float32


def test_parameters_in_bfloat16_with_norms_in_float32(folder: Path) -> None:
    exact, half = load(folder), load(folder, dtype="bfloat16", stacked=True)
    assert half.config.dtype == "bfloat16"
    assert half.params["layers"]["query"]["kernel"].dtype == jax.numpy.bfloat16
    assert half.params["final_norm"]["scale"].dtype == np.float32
    np.testing.assert_allclose(
        half.params["embedding"].astype(np.float32), exact.params["embedding"], rtol=2**-8
    )


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "linear", "factor": 2.0},
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    ],
)
def test_rope_scaling(scaling: dict, legacy: bool, folder: Path) -> None:
    if legacy:
        edit(folder, rope_parameters="DROP", rope_theta=5e5, rope_scaling=scaling)
    else:
        edit(folder, rope_parameters={**scaling, "rope_theta": 5e5})
    config = load(folder).config
    assert config.rope_theta == 5e5
    assert dict(config.rope_scaling) == scaling
    assert list(config.rope_scaling) == sorted(config.rope_scaling)


def test_sliding_window_cuts_the_context(tmp_path: Path) -> None:
    assert load(save(hf_model("mistral", sliding_window=24), tmp_path)).config.context == 24


def test_licence_begin_and_template_of_a_folder(folder: Path) -> None:
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: mit\n---\nlicense: no\n")
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}!")
    core = byte_tokenizer()
    core.add_special_tokens(["<s>"])
    core.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A <|endoftext|>",
        special_tokens=[("<s>", 257), ("<|endoftext|>", 256)],
    )
    core.enable_truncation(4)
    core.enable_padding(direction="left", length=9, pad_id=256, pad_token="<|endoftext|>")
    core.save(str(folder / "tokenizer.json"))
    loaded = load(folder)
    assert loaded.licence == "mit"
    assert loaded.tokenizer.begin_tokens == (257,)
    assert loaded.tokenizer.chat("Hi") == "Hi!"
    assert len(loaded.tokenizer.encode("several bytes")) == 13


def test_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import LocalEntryNotFoundError

    from coopgen_jax.models.pretrained import hub

    asked = []

    def answer(name: str, *, allow_patterns: list[str], local_files_only: bool) -> str:
        assert not local_files_only
        asked.append((name, allow_patterns))
        return str(folder)

    monkeypatch.setattr(hub, "snapshot_download", answer)
    assert load("someone/llama").name == "someone/llama"
    assert asked[0][0] == "someone/llama"
    assert not any(pattern.endswith((".py", ".bin", "*")) for pattern in asked[0][1])

    def offline(name: str, **_: object) -> str:
        raise LocalEntryNotFoundError("no connection.\nAnd more.")

    monkeypatch.setattr(hub, "snapshot_download", offline)
    with pytest.raises(UserError, match=r"someone/llama.*\(no connection\): check the name"):
        load("someone/llama")


def test_catalogue_names_licences_and_sizes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COOPGEN_CACHE", str(tmp_path))
    assert PACKAGED["smollm2-135m"].licence == PACKAGED["minilm-l6"].licence == "Apache-2.0"
    assert PACKAGED["smollm2-135m"].size == 98_362_432
    assert all(entry.cached is None and entry.terms for entry in PACKAGED.values())


@pytest.mark.default_model
def test_default_model() -> None:
    loaded = load()
    check_layout(loaded.config, loaded.params)
    assert loaded.sha256.startswith("b179c9523d0e") and loaded.licence == "Apache-2.0"
    assert loaded.config.end_tokens[0] == loaded.tokenizer.core.token_to_id("<|im_end|>")
    assert loaded.config.vocab_size == loaded.tokenizer.vocab_size == 49_152
    path = PACKAGED[loaded.name].place
    with (path / "SmolLM2-135M-Instruct.Q4_1.gguf").open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == loaded.sha256
    assert loaded.tokenizer.encode("In 2024, it's") == [788, 216, 34, 32, 34, 36, 28, 357, 506]


@pytest.mark.default_model
def test_default_encoder() -> None:
    loaded = load_encoder()
    assert loaded.params["layers"]["up"]["kernel"].shape == (6, 384, 1536)
    names = loaded.tokenizer.core.encode("Hello world").tokens
    assert names == ["[CLS]", "hello", "world", "[SEP]"]
    assert len(loaded.tokenizer.encode("word " * 300, special=True)) == 302
