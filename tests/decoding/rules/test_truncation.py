"""Truncation rules against numbers worked out by hand and the transformers library's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from coopgen_jax.decoding.methods.gedi import by_class
from coopgen_jax.decoding.rules.truncation import (
    eta_cutoff,
    leading,
    min_p,
    mirostat,
    top_k_and_nucleus,
    typical,
)

P = np.asarray([0.2, 0.4, 0.1, 0.3])


def left(logits) -> list[int]:
    return np.flatnonzero(np.isfinite(logits)).tolist()


@pytest.mark.parametrize(
    ("top_k", "top_p", "kept"),
    [
        (0, 1.0, [0, 1, 2, 3]),
        (2, 1.0, [1, 3]),
        (0, 0.4, [1]),
        (0, 0.41, [1, 3]),
        (0, 0.75, [0, 1, 3]),
        (0, 1e-9, [1]),
        (9, 0.95, [0, 1, 2, 3]),
        (2, 0.58, [1, 3]),  # of the two kept, the first has 0.4 / 0.7 = 0.571
        (2, 0.57, [1]),
    ],
)
def test_top_k_and_nucleus_by_hand(top_k, top_p, kept):
    logits = jnp.log(jnp.asarray(P))
    got = top_k_and_nucleus(logits, top_k=top_k, top_p=top_p)
    assert left(got) == kept
    np.testing.assert_array_equal(got[jnp.asarray(kept)], logits[jnp.asarray(kept)])


def before(order, p) -> np.ndarray:
    """What stands in front of every token in a stable sort by descending `order`, added up."""
    ranked = np.argsort(-order, axis=-1, kind="stable")
    sums = np.cumsum(np.take_along_axis(p.astype(np.float64), ranked, axis=-1), axis=-1)
    sums = np.concatenate([np.zeros_like(sums[..., :1]), sums[..., :-1]], axis=-1)
    found = np.empty_like(sums)
    np.put_along_axis(found, ranked, sums, axis=-1)
    return found


def test_what_leads_is_that_of_a_sort_to_the_token():
    """Probabilities are multiples of 1/4096, which float32 adds up exactly in any order."""
    rng = np.random.default_rng(0)
    vocab = 300
    orders = [
        rng.normal(size=vocab),
        rng.normal(size=vocab) * 1e30,
        -rng.exponential(size=vocab) * 1e-30,
        rng.integers(-2, 3, vocab),  # ties, of both signs
        rng.choice([-np.inf, -1.5, -0.0, 0.0, 2.0], vocab),
        np.where(rng.random(vocab) < 0.9, -np.inf, rng.normal(size=vocab)),
        np.zeros(vocab),
        np.full(vocab, -np.inf),
        np.arange(vocab),
        -np.arange(vocab),
    ]
    spread = rng.multinomial(4096, np.full(vocab, 1 / vocab), size=len(orders))
    steep = rng.multinomial(4096, 0.5 ** np.arange(1, vocab + 1), size=len(orders))
    order = np.stack([orders, orders]).astype(np.float32)
    p = (np.stack([spread, steep]) / 4096).astype(np.float32)
    find = jax.jit(leading)
    sizes = set()
    for mass in (0.0, 1e-9, 0.25, 0.5, 0.75, 0.9, 4095 / 4096, 1.0, 2.0):
        expected = before(order, p) < mass
        np.put_along_axis(expected, np.argmax(order, axis=-1)[..., None], True, axis=-1)
        np.testing.assert_array_equal(find(order, p, mass), expected)
        sizes |= set(expected.sum(axis=-1).reshape(-1).tolist())
    assert {1, vocab} < sizes and len(sizes) > 30
    assert find._cache_size() == 1


def test_rules_of_mass_keep_what_a_sort_keeps():
    """Random, flat, peaked and partly impossible distributions; sums differ by their rounding."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6, 4, 2000)).astype(np.float32)
    logits *= np.asarray([0.01, 0.3, 1, 3, 10, 1], np.float32)[:, None, None]
    logits[4, :, 7] = 60.0
    logits[5][rng.random(logits[5].shape) < 0.5] = -np.inf
    exact = logits.astype(np.float64)
    log_p = exact - np.logaddexp.reduce(exact, axis=-1, keepdims=True)
    p = np.exp(log_p)
    entropy = -np.sum(np.where(p > 0, p * np.maximum(log_p, -1e9), 0), axis=-1, keepdims=True)
    said = -rng.exponential(size=logits.shape).astype(np.float32)
    for mass in (0.4, 0.95):
        for rule, order, slack in (
            (lambda x, mass=mass: top_k_and_nucleus(x, top_p=mass), exact, 0),
            (lambda x, mass=mass: typical(x, mass), -np.abs(log_p + entropy), 3e-6),
            (lambda x, mass=mass: by_class(x, said, mass=mass, certain=1.0), said, 0),
        ):
            found = np.asarray(jax.jit(rule)(logits))
            kept, sums = np.isfinite(found), before(order, p)
            sums[~np.isfinite(logits)] = np.inf
            np.testing.assert_array_equal(found[kept], logits[kept])
            expected = sums < mass
            cut = np.min(np.where(expected, order, np.inf), axis=-1, keepdims=True)
            rounding = (np.abs(sums - mass) < 3e-6) | (np.abs(order - cut) < slack)
            assert rounding.sum() < 50
            np.testing.assert_array_equal(kept[~rounding], expected[~rounding])
    assert top_k_and_nucleus(logits, top_p=1.0) is logits
    only = np.isfinite(top_k_and_nucleus(logits, top_p=0.0))
    np.testing.assert_array_equal(np.argmax(only, axis=-1), np.argmax(logits, axis=-1))
    assert np.all(only.sum(axis=-1) == 1)


