"""A tiny language model over bytes and its guide, loaded without a file."""

import dataclasses
from functools import cache

import jax

from coopgen_jax.discriminators.head import Head, HeadConfig
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.discriminators.shared_trunk import SharedTrunkConfig, shared_trunk
from coopgen_jax.models.pretrained.loaded_model import LoadedModel
from coopgen_jax.models.transformer import init_decoder
from coopgen_jax.testing import TINY_LLAMA
from coopgen_jax.tokenizer import Tokenizer
from tests.models.model_files import byte_tokenizer


@cache
def model() -> LoadedModel:
    config = dataclasses.replace(TINY_LLAMA, vocab_size=300, context=256, end_tokens=(256,))
    params = jax.tree.map(lambda leaf: 3 * leaf, init_decoder(jax.random.key(0), config))
    return LoadedModel(config, params, Tokenizer(byte_tokenizer()), "tiny", "0" * 64, None)


@cache
def guide() -> LoadedDiscriminator:
    head = HeadConfig(("bad", "good"), 2 * 2 * TINY_LLAMA.width, (8,))
    params = Head(head).init(jax.random.key(1), jax.numpy.zeros((1, head.inputs)))["params"]
    return LoadedDiscriminator(shared_trunk(SharedTrunkConfig((1, 3), False, head)), params, {})
