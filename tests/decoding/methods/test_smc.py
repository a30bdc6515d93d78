"""Particles against sums over every text there is."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coopgen_jax.decoding.decode import smc
from coopgen_jax.decoding.methods.smc import SMCConfig, log_evidence, resample
from coopgen_jax.decoding.rules.shaping import Rules
from coopgen_jax.errors import UserError
from coopgen_jax.models.language_model import Prompt
from tests.decoding.toy import (
    END,
    JUDGE,
    MODEL,
    PARAMS,
    TABLES,
    TOY,
    log_softmax,
    memory_of,
    prompt_of,
)

STEPS, RUNS, TARGET = 3, 6000, 1
# A judge who is never so sure that few particles carry nearly all of the weight.
MILD = {name: table * (0.3 if name == "scores" else 1.0) for name, table in TABLES.items()}
KEY = jax.random.key(11)


def every_text() -> dict[tuple[int, ...], tuple[float, float]]:
    """p(x) and p(c|x) of every text of up to three tokens behind the prompt 0 1."""
    letters, texts = range(TOY.vocab_size - 1), []
    for length in range(STEPS):
        texts += [(*text, END) for text in itertools.product(letters, repeat=length)]
    texts += list(itertools.product(letters, repeat=STEPS))
    found = {}
    for text in texts:
        log_p = sum(
            log_softmax(TABLES["logits"][memory_of([0, 1, *text[:at]])])[token]
            for at, token in enumerate(text)
        )
        judged = text[:-1] if text[-1] == END else text
        said = log_softmax(MILD["scores"][memory_of([0, 1, *judged])])
        found[text] = (float(np.exp(log_p)), float(np.exp(said[TARGET])))
    assert sum(p for p, _ in found.values()) == pytest.approx(1)
    return found


def many_runs(config: SMCConfig):
    one = prompt_of([0, 1])
    prompt = Prompt(
        jnp.repeat(one.tokens, RUNS, 0), jnp.repeat(one.mask, RUNS, 0), jnp.arange(RUNS)
    )
    write = functools.partial(
        smc, language_model=MODEL, params=PARAMS, discriminator=JUDGE,
        discriminator_params=jax.tree.map(jnp.asarray, MILD), config=config,
    )  # fmt: skip
    return jax.jit(write)(KEY, prompt, target=jnp.full(RUNS, TARGET))


@pytest.mark.parametrize(
    "settings",
    [
        {"threshold": 0.0},
        {"threshold": 1.0},
        {"threshold": 1.0, "resampling": "residual"},
        {"threshold": 0.7, "temperature": 1.6, "power": 2.0},
        {"threshold": 0.7, "temperature": 0.8, "resampling": "residual"},
    ],
)
def test_weights_and_evidence_are_unbiased(settings):
    config = SMCConfig(new_tokens=STEPS, samples=4).with_settings(**settings)
    got = many_runs(config)
    exact = {text: p * said**config.power for text, (p, said) in every_text().items()}
    evidence = np.exp(np.asarray(log_evidence(got), np.float64))
    error = evidence.std() / np.sqrt(RUNS)
    assert abs(evidence.mean() - sum(exact.values())) < 4 * error
    weights = np.exp(np.asarray(got.log_weight, np.float64)) / 4
    tokens, lengths = np.asarray(got.tokens), np.asarray(got.length)
    shares: dict[tuple[int, ...], np.ndarray] = {text: np.zeros(RUNS) for text in exact}
    for run, lane in np.ndindex(lengths.shape):
        shares[tuple(tokens[run, lane, : lengths[run, lane]].tolist())][run] += weights[run, lane]
    likely = sorted(exact, key=exact.get, reverse=True)[:25]
    for text in likely:
        error = shares[text].std() / np.sqrt(RUNS)
        assert abs(shares[text].mean() - exact[text]) < 4.5 * error + 1e-6


def test_what_a_text_says_of_itself_is_true():
    got = many_runs(SMCConfig(new_tokens=STEPS, samples=4, threshold=1.0))
    known = every_text()
    for run, lane in itertools.product(range(30), range(4)):
        text = tuple(np.asarray(got.tokens[run, lane, : int(got.length[run, lane])]).tolist())
        p, said = known[text]
        assert float(got.log_prob[run, lane]) == pytest.approx(np.log(p), rel=1e-4)
        log_class = float(got.log_class[run, lane, TARGET])
        assert log_class == pytest.approx(np.log(said), rel=1e-4, abs=1e-6)
        assert bool(got.finished[run, lane]) == (text[-1] == END)


@pytest.mark.parametrize("resampling", ["systematic", "residual"])
def test_a_particle_goes_on_as_often_as_its_weight_says(resampling):
    log_weight = jnp.log(jnp.asarray([0.05, 0.5, 0.0, 0.2, 0.25]))
    keys = jax.random.split(KEY, 4000)
    config = SMCConfig(samples=5, threshold=1.0, resampling=resampling)
    source, after = resample(keys, jnp.broadcast_to(log_weight, (4000, 5)), config=config)
    counts = np.stack([(np.asarray(source) == number).sum(axis=1) for number in range(5)], axis=1)
    expected = 5 * np.exp(np.asarray(log_weight))
    np.testing.assert_allclose(counts.mean(axis=0), expected, atol=0.05)
    assert (counts >= np.floor(expected + 1e-6)).all()
    if resampling == "systematic":
        assert (counts <= np.ceil(expected - 1e-6)).all()
    np.testing.assert_allclose(after, np.log(0.2), rtol=1e-5)


def test_equal_particles_and_particles_above_the_threshold_stay():
    equal, unequal = jnp.zeros(4), jnp.asarray([0.0, -1.0, -2.0, -9.0])
    weights = jnp.stack([equal, unequal])
    for threshold, stay in ((1.0, [True, False]), (0.3, [True, True]), (0.0, [True, True])):
        config = SMCConfig(samples=4, threshold=threshold)
        source, after = resample(jax.random.split(KEY), weights, config=config)
        for row in range(2):
            same = np.array_equal(source[row], range(4)) and np.array_equal(
                after[row], weights[row]
            )
            assert same == stay[row]


def test_a_row_does_not_depend_on_its_neighbours_or_on_padding():
    """Rows end at different steps, and at this temperature an end changes the weights."""
    rows = [[first, second] for first in range(5) for second in range(4)]
    config = SMCConfig(new_tokens=12, samples=3, threshold=1.0, rules=Rules(temperature=0.6))
    write = jax.jit(functools.partial(
        smc, KEY, language_model=MODEL, params=PARAMS, discriminator=JUDGE,
        discriminator_params=PARAMS, config=config,
    ))  # fmt: skip
    together = write(prompt_of(*rows), target=jnp.asarray([0, 1] * 10))
    assert len(set(np.asarray(together.length).max(axis=1).tolist())) > 1
    for row, text in enumerate(rows):
        alone = write(prompt_of(text, length=9, first=row), target=jnp.asarray([row % 2]))
        jax.tree.map(
            lambda a, b, row=row: np.testing.assert_array_equal(a[row], b[0]), together, alone
        )


def test_what_is_impossible_has_no_weight_and_stays_so():
    scores = TABLES["scores"].astype(np.float32)
    dead = {memory_of([0, 1, 2]), memory_of([0, 1, 0])}
    for memory in dead:
        scores[memory, TARGET] = -np.inf
    impossible = {**PARAMS, "scores": jnp.asarray(scores)}
    got = jax.jit(functools.partial(
        smc, language_model=MODEL, params=PARAMS, discriminator=JUDGE,
        discriminator_params=impossible, config=SMCConfig(new_tokens=4, samples=64, threshold=0),
    ))(KEY, prompt_of([0, 1]), target=jnp.asarray([TARGET]))  # fmt: skip
    weights, died = np.asarray(got.log_weight[0]), 0
    assert not np.isnan(weights).any()
    for lane, weight in enumerate(weights):
        text = np.asarray(got.tokens[0, lane, : int(got.length[0, lane])]).tolist()
        judged = [text[:at] for at in range(1, len(text) + 1) if END not in text[:at]]
        ever = any(memory_of([0, 1, *part]) in dead for part in judged)
        assert np.isneginf(weight) == ever
        died += ever
    assert 0 < died < 64


def test_without_a_judge_there_is_nothing_to_weigh_by():
    with pytest.raises(UserError, match="particles are weighed by a discriminator"):
        smc(
            KEY, prompt_of([0]), language_model=MODEL, params=PARAMS, discriminator=None,
            target=None, config=SMCConfig(),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"samples": 0}, "samples is 0: give 1 or more"),
        ({"temperature": 0.0}, "temperature is 0"),
        ({"power": -1.0}, "power is -1.0"),
        ({"threshold": 2.0}, "threshold is 2.0"),
        ({"resampling": "best"}, "resampling is 'best'"),
    ],
)
def test_wrong_settings_are_named(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        SMCConfig().with_settings(**wrong)