@pytest.mark.parametrize(
    "rule",
    [
        lambda x: top_k_and_nucleus(x, top_p=0.9),
        lambda x: typical(x, 0.9),
        lambda x: by_class(x, x, mass=0.2, certain=0.8),
        lambda x: top_k_and_nucleus(x, top_k=50, top_p=0.9),
    ],
)
def test_no_vocabulary_is_sorted(rule):
    """XLA makes a sort of a top-k, too, where a slice of its result is asked for."""
    program = jax.jit(rule).lower(jnp.zeros((2, 5000))).compile().as_text()
    assert " while(" in program and " sort(" not in program


def test_equal_logits_keep_the_lower_id():
    got = top_k_and_nucleus(jnp.zeros((2, 4)), top_k=2)
    assert np.isfinite(got).tolist() == [[True, True, False, False]] * 2
    assert left(typical(jnp.zeros(4), 0.5)) == [0, 1]


@pytest.mark.parametrize(
    ("share", "kept"), [(0, [0, 1, 2, 3]), (0.26, [0, 1, 3]), (0.51, [1, 3]), (1, [1])]
)
def test_min_p_by_hand(share, kept):
    assert left(min_p(jnp.log(jnp.asarray(P)), share)) == kept


@pytest.mark.parametrize(
    # The entropy is 1.280 nats; the surprises 1.609, .916, 2.303 and 1.204.
    ("mass", "kept"),
    [(1, [0, 1, 2, 3]), (1e-9, [3]), (0.31, [0, 3]), (0.51, [0, 1, 3]), (0.91, [0, 1, 2, 3])],
)
def test_typical_by_hand(mass, kept):
    assert left(typical(jnp.log(jnp.asarray(P)), mass)) == kept


@pytest.mark.parametrize(
    # exp(-entropy) is .278: eta is epsilon where that is above .077, sqrt(epsilon) * .278 beyond.
    ("epsilon", "kept"),
    [(0, [0, 1, 2, 3]), (0.07, [0, 1, 2, 3]), (0.2, [0, 1, 3]), (0.6, [1, 3]), (0.99, [1, 3])],
)
def test_eta_by_hand(epsilon, kept):
    assert left(eta_cutoff(jnp.log(jnp.asarray(P)), epsilon)) == kept


@pytest.mark.parametrize(("limit", "kept"), [(9.0, [0, 1, 2, 3]), (1.75, [1, 3]), (0.1, [1])])
def test_mirostat_by_hand(limit, kept):
    assert left(mirostat(jnp.log(jnp.asarray(P)), jnp.asarray(limit))) == kept


@pytest.mark.parametrize("flatness", [0.3, 1.0, 4.0])
def test_rules_in_a_row_are_those_of_transformers(flatness):
    logits = np.random.default_rng(1).normal(size=(50, 30)).astype(np.float32) / flatness
    ours, theirs = jnp.asarray(logits), torch.tensor(logits)
    steps = [
        (lambda x: top_k_and_nucleus(x, top_k=25), transformers.TopKLogitsWarper(25)),
        (lambda x: top_k_and_nucleus(x, top_p=0.95), transformers.TopPLogitsWarper(0.95)),
        (lambda x: min_p(x, 0.05), transformers.MinPLogitsWarper(0.05)),
        (lambda x: typical(x, 0.9), transformers.TypicalLogitsWarper(0.9)),
        (lambda x: eta_cutoff(x, 0.05), transformers.EtaLogitsWarper(0.05)),
    ]
    for rule, other in steps:
        ours, theirs = jax.jit(rule)(ours), other(None, theirs)
        np.testing.assert_array_equal(np.isfinite(ours), np.isfinite(theirs.numpy()))
    assert 1 < np.isfinite(ours).sum(axis=-1).mean() < 25
    np.testing.assert_array_equal(ours, theirs.numpy())
