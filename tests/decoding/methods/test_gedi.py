"""GeDi against its closed form, token by token, and against Bayes' rule on texts read anew."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from coopgen_jax.decoding.decode import gedi
from coopgen_jax.decoding.job import Job
from coopgen_jax.decoding.methods import gedi as decoding
from coopgen_jax.decoding.methods.gedi import GediConfig, by_class
from coopgen_jax.decoding.methods.sampling import SamplingConfig
from coopgen_jax.decoding.rules.shaping import Rules
from coopgen_jax.discriminators.composition import Term, compose
from coopgen_jax.discriminators.generative import GenerativeConfig, generative, generative_params
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.errors import UserError
from coopgen_jax.models.decoder import language_model
from coopgen_jax.models.transformer import init_decoder
from coopgen_jax.testing import TINY_LLAMA, ToyLanguage, toy_discriminator
from tests.decoding.toy import (
    END,
    JUDGE,
    MODEL,
    PARAMS,
    TABLES,
    TOY,
    decode,
    log_softmax,
    memory_of,
    prompt_of,
    said_of,
)

KEY = jax.random.key(7)
DRAWS = 20_000
DRAWN = GediConfig(
    new_tokens=2, samples=DRAWS, draw=True, strength=3.0, rules=Rules(repetition_penalty=1.0)
)


@functools.cache
def decoder(config: GediConfig):
    return jax.jit(functools.partial(
        gedi, KEY, language_model=MODEL, params=PARAMS, discriminator=JUDGE,
        discriminator_params=PARAMS, config=config,
    ))  # fmt: skip


def filtered(score, said, *, mass: float, certain: float) -> np.ndarray:
    """The filter, one token after another."""
    p = np.exp(log_softmax(score))
    kept, total = [], 0.0
    for token in sorted(range(len(score)), key=lambda v: (-said[v], v)):
        if total >= mass and mass < 1:
            break
        kept.append(token)
        total += p[token]
    kept += [token for token in range(len(score)) if np.exp(said[token]) > certain]
    return np.where(np.isin(np.arange(len(score)), kept), score, -np.inf)


def log_draw(text: list[int], config: GediConfig, said_of, prompt=(0, 1)) -> np.ndarray:
    """log of the probability with which every token is drawn behind a text."""
    logits = TABLES["logits"][memory_of([*prompt, *text])].astype(np.float64)
    for token in {*prompt, *text}:
        penalty = config.rules.repetition_penalty
        logits[token] = logits[token] / penalty if logits[token] > 0 else logits[token] * penalty
    said = np.asarray([said_of([*text, token]) for token in range(TOY.vocab_size)], np.float64)
    score = logits / config.rules.temperature + config.strength * said
    return log_softmax(filtered(score, said, mass=1 - config.filter_p, certain=config.target_p))


def check_frequencies(got, config: GediConfig, said_of) -> int:
    """Checks the texts behind one prompt; returns how many differ."""
    got = jax.device_get(got)
    texts, inverse = np.unique(got.tokens[0], axis=0, return_inverse=True)
    counts, expected = [], []
    for number, tokens in enumerate(texts):
        rows = np.flatnonzero(inverse.reshape(-1) == number)
        text = tokens[: int(got.length[0, rows[0]])].tolist()
        log_p = sum(log_draw(text[:at], config, said_of)[v] for at, v in enumerate(text))
        np.testing.assert_allclose(got.log_proposal[0, rows], log_p, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(got.log_class[0, rows[0], 1], said_of(text), atol=1e-3)
        counts.append(len(rows))
        expected.append(np.exp(log_p) * len(inverse))
    assert sum(expected) / len(inverse) == pytest.approx(1, abs=1e-2)
    # What is too rare for the statistic is counted together, and with what was never drawn.
    counts, expected = np.asarray(counts), np.asarray(expected)
    often = expected >= 5
    rest = len(inverse) - expected[often].sum()
    if rest > 1:
        counts = np.append(counts[often], len(inverse) - counts[often].sum())
        expected = np.append(expected[often], rest)
    else:
        counts, expected = (
            counts[often],
            expected[often] * counts[often].sum() / sum(expected[often]),
        )
    assert chisquare(counts, expected).pvalue > 1e-4
    return len(texts)


@pytest.mark.parametrize(
    "changes",
    [
        {"filter_p": 0.05, "temperature": 3.0, "strength": 0.5},
        {"filter_p": 0.5, "target_p": 0.6, "temperature": 4.0, "repetition_penalty": 1.3},
        {"filter_p": 0.0, "new_tokens": 3, "strength": 1.0},
    ],
)
def test_texts_are_drawn_as_the_closed_form_says(changes):
    config = DRAWN.with_settings(**changes)
    got = decoder(config)(prompt_of([0, 1]), target=jnp.asarray([1]))
    assert check_frequencies(got, config, lambda text: said_of(text)[1]) > 2


def every_text(config: GediConfig, text=()) -> list[tuple[int, ...]]:
    if len(text) == config.new_tokens or END in text:
        return [text]
    return [t for v in range(TOY.vocab_size) for t in every_text(config, (*text, v))]


def test_the_probabilities_of_all_texts_add_up_to_one():
    """The decoder's own, of every text that it can write, each met among many draws."""
    config = DRAWN.with_settings(strength=0.5, temperature=4.0, filter_p=0.2, target_p=0.3)
    got = decoder(config)(prompt_of([0, 1]), target=jnp.asarray([1]))
    drawn = dict(
        zip(map(tuple, np.asarray(got.tokens[0]).tolist()), got.log_proposal[0], strict=True)
    )
    expected = {
        (*text, *(0,) * (2 - len(text))): sum(
            log_draw(list(text[:at]), config, lambda text: said_of(text)[1])[v]
            for at, v in enumerate(text)
        )
        for text in every_text(config)
    }
    possible = {text for text, log_p in expected.items() if log_p > -np.inf}
    assert set(drawn) == possible and len(possible) > 6
    assert sum(np.exp(list(drawn.values()))) == pytest.approx(1, abs=1e-5)


