"""How deep a search looks where the context ends: as far as a row has room, and no further."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coopgen_jax.decoding.decode import mcts
from coopgen_jax.decoding.job import Job
from coopgen_jax.decoding.mcts import ppl_mcts as decoder
from coopgen_jax.decoding.mcts.mcts_config import MCTSConfig, Rollout
from tests.decoding.mcts.slow_texts import END, MODEL, parts_of, search_config, tables_of
from tests.decoding.toy import prompt_of

KEY = jax.random.key(7)
CONFIG = MCTSConfig(new_tokens=3, search=search_config(c_puct=0.5, depth=5))


def params_of() -> dict:
    tables = tables_of(6)
    tables["logits"][:, END] = -1e4  # no text ends before its last token
    return jax.tree.map(jnp.asarray, tables)


@partial(jax.jit, static_argnames=("context", "config"))
def write(prompt, params, *, context: int, config: MCTSConfig):
    parts = parts_of(params, jnp.ones(prompt.tokens.shape[0], jnp.int32), config)
    return mcts(KEY, prompt, **parts | {"language_model": replace(MODEL, context=context)})


def written(prompt, context: int, config: MCTSConfig = CONFIG):
    return write(prompt, params_of(), context=context, config=config)


@pytest.mark.parametrize("rollout", [None, Rollout(rollout=4)])
def test_a_search_looks_no_further_than_the_context(rollout):
    """A prompt of 4 tokens, 3 new ones and a context of 7: 3 tokens ahead, then 2, then 1."""
    config = replace(CONFIG, rollout=rollout)
    prompt = prompt_of([0, 1, 2, 3])
    parts = parts_of(params_of(), jnp.ones(1, jnp.int32), config)
    job = Job(prompt=prompt, **parts | {"language_model": replace(MODEL, context=7)})
    state = decoder.begin(job)
    for deepest in (3, 2, 1):
        state, tree = decoder.advance(KEY, job, state)
        assert int(jnp.where(tree.visits > 0, tree.depth, 0).max()) == deepest
    assert int(state.generation.length[0, 0]) == 3


def test_a_last_token_is_searched_like_one_that_nothing_may_follow():
    prompt = prompt_of([0, 1], length=2)
    one = CONFIG.with_settings(new_tokens=1)
    shallow = replace(one, search=replace(one.search, depth=1))
    got, expected = written(prompt, 3, one), written(prompt, 1000, shallow)
    jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_a_long_prompt_beside_a_short_one_costs_that_no_depth():
    rows = [[0, 1], [3, 2, 1, 0, 1, 2]]
    together = written(prompt_of(*rows, length=6), 9)
    for row, tokens in enumerate(rows):
        alone = written(prompt_of(tokens, length=6, first=row), 9)
        jax.tree.map(lambda a, b, n=row: np.testing.assert_array_equal(a[n], b[0]), together, alone)
    assert int(together.deepest[0, 0]) == 5 and int(together.deepest[1, 0]) == 3
