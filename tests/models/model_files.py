"""Tiny random models, as the tests of loading write them to disc."""

import json
from pathlib import Path

import jax
import numpy as np
import safetensors.numpy
import tokenizers
import torch
import transformers

from coopgen_jax.models.transformer import DecoderConfig, init_decoder

WIDTH, HEADS, KV_HEADS, FFN, LAYERS, VOCABULARY = 32, 4, 2, 64, 3, 300
BYTES = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())


def byte_tokenizer() -> tokenizers.Tokenizer:
    core = tokenizers.Tokenizer(tokenizers.models.BPE({b: i for i, b in enumerate(BYTES)}, []))
    core.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = tokenizers.decoders.ByteLevel()
    core.add_special_tokens(["<|endoftext|>"])
    return core


def hf_model(family: str, **options: object) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    if family == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=VOCABULARY, n_positions=64, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS,
            eos_token_id=256, bos_token_id=256, **options,
        )  # fmt: skip
        model = transformers.GPT2LMHeadModel(config)
    else:
        known = {
            "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
            "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM),
            "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
        }
        make_config, make_model = known[family]
        config = make_config(
            vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=FFN, head_dim=8,
            num_hidden_layers=LAYERS, num_attention_heads=HEADS, num_key_value_heads=KV_HEADS,
            max_position_embeddings=64, eos_token_id=256, bos_token_id=None, **options,
        )  # fmt: skip
        model = make_model(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.1)
    return model


def save(model: transformers.PreTrainedModel, folder: Path, **options: object) -> Path:
    model.save_pretrained(folder, **options)
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def edit(folder: Path, **entries: object) -> None:
    path = folder / "config.json"
    values = json.loads(path.read_text()) | entries
    path.write_text(json.dumps({key: value for key, value in values.items() if value != "DROP"}))


def tensors(folder: Path) -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(folder / "model.safetensors")


def state(model: transformers.PreTrainedModel) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in model.state_dict().items()}


def check_layout(config: DecoderConfig, params: object) -> None:
    wanted = jax.eval_shape(lambda: init_decoder(jax.random.key(0), config))
    shapes = [jax.tree.map(lambda leaf: leaf.shape, tree) for tree in (wanted, params)]
    assert shapes[0] == shapes[1]
