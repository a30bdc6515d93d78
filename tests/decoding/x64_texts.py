"""Texts of every decoding method, as JSON: what `JAX_ENABLE_X64` must not change."""

import json
import sys
from collections.abc import Iterable
from functools import partial

import jax
import jax.numpy as jnp

from coopgen_jax.decoding.decode import decode
from coopgen_jax.decoding.mcts.mcts_config import ByValues, MCTSConfig, Rollout
from coopgen_jax.decoding.methods.beam import BeamConfig
from coopgen_jax.decoding.methods.blockwise import BlockwiseConfig
from coopgen_jax.decoding.methods.das import DASConfig
from coopgen_jax.decoding.methods.fudge import FudgeConfig
from coopgen_jax.decoding.methods.gedi import GediConfig
from coopgen_jax.decoding.methods.pplm_config import PPLMConfig
from coopgen_jax.decoding.methods.rerank import RerankConfig
from coopgen_jax.decoding.methods.sampling import SamplingConfig
from coopgen_jax.decoding.methods.smc import SMCConfig
from coopgen_jax.decoding.methods.stochastic_beam import StochasticBeamConfig
from coopgen_jax.decoding.rules.shaping import Rules
from coopgen_jax.discriminators.head import Head, HeadConfig
from coopgen_jax.discriminators.shared_trunk import SharedTrunkConfig, shared_trunk
from coopgen_jax.models.decoder import language_model
from coopgen_jax.models.language_model import Prompt
from coopgen_jax.models.transformer import init_decoder
from coopgen_jax.search.config import Halving, Puct, SearchConfig
from coopgen_jax.testing import TINY_LLAMA, ToyLanguage, toy_discriminator, toy_language_model

TOY = ToyLanguage(vocab_size=9)
T = 3


def search(**changes) -> SearchConfig:
    return SearchConfig(simulations=6, wave=2, candidates=4, depth=3, reused_nodes=3, **changes)


METHODS = {
    "sample": SamplingConfig(
        new_tokens=T,
        samples=2,
        rules=Rules(
            top_k=6,
            top_p=0.9,
            typical_p=0.9,
            min_p=0.01,
            eta=0.001,
            repetition_penalty=1.2,
            no_repeat_ngram=2,
            bad_words=((1, 2),),
            forced=(3,),
        ),
    ),
    "mixture": SamplingConfig(new_tokens=T, samples=2, mix_base=0.5, rules=Rules(top_k=3)),
    "mirostat": SamplingConfig(new_tokens=T, mirostat=2.0),
    "beam": BeamConfig(new_tokens=T, samples=2, beams=2, groups=2, diversity=0.5),
    "stochastic beam": StochasticBeamConfig(new_tokens=T, samples=3),
    "fudge": FudgeConfig(new_tokens=T, candidates=4),
    "gedi": GediConfig(new_tokens=T, samples=2, draw=True),
    "rerank": RerankConfig(new_tokens=T, of=3),
    "blockwise": BlockwiseConfig(new_tokens=T, block=2, of=3),
    "das": DASConfig(new_tokens=T, rules=Rules(no_repeat_ngram=2)),
    "smc": SMCConfig(new_tokens=T, samples=4, threshold=1.0),
    "residual smc": SMCConfig(new_tokens=T, samples=4, threshold=1.0, resampling="residual"),
    "halving": MCTSConfig(new_tokens=T, search=search(root=Halving(4)), rollout=Rollout(rollout=2)),
    "values": MCTSConfig(
        new_tokens=T,
        search=search(root=Puct(early_stop=False)),
        choice=ByValues(value_power=1.0, mix_base=0.5),
    ),
}
# What asks for gradients or for a network's hidden states.
OF_NETWORKS = {
    "pplm": PPLMConfig(new_tokens=2, iterations=1, bags=((5, 9),)),
    "search of a network": MCTSConfig(new_tokens=2, search=search()),
}


def prompt() -> Prompt:
    tokens = jnp.asarray([[0, 1, 2], [0, 0, 3]], jnp.int32)
    return Prompt(tokens=tokens, mask=tokens > 0, index=jnp.arange(2, dtype=jnp.int32))


def texts_of(name: str) -> list:
    """Returns the tokens of one method's texts."""
    return _toy_texts(METHODS[name]) if name in METHODS else _network_texts(OF_NETWORKS[name])


def _toy_texts(config) -> list:
    params = jax.tree.map(jnp.asarray, TOY.tables(3))
    return _texts(toy_language_model(TOY), params, toy_discriminator(TOY), params, config)


def _network_texts(config) -> list:
    head = HeadConfig(("bad", "good"), 2 * TINY_LLAMA.width)
    guide = shared_trunk(SharedTrunkConfig((2,), True, head))
    weights = Head(head).init(jax.random.key(1), jnp.zeros((1, head.inputs)))["params"]
    params = jax.tree.map(lambda leaf: 2 * leaf, init_decoder(jax.random.key(0), TINY_LLAMA))
    return _texts(language_model(TINY_LLAMA, guide.taps), params, guide, weights, config)


def _texts(model, params, guide, guide_params, config) -> list:
    run = partial(decode, language_model=model, discriminator=guide, config=config)
    target = jnp.ones(2, jnp.int32)
    guided = config.guided or isinstance(config, PPLMConfig)

    @jax.jit
    def write(key, prompt, params, guide_params):
        asked = target if guided else None
        return run(key, prompt, params=params, discriminator_params=guide_params, target=asked)

    found = write(jax.random.key(5), prompt(), params, guide_params)
    return found.tokens.tolist()


def all_texts(names: Iterable[str]) -> dict[str, list]:
    """Returns the tokens of some methods' texts."""
    return {name: texts_of(name) for name in names}


if __name__ == "__main__":
    wide = jnp.arange(1).dtype == jnp.int64
    print(json.dumps({"wide": wide, "texts": all_texts(sys.argv[1:])}))
