"""A composition against the product worked out by hand."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coopgen_jax.decoding.job import _check_guide
from coopgen_jax.decoding.mcts.mcts_config import MCTSConfig
from coopgen_jax.discriminators.bag_of_words import bag_of_words
from coopgen_jax.discriminators.composition import Term, compose
from coopgen_jax.discriminators.discriminator import Discriminator
from coopgen_jax.discriminators.head import Head, HeadConfig
from coopgen_jax.discriminators.host.function import host_function
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.discriminators.shared_trunk import SharedTrunkConfig, shared_trunk
from coopgen_jax.errors import UserError
from coopgen_jax.models.language_model import Nodes, Prompt
from coopgen_jax.models.prompt import make_prompt
from coopgen_jax.models.slots import Capacity
from coopgen_jax.search import SearchConfig
from coopgen_jax.text_generation import generate
from tests.tiny_model import model

B, R, W, P, E = 2, 2, 3, 4, 6


def head_of(taps, classes, seed, *, reads_prompt=True):
    head = HeadConfig(classes, 2 * len(taps) * E, (5,))
    params = Head(head).init(jax.random.key(seed), jnp.zeros((1, head.inputs)))["params"]
    return LoadedDiscriminator(shared_trunk(SharedTrunkConfig(taps, reads_prompt, head)), params)


MOOD = head_of((1, 4), ("bad", "good"), 0)
TOPIC = head_of((4, 2), ("sport", "world", "other"), 1)
TAPS = (1, 2, 4)
PROMPT = Prompt(jnp.zeros((B, P), jnp.int32), jnp.ones((B, P), bool), jnp.arange(B))
HIDDEN = jax.random.normal(jax.random.key(2), (B, P, len(TAPS), E))
NODES = Nodes(
    start=jnp.int32(1),
    token=jnp.zeros((B, R, W), jnp.int32),
    parent=jnp.zeros((B, R, W), jnp.int32),
    path=jnp.full((B, R, W, 2), -1),
    depth=jnp.ones((B, R, W), jnp.int32),
    committed=jnp.zeros((B, R), jnp.int32),
    terminal=jnp.zeros((B, R, W), bool),
    hidden=jax.random.normal(jax.random.key(3), (B, R, W, len(TAPS), E)),
)


@partial(jax.jit, static_argnums=0)
def both(judge, params, prompt, hidden, nodes):
    bare, state = judge.init(params, prompt, hidden, capacity=Capacity(R, 2, 8))
    return bare, judge.evaluate(params, state, nodes)[0]


def alone(loaded):
    """Returns p of one discriminator, bare and at the nodes, given the states of its own taps."""
    places = jnp.asarray([TAPS.index(tap) for tap in loaded.discriminator.taps], jnp.int32)
    nodes = replace(NODES, hidden=NODES.hidden[..., places, :])
    got = both(loaded.discriminator, loaded.params, PROMPT, HIDDEN[..., places, :], nodes)
    return [np.exp(np.asarray(log_class, np.float64)) for log_class in got]


def of(composed):
    assert composed.discriminator.classes == ("all",)
    return [p[..., 0] for p in alone(composed)]


def test_terms_multiply_with_their_weights_negations_and_thresholds():
    terms = [
        Term(MOOD, "good", weight=2.0),
        Term(TOPIC, "world", negated=True, weight=0.5),
        Term(TOPIC, "sport", threshold=0.4),
    ]
    judge = compose(terms)
    assert judge.discriminator.taps == TAPS and judge.discriminator.classes == ("all",)
    assert len(judge.params["parts"]) == 2
    for got, mood, topic in zip(of(judge), alone(MOOD), alone(TOPIC), strict=True):
        product = (
            mood[..., 1] ** 2 * (1 - topic[..., 1]) ** 0.5 * np.minimum(topic[..., 0] / 0.4, 1)
        )
        np.testing.assert_allclose(got, product, rtol=1e-5)
        assert np.ptp(got) > 0.01
    assert (alone(TOPIC)[1][..., 0] > 0.4).any() and (alone(TOPIC)[1][..., 0] < 0.4).any()


def test_a_composition_can_be_negated_and_composed_again():
    together = compose([Term(MOOD, "good"), Term(TOPIC, "sport")])
    either = compose([Term(together, "all", negated=True), Term(MOOD, "bad")])
    for got, mood, topic in zip(of(either), alone(MOOD), alone(TOPIC), strict=True):
        expected = (1 - mood[..., 1] * topic[..., 0]) * mood[..., 0]
        np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_weights_thresholds_and_targets_change_without_a_compilation():
    judge = compose([Term(MOOD, "good"), Term(TOPIC, "world", negated=True)])
    traces = []

    @partial(jax.jit, static_argnums=0)
    def evaluate(discriminator, params):
        traces.append(discriminator)
        return both(discriminator, params, PROMPT, HIDDEN, NODES)[1]

    first = evaluate(judge.discriminator, judge.params)
    again = compose(
        [Term(MOOD, "bad", weight=3.0), Term(TOPIC, "other", negated=True, threshold=0.5)]
    )
    second = evaluate(again.discriminator, again.params)
    np.testing.assert_allclose(np.exp(second[..., 0]), of(again)[1], rtol=1e-5)
    assert np.abs(np.asarray(first - second)).max() > 0.1
    assert len(traces) == 1


def test_terms_with_names_tell_their_own_probabilities():
    terms = [
        Term(MOOD, "good", weight=2.0),
        Term(TOPIC, "world", negated=True, threshold=0.5),
    ]
    named = compose(terms, names=("mood", "topic"))
    assert named.discriminator.classes == ("all", "mood", "topic")
    together = zip(alone(named), of(compose(terms)), alone(MOOD), alone(TOPIC), strict=True)
    for got, product, mood, topic in together:
        np.testing.assert_allclose(got[..., 0], product, rtol=1e-6)
        np.testing.assert_allclose(got[..., 1], mood[..., 1], rtol=1e-5)
        np.testing.assert_allclose(got[..., 2], 1 - topic[..., 1], rtol=1e-5)
    for names in (("mood",), ("mood", "mood"), ("mood", "all")):
        with pytest.raises(UserError, match="give each of the terms its own"):
            compose(terms, names=names)


def test_a_weight_of_zero_leaves_a_term_out_even_where_it_is_impossible():
    def never(params, state, nodes):
        log_class = jnp.full((*nodes.token.shape, 2), jnp.asarray([0.0, -jnp.inf]))
        return log_class, state

    def init(params, prompt, hidden, *, capacity):
        return jnp.log(jnp.full((len(prompt.tokens), 2), 0.5)), ()

    strict = LoadedDiscriminator(Discriminator(init, never, ("no", "yes")))
    left_out = compose([Term(MOOD, "good"), Term(strict, "yes", weight=0.0)])
    np.testing.assert_allclose(of(left_out)[1], alone(MOOD)[1][..., 1], rtol=1e-5)
    asked = of(compose([Term(MOOD, "good"), Term(strict, "yes")]))[1]
    assert np.isfinite(asked).all() and asked.max() < 1e-25
    # What is certain is as surely not the opposite.
    negated = of(compose([Term(strict, "no", negated=True)]))[1]
    assert np.isfinite(negated).all() and negated.max() < 1e-25


def test_a_composition_tells_what_its_parts_are():
    continuation = head_of((1,), ("a", "b"), 4, reads_prompt=False)
    short = replace(continuation.discriminator, context=9, tokenizer="other", differentiable=False)
    short = LoadedDiscriminator(short, continuation.params)
    judge = compose([Term(MOOD, "good"), Term(short, "a")]).discriminator
    # Each part has a context of its own: that of a continuation holds no prompt.
    assert judge.reads_prompt and judge.context is None
    assert [part.context for part in judge.parts] == [None, 9]
    assert judge.tokenizer == "other" and not judge.differentiable
    plain = compose([Term(MOOD, "good")]).discriminator
    assert plain.tokenizer is None and plain.differentiable


@pytest.mark.parametrize(
    ("terms", "sentence"),
    [
        ([], "there is nothing to compose"),
        ([Term(MOOD, "fine")], "unknown target 'fine': choose one of bad, good"),
        ([Term(MOOD, "good", weight=-1)], "weight of 'good' is -1: it must be 0 or more"),
        ([Term(MOOD, "good", weight=float("nan"))], "weight of 'good' is nan"),
        ([Term(MOOD, "good", threshold=0)], "threshold of 'good' is 0: it must be above 0"),
        ([Term(MOOD, "good", threshold=1.5)], "threshold of 'good' is 1.5"),
    ],
)
def test_mistakes_are_told(terms, sentence):
    with pytest.raises(UserError, match=sentence):
        compose(terms)


def children(params, state, nodes, candidates):
    log_p = jnp.log(jnp.asarray([[0.5, 0.5], [0.2, 0.8], [0.9, 0.1]]))
    return log_p[candidates]


def test_children_are_judged_where_all_parts_judge_them():
    ahead = LoadedDiscriminator(
        replace(MOOD.discriminator, evaluate_children=children), MOOD.params
    )
    candidates = jnp.asarray([[[[0, 1, 2]]]])
    judge = compose([Term(ahead, "good"), Term(ahead, "bad", negated=True, weight=2.0)])
    found = judge.discriminator.evaluate_children(judge.params, ((),), NODES, candidates)
    good = np.asarray([0.5, 0.8, 0.1])
    np.testing.assert_allclose(np.exp(found[0, 0, 0, :, 0]), good**3, rtol=1e-5)
    mixed = compose([Term(ahead, "good"), Term(TOPIC, "sport")])
    assert mixed.discriminator.evaluate_children is None


def test_texts_are_written_under_a_composition_as_its_parts_judge_them():
    """Through roots that move on, samples, and a decoder of strings."""
    config = MCTSConfig(
        new_tokens=4, samples=2, search=SearchConfig(simulations=6, wave=2, depth=4, reused_nodes=6)
    )
    tokenizer = model().tokenizer
    letters = host_function(
        lambda texts: [len(text) / (1 + len(text)) for text in texts],
        classes=("short", "long"), tokenizer=tokenizer,
    )  # fmt: skip
    bag = bag_of_words(["q", "K"], tokenizer=tokenizer, leak=0.2)
    judge = compose(
        [
            Term(letters, "long", weight=0.5),
            Term(compose([Term(bag, "present"), Term(letters, "short")]), "all", negated=True),
        ]
    )
    assert len(judge.calls) == 1
    texts = generate(model(), ["so", "A film"], discriminator=judge, target="all", config=config)
    assert len({text.text for text in texts}) > 1
    for text in texts:
        ids, said = text.tokens, text.text.rstrip("\ufffd")
        long = len(said) / (1 + len(said)) if said else 0.5
        state = bag.discriminator.init(
            bag.params, make_prompt(tokenizer, ["x"]), jnp.zeros((1, 16, 0, 1)),
            capacity=Capacity(1, 1, 8),
        )[1]  # fmt: skip
        for at, token in enumerate(ids):
            one = replace(
                jax.tree.map(lambda leaf: leaf[:1, :1, :1] if leaf.ndim > 2 else leaf, NODES),
                start=jnp.int32(at + 1),
                token=jnp.full((1, 1, 1), token),
                parent=jnp.full((1, 1, 1), at),
            )
            log_class, state = bag.discriminator.evaluate(bag.params, state, one)
        present = float(jnp.exp(log_class[0, 0, 0, 1]))
        expected = long**0.5 * (1 - present * (1 - long))
        assert text.class_probabilities == {"all": pytest.approx(expected, abs=1e-4)}


def test_a_part_that_reads_the_continuation_alone_has_room_for_it():
    short = replace(head_of((1,), ("a", "b"), 4, reads_prompt=False).discriminator, context=9)
    judge = compose([Term(MOOD, "good"), Term(LoadedDiscriminator(short), "a")]).discriminator
    _check_guide(judge, length=60, ahead=8)
    with pytest.raises(UserError, match="discriminator's context of 9"):
        _check_guide(judge, length=60, ahead=9)