def test_greedily_the_best_of_what_is_left_is_taken():
    """The published settings, several prompts, texts that end."""
    config = GediConfig(new_tokens=3)
    rows, targets = [[0, 1], [3], [2, 1], [1, 2]], [0, 1, 1, 0]
    got = decoder(config)(prompt_of(*rows), target=jnp.asarray(targets))
    ended = 0
    for row, (prompt, target) in enumerate(zip(rows, targets, strict=True)):

        def said(text, prompt=prompt, target=target):
            judged = text[:-1] if text[-1:] == [END] else text
            return log_softmax(TABLES["scores"][memory_of([*prompt, *judged])])[target]

        text: list[int] = []
        while len(text) < 3 and END not in text:
            text.append(int(np.argmax(log_draw(text, config, said, prompt))))
        length = int(got.length[row, 0])
        assert got.tokens[row, 0, :length].tolist() == text
        assert bool(got.finished[row, 0]) == (END in text)
        np.testing.assert_allclose(got.log_class[row, 0, target], said(text), rtol=1e-5)
        ended += END in text
    assert 0 < ended < 4
    assert np.isnan(got.log_proposal).all()
    mask = jnp.arange(3)[None, None] < got.length[..., None]
    scored = MODEL.score(PARAMS, prompt_of(*rows), got.tokens, mask).sum(axis=-1)
    np.testing.assert_allclose(got.log_prob, scored, rtol=1e-5)
    np.testing.assert_array_equal(got.model_tokens, got.length)
    np.testing.assert_array_equal(got.simulations, got.length)


def test_without_weight_and_filter_it_is_plain_sampling():
    rules = {"new_tokens": 6, "samples": 3, "repetition_penalty": 1.3, "no_repeat_ngram": 2}
    rules["temperature"] = 1.7
    config = GediConfig(strength=0.0, filter_p=0.0, draw=True).with_settings(**rules)
    prompt = prompt_of([0, 1], [2])
    got = decoder(config)(prompt, target=jnp.asarray([1, 0]))
    plain = decode(KEY, prompt, SamplingConfig().with_settings(**rules))
    got = dataclasses.replace(got, simulations=plain.simulations)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, plain)


def test_the_filter_is_its_loop_by_hand():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(40, 2, 9)).astype(np.float32)
    said = np.log(rng.integers(1, 6, scores.shape) / 6).astype(np.float32)  # with many ties
    scores[rng.random(scores.shape) < 0.2] = -np.inf
    scores[..., 3] = 0.0
    sizes = set()
    for mass, certain in ((0.8, 0.8), (0.3, 1.0), (0.05, 0.5), (1.0, 1.0), (0.6, 0.0)):
        found = np.asarray(by_class(scores, said, mass=mass, certain=certain))
        for at in np.ndindex(40, 2):
            expected = filtered(scores[at], said[at], mass=mass, certain=certain)
            np.testing.assert_array_equal(found[at], expected)
            sizes.add(int(np.isfinite(expected).sum()))
    assert len(sizes) > 5


NETWORK = dataclasses.replace(TINY_LLAMA, layers=1, vocab_size=TOY.vocab_size, end_tokens=(END,))
BAYES = GenerativeConfig(NETWORK, ("a", "b"), ((0,), (1, 2)))
WEIGHTS = generative_params(
    jax.tree.map(lambda leaf: 3 * leaf, init_decoder(jax.random.key(5), NETWORK)),
    2, prior=[0.3, 0.7], scale=1.7,
)  # fmt: skip


