"""Draws without replacement against their closed form over every text there is."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coopgen_jax.decoding.decode import stochastic_beam_search
from coopgen_jax.decoding.methods import stochastic_beam
from coopgen_jax.decoding.methods.stochastic_beam import (
    StochasticBeamConfig,
    conditioned,
    log_inclusion,
)
from coopgen_jax.decoding.rules.shaping import Rules
from tests.decoding.calls import calls_of
from tests.decoding.toy import END, JUDGE, MODEL, PARAMS, prompt_of
from tests.decoding.toy_texts import (
    MILD_PARAMS,
    every_text,
    fits,
    log_p,
    repeated,
    said,
    same_row,
    texts_of,
)

RUNS = 6000
KEY = jax.random.key(2)
SHORT = StochasticBeamConfig(new_tokens=2, samples=3)
WARM = StochasticBeamConfig(new_tokens=3, samples=4, rules=Rules(temperature=1.7))


@functools.cache
def decoder(config: StochasticBeamConfig):
    return jax.jit(functools.partial(
        stochastic_beam_search, KEY, language_model=MODEL, params=PARAMS, discriminator=JUDGE,
        discriminator_params=MILD_PARAMS, config=config,
    ))  # fmt: skip


@functools.cache
def many(config: StochasticBeamConfig):
    return jax.device_get(decoder(config)(repeated(RUNS)))


def shares(config: StochasticBeamConfig) -> dict:
    """q of every text: the language model at the temperature."""
    found = {
        text: np.exp(log_p(text, temperature=config.rules.temperature))
        for text in every_text(config.new_tokens)
    }
    assert sum(found.values()) == pytest.approx(1)
    return found


def test_texts_are_drawn_one_by_one_without_replacement():
    """The first two in their order, and which are among the three, as Plackett and Luce say."""
    got, q = many(SHORT), shares(SHORT)
    names = list(q)
    pairs = dict.fromkeys(itertools.permutations(names, 2), 0)
    included = dict.fromkeys(names, 0)
    for run in range(RUNS):
        texts = texts_of(got, run)
        assert len(set(texts)) == 3
        pairs[texts[0], texts[1]] += 1
        for text in texts:
            included[text] += 1
    exact = np.asarray([q[a] * q[b] / (1 - q[a]) for a, b in pairs])
    assert exact.sum() == pytest.approx(1)
    assert fits(np.asarray(list(pairs.values())), exact)
    inclusion = dict.fromkeys(names, 0.0)
    for a, b, c in itertools.permutations(names, 3):
        p = q[a] * q[b] / (1 - q[a]) * q[c] / (1 - q[a] - q[b])
        for text in (a, b, c):
            inclusion[text] += p
    assert sum(inclusion.values()) == pytest.approx(3)
    for text, p in inclusion.items():
        error = np.sqrt(p * (1 - p) / RUNS)
        assert abs(included[text] / RUNS - p) < 4.5 * error + 1e-6


@pytest.mark.parametrize("config", [SHORT, WARM])
def test_what_a_text_says_of_itself_is_true(config):
    got, q = many(config), shares(config)
    ended = 0
    for run in range(40):
        left = 1.0
        for number, text in enumerate(texts_of(got, run)):
            assert got.log_prob[run, number] == pytest.approx(log_p(text), rel=1e-4)
            assert got.log_proposal[run, number] == pytest.approx(np.log(q[text] / left), rel=1e-3)
            np.testing.assert_allclose(got.log_class[run, number], said(text), rtol=1e-4, atol=1e-6)
            assert got.finished[run, number] == (text[-1] == END)
            ended += text[-1] == END
            left -= q[text]
    assert 0 < ended < 40 * config.samples


@pytest.mark.parametrize("config", [SHORT, WARM])
def test_weighted_sums_are_unbiased(config):
    """Also where what is drawn from is not what is asked for: the weights are of p, not q."""
    got = many(config)
    weights = np.exp(np.asarray(got.log_weight, np.float64))
    p = {text: np.exp(log_p(text)) for text in every_text(config.new_tokens)}
    total = weights.sum(axis=1)
    assert abs(total.mean() - 1) < 4 * total.std() / np.sqrt(RUNS)
    parts = {text: np.zeros(RUNS) for text in p}
    for run in range(RUNS):
        for text, weight in zip(texts_of(got, run), weights[run], strict=True):
            parts[text][run] += weight
    for text in sorted(p, key=p.get, reverse=True)[:15]:
        error = parts[text].std() / np.sqrt(RUNS)
        assert abs(parts[text].mean() - p[text]) < 4.5 * error + 1e-6
    judged = sum(parts[text] * np.exp(said(text)[1]) for text in p)
    exact = sum(p[text] * np.exp(said(text)[1]) for text in p)
    assert abs(judged.mean() - exact) < 4 * judged.std() / np.sqrt(RUNS)


def test_all_texts_are_found_where_there_are_no_more():
    texts = every_text(2)
    for width in (len(texts), len(texts) + 4):
        got = decoder(StochasticBeamConfig(new_tokens=2, samples=width))(prompt_of([0, 1], [2]))
        for row, prompt in enumerate([(0, 1), (2,)]):
            found = texts_of(got, row)
            assert sorted(found[: len(texts)]) == sorted(texts)
            for number, text in enumerate(found[: len(texts)]):
                assert float(got.log_prob[row, number]) == pytest.approx(
                    log_p(text, prompt), rel=1e-4
                )
            # Each is sure to be drawn, and its weight its own probability.
            there = slice(len(texts))
            np.testing.assert_allclose(got.log_weight[row, there], got.log_prob[row, there])
            assert not any(found[len(texts) :])
            assert np.isneginf(got.log_weight[row, len(texts) :]).all()
            assert np.isneginf(got.log_prob[row, len(texts) :]).all()
            assert not np.isnan(got.log_proposal[row, there]).any()
            assert (np.asarray(got.log_proposal[row, there]) <= 1e-6).all()


def test_a_row_does_not_depend_on_its_neighbours_or_on_padding():
    """Rows end at different steps; what they read is counted until they are done."""
    rows = [[first, second] for first in range(5) for second in range(4)]
    write = decoder(StochasticBeamConfig(new_tokens=12, samples=2, rules=Rules(temperature=0.6)))
    together = write(prompt_of(*rows))
    assert len(set(np.asarray(together.length).max(axis=1).tolist())) > 1
    for row, text in enumerate(rows):
        alone = write(prompt_of(text, length=9, first=row))
        same_row(together, row, alone)


def test_noise_is_moved_to_where_its_maximum_is_known():
    free = np.asarray([[-1.5, 0.3, -80.0, 0.2], [2.0, 1.0, -np.inf, 1.999]])
    parent = np.asarray([-4.0, 30.0])
    got = np.asarray(conditioned(jnp.asarray(free, jnp.float32), jnp.asarray(parent, jnp.float32)))
    np.testing.assert_array_equal(got.argmax(axis=1), free.argmax(axis=1))
    np.testing.assert_array_equal(got.max(axis=1), parent)
    for row in range(2):
        top = free[row].max()
        others = free[row] < top
        exact = -np.log(np.exp(-parent[row]) - np.exp(-top) + np.exp(-free[row][others]))
        np.testing.assert_allclose(got[row][others], exact, rtol=1e-4)


def test_how_likely_a_text_is_drawn_given_the_threshold():
    above = np.asarray([-40.0, -16.0, -14.0, -1.0, 0.0, 3.0, 50.0])
    got = log_inclusion(jnp.asarray(above - 2, jnp.float32), jnp.float32(-2.0))
    exact = np.log(-np.expm1(-np.exp(above)))
    np.testing.assert_allclose(got, exact, rtol=1e-5, atol=1e-7)
    assert float(log_inclusion(jnp.float32(-3.0), jnp.float32(-jnp.inf))) == 0


def test_a_token_of_all_lanes_is_one_call():
    config = StochasticBeamConfig(new_tokens=4, samples=3)
    assert calls_of(stochastic_beam, config, prompt_of([0, 1], [2])) == [(2, 1, 4)]
    got = decoder(config)(prompt_of([0, 1]))
    # Every step reads the lanes that go on, and there are four at most.
    assert 0 < int(got.model_tokens[0, 0]) <= -(-4 * 4 // 3)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"samples": 0}, "samples is 0: give 1 or more"),
        ({"temperature": 0.0}, "temperature is 0"),
    ],
)
def test_wrong_settings_are_named(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        StochasticBeamConfig().with_settings(**wrong)
