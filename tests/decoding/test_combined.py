"""Decoders on combined language models against a toy whose table is the sum."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from coopgen_jax.decoding.decode import beam_search, fudge, mcts, rerank, sample, smc
from coopgen_jax.decoding.mcts.mcts_config import MCTSConfig, Value
from coopgen_jax.decoding.methods.beam import BeamConfig
from coopgen_jax.decoding.methods.fudge import FudgeConfig
from coopgen_jax.decoding.methods.rerank import RerankConfig
from coopgen_jax.decoding.methods.sampling import SamplingConfig
from coopgen_jax.decoding.methods.smc import SMCConfig
from coopgen_jax.decoding.rules.shaping import Rules
from coopgen_jax.models.combination import Member, combine_logits, combined_params
from coopgen_jax.search.config import SearchConfig
from coopgen_jax.testing import ToyLanguage, toy_discriminator, toy_language_model
from tests.decoding.toy import log_softmax, memory_of, prompt_of

TOY = ToyLanguage()
TABLES = [TOY.tables(seed)["logits"] for seed in (1, 2, 3)]
JUDGE = {"scores": jnp.asarray(TOY.tables(4)["scores"])}
MODEL = toy_language_model(TOY)
NETWORKS = tuple({"logits": jnp.asarray(table)} for table in TABLES)
EXPERTS = combine_logits([Member(MODEL, number) for number in range(3)])
GUIDED = combine_logits(
    [Member(MODEL, prefix=(1,)), Member(MODEL, prefix=(2,), reads_prompt=False)]
)


@functools.partial(jax.jit, static_argnames=("decoder", "model", "config", "guided"))
def decode(key, prompt, params, *, decoder, model, config, guided=False):
    given = {"target": jnp.ones(len(prompt.tokens), jnp.int32)} if guided else {}
    return decoder(
        key,
        prompt,
        language_model=model,
        params=params,
        discriminator=toy_discriminator(TOY),
        discriminator_params=JUDGE,
        config=config,
        **given,
    )


SEARCH = SearchConfig(simulations=8, wave=2, candidates=4, depth=4, reused_nodes=8)
DECODERS = {
    "mcts": (mcts, MCTSConfig(new_tokens=4, samples=2, search=SEARCH, value=Value(alpha=0.5))),
    "beam": (beam_search, BeamConfig(new_tokens=4, beams=3, samples=2)),
    "fudge": (fudge, FudgeConfig(new_tokens=4, samples=3, candidates=3)),
    "smc": (smc, SMCConfig(new_tokens=4, samples=4, threshold=1.0)),
    "rerank": (rerank, RerankConfig(4, 2, Rules(top_p=0.9), of=3)),
    "sample": (sample, SamplingConfig(new_tokens=4, samples=3, rules=Rules(top_k=3))),
}


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_sees_no_difference(name):
    """DExperts of three tables and one toy with their sum as its table: equal in every bit."""
    decoder, config = DECODERS[name]
    prompt = prompt_of([0, 1, 2], [3], [2, 2, 0, 1])
    write = functools.partial(
        decode, jax.random.key(7), prompt, decoder=decoder, config=config, guided=config.guided
    )
    params = combined_params(NETWORKS, (1.0, 1.5, -1.5))
    summed = {"logits": jnp.asarray(TABLES[0] + 1.5 * (TABLES[1] - TABLES[2]))}
    found, expected = write(params, model=EXPERTS), write(summed, model=MODEL)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    base = write({"logits": jnp.asarray(TABLES[0])}, model=MODEL)
    assert (np.asarray(base.tokens) != np.asarray(found.tokens)).any()


def guided_logits(gamma, row, after) -> np.ndarray:
    conditional = TABLES[0][memory_of([1, *row, *after])]
    negative = TABLES[0][memory_of([2, *after])]
    return np.float64(gamma * conditional + (1 - gamma) * negative)


def test_texts_are_as_frequent_as_the_formula_says_whatever_the_weights():
    """Sampling under guidance, one compilation for all weights; the proposal is the frequency."""
    chex.clear_trace_counter()
    draws, row = 4000, [0, 3]

    @jax.jit
    @chex.assert_max_traces(n=1)
    def write(params):
        return sample(
            jax.random.key(1),
            prompt_of(row),
            language_model=GUIDED,
            params=params,
            config=SamplingConfig(new_tokens=2, samples=draws),
        )

    for gamma in (0.0, 0.5, 1.0, 1.5):
        got = write(combined_params(NETWORKS[:1], (gamma, 1 - gamma)))
        texts, first, count = np.unique(
            np.asarray(got.tokens[0]), axis=0, return_index=True, return_counts=True
        )
        expected = []
        for text, at in zip(texts, first, strict=True):
            log_p = 0.0
            for place in range(int(got.length[0, at])):
                log_p += log_softmax(guided_logits(gamma, row, text[:place]))[text[place]]
            np.testing.assert_allclose(got.log_proposal[0, at], log_p, atol=1e-5)
            np.testing.assert_allclose(got.log_prob[0, at], log_p, atol=1e-5)
            expected.append(draws * np.exp(log_p))
        common = np.asarray(expected) >= 5
        rare = [draws - np.asarray(expected)[common].sum()]
        observed = [*count[common], draws - count[common].sum()]
        expected = [*np.asarray(expected)[common], *rare]
        assert stats.chisquare(observed, expected).pvalue > 1e-4


def test_a_row_does_not_depend_on_its_neighbours_or_on_padding():
    params = combined_params(NETWORKS[:1], (1.5, -0.5))
    config = SamplingConfig(new_tokens=6, samples=2, rules=Rules(top_p=0.9))
    write = functools.partial(decode, jax.random.key(3), decoder=sample, config=config)
    together = write(prompt_of([0, 1], [2], [3, 3, 1]), params, model=GUIDED)
    alone = write(prompt_of([2], length=9, first=1), params, model=GUIDED)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[1], b[0]), together, alone)
