"""Draws from a mixture of the search and the language model, against slow searches' densities."""

import copy
import functools
from dataclasses import replace
from functools import partial
from operator import itemgetter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from coopgen_jax.decoding.mcts.mcts_config import ByValues, ByVisits, MCTSConfig, Reference, Value
from coopgen_jax.search import root_visits
from coopgen_jax.training.gcn.importance import importance, self_normalised
from tests.decoding.mcts.slow_texts import (
    END,
    MODEL,
    TOY,
    Texts,
    advance,
    begin,
    decode,
    search_config,
    tables_of,
    with_reference,
)
from tests.decoding.toy import prompt_of
from tests.oracle import Search

TABLES = tables_of(3)
TABLES["logits"] *= 0.5  # no token is so rare that it is never drawn
TABLES = with_reference(TABLES, 53)
PARAMS = jax.tree.map(jnp.asarray, TABLES)
PROMPT, TARGET, COUNT = [3, 2], 1, 3000
REUSE = MCTSConfig(
    new_tokens=3,
    samples=COUNT,
    search=search_config(simulations=6, wave=2, candidates=3, depth=3, reused_nodes=4),
    choice=ByVisits(visit_temperature=0.8, mix_base=0.4),
    value=Value(alpha=0.6),
)
PAPER = replace(
    REUSE, search=search_config(simulations=5, candidates=2, depth=2, reused_nodes=0)
).with_settings(alpha=1.0, anneal=True, foresight_power=0.7)
VALUED = replace(REUSE, value=Value(), choice=ByValues(value_power=1.3, mix_base=0.4))
HALVED = replace(
    PAPER,
    choice=ByValues(value_power=0.7),
    search=search_config(
        simulations=8, wave=2, candidates=5, depth=2, reused_nodes=3, considered=4
    ),
).with_settings(no_repeat_ngram=2)
CHARGED = replace(REUSE, search=replace(REUSE.search, first_play_urgency="value")).with_settings(
    kl=0.3
)


@functools.cache
def draws(config):
    return decode(jax.random.key(1), prompt_of(PROMPT), PARAMS, jnp.asarray([TARGET]), config)


def texts_of(got, row: int = 0) -> list[tuple[int, ...]]:
    tokens, lengths = np.asarray(got.tokens[row]), np.asarray(got.length[row])
    return [tuple(text[:length].tolist()) for text, length in zip(tokens, lengths, strict=True)]


def by_visits(search, ranks, tau: float) -> np.ndarray:
    """Returns with what probability the slow search's visits draw every token."""
    counts = np.asarray(search.root_visits(), float) ** (1 / tau)
    drawn = [0.0 if v not in ranks else counts[ranks[v]] for v in range(TOY.vocab_size)]
    return np.asarray(drawn) / counts.sum()


def by_values(search, ranks, power: float, plain: np.ndarray) -> np.ndarray:
    """Returns with what probability its values draw every token."""
    known = {token: search.root.children[rank] for token, rank in ranks.items()}
    q = {token: float(child.total) / child.visits for token, child in known.items()}
    count = sum(child.visits for child in known.values())
    rest = float(search.root.own)
    if q:
        mean = sum(plain[v] * q[v] for v in q) / sum(plain[v] for v in q)
        rest = (rest + count * mean) / (1 + count)
    weight = [plain[v] * q.get(v, rest) ** power for v in range(TOY.vocab_size)]
    return np.asarray(weight) / sum(weight)


