"""One round of cooperative training, against what it does worked out one network call at a time."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from coopgen_jax.data.pairs import Pairs, Rounds
from coopgen_jax.decoding.mcts.mcts_config import ByVisits, MCTSConfig
from coopgen_jax.decoding.methods.fudge import FudgeConfig
from coopgen_jax.decoding.methods.sampling import SamplingConfig
from coopgen_jax.decoding.methods.smc import SMCConfig
from coopgen_jax.decoding.rules.shaping import Rules
from coopgen_jax.discriminators.causal import CausalConfig, init_causal, read_tokens
from coopgen_jax.discriminators.head import HeadConfig
from coopgen_jax.errors import UserError
from coopgen_jax.models.decoder import language_model
from coopgen_jax.models.language_model import Prompt
from coopgen_jax.models.transformer import init_decoder
from coopgen_jax.parallel.mesh import make_mesh, place, share
from coopgen_jax.search import SearchConfig
from coopgen_jax.testing import TINY_LLAMA
from coopgen_jax.training.gcn import gcn_networks
from coopgen_jax.training.gcn import round as gcn
from coopgen_jax.training.gcn.gcn_config import GcnConfig
from coopgen_jax.training.gcn.replay import empty
from coopgen_jax.training.step import begin

SHAPE = replace(TINY_LLAMA, end_tokens=(60,))
JUDGE = CausalConfig(SHAPE, HeadConfig(gcn_networks.CLASSES, SHAPE.width, (), 0.0))
NETWORKS = gcn_networks.Networks(SHAPE, JUDGE)
RATE, TEXT = 0.02, 5
rng = np.random.default_rng(0)
SOURCES = tuple(tuple(rng.integers(0, 60, rng.integers(1, 4)).tolist()) for _ in range(12))
TEXTS = tuple((*rng.integers(0, 60, rng.integers(1, 4)).tolist(), 60) for _ in range(12))
PAIRS = Pairs(SOURCES, TEXTS, 4, TEXT, ("",) * 12, True)
PLAIN = SamplingConfig(new_tokens=TEXT, samples=3)
NUCLEUS = PLAIN.with_settings(top_p=0.6, mix_base=0.2)
TREE = MCTSConfig(
    new_tokens=TEXT,
    samples=3,
    search=SearchConfig(simulations=4, wave=2, candidates=4, depth=3, reused_nodes=4),
    rules=Rules(repetition_penalty=1.0),
    choice=ByVisits(visit_temperature=1.0, mix_base=0.3),
)
VALUES = TREE.with_settings(mix_base=0.0, visit_temperature=0.0, value_power=1.0)
PARTICLES = SMCConfig(new_tokens=TEXT, samples=3)


def drawn_of(config: GcnConfig, number: int, pairs=PAIRS, mesh=None):
    rounds = Rounds(pairs, config.sources, config.proposal.samples, config.samplings)
    return share(rounds[number], mesh or make_mesh(1))


def begun(optimisers, config: GcnConfig, sharpness: float):
    generator, judge = init_decoder(jax.random.key(1), SHAPE), init_causal(jax.random.key(2), JUDGE)
    # Logits of a tiny untrained network are all alike, which would hide what weights do.
    generator = jax.tree.map(lambda leaf: 2.5 * leaf, generator)
    generator["head"] *= sharpness
    width = PAIRS.source_width + TEXT
    blank = {name: jnp.zeros((1, width), kind) for name, kind in
             (("tokens", jnp.int32), ("mask", bool), ("written", bool))}  # fmt: skip
    blank["index"] = jnp.zeros(1, jnp.int32)
    return gcn.GcnState(
        begin(generator, optimisers[0]), begin(judge, optimisers[1]),
        empty({"human": blank, "written": blank}, config.replay_rows),
        jnp.float32(0), jnp.int32(0),
    )  # fmt: skip


def rounds_of(
    config: GcnConfig, count: int = 1, *, conditional: bool = True, pairs=PAIRS, sharpness=1.0
):
    """Returns the states in front of and behind rounds, what they told, and what they measured."""
    optimisers, mesh = (optax.sgd(RATE), optax.sgd(0.1)), make_mesh(1)
    told: list = []
    one = gcn.Round(
        NETWORKS, config, optimisers, mesh=mesh, conditional=conditional,
        watch=lambda phase, found: told.append((phase, jax.device_get(found))),
    )  # fmt: skip
    state = place(begun(optimisers, config, sharpness), mesh)
    first = jax.tree.map(np.asarray, state)
    fixed = {"generator": first.generator.trainable, "discriminator": None}
    for number in range(count):
        state, means = one(state, fixed, drawn_of(config, number, pairs), jax.random.key(5))
    return first, jax.device_get(state), told, jax.device_get(means)


@jax.jit
def _scores(params, tokens, mask, texts, there):
    prompt = Prompt(tokens, mask, jnp.arange(len(tokens)))
    score = language_model(SHAPE).score(params, prompt, texts[:, None], there[:, None])
    return score.sum(axis=(1, 2))


def scores_of(params, pairs):
    """Returns log p(text | source) of each pair by the language model's own contract."""
    room = 64
    sources, texts = np.zeros((2, room, 4), np.int32), np.zeros((2, room, TEXT), np.int32)
    sources[1, :, -1] = texts[1, :, 0] = 1
    for row, (source, text) in enumerate(pairs):
        sources[0, row, -len(source) :], sources[1, row, -len(source) :] = source, 1
        texts[0, row, : len(text)], texts[1, row, : len(text)] = text, 1
    masks = sources[1].astype(bool), texts[1].astype(bool)
    return _scores(params, sources[0], masks[0], texts[0], masks[1])[: len(pairs)]


