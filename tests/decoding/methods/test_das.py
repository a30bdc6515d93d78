"""Re-scored beams against a slow search on lists, beam search, and all texts there are."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coopgen_jax.decoding.decode import beam_search, das, rerank
from coopgen_jax.decoding.methods import das as decoder_of_das
from coopgen_jax.decoding.methods.beam import BeamConfig
from coopgen_jax.decoding.methods.das import DASConfig
from coopgen_jax.decoding.methods.rerank import RerankConfig
from coopgen_jax.decoding.rules.shaping import Rules
from coopgen_jax.errors import UserError
from tests.decoding.calls import calls_of
from tests.decoding.toy import END, JUDGE, MODEL, PARAMS, TOY, prompt_of, repeats
from tests.decoding.toy_texts import (
    MILD_PARAMS,
    every_text,
    log_p,
    said,
    same_row,
    texts_of,
)

KEY = jax.random.key(0)
GIVEN = {"language_model": MODEL, "params": PARAMS}
JUDGED = {**GIVEN, "discriminator": JUDGE, "discriminator_params": MILD_PARAMS}
ROWS, TARGETS = ((0, 1, 2), (3,), (2, 2), (1, 0)), (1, 0, 1, 0)


@functools.cache
def decoder(config: DASConfig):
    return jax.jit(functools.partial(das, KEY, config=config, **JUDGED))


def score_of(text, prompt, target: int, config: DASConfig) -> float:
    mean = log_p(tuple(text), prompt) / len(text) ** config.length_penalty
    return mean + config.alpha * float(said(tuple(text), prompt)[target])


def slow(prompt, target: int, config: DASConfig) -> tuple[list[tuple[float, list[int]]], int]:
    """The search on lists; returns the best texts with their scores, and how many were read."""
    beams: list[list[int]] = [[]]
    pool: list[tuple[float, list[int]]] = []
    read, done = 0, False
    for step in range(config.new_tokens):
        options = [
            [*text, token]
            for text in beams
            for token in range(TOY.vocab_size)
            if not repeats([*prompt, *text, token], config.rules.no_repeat_ngram)
        ]
        options.sort(key=lambda text: -log_p(tuple(text), prompt))
        live = [text for text in options if text[-1] != END][: config.candidates]
        ended = [text for text in options[: config.candidates] if text[-1] == END]
        read += 0 if done else len(live)
        scored = [(score_of(text, prompt, target, config), text) for text in [*live, *ended]]
        scored.sort(key=lambda entry: -entry[0])
        if done:
            continue
        pool += [entry for entry in scored[: config.beams] if entry[1][-1] == END]
        pool = sorted(pool, key=lambda entry: -entry[0])[: config.beams]
        survivors = [entry for entry in scored if entry[1][-1] != END][: config.beams]
        beams = [text for _, text in survivors]
        last = config.new_tokens if config.length_penalty > 0 else step + 1
        best = max((log_p(tuple(text), prompt) for text in beams), default=-np.inf)
        hope = best / last**config.length_penalty
        done = len(pool) == config.beams and hope <= pool[-1][0]
    rest = [] if done else [(score_of(text, prompt, target, config), text) for text in beams]
    return sorted([*pool, *rest], key=lambda entry: -entry[0]), read


@pytest.mark.parametrize(
    "config",
    [
        DASConfig(new_tokens=6, beams=3, candidates=6, samples=3),
        DASConfig(new_tokens=6, beams=2, candidates=9, samples=2, alpha=4.0, length_penalty=0.0),
        DASConfig(new_tokens=5, beams=4, candidates=4, samples=4, alpha=0.5),
        DASConfig(new_tokens=6, beams=1, candidates=3, alpha=9.0, length_penalty=-1.0),
        DASConfig(
            new_tokens=6,
            beams=3,
            candidates=7,
            samples=2,
            alpha=2.0,
            rules=Rules(no_repeat_ngram=2),
        ),
    ],
)
def test_the_texts_are_those_of_a_slow_search(config):
    got = decoder(config)(prompt_of(*ROWS), target=jnp.asarray(TARGETS))
    ended = differs = 0
    for row, (prompt, target) in enumerate(zip(ROWS, TARGETS, strict=True)):
        expected, read = slow(prompt, target, config)
        likeliest, _ = slow(prompt, target, config.with_settings(alpha=0.0))
        texts = [list(text) for text in texts_of(got, row)]
        assert texts == [text for _, text in expected[: config.samples]]
        for number, text in enumerate(texts):
            assert float(got.log_prob[row, number]) == pytest.approx(
                log_p(tuple(text), prompt), rel=1e-4
            )
            exact = said(tuple(text), prompt)
            np.testing.assert_allclose(got.log_class[row, number], exact, rtol=1e-4, atol=1e-6)
            assert bool(got.finished[row, number]) == (text[-1] == END)
            ended += text[-1] == END
        differs += texts != [text for _, text in likeliest[: config.samples]]
        assert int(got.model_tokens[row, 0]) == -(-read // config.samples)
    assert ended and differs


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_without_weight_it_is_beam_search(penalty):
    beams = BeamConfig(new_tokens=6, beams=3, samples=3, length_penalty=penalty)
    plain = jax.jit(functools.partial(beam_search, KEY, config=beams, **JUDGED))
    prompt, target = prompt_of(*ROWS), jnp.asarray(TARGETS)
    config = DASConfig(
        new_tokens=6, beams=3, candidates=3, samples=3, alpha=0.0, length_penalty=penalty
    )
    jax.tree.map(
        np.testing.assert_array_equal, decoder(config)(prompt, target=target), plain(prompt)
    )
    wide = decoder(config.with_settings(candidates=11))(prompt, target=target)
    np.testing.assert_array_equal(wide.tokens, plain(prompt).tokens)


@pytest.mark.parametrize(("alpha", "penalty"), [(3.0, 0.0), (1.0, 1.0)])
def test_at_full_width_nothing_is_missed(alpha, penalty):
    config = DASConfig(
        new_tokens=3, beams=80, candidates=400, samples=6, alpha=alpha, length_penalty=penalty
    )
    got = decoder(config)(prompt_of([0, 1], [3]), target=jnp.asarray([1, 0]))
    for row, (prompt, target) in enumerate([((0, 1), 1), ((3,), 0)]):
        scores = [score_of(text, prompt, target, config) for text in every_text(3)]
        found = [score_of(text, prompt, target, config) for text in texts_of(got, row)]
        np.testing.assert_allclose(found, sorted(scores, reverse=True)[:6], rtol=1e-5)
        assert len(set(texts_of(got, row))) == 6


@pytest.mark.parametrize(("alpha", "penalty"), [(3.0, 0.0), (2.0, 1.0)])
def test_finished_beams_are_re_ranked_by_the_same_score(alpha, penalty):
    """The global search, by `RerankConfig`, as the module says."""
    config = DASConfig(new_tokens=5, beams=6, alpha=alpha, length_penalty=penalty)
    beams = BeamConfig(new_tokens=5, beams=6, length_penalty=penalty)
    best = RerankConfig(
        beams.new_tokens, proposal=beams, of=6, alpha=alpha / (1 + alpha), length_penalty=penalty
    )
    six = dataclasses.replace(beams, samples=6)
    prompt, target = prompt_of(*ROWS), jnp.asarray(TARGETS)
    got = jax.jit(functools.partial(rerank, KEY, config=best, **JUDGED))(prompt, target=target)
    found = jax.jit(functools.partial(beam_search, KEY, config=six, **JUDGED))(prompt)
    differs = 0
    for row, words in enumerate(ROWS):
        scores = [score_of(text, words, TARGETS[row], config) for text in texts_of(found, row)]
        assert texts_of(got, row)[0] == texts_of(found, row)[int(np.argmax(scores))]
        differs += int(np.argmax(scores)) > 0
    assert differs


def test_a_row_does_not_depend_on_its_neighbours_or_on_padding():
    """Rows are done at different steps."""
    rows = [[first, second] for first in range(5) for second in range(4)]
    write = decoder(
        DASConfig(new_tokens=9, beams=2, candidates=5, samples=2, alpha=0.3, length_penalty=0.0)
    )
    together = write(prompt_of(*rows), target=jnp.asarray([0, 1] * 10))
    assert len(set(np.asarray(together.model_tokens[:, 0]).tolist())) > 1
    for row, text in enumerate(rows):
        alone = write(prompt_of(text, length=9, first=row), target=jnp.asarray([row % 2]))
        same_row(together, row, alone)


def test_what_is_impossible_is_still_a_text():
    """A judge who rules all of one target's texts out leaves texts, and a finite likelihood."""
    sure = {**PARAMS, "scores": jnp.zeros_like(PARAMS["scores"]).at[:, 1].set(-jnp.inf)}
    given = {**JUDGED, "discriminator_params": sure}
    write = jax.jit(functools.partial(das, KEY, config=DASConfig(new_tokens=3, beams=2), **given))
    got = write(prompt_of([0, 1], [2]), target=jnp.asarray([1, 0]))
    assert np.isfinite(got.log_prob).all() and (np.asarray(got.length) > 0).all()
    assert np.isneginf(got.log_class[0, 0, 1]) and float(got.log_class[1, 0, 0]) == 0