@functools.cache
def densities(config, share: float) -> dict[tuple[int, ...], tuple[float, float]]:
    """Returns q(y) and p(y) of every text, by the slow search along every one of them."""
    language = Texts(TABLES, PROMPT, TARGET, config)
    found = {}

    def grow(text, search, q, p):
        search.run(config.search.simulations // config.search.wave)
        choice = config.choice
        tau = choice.visit_temperature if isinstance(choice, ByVisits) else 0.0
        if isinstance(choice, ByVisits) and choice.anneal:
            tau *= 1 - len(text) / config.new_tokens
        ranks = {int(search.root.tokens[rank]): rank for rank in search.root.children}
        logits = TABLES["logits"][language.memory(text)].astype(float)
        plain = np.exp(logits) / np.exp(logits).sum()
        if isinstance(choice, ByValues):
            drawn = by_values(search, ranks, choice.value_power, plain)
        else:
            drawn = by_visits(search, ranks, tau)
        for token in range(TOY.vocab_size):
            rank, longer = ranks.get(token), (*text, token)
            mixed = (1 - share) * drawn[token] + share * plain[token]
            here = (q * mixed, p * plain[token])
            if token == END or len(longer) == config.new_tokens:
                found[longer] = here
                continue
            language.root = len(longer)
            if rank is None or not config.search.reused_nodes:
                language.known.append(longer)
                below = Search(language, config.search, len(language.known) - 1)
                if rank is not None:
                    below.root.total = search.root.children[rank].own
            else:
                below = copy.deepcopy(search, {id(language): language})
                below.reroot(rank)
                below.revalue()
            grow(longer, below, *here)
            language.root = len(text)

    grow((), Search(language, config.search, 0), 1.0, 1.0)
    return found


def chi_square(texts, expected) -> float:
    """Returns how likely texts are to be so far from their expected frequencies."""
    seen = dict.fromkeys(expected, 0)
    for text in texts:
        seen[text] += 1
    wanted = np.asarray(list(expected.values())) * len(texts)
    found, often = np.asarray(list(seen.values()), float), wanted >= 5
    found = np.append(found[often], found[~often].sum())
    wanted = np.append(wanted[often], wanted[~often].sum())
    return float(stats.chisquare(found, wanted * found.sum() / wanted.sum()).pvalue)


@pytest.mark.parametrize("config", [REUSE, PAPER, CHARGED, VALUED, HALVED])
def test_log_proposal_is_the_density_and_the_frequency_of_each_text(config):
    got = draws(config)
    texts, expected = texts_of(got), densities(config, config.mix_base)
    assert sum(q for q, _ in expected.values()) == pytest.approx(1, abs=1e-6)
    language = Texts(TABLES, PROMPT, TARGET, config)
    q, p = np.log([expected[text] for text in texts]).T
    np.testing.assert_allclose(got.log_proposal[0], q, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(got.log_prob[0], p, rtol=1e-4, atol=1e-4)
    judged = {text: np.log(language.class_probs(text)) for text in set(texts)}
    np.testing.assert_allclose(got.log_class[0], [judged[text] for text in texts], atol=1e-5)
    assert chi_square(texts, {text: q for text, (q, _) in expected.items()}) > 1e-3
    if config.mix_base:
        # No text weighs more than the bound that the mixture gives.
        assert (p - q).max() < 1e-6 - config.new_tokens * np.log(config.mix_base)


def test_a_share_reaches_the_texts_that_the_search_cannot_write():
    alone = densities(REUSE, 0.0)
    reached = {text for text, (q, _) in alone.items() if q > 0}
    assert set(texts_of(draws(REUSE.with_settings(mix_base=0.0)))) <= reached
    share = sum(q for text, (q, _) in densities(REUSE, 0.4).items() if text not in reached)
    assert share > 0.1
    texts = texts_of(draws(REUSE))
    beyond = [text for text in texts if text not in reached]
    assert len(beyond) == pytest.approx(share * COUNT, abs=5 * np.sqrt(share * COUNT))
    # They leave the tree at once, or later, or to end there.
    first = {text[0] for text in reached}
    assert {text[0] in first for text in beyond} == {text[-1] == END for text in beyond}
    assert len({text[0] in first for text in beyond}) == 2


def test_weights_recover_the_target_with_a_share_and_do_not_without():
    language = Texts(TABLES, PROMPT, TARGET, REUSE)
    everything = densities(REUSE, 0.0)

    def feature(text):
        return float(END in text)

    mass = {text: p * language.class_probs(text)[TARGET] for text, (_, p) in everything.items()}
    exact = sum(m * feature(text) for text, m in mass.items()) / sum(mass.values())
    away = {}
    for share in (0.4, 0.0):
        got = draws(REUSE.with_settings(mix_base=share))
        log_weight = importance(got.log_prob[0], got.log_class[0, :, TARGET], got.log_proposal[0])
        weight = np.asarray(self_normalised(log_weight, jnp.zeros(COUNT, jnp.int32)), np.float64)
        values = np.asarray([feature(text) for text in texts_of(got)])
        mean = weight @ values
        away[share] = abs(mean - exact) / np.sqrt(weight**2 @ (values - mean) ** 2)
    assert away[0.4] < 4
    assert away[0.0] > 8


def test_all_of_the_share_is_plain_sampling_and_next_to_none_of_it_is_the_search():
    whole = draws(REUSE.with_settings(mix_base=1.0))
    np.testing.assert_allclose(whole.log_proposal, whole.log_prob, rtol=1e-5)
    plain = {text: p for text, (_, p) in densities(REUSE, 0.0).items()}
    assert chi_square(texts_of(whole), plain) > 1e-3

    none, hardly = (draws(REUSE.with_settings(mix_base=share)) for share in (0.0, 1e-9))
    for name in ("tokens", "length", "finished", "log_class", "simulations", "deepest"):
        np.testing.assert_array_equal(getattr(none, name), getattr(hardly, name), err_msg=name)
    for name in ("log_prob", "log_proposal"):
        a, b = getattr(none, name), getattr(hardly, name)
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    # Every token that is written is read once more.
    np.testing.assert_array_equal(none.model_tokens + none.length, hardly.model_tokens)


def test_draws_by_values_reach_all_texts_and_are_weighed_right_without_a_share():
    config = VALUED.with_settings(mix_base=0.0)
    language, everything = Texts(TABLES, PROMPT, TARGET, config), densities(config, 0.0)
    assert all(q > 0 for q, _ in everything.values())
    mass = {text: p * language.class_probs(text)[TARGET] for text, (_, p) in everything.items()}
    exact = sum(m for text, m in mass.items() if END in text) / sum(mass.values())
    got = draws(config)
    log_weight = importance(got.log_prob[0], got.log_class[0, :, TARGET], got.log_proposal[0])
    weight = np.asarray(self_normalised(log_weight, jnp.zeros(COUNT, jnp.int32)), np.float64)
    values = np.asarray([END in text for text in texts_of(got)], float)
    mean = weight @ values
    assert abs(mean - exact) < 4 * np.sqrt(weight**2 @ (values - mean) ** 2)


def test_texts_of_one_token_that_have_all_been_judged_weigh_alike():
    search = search_config(
        simulations=6, wave=3, candidates=6, depth=1, reused_nodes=0, considered=6
    )
    config = replace(VALUED, search=search).with_settings(
        new_tokens=1, value_power=1.0, mix_base=0.0
    )
    got = draws(config)
    log_weight = importance(got.log_prob[0], got.log_class[0, :, TARGET], got.log_proposal[0])
    np.testing.assert_allclose(log_weight, log_weight[0], atol=1e-5)
    assert len(set(texts_of(got))) == 6
    # Their common weight is Z, the mean of p(target | text) under the language model.
    language = Texts(TABLES, PROMPT, TARGET, config)
    mass = [p * language.class_probs(t)[TARGET] for t, (_, p) in densities(config, 0.0).items()]
    assert np.exp(log_weight[0]) == pytest.approx(sum(mass), rel=1e-4)


def test_a_share_keeps_the_weight_of_a_text_whose_beginning_is_misjudged_within_bounds():
    # A judge that is sure of every beginning, and often wrong of what becomes of it.
    sure = {**TABLES, "scores": 10 * TABLES["scores"]}
    config = VALUED.with_settings(samples=COUNT, value_power=1.0)
    params = jax.tree.map(jnp.asarray, sure)
    got = decode(jax.random.key(3), prompt_of(PROMPT), params, jnp.asarray([TARGET]), config)
    over = np.asarray(got.log_prob - got.log_proposal)
    assert over.max() < 1e-5 - config.new_tokens * np.log(config.mix_base)
    # What is drawn with it estimates the mean of p(target | text) under the language model.
    weight = np.exp(over[0] + np.asarray(got.log_class[0, :, TARGET]))
    language = Texts(sure, PROMPT, TARGET, config)
    every = densities(REUSE, 0.0)
    exact = sum(p * language.class_probs(text)[TARGET] for text, (_, p) in every.items())
    assert abs(weight.mean() - exact) < 4 * weight.std() / np.sqrt(COUNT)


def test_values_that_are_zero_still_leave_every_token_possible():
    never = {
        **TABLES,
        "scores": np.where([True, False], 500.0, -500.0) * np.ones_like(TABLES["scores"]),
    }
    config = VALUED.with_settings(samples=200, mix_base=0.0)
    params = jax.tree.map(jnp.asarray, never)
    got = decode(jax.random.key(1), prompt_of(PROMPT), params, jnp.asarray([TARGET]), config)
    assert np.isfinite(got.log_proposal).all() and len(set(texts_of(got))) > 20


SMALL = replace(
    REUSE, search=search_config(simulations=6, wave=2, candidates=2, depth=3, reused_nodes=4)
).with_settings(new_tokens=4, samples=3, mix_base=0.9)


@pytest.mark.parametrize(
    "changes",
    [
        {"reference": Reference(kl=0.2)},
        {"value": Value(), "choice": ByValues(value_power=0.5)},
    ],
)
def test_behind_a_token_that_is_in_no_tree_the_search_begins_as_behind_a_prompt(changes):
    config = replace(SMALL, **changes)
    target = jnp.full(END + 1, TARGET)
    first, second = prompt_of(*[PROMPT] * (END + 1)), prompt_of(*[[*PROMPT, v] for v in range(6)])
    state = begin(first, PARAMS, target, config)
    after, before = advance(jax.random.key(2), first, state, PARAMS, target, config)
    _, found = advance(jax.random.key(2), first, after, PARAMS, target, config)
    state = begin(second, PARAMS, target, config)
    _, expected = advance(jax.random.key(5), second, state, PARAMS, target, config)
    tried = np.asarray(root_visits(before)) > 0
    held = 0
    for place in np.ndindex(END + 1, config.samples):
        token = int(after.generation.tokens[(*place, 0)])
        if token in np.asarray(before.tokens[(*place, 0)])[tried[place]]:
            held += 1
        elif token != END:
            one = jax.tree.map(itemgetter(place), found)
            other = jax.tree.map(itemgetter((token, 0)), expected)
            jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), one, other)
            assert found.visits[(*place, 0)] == 1 + config.search.simulations
    assert 0 < held < 15


