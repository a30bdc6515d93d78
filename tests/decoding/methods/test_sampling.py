"""Plain decoding against the toy language's own tables."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coopgen_jax.decoding.methods.sampling import SamplingConfig
from coopgen_jax.decoding.rules.shaping import Rules
from coopgen_jax.errors import UserError
from tests.decoding.toy import (
    END,
    MODEL,
    PARAMS,
    TABLES,
    decode,
    log_softmax,
    memory_of,
    prompt_of,
)


def test_greedy_takes_the_likeliest_token_and_stops_at_the_end():
    rows = [[0, 1, 2], [3], [2, 2]]
    got = decode(
        jax.random.key(0),
        prompt_of(*rows),
        SamplingConfig(new_tokens=8, rules=Rules(temperature=0)),
    )
    stopped = 0
    for row, text in enumerate(rows):
        expected, log_prob = [], 0.0
        while len(expected) < 8 and END not in expected:
            logits = TABLES["logits"][memory_of([*text, *expected])]
            expected.append(int(logits.argmax()))
            log_prob += log_softmax(logits)[expected[-1]]
        length = int(got.length[row, 0])
        assert got.tokens[row, 0, :length].tolist() == expected
        assert not got.tokens[row, 0, length:].any()
        assert bool(got.finished[row, 0]) == (END in expected)
        np.testing.assert_allclose(got.log_prob[row, 0], log_prob, rtol=1e-5)
        judged = expected[:-1] if END in expected else expected
        scores = TABLES["scores"][memory_of([*text, *judged])]
        np.testing.assert_allclose(got.log_class[row, 0], log_softmax(scores), rtol=1e-5)
        stopped += END in expected
    assert stopped
    assert np.isnan(got.log_proposal).all()


@pytest.mark.parametrize(
    "config",
    [
        SamplingConfig(new_tokens=2, samples=20_000),
        SamplingConfig(new_tokens=2, samples=20_000, rules=Rules(temperature=1.7, top_p=0.8)),
        SamplingConfig(new_tokens=2, samples=20_000, rules=Rules(top_k=3, repetition_penalty=1.5)),
        SamplingConfig(
            new_tokens=2, samples=20_000, rules=Rules(min_p=0.2, bad_words=((1, 2), (3,)))
        ),
        SamplingConfig(new_tokens=2, samples=20_000, rules=Rules(typical_p=0.7, temperature=1.5)),
        SamplingConfig(new_tokens=2, samples=20_000, rules=Rules(eta=0.2, top_p=0.95)),
        SamplingConfig(new_tokens=3, samples=20_000, mirostat=1.2, mirostat_rate=0.9),
        SamplingConfig(new_tokens=3, samples=20_000, rules=Rules(forced=(1, 2), bad_words=((1,),))),
        SamplingConfig(
            new_tokens=2, samples=20_000, mix_base=0.4, rules=Rules(top_p=0.6, temperature=0.7)
        ),
    ],
)
def test_log_proposal_is_the_frequency_of_each_text(config):
    got = jax.device_get(decode(jax.random.key(1), prompt_of([0, 1]), config))
    texts, inverse = np.unique(got.tokens[0], axis=0, return_inverse=True)
    total = 0.0
    for number in range(len(texts)):
        rows = np.flatnonzero(inverse.reshape(-1) == number)
        proposals = np.asarray(got.log_proposal[0, rows])
        np.testing.assert_allclose(proposals, proposals[0], rtol=1e-5)
        p = np.exp(proposals[0])
        assert abs(len(rows) / 20_000 - p) < 5 * np.sqrt(p * (1 - p) / 20_000) + 1e-9
        total += p
    assert total == pytest.approx(1, abs=0.01)


def test_a_share_of_the_whole_distribution_reaches_what_a_rule_cuts_off():
    ruled = SamplingConfig(new_tokens=2, samples=20_000, rules=Rules(top_k=1))
    only = decode(jax.random.key(2), prompt_of([0, 1]), ruled)
    mixed = decode(jax.random.key(2), prompt_of([0, 1]), ruled.with_settings(mix_base=0.3))
    likeliest = np.asarray(only.tokens[0, 0])
    same = (np.asarray(mixed.tokens[0]) == likeliest).all(axis=-1)
    p = np.exp(np.asarray(mixed.log_prob[0], np.float64))
    proposed = np.exp(np.asarray(mixed.log_proposal[0], np.float64))
    np.testing.assert_allclose(proposed, 0.3 * p + 0.7 * same, rtol=1e-4)
    assert 0 < (~same).mean() < 0.3
    # No text weighs more than the bound that the mixture gives.
    assert (p / proposed).max() <= 1 / 0.3 + 1e-4
    all_of_it = decode(jax.random.key(2), prompt_of([0, 1]), ruled.with_settings(mix_base=1.0))
    np.testing.assert_allclose(all_of_it.log_proposal, all_of_it.log_prob, rtol=1e-5)


def test_log_prob_is_what_the_language_model_scores():
    prompt = prompt_of([0, 1], [2])
    got = decode(jax.random.key(2), prompt, SamplingConfig(new_tokens=5, samples=3))
    mask = jnp.arange(5)[None, None] < got.length[..., None]
    scored = MODEL.score(PARAMS, prompt, got.tokens, mask).sum(axis=-1)
    np.testing.assert_allclose(got.log_prob, scored, rtol=1e-5)


def test_a_row_does_not_depend_on_its_neighbours_or_on_padding():
    config = SamplingConfig(new_tokens=6, samples=2, rules=Rules(top_p=0.9))
    together = decode(jax.random.key(3), prompt_of([0, 1], [2], [3, 3, 1]), config)
    alone = decode(jax.random.key(3), prompt_of([2], length=9, first=1), config)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[1], b[0]), together, alone)


def test_samples_differ_and_the_key_decides():
    config = SamplingConfig(new_tokens=6, samples=8)
    first, again, other = (
        decode(jax.random.key(seed), prompt_of([0, 1]), config) for seed in (4, 4, 5)
    )
    np.testing.assert_array_equal(first.tokens, again.tokens)
    assert (np.asarray(first.tokens) != np.asarray(other.tokens)).any()
    assert len(np.unique(np.asarray(first.tokens[0]), axis=0)) > 1


@pytest.mark.parametrize("rule", [{"forced": (END + 1,)}, {"bad_words": ((0, END + 1),)}])
def test_a_rule_on_a_token_that_does_not_exist_is_told(rule):
    with pytest.raises(UserError, match=f"a rule names token {END + 1}, and the"):
        decode(jax.random.key(0), prompt_of([0]), SamplingConfig().with_settings(**rule))


@pytest.mark.parametrize("forced", [(), (1, 2)])
def test_mirostat_is_its_loop_by_hand(forced):
    config = SamplingConfig(
        new_tokens=8, samples=50, mirostat=1.5, rules=Rules(temperature=1.3, forced=forced)
    )
    got = decode(jax.random.key(6), prompt_of([0, 1]), config)
    cut = 0
    for tokens, length, proposal in zip(
        np.asarray(got.tokens[0]), np.asarray(got.length[0]), got.log_proposal[0], strict=True
    ):
        limit, total = 3.0, 0.0
        assert tuple(tokens[: len(forced)]) == forced
        for at in range(len(forced), length):
            log_p = log_softmax(TABLES["logits"][memory_of([0, 1, *tokens[:at]])] / 1.3)
            kept = (-log_p / np.log(2) <= limit) | (log_p == log_p.max())
            assert kept[tokens[at]]
            total += log_p[tokens[at]] - np.log(np.exp(log_p[kept]).sum())
            limit -= 0.1 * (-log_p[tokens[at]] / np.log(2) - 1.5)
            cut += not kept.all()
        assert float(proposal) == pytest.approx(total, rel=1e-4, abs=1e-5)
    assert cut


def test_forced_tokens_begin_every_text_and_their_likelihood_counts():
    config = SamplingConfig(new_tokens=4, samples=5, rules=Rules(forced=(2, 0), temperature=0.0))
    got = decode(jax.random.key(0), prompt_of([0, 1]), config)
    assert (np.asarray(got.tokens[0, :, :2]) == [2, 0]).all()
    log_prob, text = 0.0, [0, 1]
    for token in np.asarray(got.tokens[0, 0, : int(got.length[0, 0])]):
        log_prob += log_softmax(TABLES["logits"][memory_of(text)])[token]
        text.append(int(token))
    assert float(got.log_prob[0, 0]) == pytest.approx(log_prob, rel=1e-5)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"new_tokens": 0}, "new_tokens"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_k": -1}, "top_k is -1"),
        ({"min_p": 1.1}, "min_p is 1.1"),
        ({"typical_p": 0.0}, "typical_p is 0.0"),
        ({"eta": 1.0}, "eta is 1.0"),
        ({"mirostat": -1.0}, "mirostat is -1.0"),
        ({"mirostat_rate": 0.0}, "mirostat_rate is 0.0"),
        ({"bad_words": ((),)}, "a bad word has no tokens"),
        ({"bad_words": ((3, -1),)}, "are given by token ids: 0 or more"),
        ({"new_tokens": 2, "forced": (1, 1, 1)}, "3 tokens are forced and 2 are to be written"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0"),
        ({"mix_base": 1.5}, "mix_base is 1.5"),
        ({"mix_base": 0.5, "temperature": 0.0}, "mix_base mixes two ways to draw a text"),
    ],
)
def test_wrong_settings_are_named(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        SamplingConfig().with_settings(**wrong)
