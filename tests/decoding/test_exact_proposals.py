"""Under rules a text's reported probability is that of its draw, and weights stay unbiased."""

import functools
from dataclasses import replace

import jax
import numpy as np
import pytest
from scipy import stats

from coopgen_jax.decoding.mcts.mcts_config import ByValues, ByVisits, MCTSConfig
from coopgen_jax.decoding.methods.beam import BeamConfig
from coopgen_jax.decoding.methods.das import DASConfig
from coopgen_jax.decoding.methods.fudge import FudgeConfig
from coopgen_jax.decoding.methods.gedi import GediConfig
from coopgen_jax.decoding.methods.rerank import RerankConfig
from coopgen_jax.decoding.methods.sampling import SamplingConfig
from coopgen_jax.decoding.methods.smc import SMCConfig
from coopgen_jax.decoding.methods.stochastic_beam import StochasticBeamConfig
from coopgen_jax.decoding.rules.shaping import REMOVES_SUPPORT, SHAPING, Rules
from coopgen_jax.search.config import SearchConfig
from tests.decoding.ruled_texts import (
    STOP,
    constrained,
    every_text,
    logits_behind,
    product,
    shaped,
    texts,
    write,
    written,
)
from tests.decoding.rules.slow_rules import softmax
from tests.decoding.toy import END, prompt_of, said_of

PROMPT, T, COUNT = [0, 1], 4, 3000
CONSTRAINTS = Rules(bad_words=((1,), (2, 0)), min_tokens=2, stop=STOP)
SHAPED = replace(CONSTRAINTS, token_bias=((3, -1.0), (0, 0.5)), temperature=1.6)
CUT = replace(SHAPED, top_p=0.9, no_repeat_ngram=2, repetition_penalty=1.3)
TARGET = 1


def said(text, token) -> float:
    """Returns log p(target) of a text with one more token, which is not judged if it ends it."""
    stops = (*text, token)[-3:] in ((3, 2, 2), (3, 3, 2))
    return said_of(list(text) if token == END or stops else [*text, token])[TARGET]


def by_rules(config, prompt, text):
    return softmax(shaped(config.rules, prompt, text))


def by_fudge(config, prompt, text):
    logits = shaped(config.rules, prompt, text)
    best = sorted(range(5), key=lambda v: (-logits[v], v))[: config.candidates]
    scores = np.full(5, -np.inf)
    for token in best:
        # A candidate that is read is judged as it ends; one that is foreseen as one more token.
        judged = said(text, token)
        scores[token] = logits[token] + config.strength * judged
    return softmax(scores)


def by_gedi(config, prompt, text):
    logits = shaped(config.rules, prompt, text)
    foreseen = [said_of(list(text) if v == END else [*text, v])[TARGET] for v in range(5)]
    return softmax(logits + config.strength * np.asarray(foreseen))


EXACT = {
    "sampling": (SamplingConfig(T, COUNT, CUT), by_rules),
    "fudge": (FudgeConfig(T, COUNT, CUT, candidates=3, strength=0.7), by_fudge),
    "gedi": (GediConfig(T, COUNT, SHAPED, strength=0.8, filter_p=0.0, draw=True), by_gedi),
}


def chi_square(found, expected) -> float:
    """Returns how likely texts are to be so far from their expected frequencies."""
    seen = dict.fromkeys(expected, 0)
    for text in found:
        seen[text] += 1
    wanted = np.asarray(list(expected.values())) * len(found)
    counts, often = np.asarray(list(seen.values()), float), wanted >= 5
    assert counts[wanted == 0].sum() == 0
    pairs = [*zip(counts[often], wanted[often], strict=True)]
    if (rest := wanted[~often].sum()) > 1:
        pairs.append((counts[~often].sum(), rest))
    counts, wanted = np.asarray(pairs).T
    return stats.chisquare(counts, wanted * counts.sum() / wanted.sum()).pvalue


@pytest.mark.parametrize("name", EXACT)
def test_texts_come_as_often_as_they_say(name):
    config, step = EXACT[name]
    got = write(config, PROMPT)
    expected = {
        text: product(functools.partial(step, config), PROMPT, text)
        for text in every_text(config.rules, T)
    }
    assert sum(expected.values()) == pytest.approx(1)
    found = texts(got)
    wanted = np.log([expected[text] for text in found])
    np.testing.assert_allclose(got.log_proposal[0], wanted, rtol=1e-3, atol=1e-4)
    assert chi_square(found, expected) > 1e-3


