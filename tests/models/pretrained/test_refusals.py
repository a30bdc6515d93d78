"""Loading: every wrong file, folder or name gets its sentence."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from coopgen_jax.errors import UserError
from coopgen_jax.models.pretrained.loaded_model import load, load_encoder
from tests.models.model_files import WIDTH, edit, hf_model, save, tensors


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(hf_model("llama"), tmp_path / "llama")


def _set(folder: Path, name: str, value: np.ndarray | None) -> None:
    found = tensors(folder)
    if value is None:
        del found[name]
    else:
        found[name] = value
    safetensors.numpy.save_file(found, folder / "model.safetensors")


BROKEN_FOLDERS = {
    "unknown family": (lambda f: edit(f, model_type="mamba"), "'mamba'.*gpt2, llama, mistral"),
    "no family": (lambda f: edit(f, model_type="DROP"), "model_type"),
    "no width": (lambda f: edit(f, hidden_size="DROP"), "does not say hidden_size"),
    "activation": (lambda f: edit(f, hidden_act="relu6"), "hidden_act = 'relu6'"),
    "scaling": (
        lambda f: edit(f, rope_parameters={"rope_type": "yarn"}),
        "'yarn'.*default, linear and llama3",
    ),
    "half a scaling": (
        lambda f: edit(f, rope_parameters={"rope_type": "linear"}),
        "needs factor as well",
    ),
    "partial rotation": (lambda f: edit(f, partial_rotary_factor=0.5), "partial_rotary_factor"),
    "missing tensor": (
        lambda f: _set(f, "model.layers.1.mlp.up_proj.weight", None),
        "no tensor 'model.layers.1.mlp.up_proj.weight'",
    ),
    "wrong shape": (
        lambda f: _set(f, "model.norm.weight", np.ones(7, np.float32)),
        r"'model.norm.weight'.*\[7\].*\[32\]",
    ),
    "not finite": (
        lambda f: _set(f, "model.norm.weight", np.full(WIDTH, np.nan, np.float32)),
        "'model.norm.weight'.*not finite",
    ),
    "integers": (
        lambda f: _set(f, "model.norm.weight", np.ones(WIDTH, np.int8)),
        "'model.norm.weight'.*I8",
    ),
    "cut short": (
        lambda f: (f / "model.safetensors").write_bytes(
            (f / "model.safetensors").read_bytes()[:-8]
        ),
        "model.safetensors cannot be read",
    ),
    "not safetensors": (
        lambda f: (f / "model.safetensors").write_bytes(b"<html>not here</html>"),
        "model.safetensors cannot be read",
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "has no weights"),
    "only a pickle": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        "pytorch_model.bin.*pickles are never opened: convert it to safetensors",
    ),
    "no configuration": (lambda f: (f / "config.json").unlink(), "has no config.json"),
    "only a GGUF file": (
        lambda f: (f / "config.json").rename(f / "model.gguf"),
        "name the GGUF file itself, .*model.gguf",
    ),
    "damaged configuration": (
        lambda f: (f / "config.json").write_text("{"),
        "config.json is not valid JSON",
    ),
    "list for a configuration": (
        lambda f: (f / "config.json").write_text("[]"),
        "config.json does not hold a JSON object",
    ),
    "missing shard": (
        lambda f: (f / "model.safetensors.index.json").write_text(
            '{"weight_map": {"a": "model-9.safetensors"}}'
        ),
        "model-9.safetensors cannot be read",
    ),
    "shard elsewhere": (
        lambda f: (f / "model.safetensors.index.json").write_text(
            '{"weight_map": {"a": "../model.safetensors"}}'
        ),
        "outside its folder",
    ),
    "list of shards": (
        lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": ["a"]}'),
        "is damaged or not a model",
    ),
    "width in quotes": (lambda f: edit(f, hidden_size="32"), "is damaged or not a model"),
    "no heads": (lambda f: edit(f, num_attention_heads=0), "is damaged or not a model"),
    "heads that do not divide": (lambda f: edit(f, num_key_value_heads=3), "3 key heads do not"),
    "odd heads": (lambda f: edit(f, head_dim=3), "cannot be rotated"),
    "scaling in a word": (lambda f: edit(f, rope_scaling="linear"), "is damaged or not a model"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "has no tokenizer.json"),
    "damaged tokenizer": (
        lambda f: (f / "tokenizer.json").write_text("{}"),
        "tokenizer.json cannot be read",
    ),
}


@pytest.mark.parametrize("case", BROKEN_FOLDERS)
def test_broken_folders_get_one_sentence(case: str, folder: Path) -> None:
    damage, sentence = BROKEN_FOLDERS[case]
    load(folder)
    damage(folder)
    with pytest.raises(UserError, match=sentence) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_no_pickle_is_opened(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save(hf_model("llama").state_dict(), path)
    with pytest.raises(UserError, match="pickles are never opened"):
        load(path)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("smollm3", "no language model 'smollm3'.*smollm2-135m"),
        ("missing.gguf", "no language model 'missing.gguf'"),
        ("minilm-l6", "minilm-l6 is no language model.*smollm2-135m"),
    ],
)
def test_unknown_names(name: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        load(name)


def test_wrong_kinds(folder: Path) -> None:
    with pytest.raises(UserError, match="no encoder"):
        load_encoder("smollm2-135m")
    with pytest.raises(UserError, match=r"'llama'.*bert"):
        load_encoder(folder)
    with pytest.raises(UserError, match=r"'float64'.*float32 or bfloat16"):
        load(folder, dtype="float64")
    with pytest.raises(UserError, match="only a part of a model"):
        load(folder / "model.safetensors")