def posteriors(length: int) -> dict[tuple[int, ...], np.ndarray]:
    """log p(c | text) of every text up to a length by Bayes' rule, each text read anew."""
    texts = list(itertools.product(range(TOY.vocab_size), repeat=length))
    tokens = jnp.asarray([[texts], [texts]])[:, 0]
    behind = prompt_of(*map(list, BAYES.prefixes), length=2)
    score = jax.jit(language_model(NETWORK).score)
    score = score(WEIGHTS["network"], behind, tokens, jnp.ones(tokens.shape, bool))
    found = {(): np.full(2, -np.log(2))}
    for text, steps in zip(texts, np.moveaxis(np.asarray(score, np.float64), 0, -1), strict=True):
        for size in range(1, length + 1):
            means = steps[:size].sum(axis=0) / size
            found[text[:size]] = log_softmax(np.log([0.3, 0.7]) + 1.7 * means)
    return found


def test_with_a_generative_network_texts_are_drawn_by_bayes_rule():
    config = dataclasses.replace(DRAWN, new_tokens=3, samples=4000, strength=2.0, filter_p=0.1)
    got = jax.jit(functools.partial(
        gedi, KEY, language_model=MODEL, params=PARAMS, discriminator=generative(BAYES),
        discriminator_params=WEIGHTS, config=config,
    ))(prompt_of([0, 1]), target=jnp.asarray([1]))  # fmt: skip
    posterior = posteriors(3)

    def said(text):
        judged = text[:-1] if text[-1:] == [END] else text
        return posterior[tuple(judged)][1]

    assert check_frequencies(got, config, said) > 8


def test_under_a_composition_it_goes_by_all_wishes():
    """Not class 0 is class 1, where there are two."""
    config = GediConfig(new_tokens=6, samples=20, draw=True, strength=2.0)
    judge = compose([Term(LoadedDiscriminator(JUDGE, PARAMS), "zero", negated=True)])
    prompt = prompt_of([0, 1], [2])
    got = jax.jit(functools.partial(
        gedi, KEY, language_model=MODEL, params=PARAMS, discriminator=judge.discriminator,
        discriminator_params=judge.params, config=config,
    ))(prompt, target=jnp.asarray([0, 0]))  # fmt: skip
    plain = decoder(config)(prompt, target=jnp.asarray([1, 1]))
    np.testing.assert_array_equal(got.tokens, plain.tokens)
    np.testing.assert_allclose(got.log_proposal, plain.log_proposal, rtol=1e-3, atol=1e-4)


def test_a_row_does_not_depend_on_its_neighbours_or_on_padding():
    write = decoder(GediConfig(new_tokens=6, samples=2, draw=True, strength=1.0))
    together = write(prompt_of([0, 1], [2], [3, 3, 1]), target=jnp.asarray([0, 1, 1]))
    alone = write(prompt_of([2], length=9, first=1), target=jnp.asarray([1]))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[1], b[0]), together, alone)
    write(prompt_of([3], [1, 1], [0]), target=jnp.asarray([1, 0, 1]))
    assert write._cache_size() == 2, "one trace for every shape of prompts"


def test_one_row_is_read_per_token():
    read = []

    def extend(params, cache, nodes):
        read.append(nodes.token.shape)
        return MODEL.extend(params, cache, nodes)

    config = GediConfig(new_tokens=3, samples=2)
    job = Job(
        prompt=prompt_of([0, 1], [2]), params=PARAMS, discriminator_params=PARAMS,
        target=jnp.asarray([0, 1]), language_model=dataclasses.replace(MODEL, extend=extend),
        discriminator=JUDGE, config=config,
    )  # fmt: skip
    jax.eval_shape(decoding.advance, KEY, job, jax.eval_shape(decoding.begin, job))
    assert read == [(2, 2, 1)]


def test_who_cannot_be_asked_is_refused():
    parts = {"language_model": MODEL, "params": PARAMS, "discriminator_params": PARAMS}
    parts |= {"target": jnp.asarray([0]), "config": GediConfig()}
    blind = dataclasses.replace(JUDGE, evaluate_children=None)
    other = toy_discriminator(ToyLanguage(vocab_size=7))
    for judge, sentence in (
        (None, "gedi asks a discriminator about tokens: give one and a target"),
        (blind, "judges only what has been read: use fudge .* or a generative discriminator"),
        (other, "judges 7 tokens before they are read and the language model has 5"),
    ):
        with pytest.raises(UserError, match=sentence):
            gedi(KEY, prompt_of([0]), discriminator=judge, **parts)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"samples": 0}, "samples is 0: give 1 or more"),
        ({"strength": -1.0}, "strength is -1.0"),
        ({"filter_p": 1.0}, "filter_p is 1.0"),
        ({"target_p": 1.5}, "target_p is 1.5"),
        ({"temperature": 0.0}, "temperature is 0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0"),
    ],
)
def test_wrong_settings_are_named(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        GediConfig().with_settings(**wrong)
