"""PyTorch's round of cooperative training is the package's: proposal, steps and weights."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from benchmarks import gcn_round, rounds
from benchmarks.baselines.cooperating import Outcome
from benchmarks.baselines.drawing import Drawing, Texts
from benchmarks.baselines.network import Network, judge_of
from benchmarks.settings import Settings
from coopgen_jax.decoding.decode import mcts
from coopgen_jax.discriminators.causal import CausalConfig, causal, init_causal
from coopgen_jax.discriminators.head import HeadConfig
from coopgen_jax.models.decoder import language_model
from coopgen_jax.models.language_model import Prompt
from coopgen_jax.models.transformer import init_decoder
from coopgen_jax.testing import TINY_GPT2, TINY_LLAMA
from coopgen_jax.training.gcn.gcn_networks import CLASSES

SOURCES, FRONT = np.array([[3, 1, 4], [1, 5, 9], [2, 6, 5]]), 3
AXES = {"batch": 3, "samples": 4, "prompt_length": FRONT, "new_tokens": 3, "simulations": 6,
        "wave": 2, "depth": 3}  # fmt: skip
PROPOSALS = rounds.proposals(AXES, TINY_LLAMA.vocab_size)
TREE = replace(
    PROPOSALS[gcn_round.LIKE],
    search=replace(PROPOSALS[gcn_round.LIKE].search, candidates=8),
)


@pytest.fixture(scope="module")
def networks():
    """A sharp generator, a judge with opinions, and both in PyTorch."""
    params = jax.jit(init_decoder, static_argnums=1)(jax.random.key(0), TINY_LLAMA)
    params["head"] *= 20
    judge = CausalConfig(TINY_GPT2, HeadConfig(CLASSES, TINY_GPT2.width, ()))
    judging = jax.jit(init_causal, static_argnums=1)(jax.random.key(1), judge)
    judging["head"]["output"]["kernel"] *= 8
    return params, judge, judging, Network(TINY_LLAMA, params), judge_of(judge, judging)


def test_texts_are_drawn_from_what_the_packages_search_draws_from(networks):
    """The package's texts, one token after another, have there the probability they had here."""
    params, judge, judging, *theirs = networks

    @jax.jit
    def write(params, judging, tokens):
        prompt = Prompt(tokens, jnp.ones(tokens.shape, bool), jnp.arange(len(tokens)))
        return mcts(
            jax.random.key(3), prompt, language_model=language_model(TINY_LLAMA), params=params,
            discriminator=causal(judge), discriminator_params=judging,
            target=jnp.ones(len(tokens), jnp.int32), config=TREE,
        )  # fmt: skip

    ours = jax.device_get(write(params, judging, jnp.asarray(SOURCES, jnp.int32)))
    tokens, logs = ours.tokens.reshape(-1, 3), np.zeros((2, 12))
    search = Drawing(*theirs, TREE)
    rows = np.repeat(SOURCES, TREE.samples, axis=0)
    search.begin(rows, np.ones(rows.shape, bool), np.ones(len(rows), int))
    for step in range(3):
        for row, drawn_from in enumerate(search.distributions()):
            token = tokens[row, step]
            logs[:, row] += np.log([search.own[row][token], drawn_from[token]])
            search._texts[row].append(int(token))
    np.testing.assert_allclose(logs[0], ours.log_prob.ravel(), atol=1e-3)
    np.testing.assert_allclose(logs[1], ours.log_proposal.ravel(), atol=1e-3)
    assert np.abs(logs[0] - logs[1]).max() > 0.5, "the search must have said something"


def test_tokens_come_as_often_as_their_probability_says(networks):
    flatter = {**networks[0], "head": networks[0]["head"] / 4}
    config = TREE.with_settings(new_tokens=1, samples=400, mix_base=0.3)
    search = Drawing(Network(TINY_LLAMA, flatter), networks[4], config)
    texts = search.sample(SOURCES[:1])
    drawn_from = search.distributions()
    search.begin(SOURCES[:1], np.ones((1, FRONT), bool), np.ones(1, int))
    (first,) = search.distributions()
    assert len(drawn_from) == 400 and first.sum() == pytest.approx(1)
    np.testing.assert_allclose(texts.log_proposal, np.log(first[texts.tokens[:, 0]]), rtol=1e-5)
    expected, counts = 400 * first, np.bincount(texts.tokens[:, 0], minlength=len(first))
    rare = expected < 5
    counts = np.append(counts[~rare], counts[rare].sum())
    assert counts[-1] and len(counts) > 3
    expected = np.append(expected[~rare], expected[rare].sum())
    assert chisquare(counts, expected * 400 / expected.sum()).pvalue > 1e-3


