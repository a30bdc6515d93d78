"""Trained networks and their tokenizers, from names, folders and files."""

from coopgen_jax.models.pretrained.loading import (
    DEFAULT_ENCODER,
    DEFAULT_MODEL,
    LoadedEncoder,
    LoadedModel,
    load,
    load_encoder,
)
from coopgen_jax.models.pretrained.packaged import catalogue

__all__ = [
    "DEFAULT_ENCODER",
    "DEFAULT_MODEL",
    "LoadedEncoder",
    "LoadedModel",
    "catalogue",
    "load",
    "load_encoder",
]
