"""Truncation rules against numbers worked out by hand and the transformers library's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from coopgen_jax.decoding.truncation import eta_cutoff, min_p, mirostat, top_k_and_nucleus, typical

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
