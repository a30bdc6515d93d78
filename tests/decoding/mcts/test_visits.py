"""Tokens that are drawn from the visits of a search, and the probability that they report."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coopgen_jax.decoding.job import Job
from coopgen_jax.decoding.mcts import ppl_mcts as decoder
from coopgen_jax.decoding.mcts.mcts_config import Best, ByValues, ByVisits, MCTSConfig
from coopgen_jax.search import root_visits
from tests.decoding.mcts.slow_texts import (
    END,
    decode,
    parts_of,
    search_config,
    tables_of,
)
from tests.decoding.toy import prompt_of


@pytest.mark.parametrize("drawn", [ByVisits(), ByValues()])
def test_a_search_that_is_drawn_from_does_not_stop_early(drawn):
    assert MCTSConfig().engine.stops_early
    config = MCTSConfig(choice=drawn)
    assert not config.engine.stops_early
    # The setting itself stays, so that without draws it counts again.
    assert replace(config, choice=Best()).engine.stops_early


def test_sampled_visits_return_the_probability_they_were_drawn_with():
    tables = tables_of(1)
    tables["logits"][:, END] = -4.0
    params = jax.tree.map(jnp.asarray, tables)
    config = MCTSConfig(
        new_tokens=2,
        samples=1500,
        search=search_config(simulations=12),
        choice=ByVisits(visit_temperature=1.0),
    )
    got = decode(jax.random.key(0), prompt_of([0, 1]), params, jnp.asarray([1]), config)
    texts, inverse = np.unique(np.asarray(got.tokens[0]), axis=0, return_inverse=True)
    total = 0.0
    for number in range(len(texts)):
        rows = np.flatnonzero(inverse.reshape(-1) == number)
        proposals = np.asarray(got.log_proposal[0, rows])
        np.testing.assert_allclose(proposals, proposals[0], rtol=1e-5)
        p = np.exp(proposals[0])
        assert abs(len(rows) / 1500 - p) < 5 * np.sqrt(p * (1 - p) / 1500) + 1e-9
        total += p
    assert len(texts) > 2
    assert total == pytest.approx(1, abs=0.05)


@pytest.mark.slow
def test_the_temperature_of_the_visits_falls_over_the_text():
    tables = tables_of(1)
    tables["logits"][:, END] = -1e4
    params = jax.tree.map(jnp.asarray, tables)
    config = MCTSConfig(
        new_tokens=3,
        search=search_config(simulations=40, c_puct=9.0, reused_nodes=0),
        choice=ByVisits(visit_temperature=0.9, anneal=True),
    )
    job = Job(prompt=prompt_of([0, 1]), **parts_of(params, jnp.asarray([1]), config))
    state, before = decoder.begin(job), 0.0
    for tau in (0.9, 0.6, 0.3):
        state, tree = decoder.advance(jax.random.key(2), job, state)
        visits = np.asarray(root_visits(tree))[0, 0].astype(float)
        token = int(state.generation.tokens[0, 0, int(state.step) - 1])
        rank = np.asarray(tree.tokens[0, 0, 0]).tolist().index(token)
        after = float(state.generation.log_proposal[0, 0])
        expected = visits[rank] ** (1 / tau) / (visits ** (1 / tau)).sum()
        assert np.exp(after - before) == pytest.approx(expected, rel=1e-4)
        assert 0 < expected < 1
        before = after
