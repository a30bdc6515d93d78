"""What a decoder begins with has the types of what it goes on with: one compilation serves both."""

import jax
import jax.numpy as jnp
import pytest

import coopgen_jax as cg
from coopgen_jax.decoding.decode import DECODERS
from coopgen_jax.decoding.job import Job
from coopgen_jax.testing import ToyLanguage, toy_discriminator, toy_language_model
from tests.decoding.toy_texts import prompt_of

TOY = ToyLanguage(vocab_size=6)
SEARCH = cg.SearchConfig(simulations=4, candidates=4, depth=4, reused_nodes=4)
CONFIGS = (
    cg.SamplingConfig(new_tokens=3, samples=2),
    cg.BeamConfig(new_tokens=3, beams=2),
    cg.StochasticBeamConfig(new_tokens=3, samples=2),
    cg.RerankConfig(new_tokens=3, proposal=cg.BeamConfig(beams=2), of=2),
    cg.RerankConfig(new_tokens=3, of=2),
    cg.FudgeConfig(new_tokens=3, candidates=4),
    cg.FudgeConfig(new_tokens=3, candidates=4, look_ahead=True),
    cg.GediConfig(new_tokens=3),
    cg.SMCConfig(new_tokens=3, samples=2),
    cg.BlockwiseConfig(new_tokens=3, block=2, of=2),
    cg.DASConfig(new_tokens=3, beams=2, candidates=4),
    cg.MCTSConfig(new_tokens=3, search=SEARCH),
)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_the_state_keeps_its_types(config):
    job = Job(
        prompt=prompt_of([0, 1]),
        params=jax.tree.map(jnp.asarray, TOY.tables(0)),
        discriminator_params=jax.tree.map(jnp.asarray, TOY.tables(0)),
        target=jnp.asarray([1]),
        language_model=toy_language_model(TOY),
        discriminator=toy_discriminator(TOY),
        config=config,
    )
    decoder = DECODERS[type(config)]
    begun = jax.eval_shape(decoder.begin, job)
    after = jax.eval_shape(decoder.advance, jax.random.key(0), job, begun)[0]
    for one, other in zip(*map(jax.tree.leaves, (begun, after)), strict=True):
        assert (one.shape, one.dtype, one.weak_type) == (other.shape, other.dtype, other.weak_type)