def test_a_token_of_the_whole_pool_is_one_call():
    config = DASConfig(new_tokens=4, beams=2, candidates=7)
    assert calls_of(decoder_of_das, config, prompt_of([0, 1], [2])) == [(2, 1, 7)]
    # There are no more candidates than all beams' tokens.
    config = config.with_settings(candidates=70)
    assert calls_of(decoder_of_das, config, prompt_of([0, 1], [2])) == [(2, 1, 10)]


def test_without_a_judge_there_is_nothing_to_score_by():
    with pytest.raises(UserError, match="beams are scored by a discriminator"):
        das(KEY, prompt_of([0]), config=DASConfig(), **GIVEN)
    with pytest.raises(UserError, match="9 texts of 1 tokens are asked of a vocabulary of 5"):
        few = DASConfig(new_tokens=1, beams=9, samples=9, alpha=0)
        das(KEY, prompt_of([0]), config=few, **GIVEN)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"beams": 0}, "beams is 0: give 1 or more"),
        ({"samples": 5}, "5 texts are asked of 4 beams"),
        ({"candidates": 3}, "4 beams are to go on out of 3 candidates"),
        ({"alpha": -1.0}, "alpha is -1.0"),
        ({"length_penalty": float("nan")}, "length_penalty is nan"),
        ({"no_repeat_ngram": 1}, "no_repeat_ngram is 1"),
    ],
)
def test_wrong_settings_are_named(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        DASConfig().with_settings(**wrong)