def texts_of(sampled):
    """Returns source and text of every row."""
    found = []
    for tokens, mask, written in zip(
        *(sampled.rows[name] for name in ("tokens", "mask", "written")), strict=True
    ):
        assert not mask[mask.sum() :].any(), "rows are padded on the right"
        found.append((tokens[mask & ~written].tolist(), tokens[written].tolist()))
    return found


@jax.jit
def _judged(judge, row, there):
    return read_tokens(JUDGE, judge, row, there)[0, gcn_networks.HUMAN]


def judged_of(judge, pairs):
    """Returns log p(human | source and text) of each pair, every row read alone."""
    found = []
    for source, text in pairs:
        row = np.zeros((1, 4 + TEXT), np.int32)
        row[0, : len(source) + len(text)] = [*source, *text]
        found.append(_judged(judge, row, np.arange(4 + TEXT)[None] < len(source) + len(text)))
    return np.array(found)


SMALL = GcnConfig(
    proposal=PLAIN,
    sources=4,
    discriminator_steps=2,
    first_discriminator_steps=3,
    discriminator_rows=6,
    replay_rows=8,
)


@pytest.mark.parametrize(
    ("changes", "conditional"),
    [
        ({"proposal": PLAIN}, True),
        ({"proposal": NUCLEUS}, True),
        ({"proposal": NUCLEUS, "clip": 1.05, "generator_steps": 2}, True),
        ({"proposal": TREE}, True),
        ({"proposal": VALUES}, True),
        ({"proposal": PARTICLES}, True),
        ({"proposal": PARTICLES}, False),
    ],
    ids=[
        "plain",
        "nucleus",
        "nucleus, clipped, two steps",
        "tree",
        "tree by values",
        "particles",
        "particles of no source",
    ],
)
def test_a_round_climbs_along_self_normalised_importance_weights(changes, conditional):
    config = replace(SMALL, **changes)
    first, last, told, means = rounds_of(config, conditional=conditional)
    found = dict(told)
    assert [phase for phase, _ in told] == ["sampled", "judged", "weighed", "trained"]
    sampled, weight = found["sampled"], found["weighed"]
    texts = texts_of(sampled)
    before, judge = first.generator.trainable, last.discriminator.trainable
    np.testing.assert_allclose(sampled.log_prob, scores_of(before, texts), atol=2e-4)
    log_d = judged_of(judge, texts)
    log_w = sampled.log_prob + log_d - sampled.log_proposal
    assert means["log_z"] == pytest.approx(np.log(np.mean(np.exp(log_w))), abs=1e-3)
    wanted = np.zeros(len(texts))
    sources, cut = range(4) if conditional else range(1), False
    for source in sources:
        own = sampled.condition == source
        assert own.sum() == len(texts) / len(sources)
        share = np.exp(log_w[own] - log_w[own].max())
        share /= share.sum()
        if config.clip:
            cut |= share.max() > config.clip / len(share)
            share = np.minimum(share, config.clip / len(share))
        wanted[own] = share / share.sum() / len(sources)
    assert cut == bool(config.clip)
    np.testing.assert_allclose(weight / len(texts), wanted, rtol=2e-3, atol=1e-5)
    assert np.std(weight) > 0.02
    if config.proposal is PLAIN:
        np.testing.assert_allclose(sampled.log_proposal, sampled.log_prob, atol=1e-4)

    def climbed(params):
        return jnp.sum(jnp.asarray(wanted) * scores_of(params, texts))

    by_hand = before
    for _ in range(config.generator_steps):
        slope = jax.grad(climbed)(by_hand)
        by_hand = jax.tree.map(lambda leaf, up: leaf + RATE * up, by_hand, slope)
    ours, theirs = (
        jnp.concatenate([(a - b).ravel() for a, b in zip(*map(jax.tree.leaves, pair), strict=True)])
        for pair in ((last.generator.trainable, before), (by_hand, before))
    )
    assert jnp.linalg.norm(theirs) > 0.02
    assert jnp.linalg.norm(ours - theirs) < 5e-3 * jnp.linalg.norm(theirs)


