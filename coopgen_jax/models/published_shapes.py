"""Shapes of published decoder networks, for planning and timing without their weights."""

from coopgen_jax.models.transformer import DecoderConfig


def _gpt2(layers: int, width: int, heads: int) -> DecoderConfig:
    return DecoderConfig(
        vocab_size=50257,
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=heads,
        head_width=width // heads,
        ffn_width=4 * width,
        context=1024,
        norm="layer",
        norm_epsilon=1e-5,
        activation="gelu_tanh",
        gated=False,
        positions="learned",
        qkv_bias=True,
        output_bias=True,
        ffn_bias=True,
    )


# GPT-2 small and large (Radford et al., 2019), and Llama 3.2 1B.
SHAPES = {
    "gpt2-small": _gpt2(12, 768, 12),
    "gpt2-large": _gpt2(36, 1280, 20),
    "llama-1b": DecoderConfig(
        vocab_size=128256,
        layers=16,
        width=2048,
        heads=32,
        kv_heads=8,
        head_width=64,
        ffn_width=8192,
        context=8192,
        norm="rms",
        norm_epsilon=1e-5,
        activation="silu",
        gated=True,
        positions="rotary",
        rope_theta=500000.0,
    ),
}
