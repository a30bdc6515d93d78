"""Tests of your own networks, tiny networks, and a toy language that can be enumerated."""

from coopgen_jax.testing.guide_contract import check_discriminator
from coopgen_jax.testing.model_contract import check_language_model
from coopgen_jax.testing.toy import (
    TINY_GPT2,
    TINY_LLAMA,
    ToyLanguage,
    ToyState,
    toy_discriminator,
    toy_language_model,
)

__all__ = [
    "TINY_GPT2",
    "TINY_LLAMA",
    "ToyLanguage",
    "ToyState",
    "check_discriminator",
    "check_language_model",
    "toy_discriminator",
    "toy_language_model",
]
