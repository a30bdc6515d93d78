"""Tiny networks, guides and prompts of the checks on several devices and hosts."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers

from coopgen_jax.decoding.mcts.mcts_config import ByVisits, MCTSConfig
from coopgen_jax.decoding.methods.sampling import SamplingConfig
from coopgen_jax.decoding.rules.shaping import Rules
from coopgen_jax.discriminators.head import Head, HeadConfig
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.discriminators.shared_trunk import SharedTrunkConfig, shared_trunk
from coopgen_jax.models.language_model import Prompt
from coopgen_jax.models.pretrained.loaded_model import LoadedModel
from coopgen_jax.models.transformer import DecoderConfig, init_decoder
from coopgen_jax.search import SearchConfig
from coopgen_jax.testing import TINY_LLAMA
from coopgen_jax.tokenizer import Tokenizer

CONFIG = MCTSConfig(
    new_tokens=3,
    samples=2,
    search=SearchConfig(simulations=4, candidates=4, depth=4, reused_nodes=4),
    choice=ByVisits(visit_temperature=1.0),
)
PLAIN = SamplingConfig(new_tokens=3, samples=2, rules=Rules(top_k=4))
NETWORK = dataclasses.replace(TINY_LLAMA, vocab_size=304, layers=2, context=256, end_tokens=(256,))
PROMPTS = ["a b c d", "b", "cc", "another one", "d"]


def rows_of(count: int, vocabulary: int) -> Prompt:
    tokens = np.random.default_rng(0).integers(0, vocabulary - 1, (count, 5)).astype(np.int32)
    mask = np.arange(5)[None, :] >= np.arange(count)[:, None] % 4
    return Prompt(jnp.asarray(tokens), jnp.asarray(mask), jnp.arange(count))


@functools.cache
def model(config: DecoderConfig = NETWORK) -> LoadedModel:
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    core = tokenizers.Tokenizer(tokenizers.models.BPE({b: i for i, b in enumerate(letters)}, []))
    core.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = tokenizers.decoders.ByteLevel()
    core.add_special_tokens(["<end>"])
    params = jax.tree.map(lambda leaf: 3 * leaf, init_decoder(jax.random.key(0), config))
    return LoadedModel(config, params, Tokenizer(core), "tiny", "0" * 64, None)


@functools.cache
def guide() -> LoadedDiscriminator:
    head = HeadConfig(("bad", "good"), 2 * 2 * NETWORK.width, (8,))
    params = Head(head).init(jax.random.key(1), jnp.zeros((1, head.inputs)))["params"]
    return LoadedDiscriminator(shared_trunk(SharedTrunkConfig((1, 2), False, head)), params, {})


def same(one, other) -> bool:
    """Tells whether two pytrees are equal bit for bit, NaN included."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in pairs)
