"""What is told of a round's weights, against shares worked out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coopgen_jax.decoding.methods.fudge import FudgeConfig
from coopgen_jax.decoding.methods.sampling import SamplingConfig
from coopgen_jax.training.gcn.examination import LEAST_EFFECTIVE, warnings_of
from coopgen_jax.training.gcn.gcn_config import GcnConfig
from coopgen_jax.training.gcn.weighing import Sampled, weigh

M = 40
CONDITION = np.repeat([0, 20], 20)
rng = np.random.default_rng(0)
LOG_P, LOG_Q, LOG_D = rng.normal(-5, 1.5, (3, M)).astype(np.float32)
PLAIN, GUIDED = SamplingConfig(new_tokens=3, samples=20), FudgeConfig(new_tokens=3, samples=20)


def described(log_proposal=LOG_Q, log_human=LOG_D, condition=CONDITION, **settings):
    """Returns the weights of texts and what is told of them."""
    sampled = Sampled(
        rows={}, condition=jnp.asarray(condition), log_prob=jnp.asarray(LOG_P),
        log_proposal=jnp.asarray(log_proposal), length=jnp.ones(M, jnp.int32),
        finished=jnp.ones(M, bool),
    )  # fmt: skip
    config = GcnConfig(proposal=settings.pop("proposal", PLAIN), sources=2, **settings)
    weight, _, means = weigh(
        config, sampled, jnp.asarray(log_human), round_number=jnp.int32(0),
        log_partition=jnp.float32(0), log_first=jnp.asarray(LOG_P - 1),
    )  # fmt: skip
    return np.asarray(weight), jax.device_get(means)


def shares(weight, condition=CONDITION):
    """Returns the mean effective share and the mean entropy."""
    found = []
    for number in set(condition):
        own = weight[condition == number].astype(np.float64)
        part = own / own.sum()
        found.append((1 / (part**2).sum() / len(own), -(part * np.log(part)).sum()))
    return np.mean(found, axis=0)


@pytest.mark.parametrize(
    ("settings", "condition"),
    [
        ({}, CONDITION),
        ({"clip": 1.5}, CONDITION),
        ({"objective": "gdc"}, np.zeros(M, np.int32)),
        ({"objective": "gan", "scheduler": "z", "log_proposal": LOG_P}, CONDITION),
        ({"objective": "gan", "log_proposal": LOG_P}, CONDITION),
    ],
    ids=["gcn", "clipped", "gdc", "gan by its sum", "gan"],
)
def test_the_effective_share_is_that_of_the_weights_that_count(settings, condition):
    weight, means = described(condition=condition, **settings)
    share, entropy = shares(weight, condition)
    assert 0.05 < share < 0.9
    assert means["effective_share"] == pytest.approx(share, rel=1e-3)
    assert means["weight_entropy"] == pytest.approx(entropy, rel=1e-3)
    raw = LOG_P + LOG_D - settings.get("log_proposal", LOG_Q)
    assert means["log_z"] == pytest.approx(np.log(np.mean(np.exp(raw))), rel=1e-4)
    if not settings:
        assert share == pytest.approx(shares(np.exp(raw))[0], rel=1e-4)


def test_texts_of_a_cooperative_decoder_all_count():
    for proposal in (GUIDED, FudgeConfig(new_tokens=3, samples=20, greedy=True)):
        weight, means = described(proposal=proposal, objective="selfgan")
        np.testing.assert_array_equal(weight, np.ones(M))
        assert means["effective_share"] == pytest.approx(1)
        assert means["weight_entropy"] == pytest.approx(np.log(20), rel=1e-5)
        # A decoder that does not know its probabilities has no importance weights.
        assert ("log_z" in means) is not proposal.greedy


def test_a_baseline_does_not_change_what_is_told_of_rewards():
    plain, less = (
        described(log_proposal=LOG_P, objective="gan", baseline=name)[1]
        for name in ("none", "mean")
    )
    assert less["effective_share"] == plain["effective_share"]


def test_clipping_silences_the_warning_that_advises_it():
    # One text of all is three hundred times as likely as the others.
    far = np.where(np.arange(M) == 3, np.log(300), 0).astype(np.float32)
    alone = np.zeros(M, np.int32)
    first = {"loss": 3.0, "self_bleu": 0.2}
    told = []
    for settings in ({}, {"clip": 1.5}):
        _, means = described(log_proposal=LOG_P, log_human=far - 8, condition=alone, **settings)
        told.append(warnings_of(first, first, means))
    assert "clip" in told[0][0] and told[1] == []
    bad = {"effective_share": LEAST_EFFECTIVE / 2}
    for objective in ("gan", "gdc", "selfgan"):
        (sentence,) = warnings_of(first, first, bad, objective)
        assert "clip" not in sentence and "sample more" in sentence
