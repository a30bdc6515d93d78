"""GGUF metadata to a network's shape, and the names of its tensors."""

from dataclasses import replace
from typing import Any

import numpy as np

from coopgen_jax.errors import UserError
from coopgen_jax.models.pretrained.assemble import Source
from coopgen_jax.models.pretrained.families import sources_of
from coopgen_jax.models.pretrained.gguf.gguf_file import GgufFile
from coopgen_jax.models.published_shapes import gpt2, llama
from coopgen_jax.models.transformer import DecoderConfig

ARCHITECTURES = ("gpt2", "llama", "qwen2")
# The rotary frequencies of every Llama 3.1 and 3.2; only the factor differs.
LLAMA3_SCALING: dict[str, float | str] = {
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192.0,
    "rope_type": "llama3",
}


def gguf_config(file: GgufFile, end_tokens: tuple[int, ...], dtype: str) -> DecoderConfig:
    """Returns a GGUF file's shape; raises UserError where something of it is not implemented."""
    architecture = file.metadata.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise UserError(
            f"{file.label} holds a network of the architecture {architecture!r}: the known ones "
            f"are {', '.join(ARCHITECTURES)}"
        )

    def get(key: str, default: Any = None) -> Any:
        value = file.metadata.get(f"{architecture}.{key}", default)
        if value is None:
            raise UserError(f"{file.label} does not say its {architecture}.{key}: convert it again")
        return value

    if get("expert_count", 0):
        raise UserError(f"{file.label} is a mixture of experts: choose a dense model")
    is_gpt2 = architecture == "gpt2"
    width, heads = get("embedding_length"), get("attention.head_count")
    head_width = get("attention.key_length", width // heads)
    if get("rope.dimension_count", head_width) != head_width:
        raise UserError(f"{file.label} rotates a part of each head only: choose another model")
    return (gpt2 if is_gpt2 else llama)(
        vocab_size=file.tensors["token_embd.weight"].shape[0]
        if "token_embd.weight" in file.tensors
        else get("vocab_size"),
        layers=get("block_count"),
        width=width,
        heads=heads,
        kv_heads=get("attention.head_count_kv", heads),
        head_width=head_width,
        ffn_width=get("feed_forward_length"),
        context=get("context_length"),
        norm_epsilon=_rounded(get(f"attention.layer_norm{'' if is_gpt2 else '_rms'}_epsilon")),
        rope_theta=_rounded(get("rope.freq_base", 10000.0)),
        rope_scaling=() if is_gpt2 else _rope_scaling(file, architecture),
        qkv_bias="blk.0.attn_qkv.bias" in file.tensors or "blk.0.attn_q.bias" in file.tensors,
        output_bias="blk.0.attn_output.bias" in file.tensors,
        ffn_bias="blk.0.ffn_up.bias" in file.tensors,
        tied="output.weight" not in file.tensors,
        end_tokens=end_tokens,
        dtype=dtype,
    )


def gguf_sources(file: GgufFile, config: DecoderConfig) -> dict[str, Source]:
    """Returns where each parameter stands in a GGUF file, by its path."""
    sources = {
        "embedding": Source("token_embd.weight"),
        "positions": Source("position_embd.weight"),
        "head": Source("output.weight"),
    }
    norms = {
        "final_norm": "output_norm",
        "layers/attention_norm": "blk.{}.attn_norm",
        "layers/ffn_norm": "blk.{}.ffn_norm",
    }
    kernels = {
        "layers/query": "blk.{}.attn_q",
        "layers/key": "blk.{}.attn_k",
        "layers/value": "blk.{}.attn_v",
        "layers/output": "blk.{}.attn_output",
        "layers/gate": "blk.{}.ffn_gate",
        "layers/up": "blk.{}.ffn_up",
        "layers/down": "blk.{}.ffn_down",
    }
    sources |= sources_of(norms, "scale") | sources_of(kernels)
    architecture = file.metadata["general.architecture"]
    if architecture == "gpt2":
        for third, part in enumerate(("query", "key", "value")):
            sources |= sources_of({f"layers/{part}": "blk.{}.attn_qkv"}, third=third)
    if architecture == "llama":
        for part, heads in (("query", config.heads), ("key", config.kv_heads)):
            for path in (f"layers/{part}/kernel", f"layers/{part}/bias"):
                sources[path] = replace(sources[path], interleaved=heads)
    return sources


def _rounded(value: float) -> float:
    """Returns the short decimal number that was meant by a value kept as float32."""
    return float(str(np.float32(value)))


def _rope_scaling(file: GgufFile, architecture: str) -> tuple[tuple[str, float | str], ...]:
    kind = file.metadata.get(f"{architecture}.rope.scaling.type", "none")
    factor = file.metadata.get(f"{architecture}.rope.scaling.factor", 1.0)
    if kind == "linear":
        return (("factor", float(factor)), ("rope_type", "linear"))
    if kind != "none":
        raise UserError(
            f"{file.label} stretches its positions by the method {kind!r}: only 'linear' and "
            "Llama 3's are implemented"
        )
    if "rope_freqs.weight" not in file.tensors:
        return ()
    return _llama3_scaling(file, architecture)


def _llama3_scaling(file: GgufFile, architecture: str) -> tuple[tuple[str, float | str], ...]:
    # The file holds what every frequency is divided by; the rule behind it is recovered from the
    # largest divisor and checked against all of them.
    divisors = file.read("rope_freqs.weight")
    factor = float(divisors.max())
    theta = file.metadata.get(f"{architecture}.rope.freq_base", 10000.0)
    frequencies = theta ** -(np.arange(len(divisors)) / len(divisors))
    turns = 8192.0 * frequencies / (2 * np.pi)
    keep = np.clip((turns - 1.0) / (4.0 - 1.0), 0.0, 1.0)
    if not np.allclose(1 / (keep + (1 - keep) / factor), divisors, rtol=1e-3):
        raise UserError(
            f"{file.label} stretches its positions by frequencies (rope_freqs.weight) other than "
            "Llama 3's, which is not implemented: choose another model"
        )
    return tuple(sorted((LLAMA3_SCALING | {"factor": factor}).items()))
