"""Saves a network as a Hugging Face folder, which this library and others load."""

import json
from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from jax.tree_util import DictKey, tree_flatten_with_path
from safetensors.numpy import save_file

from coopgen_jax.errors import UserError
from coopgen_jax.files import replacing
from coopgen_jax.models.encoder import EncoderConfig
from coopgen_jax.models.layer_layout import stacked_numbers
from coopgen_jax.models.pretrained.assemble import Params, Source
from coopgen_jax.models.pretrained.encoder_decoders import t5_sources, t5_values
from coopgen_jax.models.pretrained.families import (
    ACTIVATIONS,
    decoder_sources,
    encoder_sources,
)
from coopgen_jax.models.product import numbers
from coopgen_jax.models.t5 import T5Config
from coopgen_jax.models.transformer import DecoderConfig
from coopgen_jax.tokenizer import Tokenizer


def save_model(
    folder: Path, config: DecoderConfig, params: Params, tokenizer: Tokenizer, *, dtype: str
) -> None:
    """Writes config.json, model.safetensors and the tokenizer's files into a folder.

    It is made, and files of these names in it are replaced. `dtype` is that of the tensors in the
    file, "float32", "float16" or "bfloat16".

    Raises:
      UserError: the layers are no stack of numbers, no family of Hugging Face's has such a shape,
        or the disk is full; then the folder is as it was.
    """
    if not stacked_numbers(params):
        raise UserError(
            "only layers in one stack of numbers can be saved: load the model with stacked=True"
        )
    values, tensors = hugging_face(config, params)
    values |= {"dtype": dtype, "eos_token_id": list(tokenizer.end_tokens)}
    save_folder(folder, values, tensors, tokenizer, _with_begin(tokenizer))


