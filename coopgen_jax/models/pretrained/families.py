"""Hugging Face configurations to a network's shape, and the names of its tensors."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from coopgen_jax.errors import UserError
from coopgen_jax.models.encoder import ACTIVATIONS as ENCODER_ACTIVATIONS
from coopgen_jax.models.encoder import EncoderConfig
from coopgen_jax.models.pretrained.assemble import Source
from coopgen_jax.models.published_shapes import gpt2, llama
from coopgen_jax.models.transformer import DecoderConfig

DECODERS = ("gpt2", "llama", "mistral", "qwen2")
ENCODER_DECODERS = ("mt5", "t5")
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
}


class Settings:
    """What a config.json says; a missing entry and an unknown value are the user's to mend."""

    def __init__(self, values: Mapping[str, Any], label: str) -> None:
        self.values = values
        self.label = label

    def get(self, key: str, default: Any = None) -> Any:
        """Returns an entry, or `default`; raises UserError where there is neither."""
        value = self.values.get(key)
        if value is None:
            value = default
        if value is None:
            raise UserError(f"config.json of {self.label} does not say {key}: fetch it again")
        return value

    def choose(self, key: str, default: str, known: Iterable[str]) -> str:
        """Returns an entry, or `default`; raises UserError where it is not one of the known."""
        value = self.get(key, default)
        if value not in known:
            raise self.refuse(key, value, f"the known ones are {', '.join(known)}")
        return str(value)

    def refuse(self, key: str, value: Any, known: str) -> UserError:
        """Returns the error that says what an entry may be."""
        return UserError(
            f"config.json of {self.label} says {key} = {value!r}, which is not implemented: {known}"
        )


def check_numbers(config: Any) -> None:
    """Raises ValueError where a size of a network is no whole number, or a factor no number."""
    for entry in fields(config):
        value = getattr(config, entry.name)
        if entry.type in (int, "int") and (type(value) is not int or value < 0):
            raise ValueError(f"{entry.name} is {value!r}: it must be a whole number")
        if entry.type in (float, "float") and type(value) not in (int, float):
            raise ValueError(f"{entry.name} is {value!r}: it must be a number")