def test_a_mixture_with_the_constrained_model_is_exact():
    config = SamplingConfig(T, COUNT, CUT, mix_base=0.4)
    got = write(config, PROMPT)
    plain = functools.partial(constrained, CUT)
    cut = functools.partial(by_rules, config)
    expected = {
        text: 0.6 * product(cut, PROMPT, text) + 0.4 * product(plain, PROMPT, text)
        for text in every_text(CUT, T)
    }
    assert sum(expected.values()) == pytest.approx(1)
    found = texts(got)
    wanted = np.log([expected[text] for text in found])
    np.testing.assert_allclose(got.log_proposal[0], wanted, rtol=1e-3, atol=1e-4)
    assert chi_square(found, expected) > 1e-3


SEARCH = SearchConfig(simulations=6, wave=2, candidates=3, depth=3, reused_nodes=4)


@pytest.mark.parametrize("choice", [ByVisits(0.8, mix_base=0.4), ByValues(0.7, mix_base=0.2)])
def test_a_searchs_draws_come_as_often_as_they_say(choice):
    """q of every text that came is one number, and all texts that may come have p by it."""
    config = MCTSConfig(T, COUNT, SHAPED, choice=choice, search=SEARCH)
    got = write(config, PROMPT)
    found, log_q = texts(got), np.asarray(got.log_proposal[0], np.float64)
    own: dict[tuple[int, ...], float] = {}
    for text, value in zip(found, log_q, strict=True):
        assert own.setdefault(text, value) == pytest.approx(value, abs=1e-4)
    q = {text: np.exp(value) for text, value in own.items()}
    p = {text: product(functools.partial(constrained, SHAPED), PROMPT, text)
         for text in every_text(SHAPED, T)}  # fmt: skip
    assert sum(p.values()) == pytest.approx(1)
    # Nothing came that the constraints forbid, and what did not come is rare.
    assert all(p[text] > 0 for text in q)
    rest = 1 - sum(q.values())
    assert -1e-4 < rest < 0.02
    assert chi_square(found, q | {("any other",): max(rest, 0.0)}) > 1e-3
    # Every text can come: weights by q are unbiased for the constrained model.
    weight = np.asarray([p[text] for text in found]) / np.exp(log_q)
    for measured in (weight, weight * [text[-1] == END for text in found]):
        truth = sum(p.values()) if measured is weight else sum(
            value for text, value in p.items() if text[-1] == END
        )  # fmt: skip
        assert abs(measured.mean() - truth) < 4.5 * measured.std() / np.sqrt(COUNT) + 0.01


def test_a_searchs_full_part_is_the_constrained_model():
    """With a share of 1 texts come from p under the constraints, whatever shapes the search."""
    config = MCTSConfig(T, COUNT, SHAPED, choice=ByVisits(mix_base=1.0), search=SEARCH)
    got = write(config, PROMPT)
    p = {text: product(functools.partial(constrained, SHAPED), PROMPT, text)
         for text in every_text(SHAPED, T)}  # fmt: skip
    found = texts(got)
    wanted = np.log([p[text] for text in found])
    np.testing.assert_allclose(got.log_proposal[0], wanted, rtol=1e-3, atol=1e-4)
    assert chi_square(found, p) > 1e-3


RUNS = 400
WEIGHED = {
    "smc": SMCConfig(T, 6, SHAPED, threshold=0.7),
    "smc with a penalty": SMCConfig(T, 6, replace(CONSTRAINTS, repetition_penalty=1.5)),
    "stochastic beams": StochasticBeamConfig(T, 3, SHAPED),
}