@pytest.mark.slow
def test_a_round_of_the_same_texts_is_the_same_round(monkeypatch):
    """Nucleus samples stand in for PyTorch's own: losses, weights and trained parameters agree."""
    half = rounds.round_config
    for module in (rounds, gcn_round):
        monkeypatch.setattr(module, "RATES", (0.005, 0.01))
        # Which texts the discriminator is shown would be chance, were it not all of them.
        monkeypatch.setattr(
            module, "round_config", lambda *given: replace(half(*given), discriminator_rows=24)
        )
    made = rounds.make(Settings(model="tiny"), source=FRONT, text=3)
    # Random texts of a network without opinions would weigh alike.
    made.params["head"] *= 20
    made.frozen["generator"]["head"] *= 20
    seen = []
    nucleus = PROPOSALS["nucleus"]
    ours = rounds.OurRound(made, nucleus, 3, lambda *told: seen.append(told))
    theirs = gcn_round.TheirRound(made, TREE, 3)
    own, found = theirs.torch.sample, []

    def sample(sources):
        sampled = ours.seen["sampled"]
        tokens = np.asarray(sampled.rows["tokens"])[:, FRONT:].astype(np.int64)
        return Texts(tokens, np.asarray(sampled.log_prob), np.asarray(sampled.log_proposal))

    theirs.torch.sample, theirs.shares = sample, found
    for number in range(3):
        ours()
        drawn = theirs.rounds[number]
        theirs.phases.begin()
        outcome = theirs.torch(drawn.prompt.tokens, drawn.human["tokens"])
        means, slack = jax.device_get(ours.means[number]), 1e-4 if number == 0 else 1e-2
        assert outcome.judge_loss == pytest.approx(means["judge_loss"], rel=slack)
        assert outcome.loss == pytest.approx(means["loss"], rel=slack)
        assert outcome.effective_share == pytest.approx(means["effective_share"], rel=slack)
        np.testing.assert_allclose(
            outcome.weight, np.asarray(ours.seen["weighed"]) / 12, rtol=3 * slack, atol=slack / 10
        )
        assert set(theirs.phases.rounds[-1]) == set(gcn_round.PHASES)
    assert len(seen) == 1 and set(ours.phases.rounds[-1]) == set(gcn_round.PHASES)
    assert np.ptp(outcome.weight) > 0.01

    # What searches is what was trained: both networks, kernels and head.
    texts, torch_round = own(drawn.prompt.tokens), theirs.torch
    rows = np.concatenate([np.repeat(drawn.prompt.tokens, 4, axis=0), texts.tokens], axis=1)
    with torch.no_grad():
        rows = torch.tensor(rows)
        read = torch_round.generator.log_likelihood(rows, FRONT)
        np.testing.assert_allclose(texts.log_prob, read, atol=1e-3)
        states, _, _ = torch_round.critic.network.read(rows, torch.ones_like(rows, dtype=bool))
        judged = torch_round.judge.log_classes(rows, FRONT)
        np.testing.assert_allclose(torch_round.critic.head(states[:, FRONT:]), judged, atol=1e-4)


def outcome(**changes):
    texts = Texts(np.array([[1, 2], [3, 4]]), np.full(2, -4.0), np.full(2, -5.0))
    given = {"texts": texts, "sources": SOURCES[:1], "weight": np.array([0.25, 0.75]),
             "log_human": np.zeros(2), "log_prob": np.full(2, -4.0), "judge_loss": 0.5,
             "loss": 1.0, "effective_share": 0.8}  # fmt: skip
    return Outcome(**(given | changes))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"weight": np.array([0.25, np.nan])}, "is no number"),
        ({"weight": np.array([0.25, 0.7])}, "must be 1 each"),
        ({"texts": replace(outcome().texts, tokens=np.array([[1, 61], [3, 4]]))}, "not one of"),
        ({"texts": replace(outcome().texts, log_proposal=np.full(2, -9.0))}, "own share"),
        ({"log_prob": np.array([-4.0, -4.1])}, "must be the same"),
    ],
)
def test_texts_and_weights_that_are_wrong_stop_the_benchmark(changes, sentence):
    gcn_round.check_outcome(outcome(), 2, 61, "float32")
    with pytest.raises(ValueError, match=sentence):
        gcn_round.check_outcome(outcome(**changes), 2, 61, "float32")


def test_every_source_weighs_alike():
    tokens, condition = np.zeros((4, 2)), np.array([0, 0, 1, 1])
    gcn_round.check_weights(tokens, np.array([0.1, 0.4, 0.25, 0.25]), condition, 61)
    with pytest.raises(ValueError, match="must be 1 each"):
        gcn_round.check_weights(tokens, np.array([0.1, 0.2, 0.4, 0.3]), condition, 61)


def test_what_is_worth_more_costs_less():
    """Two timed rounds of 3 and 5 s and 8 texts, of which a half and a quarter are effective."""
    phases = rounds.Phases()
    phases.rounds = [dict.fromkeys(gcn_round.PHASES, seconds) for seconds in (9.0, 1.0, 2.0)]
    found = gcn_round.figures(phases, [0.1, 0.5, 0.25], [3.0, 5.0], 8)
    assert found["round_seconds"] == 4 and found["sampled"] == 1.5
    assert found["effective_share"] == 0.375 and found["seconds_per_effective"] == 8 / 6


def test_endings_and_penalties_are_not_drawn_with(networks):
    for network, config in (
        (Network(replace(TINY_LLAMA, end_tokens=(1,)), networks[0]), TREE),
        (networks[3], TREE.with_settings(repetition_penalty=1.2)),
    ):
        with pytest.raises(ValueError, match="texts never end"):
            Drawing(network, networks[4], config)
