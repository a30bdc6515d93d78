"""Trainings by name: data in, a folder with a network or a head out."""

from coopgen_jax.training.recipes.bidirectional_recipe import train_bidirectional
from coopgen_jax.training.recipes.causal_recipe import train_causal
from coopgen_jax.training.recipes.clip_lora_recipe import train_clip_lora
from coopgen_jax.training.recipes.clip_recipe import train_clip
from coopgen_jax.training.recipes.distilled_recipe import train_from_searches
from coopgen_jax.training.recipes.generative_recipe import train_generative
from coopgen_jax.training.recipes.language_model_recipe import train_language_model
from coopgen_jax.training.recipes.shared_trunk_recipe import TrunkConfig, train_shared_trunk

__all__ = [
    "TrunkConfig",
    "train_bidirectional",
    "train_causal",
    "train_clip",
    "train_clip_lora",
    "train_from_searches",
    "train_generative",
    "train_language_model",
    "train_shared_trunk",
]
