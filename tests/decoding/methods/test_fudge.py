"""Candidate re-scoring against its closed form, text by text."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coopgen_jax.decoding.decode import fudge
from coopgen_jax.decoding.job import Job
from coopgen_jax.decoding.methods import fudge as decoding
from coopgen_jax.decoding.methods.fudge import FudgeConfig
from coopgen_jax.decoding.rules.shaping import Rules
from coopgen_jax.errors import UserError
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
    said_of,
)

KEY = jax.random.key(5)


@functools.cache
def decoder(config: FudgeConfig):
    return jax.jit(functools.partial(
        fudge, KEY, language_model=MODEL, params=PARAMS, discriminator=JUDGE,
        discriminator_params=PARAMS, config=config,
    ))  # fmt: skip


def log_draw(text: list[int], config: FudgeConfig, target: int) -> np.ndarray:
    """log of the probability with which every token is drawn behind a text."""
    logits = TABLES["logits"][memory_of([0, 1, *text])] / config.rules.temperature
    kept = sorted(range(TOY.vocab_size), key=lambda v: (-logits[v], v))[: config.candidates]
    score = np.full(TOY.vocab_size, -np.inf)
    for token in kept:
        said = said_of([*text, token])[target]
        score[token] = logits[token] + config.strength * (
            said if config.score == "log" else np.exp(said)
        )
    return log_softmax(score)


@pytest.mark.parametrize(
    "config",
    [
        FudgeConfig(new_tokens=2, samples=20_000),
        FudgeConfig(
            new_tokens=2, samples=20_000, candidates=3, strength=2.0, rules=Rules(temperature=1.5)
        ),
        FudgeConfig(new_tokens=3, samples=20_000, candidates=4, strength=3.0, score="value"),
        FudgeConfig(new_tokens=2, samples=20_000, candidates=2, strength=0.0),
        FudgeConfig(
            new_tokens=3,
            samples=20_000,
            candidates=3,
            look_ahead=True,
            rules=Rules(temperature=2.0),
        ),
    ],
)
def test_texts_are_drawn_as_the_closed_form_says(config):
    got = jax.device_get(decoder(config)(prompt_of([0, 1]), target=jnp.asarray([1])))
    texts, inverse = np.unique(got.tokens[0], axis=0, return_inverse=True)
    total = 0.0
    for number, tokens in enumerate(texts):
        rows = np.flatnonzero(inverse.reshape(-1) == number)
        length = int(got.length[0, rows[0]])
        text = tokens[:length].tolist()
        expected = sum(log_draw(text[:at], config, 1)[token] for at, token in enumerate(text))
        np.testing.assert_allclose(got.log_proposal[0, rows], expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(got.log_class[0, rows[0]], said_of(text), rtol=1e-4)
        p = np.exp(expected)
        assert abs(len(rows) / 20_000 - p) < 5 * np.sqrt(p * (1 - p) / 20_000) + 1e-9
        total += p
    assert total == pytest.approx(1, abs=0.01)


def test_log_prob_is_the_language_models_own():
    got = decoder(FudgeConfig(new_tokens=5, samples=3, rules=Rules(no_repeat_ngram=2)))(
        prompt_of([0, 1], [2]), target=jnp.asarray([1, 0])
    )
    mask = jnp.arange(5)[None, None] < got.length[..., None]
    scored = MODEL.score(PARAMS, prompt_of([0, 1], [2]), got.tokens, mask).sum(axis=-1)
    np.testing.assert_allclose(got.log_prob, scored, rtol=1e-5)
    judged = got.length * min(20, TOY.vocab_size)
    np.testing.assert_array_equal(got.model_tokens, judged)


@pytest.mark.parametrize("changes", [{}, {"score": "value", "strength": 4.0}, {"greedy": True}])
def test_with_look_ahead_the_texts_are_the_same_and_one_row_is_read_per_token(changes):
    """The toy's judge foresees exactly what it will say, so that the draws are the same too."""
    config = FudgeConfig(
        new_tokens=5, samples=4, candidates=4, **changes, rules=Rules(no_repeat_ngram=2)
    )
    prompt, target = prompt_of([0, 1], [2], [3, 3, 1]), jnp.asarray([1, 0, 1])
    plain = decoder(config)(prompt, target=target)
    ahead = decoder(replace(config, look_ahead=True))(prompt, target=target)
    assert int(plain.finished.sum()) > 0
    np.testing.assert_array_equal(plain.model_tokens, 4 * plain.length)
    np.testing.assert_array_equal(ahead.model_tokens, ahead.length)
    same = replace(ahead, model_tokens=plain.model_tokens, simulations=plain.simulations)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), same, plain)


def test_look_ahead_reads_the_token_that_is_drawn_alone():
    read = []

    def extend(params, cache, nodes):
        read.append(nodes.token.shape)
        return MODEL.extend(params, cache, nodes)

    job = Job(
        prompt=prompt_of([0, 1]), params=PARAMS, discriminator_params=PARAMS,
        target=jnp.asarray([0]), language_model=replace(MODEL, extend=extend),
        discriminator=JUDGE, config=FudgeConfig(new_tokens=2, look_ahead=True),
    )  # fmt: skip
    jax.eval_shape(decoding.advance, KEY, job, jax.eval_shape(decoding.begin, job))
    assert read == [(1, 1, 1)]
    blind = replace(job, discriminator=replace(JUDGE, evaluate_children=None))
    with pytest.raises(UserError, match="fudge with look_ahead asks what a token would do before"):
        decoding.begin(blind)


def test_greedily_the_best_candidate_is_taken():
    config = FudgeConfig(new_tokens=6, greedy=True, candidates=4)
    got = decoder(config)(prompt_of([0, 1]), target=jnp.asarray([0]))
    text: list[int] = []
    while len(text) < 6 and END not in text:
        text.append(int(np.argmax(log_draw(text, config, 0))))
    assert got.tokens[0, 0, : int(got.length[0, 0])].tolist() == text
    assert np.isnan(got.log_proposal).all()


def test_a_row_does_not_depend_on_its_neighbours_or_on_padding():
    write = decoder(FudgeConfig(new_tokens=6, samples=2))
    together = write(prompt_of([0, 1], [2], [3, 3, 1]), target=jnp.asarray([0, 1, 1]))
    alone = write(prompt_of([2], length=9, first=1), target=jnp.asarray([1]))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[1], b[0]), together, alone)


def test_without_a_judge_there_is_nothing_to_go_by():
    with pytest.raises(UserError, match="candidates are judged by a discriminator"):
        fudge(
            KEY, prompt_of([0]), language_model=MODEL, params=PARAMS, discriminator=None,
            target=None, config=FudgeConfig(),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"candidates": 0}, "candidates is 0: give 1 or more"),
        ({"strength": -1.0}, "strength is -1.0"),
        ({"score": "sum"}, "score is 'sum'"),
        ({"temperature": 0.0}, "temperature is 0"),
    ],
)
def test_wrong_settings_are_named(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        FudgeConfig().with_settings(**wrong)