@pytest.mark.slow
def test_the_objectives_differ_in_their_weights_alone():
    found = {}
    for name, changes in {
        "gan": {"objective": "gan"},
        "z": {"objective": "gan", "scheduler": "z"},
        "gcn": {"objective": "gcn"},
        "manual": {"objective": "gan", "scheduler": "manual", "half_life": 1.0},
        "greedy": {"objective": "gan", "baseline": "greedy"},
        "mean": {"objective": "gan", "baseline": "mean"},
        "others": {"objective": "gan", "baseline": "leave-one-out"},
        "selfgan": {"objective": "selfgan", "proposal": TREE},
        "gdc": {"objective": "gdc"},
    }.items():
        config = replace(SMALL, **changes)
        rounds = 2 if name in ("manual", "gdc") else 1
        first, last, told, means = rounds_of(config, rounds, conditional=False)
        found[name] = (first, last, told, means)
    _, last, told, means = found["gan"]
    sampled, weight = dict(told)["sampled"], dict(told)["weighed"]
    reward = np.exp(judged_of(last.discriminator.trainable, texts_of(sampled)))
    np.testing.assert_allclose(weight, reward, rtol=1e-3)
    assert set(sampled.condition) == {0}, "texts without a source are all compared"
    assert means["reward"] == pytest.approx(reward.mean(), rel=1e-3)
    np.testing.assert_allclose(
        dict(found["mean"][2])["weighed"], reward - reward.mean(), rtol=1e-2, atol=1e-5
    )
    others = (reward.sum() - reward) / (len(reward) - 1)
    np.testing.assert_allclose(
        dict(found["others"][2])["weighed"], reward - others, rtol=1e-2, atol=1e-5
    )
    z = dict(found["z"][2])["weighed"]
    np.testing.assert_allclose(z, reward / reward.sum() * len(reward), rtol=1e-3)
    # The generator as its own proposal: the same to the last bits that p / p has.
    np.testing.assert_allclose(dict(found["gcn"][2])["weighed"], z, rtol=1e-3)
    _, last, told, _ = found["manual"]
    texts = texts_of([f for phase, f in told if phase == "sampled"][1])
    halved = [f for phase, f in told if phase == "weighed"][1]
    later = np.exp(judged_of(last.discriminator.trainable, texts))
    np.testing.assert_allclose(halved, later / 2, rtol=1e-3)
    np.testing.assert_array_equal(dict(found["selfgan"][2])["weighed"], np.ones(12))
    first, last, told, _ = found["greedy"]
    against = []
    for source in texts_of(dict(told)["sampled"])[::3]:
        text: list[int] = []
        while len(text) < TEXT and (not text or text[-1] != 60):
            nexts = [(source[0], [*text, token]) for token in range(61)]
            text.append(int(np.argmax(scores_of(first.generator.trainable, nexts))))
        against += [np.exp(judged_of(last.discriminator.trainable, [(source[0], text)])[0])] * 3
    np.testing.assert_allclose(dict(told)["weighed"], reward - np.array(against), atol=1e-3)
    first, last, told, means = found["gdc"]
    base = first.generator.trainable
    sampled = [f for phase, f in told if phase == "sampled"][1]
    texts = texts_of(sampled)
    log_w = (
        scores_of(base, texts)
        + judged_of(last.discriminator.trainable, texts)
        - sampled.log_proposal
    )
    weight = [f for phase, f in told if phase == "weighed"][1]
    np.testing.assert_allclose(weight, np.exp(log_w - means["log_z_first"]), rtol=5e-3)


@pytest.mark.parametrize("negatives", ["proposal", "generator"])
def test_the_discriminator_learns_from_the_texts_that_are_asked_for(negatives):
    # Of so narrow a nucleus only the likeliest token is left.
    narrow = PLAIN.with_settings(top_p=1e-3, mix_base=1e-3)
    config = replace(SMALL, proposal=narrow, negatives=negatives, discriminator_steps=1)
    config = replace(config, first_discriminator_steps=1, replay_rows=12)
    _, last, told, _ = rounds_of(config)
    sampled, kept = dict(told)["sampled"].rows, last.replay.rows["written"]
    assert int(last.replay.count) == 12
    same = all(np.array_equal(kept[name], sampled[name]) for name in ("tokens", "mask", "written"))
    assert same is (negatives == "proposal")
    texts = kept["tokens"].reshape(4, 3, -1)
    assert (texts == texts[:, :1]).all() == (negatives == "proposal")
    people = last.replay.rows["human"]
    for name, beside in drawn_of(config, 0).human.items():
        np.testing.assert_array_equal(people[name], beside)