def decoder_config(
    values: Mapping[str, Any], label: str, end_tokens: tuple[int, ...], dtype: str
) -> DecoderConfig:
    """Returns the shape of a decoder from its config.json; messages call the model `label`."""
    settings = Settings(values, label)
    family = settings.get("model_type", "unnamed")
    if family not in DECODERS:
        known = (*DECODERS, *ENCODER_DECODERS)
        raise settings.refuse("model_type", family, f"the known ones are {', '.join(known)}")
    if family == "gpt2":
        return _gpt2(settings, end_tokens, dtype)
    width, heads = settings.get("hidden_size"), settings.get("num_attention_heads")
    theta, scaling = _rope(settings)
    context = settings.get("max_position_embeddings")
    if family == "mistral" or settings.get("use_sliding_window", False):
        # Up to the window's length a sliding window is plain causal attention.
        context = min(context, settings.get("sliding_window", context))
    bias = settings.get("attention_bias", False)
    return llama(
        vocab_size=settings.get("vocab_size"),
        layers=settings.get("num_hidden_layers"),
        width=width,
        heads=heads,
        kv_heads=settings.get("num_key_value_heads", heads),
        head_width=settings.get("head_dim", width // heads),
        ffn_width=settings.get("intermediate_size"),
        context=context,
        norm_epsilon=settings.get("rms_norm_eps", 1e-6),
        activation=_activation(settings, "hidden_act", "silu"),
        rope_theta=theta,
        rope_scaling=scaling,
        qkv_bias=bias or family == "qwen2",
        output_bias=bias,
        ffn_bias=settings.get("mlp_bias", False),
        tied=settings.get("tie_word_embeddings", False),
        end_tokens=end_tokens,
        dtype=dtype,
    )


def _gpt2(settings: Settings, end_tokens: tuple[int, ...], dtype: str) -> DecoderConfig:
    for key, wanted in (("scale_attn_weights", True), ("scale_attn_by_inverse_layer_idx", False)):
        if settings.get(key, wanted) != wanted:
            raise settings.refuse(key, not wanted, f"only {wanted} is")
    width, heads = settings.get("n_embd"), settings.get("n_head")
    return gpt2(
        vocab_size=settings.get("vocab_size"),
        layers=settings.get("n_layer"),
        width=width,
        heads=heads,
        ffn_width=settings.get("n_inner", 4 * width),
        context=settings.get("n_positions"),
        norm_epsilon=settings.get("layer_norm_epsilon", 1e-5),
        activation=_activation(settings, "activation_function", "gelu_new"),
        tied=settings.get("tie_word_embeddings", True),
        end_tokens=end_tokens,
        dtype=dtype,
    )


def encoder_config(values: Mapping[str, Any], label: str, dtype: str) -> EncoderConfig:
    """Returns the shape of an encoder of the BERT family; see `decoder_config`."""
    settings = Settings(values, label)
    for key, wanted in (("model_type", "bert"), ("position_embedding_type", "absolute")):
        value = settings.get(key, wanted if key != "model_type" else "unnamed")
        if value != wanted:
            raise settings.refuse(key, value, f"the known one is {wanted}")
    return bert_config(settings, dtype)


def bert_config(settings: Settings, dtype: str, *, offset: int = 0) -> EncoderConfig:
    """Returns the shape of an encoder whose first position has the number `offset`."""
    return EncoderConfig(
        vocab_size=settings.get("vocab_size"),
        layers=settings.get("num_hidden_layers"),
        width=settings.get("hidden_size"),
        heads=settings.get("num_attention_heads"),
        ffn_width=settings.get("intermediate_size"),
        context=settings.get("max_position_embeddings") - offset,
        norm_epsilon=settings.get("layer_norm_eps", 1e-12),
        activation=settings.choose("hidden_act", "gelu", ENCODER_ACTIVATIONS),
        offset=offset,
        token_types=settings.get("type_vocab_size", 2),
        dtype=dtype,
    )


def _activation(settings: Settings, key: str, default: str) -> Any:
    value = settings.get(key, default)
    if value not in ACTIVATIONS:
        raise settings.refuse(key, value, f"the known ones are {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[value]


def _rope(settings: Settings) -> tuple[float, tuple[tuple[str, float | str], ...]]:
    # transformers 5 writes both under rope_parameters, its ancestors two entries.
    found = {**settings.get("rope_scaling", {}), **settings.get("rope_parameters", {})}
    theta = float(found.get("rope_theta") or settings.get("rope_theta", 10000.0))
    if found.get("partial_rotary_factor", settings.get("partial_rotary_factor", 1.0)) != 1.0:
        raise settings.refuse("partial_rotary_factor", "below 1", "heads are rotated whole")
    kind = found.get("rope_type") or found.get("type") or "default"
    if kind == "default":
        return theta, ()
    keys = {
        "linear": ("factor",),
        "llama3": (
            "factor",
            "high_freq_factor",
            "low_freq_factor",
            "original_max_position_embeddings",
        ),
    }
    if kind not in keys:
        raise settings.refuse("rope_type", kind, "the known ones are default, linear and llama3")
    missing = [key for key in keys[kind] if key not in found]
    if missing:
        raise settings.refuse("rope_type", kind, f"it needs {missing[0]} as well")
    pairs: list[tuple[str, float | str]] = [(key, float(found[key])) for key in keys[kind]]
    return theta, tuple(sorted([*pairs, ("rope_type", kind)]))


def sources_of(
    names: Mapping[str, str],
    weight: str = "kernel",
    *,
    transposed: bool = False,
    third: int | None = None,
) -> dict[str, Source]:
    """Returns the sources of weights and biases, by the paths and the names of what has them."""
    found = {}
    for path, name in names.items():
        found[f"{path}/{weight}"] = Source(f"{name}.weight", transposed, third)
        found[f"{path}/bias"] = Source(f"{name}.bias", third=third)
    return found


def decoder_sources(family: str) -> dict[str, Source]:
    """Returns where each parameter of a decoder stands in its safetensors, by its path."""
    if family == "gpt2":
        return _gpt2_sources()
    layer = "model.layers.{}"
    tables = {"embedding": Source("model.embed_tokens.weight"), "head": Source("lm_head.weight")}
    norms = {
        "final_norm": "model.norm",
        "layers/attention_norm": f"{layer}.input_layernorm",
        "layers/ffn_norm": f"{layer}.post_attention_layernorm",
    }
    kernels = {
        "layers/query": f"{layer}.self_attn.q_proj",
        "layers/key": f"{layer}.self_attn.k_proj",
        "layers/value": f"{layer}.self_attn.v_proj",
        "layers/output": f"{layer}.self_attn.o_proj",
        "layers/gate": f"{layer}.mlp.gate_proj",
        "layers/up": f"{layer}.mlp.up_proj",
        "layers/down": f"{layer}.mlp.down_proj",
    }
    return tables | sources_of(norms, "scale") | sources_of(kernels)


def _gpt2_sources() -> dict[str, Source]:
    layer = "transformer.h.{}"
    sources = {
        "embedding": Source("transformer.wte.weight"),
        "positions": Source("transformer.wpe.weight"),
        "head": Source("lm_head.weight"),
    }
    norms = {
        "final_norm": "transformer.ln_f",
        "layers/attention_norm": f"{layer}.ln_1",
        "layers/ffn_norm": f"{layer}.ln_2",
    }
    kernels = {
        "layers/output": f"{layer}.attn.c_proj",
        "layers/up": f"{layer}.mlp.c_fc",
        "layers/down": f"{layer}.mlp.c_proj",
    }
    for third, part in enumerate(("query", "key", "value")):
        of_all = {f"layers/{part}": f"{layer}.attn.c_attn"}
        sources |= sources_of(of_all, transposed=True, third=third)
    return sources | sources_of(norms, "scale") | sources_of(kernels, transposed=True)


def encoder_sources(network: str = "bert") -> dict[str, Source]:
    """Returns where each parameter of a BERT stands in its safetensors, by its path.

    Tensors' names begin with that of the `network`.
    """
    layer = f"{network}.encoder.layer.{{}}"
    tables = {
        f"embedding/{part}": Source(f"{network}.embeddings.{name}_embeddings.weight")
        for part, name in {"word": "word", "position": "position", "type": "token_type"}.items()
    }
    norms = {
        "embedding_norm": f"{network}.embeddings.LayerNorm",
        "layers/attention_norm": f"{layer}.attention.output.LayerNorm",
        "layers/ffn_norm": f"{layer}.output.LayerNorm",
    }
    kernels = {
        "layers/query": f"{layer}.attention.self.query",
        "layers/key": f"{layer}.attention.self.key",
        "layers/value": f"{layer}.attention.self.value",
        "layers/output": f"{layer}.attention.output.dense",
        "layers/up": f"{layer}.intermediate.dense",
        "layers/down": f"{layer}.output.dense",
    }
    return tables | sources_of(norms, "scale") | sources_of(kernels, transposed=True)