@pytest.mark.parametrize("name", WEIGHED)
def test_weights_estimate_the_constrained_expectation(name):
    config = WEIGHED[name]
    got = written(jax.random.key(3), prompt_of(*[PROMPT] * RUNS), config)
    weights = np.exp(np.asarray(got.log_weight, np.float64))
    if isinstance(config, SMCConfig):
        weights /= config.samples
    p = {text: product(functools.partial(constrained, config.rules), PROMPT, text)
         for text in every_text(config.rules, T)}  # fmt: skip
    if isinstance(config, SMCConfig):
        # A text is weighed by its judgement without the token that ended it.
        p = {text: value * np.exp(said(text[:-1], text[-1])) for text, value in p.items()}
    # Per run: the whole, the texts that ended, and those that begin with each token.
    parts = {"all": lambda text: True, "ended": lambda text: text[-1] == END} | {
        f"token {first}": lambda text, first=first: text[0] == first for first in range(5)
    }
    rows = [texts(got, run) for run in range(RUNS)]
    for label, holds in parts.items():
        estimate = np.asarray([
            sum(w for text, w in zip(row, weight, strict=True) if text and holds(text))
            for row, weight in zip(rows, weights, strict=True)
        ])  # fmt: skip
        truth = sum(value for text, value in p.items() if holds(text))
        error = estimate.std() / np.sqrt(RUNS)
        assert abs(estimate.mean() - truth) < 4.5 * error + 1e-6, label
    assert all(p[text] > 0 for row in rows for text in row if text)


@pytest.mark.parametrize("kind", [SMCConfig, StochasticBeamConfig])
@pytest.mark.parametrize(
    "rule",
    [{"no_repeat_ngram": 2}, {"top_k": 3}, {"top_p": 0.9}, {"min_p": 0.1}, {"typical_p": 0.9},
     {"eta": 0.1}],
)  # fmt: skip
def test_what_removes_support_is_refused_where_weights_need_it(kind, rule):
    ((name, value),) = rule.items()
    assert name in REMOVES_SUPPORT
    with pytest.raises(ValueError, match=rf"^{name} is {value}: .*must be.*, leave it out$"):
        kind(rules=Rules(**rule))
    # What shapes without taking anything away is welcome.
    kind(rules=Rules(temperature=0.5, repetition_penalty=2.0, token_bias=((1, 1.0),)))


VALUES = {
    "repetition_penalty": 1.2, "token_bias": ((1, 1.0),), "temperature": 0.5, "top_k": 2,
    "top_p": 0.5, "min_p": 0.5, "typical_p": 0.5, "eta": 0.5,
}  # fmt: skip


@pytest.mark.parametrize("name", VALUES)
def test_beams_refuse_what_they_cannot_honour(name):
    assert {*SHAPING} - {"no_repeat_ngram"} == VALUES.keys()
    rules = Rules(**{name: VALUES[name]})
    rerank = functools.partial(RerankConfig, proposal=BeamConfig())
    for make in (BeamConfig, DASConfig, rerank):
        with pytest.raises(ValueError, match=f"^{name} is .*beams rank log p and shape nothing"):
            make(rules=rules)
    for honoured in (CONSTRAINTS, Rules(no_repeat_ngram=3), Rules(forced=(1,))):
        BeamConfig(rules=honoured)


def test_a_temperature_of_0_is_refused_where_tokens_are_drawn():
    for kind in (FudgeConfig, GediConfig, MCTSConfig, SMCConfig, StochasticBeamConfig):
        with pytest.raises(ValueError, match=r"^temperature is 0: it must be above 0"):
            kind(rules=Rules(temperature=0.0))


def test_forced_tokens_come_first_and_count_among_the_new_ones():
    rules = Rules(forced=(2, 1), bad_words=((1,),), min_tokens=1, temperature=0.7)
    for config in (
        SamplingConfig(3, 5, rules),
        BeamConfig(3, 2, replace(rules, temperature=1.0)),
    ):
        got = write(config, PROMPT)
        plain = [softmax(logits_behind(PROMPT, begun)) for begun in ((), (2,))]
        for text, log_prob in zip(texts(got), got.log_prob[0], strict=True):
            assert text[:2] == (2, 1) and len(text) == 3
            last = softmax(logits_behind(PROMPT, text[:2]))[text[2]]
            total = np.log(plain[0][2] * plain[1][1] * last)
            assert log_prob == pytest.approx(total, rel=1e-4)
    with pytest.raises(ValueError, match="2 tokens are forced and 1 are to be written"):
        SamplingConfig(1, rules=rules)