def test_sources_alone_do_not_tell_who_has_written():
    """People have written what a generator that knows one text per source writes."""
    config = replace(
        SMALL, sources=12, proposal=replace(PLAIN, samples=2), first_discriminator_steps=2
    )
    _, _, told, _ = rounds_of(config, sharpness=1e4)
    texts = {str(source): text for source, text in texts_of(dict(told)["sampled"])}
    people = replace(PAIRS, texts=tuple(tuple(texts[str(list(source))]) for source in SOURCES))
    config = replace(SMALL, first_discriminator_steps=30, replay_rows=24, replay_share=0.5)
    _, last, told, means = rounds_of(config, pairs=people, sharpness=1e4)
    assert set(map(str, texts_of(dict(told)["sampled"]))) <= {
        str((list(source), list(text))) for source, text in zip(SOURCES, people.texts, strict=True)
    }
    assert int(last.discriminator.step) == 30
    assert means["judge_accuracy"] == 0.5
    assert means["judge_loss"] == pytest.approx(np.log(2), abs=0.1)


def test_maximum_likelihood_reads_what_people_wrote_and_asks_no_one():
    config = replace(SMALL, objective="mle")
    first, last, told, means = rounds_of(config)
    assert [phase for phase, _ in told] == ["trained"]
    drawn = jax.device_get(drawn_of(config, 0).truth)
    pairs = [(t[m & ~w].tolist(), t[w].tolist()) for t, m, w in zip(
        drawn["tokens"], drawn["mask"], drawn["written"], strict=True)]  # fmt: skip
    assert set(map(str, pairs)) <= {
        str((list(s), list(t))) for s, t in zip(SOURCES, TEXTS, strict=True)
    }
    logs = scores_of(first.generator.trainable, pairs)
    assert means["loss"] == pytest.approx(-float(np.mean(logs)), rel=1e-4)
    assert np.array_equal(first.discriminator.step, last.discriminator.step)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"proposal": MCTSConfig()}, "train by selfgan"),
        ({"proposal": PLAIN.with_settings(temperature=0.0)}, "train by selfgan"),
        ({"objective": "gan", "proposal": NUCLEUS}, "samples by itself"),
        ({"objective": "gdc", "proposal": PARTICLES}, "train by gcn"),
        ({"baseline": "mean"}, "only to gan"),
        ({"objective": "gan", "scheduler": "z", "baseline": "mean"}, "no sum to divide by"),
        ({"discriminator_rows": 5}, "even"),
        ({"objective": "selfgan"}, "imitates what a decoder writes"),
        ({"objective": "selfgan", "proposal": PARTICLES}, "does not weigh its texts"),
        ({"objective": "gan", "clip": 3.0}, "only to gcn"),
        ({"proposal": FudgeConfig(new_tokens=TEXT, greedy=True)}, "cannot be had"),
        ({"negatives": "people"}, "choose one of proposal, generator"),
        ({"baseline": "median"}, "there is no baseline"),
        ({"sources": 0}, "1 or more"),
        ({"sources": 1, "proposal": replace(NUCLEUS, samples=1)}, "there is one: give sources or"),
        (
            {
                "sources": 1,
                "proposal": replace(PLAIN, samples=1),
                "objective": "gan",
                "scheduler": "z",
            },
            "there is one: give sources or",
        ),
        (
            {
                "sources": 1,
                "proposal": replace(PLAIN, samples=1),
                "objective": "gan",
                "baseline": "mean",
            },
            "there is one: give sources or",
        ),
        ({"objective": "gans"}, "choose one of gcn, selfgan"),
    ],
)
def test_what_does_not_go_together_is_refused(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        replace(SMALL, **changes)


@pytest.mark.parametrize(
    ("proposal", "covers"),
    [(PLAIN, True), (NUCLEUS, True), (PLAIN.with_settings(top_p=0.6), False),
     (PLAIN.with_settings(temperature=1.5), True), (PLAIN.with_settings(no_repeat_ngram=2), False),
     (TREE, True), (TREE.with_settings(mix_base=0.0), False), (PARTICLES, True),
     (VALUES, True)],
)  # fmt: skip
def test_a_proposal_covers_what_it_can_write(proposal, covers):
    assert GcnConfig(proposal=proposal).covers is covers