def hugging_face(
    config: DecoderConfig, params: Params
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns what config.json says of a network's shape, and its tensors by name, in float32."""
    if isinstance(config, T5Config):
        return t5_values(config), tensors_of(params, t5_sources(config))
    values = _config(config)
    return values, tensors_of(params, decoder_sources(values["model_type"]))


def save_encoder(
    folder: Path, config: EncoderConfig, params: Params, tokenizer: Tokenizer, *, dtype: str
) -> None:
    """Writes an encoder's folder; see `save_model`."""
    values = {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "vocab_size": config.vocab_size,
        "num_hidden_layers": config.layers,
        "hidden_size": config.width,
        "num_attention_heads": config.heads,
        "intermediate_size": config.ffn_width,
        "max_position_embeddings": config.context,
        "type_vocab_size": config.token_types,
        "layer_norm_eps": config.norm_epsilon,
        "hidden_act": config.activation,
        "dtype": dtype,
    }
    tensors = tensors_of(params, encoder_sources())
    # What a bare encoder's file calls its tensors.
    named = {name.removeprefix("bert."): array for name, array in tensors.items()}
    save_folder(folder, values, named, tokenizer, tokenizer.core)


def save_folder(
    folder: Path,
    values: dict[str, Any],
    tensors: dict[str, np.ndarray],
    tokenizer: Tokenizer,
    core: tokenizers.Tokenizer,
    *,
    more: Mapping[str, dict[str, Any]] | None = None,
    exact: Collection[str] = (),
) -> None:
    """Writes a network's files into a folder; see `save_model`.

    Args:
      folder: where they go.
      values: what config.json says, the `dtype` of the tensors in the file among it.
      tensors: by name.
      tokenizer: what is said of it.
      core: what its file holds.
      more: other JSON files by name.
      exact: names of tensors that stay float32.
    """
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    for name in ("bos_token", "eos_token", "chat_template"):
        if getattr(tokenizer, name) is not None:
            settings[name] = getattr(tokenizer, name)
    ends = tokenizer.end_tokens
    if ends and tokenizer.core.id_to_token(ends[0]) != tokenizer.eos_token:
        # What ends a text comes first, however the template calls it.
        values = values | {"eos_token_id": list(ends)}
    written = {"config.json": values, "tokenizer_config.json": settings, **(more or {})}
    # The weights come last: with them the folder is a model.
    names = (*written, "tokenizer.json", "model.safetensors")
    kinds = {name: np.dtype(np.float32 if name in exact else values["dtype"]) for name in tensors}
    with replacing(*(folder / name for name in names)) as (*plain, words, weights):
        for path, entries in zip(plain, written.values(), strict=True):
            _write(path, entries)
        # Not `core.save`, which has one exception for everything.
        words.write_text(core.to_str(pretty=True), encoding="utf-8")
        save_file(
            {
                # A number becomes an array of one entry on the way.
                name: np.ascontiguousarray(array.astype(kinds[name])).reshape(array.shape)
                for name, array in tensors.items()
            },
            weights,
            metadata={"format": "pt"},
        )
        weights.chmod(0o644)


def _with_begin(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    """Returns the tokenizer's core, which puts the begin tokens in front of a text by itself."""
    core = tokenizers.Tokenizer.from_str(tokenizer.core.to_str())
    if tokenizer.begin_tokens:
        named = [(str(core.id_to_token(number)), number) for number in tokenizer.begin_tokens]
        front = " ".join(name for name, _ in named)
        core.post_processor = tokenizers.processors.TemplateProcessing(
            single=f"{front} $A", special_tokens=named
        )
    return core


def _write(path: Path, values: dict[str, Any]) -> None:
    text = json.dumps(values, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def _config(config: DecoderConfig) -> dict[str, Any]:
    activation = next(name for name, own in ACTIVATIONS.items() if own == config.activation)
    if config.norm == "layer":
        alike = not config.gated and config.positions == "learned" and config.ffn_bias
        if not (alike and config.qkv_bias and config.heads == config.kv_heads):
            raise UserError("no family of Hugging Face's has a network of this shape")
        return {
            "model_type": "gpt2",
            "architectures": ["GPT2LMHeadModel"],
            "vocab_size": config.vocab_size,
            "n_layer": config.layers,
            "n_embd": config.width,
            "n_head": config.heads,
            "n_inner": config.ffn_width,
            "n_positions": config.context,
            "layer_norm_epsilon": config.norm_epsilon,
            "activation_function": "gelu_new" if activation == "gelu_pytorch_tanh" else activation,
            "tie_word_embeddings": config.tied,
        }
    only_inputs = config.qkv_bias and not config.output_bias
    if config.positions != "rotary" or not config.gated or (only_inputs and config.ffn_bias):
        raise UserError("no family of Hugging Face's has a network of this shape")
    rope: dict[str, Any] = {"rope_type": "default"}
    return {
        "model_type": "qwen2" if only_inputs else "llama",
        "architectures": ["Qwen2ForCausalLM" if only_inputs else "LlamaForCausalLM"],
        "vocab_size": config.vocab_size,
        "num_hidden_layers": config.layers,
        "hidden_size": config.width,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "intermediate_size": config.ffn_width,
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.norm_epsilon,
        "hidden_act": activation,
        "attention_bias": config.qkv_bias and config.output_bias,
        "mlp_bias": config.ffn_bias,
        "rope_parameters": rope | dict(config.rope_scaling) | {"rope_theta": config.rope_theta},
        "tie_word_embeddings": config.tied,
    }


def tensors_of(params: Params, sources: dict[str, Source]) -> dict[str, np.ndarray]:
    """Returns the tensors of a file: the inverse of `assemble.assemble`."""
    parts: dict[str, dict[int, np.ndarray]] = defaultdict(dict)
    axes: dict[str, int] = {}
    for path, leaf in tree_flatten_with_path(params)[0]:
        keys = [entry.key for entry in path if isinstance(entry, DictKey)]
        source = sources["/".join(keys)]
        values = np.asarray(numbers(leaf), np.float32)
        layers = values if "layers" in keys else values[None]
        for number, array in enumerate(layers):
            own = array.T if source.transposed else array
            name = source.name.format(number)
            parts[name][source.third or 0] = own
            # What is made of thirds is split along its outputs, which transposed stand last.
            axes[name] = -1 if source.transposed else 0
    return {
        name: np.concatenate([arrays[third] for third in sorted(arrays)], axis=axes[name])
        if len(arrays) > 1
        else arrays[0]
        for name, arrays in parts.items()
    }
