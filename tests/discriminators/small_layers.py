"""A tiny language model and a guide of small layers on its states."""

import jax
import jax.numpy as jnp

from coopgen_jax.discriminators.head import HeadConfig
from coopgen_jax.discriminators.trunk_layers import (
    TrunkLayersConfig,
    init_trunk_layers,
    small_network,
)
from coopgen_jax.models.decoder import language_model
from coopgen_jax.models.transformer import init_decoder
from coopgen_jax.testing import TINY_LLAMA

TAPS = (0, 2, 3)
CLASSES = ("bad", "good", "none")
PARAMS = init_decoder(jax.random.key(0), TINY_LLAMA)
MODEL = language_model(TINY_LLAMA, TAPS)
END = 5
SHAPE = TrunkLayersConfig(
    TAPS,
    TINY_LLAMA.width,
    small_network(layers=2, width=32, context=40),
    HeadConfig(CLASSES, 32, (16,)),
    look_ahead=4,
    end_tokens=(END,),
)


def params_of(config: TrunkLayersConfig):
    params = init_trunk_layers(jax.random.key(1), config)
    # Larger than it is drawn, so that what is judged differs; moved, so that it counts.
    params["head"] = jax.tree.map(lambda leaf: 2 * leaf, params["head"])
    params["entrance"]["centre"] = jnp.linspace(-0.1, 0.1, len(TAPS) * TINY_LLAMA.width)
    if config.look_ahead:
        params["vocabulary"] = PARAMS["embedding"] @ params["keys"]
    return params


GUIDE_PARAMS = params_of(SHAPE)
