"""GGUF files of tiny random models, as the tests write them to disc."""

from pathlib import Path

import gguf
import numpy as np
import transformers
from gguf.quants import quantize

from tests.models.model_files import BYTES, FFN, HEADS, KV_HEADS, LAYERS, WIDTH, state

GGUF_NAMES = {
    "embed_tokens": "token_embd",
    "norm": "output_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
GPT2_GGUF_NAMES = {
    "wte": "token_embd",
    "wpe": "position_embd",
    "ln_f": "output_norm",
    "ln_1": "attn_norm",
    "ln_2": "ffn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}


def interleave(rows: np.ndarray, heads: int) -> np.ndarray:
    """The row order of GGUF: rotated pairs side by side, where Hugging Face has them halved."""
    halves = rows.reshape(heads, 2, len(rows) // heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def gguf_tensors(family: str, model: transformers.PreTrainedModel) -> dict[str, np.ndarray]:
    names = GPT2_GGUF_NAMES if family == "gpt2" else GGUF_NAMES
    result = {}
    for name, value in state(model).items():
        if name == "lm_head.weight":
            if not model.config.tie_word_embeddings:
                result["output.weight"] = value
            continue
        name = name.removeprefix("model.").removeprefix("transformer.")
        parts, prefix = name.split("."), ""
        if parts[0] in ("h", "layers"):
            prefix, parts = f"blk.{parts[1]}.", parts[2:]
        plain, leaf = ".".join(parts[:-1]), parts[-1]
        if family == "gpt2" and plain.split(".")[-1].startswith("c_") and leaf == "weight":
            value = value.T
        if family == "llama" and plain.endswith(("q_proj", "k_proj")):
            value = interleave(value, HEADS if "q_proj" in plain else KV_HEADS)
        result[f"{prefix}{names[plain]}.{leaf}"] = np.ascontiguousarray(value)
    return result


def write_gguf(
    path: Path,
    family: str,
    values: dict[str, np.ndarray],
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    **metadata: object,
) -> Path:
    writer = gguf.GGUFWriter(path, family)
    numbers = {
        "block_count": LAYERS,
        "context_length": 64,
        "embedding_length": WIDTH,
        "feed_forward_length": 4 * WIDTH if family == "gpt2" else FFN,
        "attention.head_count": HEADS,
        "attention.head_count_kv": HEADS if family == "gpt2" else KV_HEADS,
    }
    for key, number in numbers.items():
        writer.add_uint32(f"{family}.{key}", number)
    norm = "layer_norm" if family == "gpt2" else "layer_norm_rms"
    writer.add_float32(f"{family}.attention.{norm}_epsilon", 1e-5)
    for key, value in metadata.items():
        add = writer.add_string if isinstance(value, str) else writer.add_float32
        add(key.replace("__", "."), value)
    writer.add_tokenizer_model("gpt2")
    if "tokenizer__ggml__pre" not in metadata:
        writer.add_tokenizer_pre("smollm")
    writer.add_token_list([*BYTES, "<|endoftext|>"])
    writer.add_token_types([1] * len(BYTES) + [3])
    writer.add_token_merges([])
    writer.add_eos_token_id(256)
    for name, value in values.items():
        if value.ndim == 2 and value.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] == 0:
            writer.add_tensor(name, quantize(value, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, value.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