@pytest.mark.parametrize("by", [{}, {"value": Value(), "choice": ByValues()}])
def test_a_row_does_not_depend_on_its_neighbours_or_on_padding(by):
    config = replace(SMALL, **by).with_settings(mix_base=0.4, rollout=2)
    key, targets = jax.random.key(3), jnp.asarray([0, 1, 0])
    prompts = [[0, 1], [2], [3, 3, 1]]
    together = decode(key, prompt_of(*prompts), PARAMS, targets, config)
    alone = decode(key, prompt_of([2], length=9, first=1), PARAMS, targets[1:2], config)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[1], b[0]), together, alone)
    mask = jnp.arange(4)[None, None] < together.length[..., None]
    scored = MODEL.score(PARAMS, prompt_of(*prompts), together.tokens, mask).sum(axis=-1)
    np.testing.assert_allclose(together.log_prob, scored, rtol=1e-5, atol=1e-5)
    for row, prompt in enumerate(prompts):
        language = Texts(TABLES, prompt, 0, config)
        said = [language.class_probs(text) for text in texts_of(together, row)]
        np.testing.assert_allclose(np.exp(together.log_class[row]), said, rtol=1e-4)


def test_where_the_search_has_no_candidate_the_language_model_writes():
    config = SMALL.with_settings(new_tokens=1, samples=40, mix_base=0.1, no_repeat_ngram=2)
    every_pair = prompt_of([0, 0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0], length=12)
    got = decode(jax.random.key(4), every_pair, PARAMS, jnp.asarray([TARGET]), config)
    assert len(set(texts_of(got))) > 2 and not np.isnan(got.log_class).any()
    np.testing.assert_allclose(got.log_proposal, got.log_prob, rtol=1e-5)
    assert (np.asarray(got.log_prob) < 0).all()
