"""Shapes of the GPT-2 and Llama families, and those of published networks without their weights."""

from typing import Any

from coopgen_jax.models.transformer import DecoderConfig


def gpt2(*, width: int, heads: int, **others: Any) -> DecoderConfig:
    """Returns a shape of the GPT-2 family (Radford et al., 2019); `others` go before its own."""
    family: dict[str, Any] = {
        "kv_heads": heads,
        "head_width": width // heads,
        "ffn_width": 4 * width,
        "norm": "layer",
        "norm_epsilon": 1e-5,
        "activation": "gelu_tanh",
        "gated": False,
        "positions": "learned",
        "qkv_bias": True,
        "output_bias": True,
        "ffn_bias": True,
    }
    return DecoderConfig(width=width, heads=heads, **family | others)


def llama(*, width: int, heads: int, **others: Any) -> DecoderConfig:
    """Returns a shape of the Llama family (Touvron et al., 2023); `others` go before its own."""
    family: dict[str, Any] = {
        "kv_heads": heads,
        "head_width": width // heads,
        "norm": "rms",
        "norm_epsilon": 1e-5,
        "activation": "silu",
        "gated": True,
        "positions": "rotary",
    }
    return DecoderConfig(width=width, heads=heads, **family | others)


SHAPES = {
    "gpt2-small": gpt2(vocab_size=50257, layers=12, width=768, heads=12, context=1024),
    "gpt2-large": gpt2(vocab_size=50257, layers=36, width=1280, heads=20, context=1024),
    "llama-1b": llama(
        vocab_size=128256,
        layers=16,
        width=2048,
        heads=32,
        kv_heads=8,
        ffn_width=8192,
        context=8192,
        rope_theta=500000.0,
    ),
}
