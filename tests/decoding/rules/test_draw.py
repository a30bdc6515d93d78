"""The draw: its frequencies, and what it reports."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from coopgen_jax.decoding.rules.draw import categorical, draw, entry_at, place_of_largest
from coopgen_jax.decoding.rules.shaping import NO_RULES

COUNT = 4000


def keys_of(shape, seed=0):
    return jax.random.split(jax.random.key(seed), shape)


def test_tokens_come_as_often_as_the_draw_says():
    scores = jnp.asarray([1.0, -jnp.inf, 0.3, -1.2, 2.0])
    token, log_p = draw(NO_RULES, keys_of((2, COUNT // 2)), jnp.tile(scores, (2, COUNT // 2, 1)))
    expected = np.asarray(jax.nn.softmax(scores), np.float64)
    np.testing.assert_allclose(np.exp(log_p), expected[token], rtol=1e-5)
    seen = np.bincount(np.asarray(token).ravel(), minlength=5)
    there = expected > 0
    assert seen[~there].sum() == 0
    assert stats.chisquare(seen[there], expected[there] / expected.sum() * COUNT).pvalue > 1e-3


def test_among_candidates_their_tokens_are_drawn():
    tokens = jnp.asarray([[7, 3, 9], [1, 8, 2]])
    scores = jnp.asarray([[0.0, 1.0, -1.0], [2.0, 0.0, 0.5]])
    many, count = jnp.tile(tokens, (COUNT // 2, 1, 1)), jnp.tile(scores, (COUNT // 2, 1, 1))
    token, log_p = draw(NO_RULES, keys_of((COUNT // 2, 2), 1), count, many)
    assert token.dtype == jnp.int32
    for row in range(2):
        p = np.asarray(jax.nn.softmax(scores[row]), np.float64)
        ids = tokens[row].tolist()
        seen = [int((token[:, row] == id_).sum()) for id_ in ids]
        assert stats.chisquare(seen, p / p.sum() * COUNT / 2).pvalue > 1e-3
        wanted = {id_: p[place] for place, id_ in enumerate(ids)}
        found = [wanted[int(id_)] for id_ in token[:, row]]
        np.testing.assert_allclose(np.exp(log_p[:, row]), found, rtol=1e-5)


def test_without_keys_the_best_is_taken_and_has_no_probability():
    scores = jnp.asarray([[[0.0, 3.0, 3.0], [1.0, -1.0, 0.0]]])
    token, log_p = draw(NO_RULES, None, scores)
    np.testing.assert_array_equal(token, [[1, 0]])
    assert np.isnan(log_p).all() and log_p.dtype == jnp.float32
    token, log_p = draw(NO_RULES, None, scores, jnp.asarray([[[5, 6, 7], [8, 9, 4]]]))
    np.testing.assert_array_equal(token, [[6, 8]])
    assert np.isnan(log_p).all()


def test_a_rows_draw_depends_on_its_key_alone():
    scores = jax.random.normal(jax.random.key(5), (3, 4, 6))
    keys = keys_of((3, 4), 2)
    token, log_p = draw(NO_RULES, keys, scores)
    for at in np.ndindex(3, 4):
        alone = draw(NO_RULES, keys[at], scores[at])
        assert (int(token[at]), float(log_p[at])) == (int(alone[0]), float(alone[1]))


def test_entry_at_picks_along_the_last_axis():
    array = jnp.arange(24).reshape(2, 3, 4)
    np.testing.assert_array_equal(entry_at(array, jnp.asarray([[0, 1, 2], [3, 0, 1]])),
                                  [[0, 5, 10], [15, 16, 21]])  # fmt: skip


def test_the_place_of_the_largest_is_that_of_argmax():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 5, (7, 3, 11)).astype(np.float32)
    scores[1, :, ::2] = -np.inf
    scores[2] = -np.inf
    scores[3, :, 4] = np.inf
    found = place_of_largest(jnp.asarray(scores))
    assert found.dtype == jnp.int32
    np.testing.assert_array_equal(found, scores.argmax(-1))
    # Of a row with a NaN nothing is known, and a place must lie in it all the same.
    assert place_of_largest(jnp.asarray([0.0, jnp.nan, 2.0])) == 0


def test_a_draw_is_that_of_jax():
    scores = jax.random.normal(jax.random.key(1), (50, 30))
    keys = keys_of((50,), 3)
    wanted = jax.vmap(jax.random.categorical)(keys, scores)
    np.testing.assert_array_equal(jax.vmap(categorical)(keys, scores), wanted)


def test_no_reduction_of_a_draw_carries_places_beside_values():
    # XLA computes such a reduction number by number on a processor.
    keys, scores = keys_of((4,)), jnp.zeros((4, 64))
    program = jax.jit(lambda k, s: draw(NO_RULES, k, s)).lower(keys, scores).as_text()
    reductions = [line for line in program.splitlines() if "stablehlo.reduce" in line]
    # One of several arrays is written `%1:2 = stablehlo.reduce(...)`.
    assert reductions and not any(":" in line.split("=")[0] for line in reductions)
