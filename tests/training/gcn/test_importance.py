"""Weights of sampled texts, against the enumeration of every string of the toy language."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coopgen_jax.decoding.rules.truncation import mixture
from coopgen_jax.models.language_model import Prompt
from coopgen_jax.testing import ToyLanguage, toy_language_model
from coopgen_jax.training.gcn import importance as weights

TOY, LONGEST = ToyLanguage(vocab_size=4, states=7), 3
END = TOY.vocab_size - 1


def all_strings() -> tuple[np.ndarray, np.ndarray]:
    """Returns tokens `[S, T]` and mask of every string that ends, or is cut at the longest."""
    rows = []
    for length in range(1, LONGEST + 1):
        for words in itertools.product(range(END), repeat=length - 1):
            ends = range(END + 1) if length == LONGEST else (END,)
            rows += [(*words, last) for last in ends]
    mask = [[place < len(row) for place in range(LONGEST)] for row in rows]
    return np.asarray([[*row, *[0] * (LONGEST - len(row))] for row in rows]), np.asarray(mask)


TOKENS, MASK = all_strings()
COUNT = len(TOKENS)
ALONE = jnp.zeros(COUNT, jnp.int32)


def log_probs(logits: jax.Array) -> jax.Array:
    """Returns log p of every string, `[S]`."""
    prompt = Prompt(jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool), jnp.zeros(1, jnp.int32))
    score = toy_language_model(TOY).score
    each = score({"logits": logits}, prompt, jnp.asarray(TOKENS)[None], jnp.asarray(MASK)[None])
    return each[0].sum(axis=-1)


@pytest.fixture(scope="module")
def world() -> dict[str, np.ndarray]:
    logits = jnp.asarray(TOY.tables(3)["logits"]) / 2
    log_p = log_probs(logits)
    rng = np.random.default_rng(0)
    judged = rng.uniform(0.02, 0.98, COUNT).astype(np.float32)
    target = np.exp(log_p) * judged
    return {
        "log_p": np.asarray(log_p),
        "p": np.exp(np.asarray(log_p, np.float64)),
        "gradients": np.asarray(jax.jacobian(log_probs)(logits)).reshape(COUNT, -1),
        "judged": judged,
        "target": target / target.sum(),
    }


def test_the_strings_are_the_whole_language(world):
    np.testing.assert_allclose(world["p"].sum(), 1, rtol=1e-5)


def estimates(world, drawn, proposal=None) -> np.ndarray:
    """Returns the self-normalised weight of every string in every draw `[n, M]`: `[n, S]`."""
    log_q = np.log(world["p"] if proposal is None else proposal)
    log_w = weights.importance(
        jnp.asarray(world["log_p"]), jnp.log(world["judged"]), jnp.asarray(log_q, jnp.float32)
    )
    one = jnp.zeros(drawn.shape[1], jnp.int32)
    each = jax.jit(jax.vmap(lambda row: weights.self_normalised(log_w[row], one)))(drawn)
    np.testing.assert_allclose(each.sum(axis=-1), 1, rtol=1e-5)
    found = np.zeros((len(drawn), COUNT))
    np.add.at(found, (np.arange(len(drawn))[:, None], drawn), np.asarray(each))
    return found


def expected(world, texts: int, proposal=None) -> np.ndarray:
    """Returns the expectation of the weights of draws of so many texts, `[S]`: all, or 30,000."""
    q = world["p"] if proposal is None else proposal
    if COUNT**texts < 100_000:
        drawn = np.asarray(list(itertools.product(range(COUNT), repeat=texts)))
        return q[drawn].prod(axis=-1) @ estimates(world, drawn, proposal)
    drawn = np.random.default_rng(texts).choice(COUNT, (30_000, texts), p=q / q.sum())
    return estimates(world, drawn, proposal).mean(axis=0)


def test_the_estimate_nears_the_exact_gradient_as_fast_as_texts_are_added(world):
    exact = world["target"] @ world["gradients"]
    bias = {
        texts: np.linalg.norm(expected(world, texts) @ world["gradients"] - exact)
        for texts in (1, 2, 3, 12, 48)
    }
    assert bias[1] > bias[2] > bias[3] > bias[12] > bias[48]
    # Of order 1 / M: four times the texts, about a quarter of the bias.
    assert 2.5 < bias[3] / bias[12] < 6
    assert 2.5 < bias[12] / bias[48] < 6
    # One text has all the weight whatever it is: the generator's own distribution.
    np.testing.assert_allclose(expected(world, 1), world["p"] / world["p"].sum(), atol=1e-6)


def test_with_the_generator_as_proposal_gcn_is_a_discrete_gan_over_its_sum_of_rewards(world):
    drawn = np.random.default_rng(1).choice(COUNT, 20, p=world["p"] / world["p"].sum())
    found = estimates(world, drawn[None])[0] @ world["gradients"]
    reward = world["judged"][drawn]
    reinforce = weights.advantage(jnp.asarray(reward), jnp.zeros(20, jnp.int32))
    wanted = np.asarray(reinforce) @ world["gradients"][drawn] / reward.sum()
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


def test_without_the_mixture_a_truncated_proposal_teaches_another_target(world):
    order = np.argsort(-world["p"])
    kept = order[: np.searchsorted(np.cumsum(world["p"][order]), 0.8) + 1]
    nucleus = np.zeros(COUNT)
    nucleus[kept] = world["p"][kept] / world["p"][kept].sum()
    with np.errstate(divide="ignore"):
        mixed = np.exp(mixture(jnp.log(nucleus), jnp.asarray(world["log_p"]), 0.25)).astype(
            np.float64
        )
    np.testing.assert_allclose(mixed, 0.75 * nucleus + 0.25 * world["p"], rtol=1e-5)
    log_w = {
        name: weights.importance(
            jnp.asarray(world["log_p"]), jnp.log(world["judged"]), jnp.log(jnp.asarray(q))
        )
        for name, q in (("nucleus", np.where(nucleus > 0, nucleus, 1)), ("mixed", mixed))
    }
    # What infinitely many texts would be weighted to: every string as often as it is proposed.
    limit = {
        name: np.asarray(weights.self_normalised(log_w[name] + jnp.log(jnp.asarray(q)), ALONE))
        for name, q in (("nucleus", nucleus), ("mixed", mixed))
    }
    np.testing.assert_allclose(limit["mixed"], world["target"], atol=1e-6)
    assert abs(limit["nucleus"] - world["target"]).sum() > 0.1
    # And no weight is larger than the bound that the docstring gives.
    assert np.exp(log_w["mixed"]).max() <= world["judged"].max() / 0.25 * 1.001
    biased, right = (
        np.linalg.norm(expected(world, 48, q / q.sum()) - world["target"])
        for q in (np.where(nucleus > 0, nucleus, 1e-30), mixed)
    )
    assert right < biased / 5


@pytest.mark.parametrize(("share", "wanted"), [(0.0, 0), (1.0, 1)])
def test_a_mixture_of_one_part_is_that_part(share, wanted):
    parts = jnp.log(jnp.asarray([[0.2, 0.0], [0.3, 0.6]]))
    np.testing.assert_allclose(mixture(*parts, share), parts[wanted], rtol=1e-6)


def test_with_an_exact_discriminator_every_round_comes_nearer_to_the_data(world):
    data = np.roll(world["target"], 5)
    log_p = np.log(np.full(COUNT, 1 / COUNT))
    distances = []
    for _ in range(12):
        p = np.exp(log_p)
        distances.append(float(np.sum(data * (np.log(data) - log_p))))
        # All strings once are proposed evenly, so the weights are q itself.
        found = weights.self_normalised(
            weights.importance(jnp.asarray(log_p), jnp.log(data / (data + p)), jnp.zeros(COUNT)),
            ALONE,
        )
        log_p = np.log(np.asarray(found, np.float64))
    assert all(after < before for before, after in itertools.pairwise(distances[:7]))
    assert abs(distances[-1]) < 1e-5 < 0.1 < distances[0]


def test_sources_are_not_compared_with_each_other():
    # The second source's weights are a thousand times the first one's; one row is padding.
    log_weight = jnp.log(jnp.asarray([1.0, 3.0, 5000.0, 1000.0, 1000.0, 1000.0, 77.0]))
    condition = jnp.asarray([0, 0, 4, 4, 4, 4, -1])
    found = weights.self_normalised(log_weight, condition)
    wanted = np.asarray([1 / 4, 3 / 4, 5 / 8, 1 / 8, 1 / 8, 1 / 8, 0]) / 2
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    size = weights.effective_sample_size(log_weight, condition)
    np.testing.assert_allclose(size, [1.6, 1.6, *[64 / 28] * 4, 0], rtol=1e-5)
    spread = weights.entropy(log_weight, condition)
    parts = np.asarray([5, 1, 1, 1]) / 8
    np.testing.assert_allclose(spread[2], -(parts * np.log(parts)).sum(), rtol=1e-5)
    assert spread[-1] == 0


def test_weights_are_the_same_at_any_scale_and_nothing_of_nothing():
    log_weight, condition = jnp.asarray([-3.0, -1.0, -2.0]), jnp.zeros(3, jnp.int32)
    for shift in (-1e4, 1e4):
        np.testing.assert_allclose(
            weights.self_normalised(log_weight + shift, condition),
            jax.nn.softmax(log_weight),
            rtol=2e-3,
        )
    nothing = jnp.full(3, -jnp.inf)
    assert not weights.self_normalised(nothing, condition).any()
    assert not weights.effective_sample_size(nothing, condition).any()
    # A source of which nothing counts leaves its share to the others.
    log_weight = jnp.asarray([-jnp.inf, 0.0, 0.0])
    found = weights.self_normalised(log_weight, jnp.asarray([1, 2, 2]))
    np.testing.assert_allclose(found, [0, 0.5, 0.5])


def test_what_is_no_number_is_seen():
    # The others' conditions are what they were; the one of an argmax choice is lost, and says so.
    condition = jnp.asarray([0, 0, 1, 1])
    for wrong in (jnp.nan, jnp.inf):
        log_weight = jnp.asarray([0.0, wrong, 0.0, 0.0])
        found = np.asarray(weights.self_normalised(log_weight, condition))
        assert np.isnan(found[:2]).any()
        for measure in (weights.effective_sample_size, weights.entropy):
            told = np.asarray(measure(log_weight, condition))
            assert np.isnan(told[:2]).all() and np.isfinite(told[2:]).all()
    assert np.isnan(weights.importance(jnp.zeros(1), jnp.zeros(1), jnp.full(1, jnp.nan))).all()


def test_weights_are_cut_at_so_many_means_and_divided_by_their_sum_again():
    with pytest.raises(ValueError, match="clip is 0"):
        weights.self_normalised(jnp.zeros(2), jnp.zeros(2, jnp.int32), clip=0)
    log_weight, condition = jnp.log(jnp.asarray([97.0, 1.0, 1.0, 1.0])), jnp.zeros(4, jnp.int32)
    found = weights.self_normalised(log_weight, condition, clip=2.0)
    np.testing.assert_allclose(found, np.asarray([0.5, *[0.01] * 3]) / 0.53, rtol=1e-5)


def test_no_gradient_flows_through_a_weight():
    condition = jnp.zeros(3, jnp.int32)

    def total(log_prob: jax.Array) -> jax.Array:
        log_w = weights.importance(log_prob, jnp.zeros(3), jnp.zeros(3))
        w = weights.self_normalised(log_w, condition)
        return jnp.sum(w * jnp.arange(3.0)) + jnp.sum(
            weights.advantage(log_prob, condition, baseline="mean") * jnp.arange(3.0)
        )

    assert not jax.grad(total)(jnp.asarray([-1.0, -2.0, -3.0])).any()


def test_baselines_leave_the_policy_gradient_where_it_is(world):
    exact = (world["p"] * world["judged"]) @ world["gradients"]
    pairs = np.asarray(list(itertools.product(range(COUNT), repeat=2)))
    chance = world["p"][pairs].prod(axis=-1)
    greedy = jnp.full(2, 0.3)
    for baseline, factor in (("none", 1), ("leave-one-out", 1), ("greedy", 1), ("mean", 0.5)):
        found = jax.vmap(
            lambda reward, baseline=baseline: weights.advantage(
                reward, jnp.zeros(2, jnp.int32), baseline=baseline, greedy=greedy
            )
        )(jnp.asarray(world["judged"])[pairs])
        each = np.einsum("ni,nig->ng", np.asarray(found), world["gradients"][pairs]) / 2
        np.testing.assert_allclose(chance @ each, factor * exact, atol=1e-5)
    alone = weights.advantage(jnp.asarray([0.7]), jnp.zeros(1, jnp.int32), baseline="leave-one-out")
    assert alone == pytest.approx(0.7)
    with pytest.raises(ValueError, match="wants the greedy text's reward"):
        weights.advantage(jnp.ones(2), jnp.zeros(2, jnp.int32), baseline="greedy")


def test_distributional_control_estimates_its_constant_over_all_rounds(world):
    rng, target = np.random.default_rng(2), np.exp(world["log_p"]) * world["judged"]
    proposal = np.roll(world["p"], 1) / world["p"].sum()
    log_z, means = jnp.float32(0), []
    for number in range(40):
        drawn = rng.choice(COUNT, 50, p=proposal)
        log_w = jnp.log(target[drawn] / proposal[drawn])
        means.append(float(jnp.exp(log_w).mean()))
        log_z = weights.partition(log_z, jnp.int32(number), log_w)
        np.testing.assert_allclose(jnp.exp(log_z), np.mean(means), rtol=1e-4)
    np.testing.assert_allclose(np.exp(log_z), target.sum(), rtol=0.1)
    found = weights.distributional(
        jnp.asarray(world["log_p"]),
        jnp.log(world["judged"]),
        jnp.log(jnp.asarray(proposal)),
        jnp.log(target.sum()),
    )
    np.testing.assert_allclose(proposal * np.asarray(found), world["target"], rtol=1e-4)
