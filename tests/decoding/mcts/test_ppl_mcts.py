"""Guided search as a decoder, against the slow search writing the same texts."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coopgen_jax.decoding.decode import mcts
from coopgen_jax.decoding.job import Job
from coopgen_jax.decoding.judgement import log_target
from coopgen_jax.decoding.mcts import ppl_mcts as decoder
from coopgen_jax.decoding.mcts.mcts_config import ByVisits, MCTSConfig, Reference, Rollout, Value
from coopgen_jax.decoding.rules.shaping import Rules
from coopgen_jax.errors import UserError
from coopgen_jax.search import SearchConfig
from tests.decoding.mcts.slow_texts import (
    END,
    GUIDE,
    MODEL,
    STATIC,
    TOY,
    Texts,
    advance,
    begin,
    decode,
    parts_of,
    search_config,
    tables_of,
    with_reference,
)
from tests.decoding.toy import prompt_of
from tests.oracle import Search

CONFIGS = {
    "paper": MCTSConfig(
        new_tokens=4,
        search=search_config(reused_nodes=0),
        value=Value(likelihood="product", alpha=0.7),
    ),
    "reuse": MCTSConfig(new_tokens=4, search=search_config(), rules=Rules(repetition_penalty=1.5)),
    "overflow": MCTSConfig(
        new_tokens=4, search=search_config(reused_nodes=3, wave=3), rules=Rules(temperature=1.4)
    ),
    "mean": MCTSConfig(
        new_tokens=4,
        search=search_config(first_play_urgency="parent", reused_nodes=8),
        rules=Rules(penalise_prompt=False),
        value=Value(alpha=0.5),
    ),
    "product": MCTSConfig(
        new_tokens=4,
        search=search_config(reused_nodes=6, depth=3),
        value=Value(alpha=0.5, likelihood="product"),
    ),
    "halved": MCTSConfig(
        new_tokens=4,
        search=search_config(wave=4, reused_nodes=12, first_play_urgency="parent", considered=4),
        rules=Rules(repetition_penalty=1.0),
        value=Value(alpha=0.8),
    ),
    "wide": MCTSConfig(
        new_tokens=4,
        foresight_power=1.5,
        search=search_config(c_puct=0.5, wave=3, reused_nodes=12, candidates=3),
        rules=Rules(repetition_penalty=1.0),
        value=Value(alpha=0.6),
    ),
    "wide and halved": MCTSConfig(
        new_tokens=3,
        foresight_power=0.7,
        search=search_config(wave=4, reused_nodes=0, first_play_urgency="parent", considered=4),
        rules=Rules(temperature=1.5),
    ),
    "charged": MCTSConfig(
        new_tokens=4,
        search=search_config(first_play_urgency="value", c_puct=8.0),
        rules=Rules(repetition_penalty=1.0),
        reference=Reference(kl=0.3),
    ),
    "charged waves": MCTSConfig(
        new_tokens=4,
        search=search_config(wave=4, first_play_urgency="parent", reused_nodes=8),
        rules=Rules(temperature=1.3),
        value=Value(alpha=0.6),
        reference=Reference(kl=0.15),
    ),
    "no bigram twice": MCTSConfig(
        new_tokens=4,
        search=search_config(c_puct=0.5),
        rules=Rules(repetition_penalty=1.0, no_repeat_ngram=2),
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_texts_and_visits_equal_the_slow_search(name):
    config = CONFIGS[name]
    compared = 0
    for seed in range(3):
        tables = tables_of(seed)
        if config.reference:
            tables = with_reference(tables, seed + 50)
        params = jax.tree.map(jnp.asarray, tables)
        rows, targets = [[0, 1, 2], [3]], jnp.asarray([0, 1])
        prompt = prompt_of(*rows)
        state = begin(prompt, params, targets, config)
        slow = [
            Search(Texts(tables, row, target, config), config.search, 0)
            for target, row in enumerate(rows)
        ]
        texts = [[], []]
        for _ in range(config.new_tokens):
            state, tree = advance(jax.random.key(0), prompt, state, params, targets, config)
            for row, search in enumerate(slow):
                if END in texts[row]:
                    assert not tree.visits[row, 0, 1 + config.search.reused_nodes :].any()
                    continue
                search.run(config.search.simulations // config.search.wave)
                np.testing.assert_array_equal(tree.visits[row, 0], search.visits())
                for node in search.root.subtree():
                    found = tree.value_sum[row, 0, node.slot]
                    np.testing.assert_allclose(found, node.total, rtol=1e-4)
                    if node.terminal:
                        continue
                    at = (row, 0, node.slot)
                    there = node.priors > 0
                    np.testing.assert_array_equal(tree.tokens[at][there], node.tokens[there])
                    np.testing.assert_allclose(tree.priors[at], node.priors, rtol=1e-4, atol=1e-7)
                    if config.reference:
                        np.testing.assert_allclose(tree.rewards[at], node.rewards, atol=1e-5)
                rank = search.best()
                texts[row].append(int(search.root.tokens[rank]))
                if config.search.reused_nodes:
                    search.reroot(rank)
                    search.language.root = len(texts[row])
                    search.revalue()
                else:
                    language = search.language
                    language.root = len(texts[row])
                    language.known.append(tuple(texts[row]))
                    slow[row] = Search(language, config.search, len(language.known) - 1)
                    # A root that was a child keeps the value it was given then.
                    slow[row].root.total = np.float32(tree_value(tree, row, rank))
                compared += 1
        for row, text in enumerate(texts):
            assert state.generation.tokens[row, 0, : len(text)].tolist() == text
            assert int(state.generation.length[row, 0]) == len(text)
            judged = slow[row].language.class_probs(text)
            np.testing.assert_allclose(
                np.exp(state.generation.log_class[row, 0]), judged, rtol=1e-4
            )
            mask = jnp.ones((1, 1, len(text)), bool)
            scored = MODEL.score(params, prompt_of(rows[row]), jnp.asarray([[text]]), mask)
            np.testing.assert_allclose(
                state.generation.log_prob[row, 0], scored.sum(), rtol=1e-5, atol=1e-5
            )
    assert compared > 8


def test_a_search_without_width_never_asks_about_children():
    """It compiles to the same program whether the discriminator could be asked or not."""
    config = MCTSConfig(new_tokens=1, search=search_config(simulations=2, reused_nodes=2))
    params = jax.tree.map(jnp.asarray, tables_of(0))
    programs = []
    for children in (None, GUIDE.evaluate_children):
        guide = replace(GUIDE, evaluate_children=children)
        parts = parts_of(params, jnp.asarray([1]), config) | {"discriminator": guide}
        write = jax.jit(mcts, static_argnames=("language_model", "discriminator", "config"))
        programs.append(write.lower(jax.random.key(0), prompt_of([0, 1]), **parts).as_text())
    assert programs[0] == programs[1]


def test_where_every_child_is_impossible_the_likeliest_are_candidates():
    tables = tables_of(1)
    tables["scores"] = np.stack([np.zeros(TOY.states), np.full(TOY.states, -np.inf)], axis=1)
    params = jax.tree.map(jnp.asarray, {**tables, "scores": tables["scores"].astype(np.float32)})
    plain = MCTSConfig(new_tokens=2, search=search_config(reused_nodes=0))
    got, expected = (
        decode(jax.random.key(0), prompt_of([0, 1]), params, jnp.asarray([1]), config)
        for config in (replace(plain, foresight_power=1.0), plain)
    )
    np.testing.assert_array_equal(got.tokens, expected.tokens)
    np.testing.assert_allclose(got.log_prob, expected.log_prob, rtol=1e-5)


def test_foresight_needs_a_discriminator_that_judges_children():
    config = MCTSConfig(
        new_tokens=1, foresight_power=1.0, search=search_config(), value=Value(alpha=0.5)
    )
    params = jax.tree.map(jnp.asarray, tables_of(0))
    parts = parts_of(params, jnp.asarray([1]), config)
    for guide, sentence in (
        (None, "a search with foresight asks a discriminator about tokens: give one"),
        (
            replace(GUIDE, evaluate_children=None),
            "a search with foresight asks what a token would do",
        ),
    ):
        with pytest.raises(UserError, match=sentence):
            mcts(jax.random.key(0), prompt_of([0]), **parts | {"discriminator": guide})


def tree_value(tree, row, rank) -> float:
    return float(tree.value[row, 0, tree.children[row, 0, 0, rank]])


@pytest.mark.slow
def test_a_growing_budget_finds_the_enumerated_argmax():
    """Of all texts of three tokens, the one with the highest value is written in the end."""
    hits = {32: 0, 16384: 0}
    for seed in range(6):
        tables = tables_of(seed)
        tables["logits"][:, END] = -1e4  # no text ends early
        worth = np.random.default_rng(seed).permutation(TOY.states)
        p = ((1 + worth) / (1 + TOY.states)) ** 24  # a few texts are much better than the rest
        tables["scores"] = np.log(np.stack([p, 1 - p], axis=1)).astype(np.float32)
        params = jax.tree.map(jnp.asarray, tables)
        texts = Texts(tables, [1], 0, MCTSConfig())
        inner = [()]
        for _ in range(3):
            inner = [(*text, token) for text in inner for token in range(END)]
        value = {text: texts.class_probs(text)[0] for text in inner}
        for budget in hits:
            config = MCTSConfig(
                new_tokens=3,
                search=SearchConfig(
                    simulations=budget, candidates=6, depth=3, reused_nodes=0, c_puct=8.0
                ),
                rules=Rules(temperature=50.0),
            )
            got = tuple(write_whole_text(params, config).tolist())
            hits[budget] += value[got] == max(value.values())
    assert hits[16384] == 6
    assert hits[16384] >= hits[32]


@functools.partial(jax.jit, static_argnames=STATIC)
def write_whole_text(params, config):
    """Writes three tokens under a guide that says nothing of shorter texts."""

    def evaluate(params, state, nodes):
        log_class, state = GUIDE.evaluate(params, state, nodes)
        whole = nodes.depth + nodes.committed[..., None] == 3
        return jnp.where(whole[..., None], log_class, -20.0), state

    guide = replace(GUIDE, evaluate=evaluate)
    parts = parts_of(params, jnp.asarray([0]), config) | {"discriminator": guide}
    job = Job(prompt=prompt_of([1]), **parts)
    state = decoder.begin(job)
    for left in (3, 2, 1):  # the tree never grows past the end of a text
        job = replace(job, config=replace(config, search=replace(config.search, depth=left)))
        state, _ = decoder.advance(jax.random.key(0), job, state)
    return state.generation.tokens[0, 0]


@pytest.mark.parametrize("rollout", [None, Rollout(rollout=3)])
def test_a_row_does_not_depend_on_its_neighbours_or_on_padding(rollout):
    tables = tables_of(2)
    params = jax.tree.map(jnp.asarray, tables)
    config = MCTSConfig(
        new_tokens=4,
        samples=2,
        search=search_config(simulations=12, wave=3, reused_nodes=6),
        choice=ByVisits(visit_temperature=1.0),
        rollout=rollout,
    )
    key, targets = jax.random.key(3), jnp.asarray([0, 1, 0])
    together = decode(key, prompt_of([0, 1], [2], [3, 3, 1]), params, targets, config)
    alone = decode(key, prompt_of([2], length=9, first=1), params, targets[1:2], config)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[1], b[0]), together, alone)


@pytest.mark.slow
def test_jit_changes_nothing():
    tables = tables_of(4)
    params = jax.tree.map(jnp.asarray, tables)
    config = MCTSConfig(new_tokens=1, search=search_config(simulations=2, reused_nodes=2))
    args = (jax.random.key(0), prompt_of([0, 1]), params, jnp.asarray([1]))
    compiled = decode(*args, config)
    with jax.disable_jit():
        plain = decode(*args, config)
    np.testing.assert_array_equal(compiled.tokens, plain.tokens)
    np.testing.assert_allclose(compiled.log_class, plain.log_class, rtol=1e-5)


def test_confident_roll_outs_stop_and_leave_the_tree_as_it_is():
    tables = tables_of(5)
    params = jax.tree.map(jnp.asarray, tables)
    read = {}
    for name, confidence in (("never", 0.01), ("fixed", None), ("adaptive", 0.9)):
        config = MCTSConfig(
            new_tokens=3,
            search=search_config(reused_nodes=0),
            rollout=Rollout(rollout=4, rollout_confidence=confidence),
        )
        args = (jax.random.key(0), prompt_of([0, 1]), params, jnp.asarray([1]))
        got = decode(*args, config)
        if name == "never":
            none = decode(*args, replace(config, rollout=None))
            np.testing.assert_array_equal(got.tokens, none.tokens)
            assert int(got.model_tokens[0, 0]) == int(none.model_tokens[0, 0])
        read[name] = int(got.model_tokens[0, 0]) / int(got.length[0, 0])
    assert read["never"] < read["adaptive"] < read["fixed"]


def test_roll_outs_read_on_behind_their_leaf():
    """With one likely token everywhere, a roll-out's value is that of the text it must write."""
    tables = tables_of(6)
    tables["logits"][:] = -30.0
    tables["logits"][:, 2] = 30.0
    params = jax.tree.map(jnp.asarray, tables)
    config = MCTSConfig(
        new_tokens=1,
        search=search_config(simulations=4, candidates=1, reused_nodes=0),
        rules=Rules(repetition_penalty=1.0),
        rollout=Rollout(rollout=3),
    )
    prompt, target = prompt_of([0, 1]), jnp.asarray([1])
    state = begin(prompt, params, target, config)
    _, tree = advance(jax.random.key(0), prompt, state, params, target, config)
    texts = Texts(tables, [0, 1], 1, config)
    for depth in range(1, 5):
        expected = texts.class_probs([2] * (depth + 3))[1]
        np.testing.assert_allclose(tree.value[0, 0, depth], expected, rtol=1e-5)
        own = texts.class_probs([2] * depth)
        np.testing.assert_allclose(np.exp(tree.log_class[0, 0, depth]), own, rtol=1e-5)


def test_weighted_targets_and_no_discriminator():
    log_class = jnp.log(jnp.asarray([[[[0.2, 0.8]]]]))
    assert log_target(log_class, jnp.asarray([1]))[0, 0, 0] == pytest.approx(np.log(0.8))
    mixed = log_target(log_class, jnp.asarray([[0.5, 0.5]]))[0, 0, 0]
    assert mixed == pytest.approx(np.log(0.5))
    params = jax.tree.map(jnp.asarray, tables_of(7))
    unguided = {"language_model": MODEL, "params": params}
    config = MCTSConfig(new_tokens=2, search=search_config(simulations=4), value=Value(alpha=0.0))
    got = mcts(jax.random.key(0), prompt_of([0]), **unguided, config=config)
    assert got.log_class.shape == (1, 1, 0)
    with pytest.raises(ValueError, match="without a discriminator"):
        mcts(jax.random.key(0), prompt_of([0]), **unguided, config=config.with_settings(alpha=1.0))
    with pytest.raises(ValueError, match="needs a target"):
        parts = parts_of(params, None, config)
        mcts(jax.random.key(0), prompt_of([0]), **parts)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"new_tokens": 0}, "new_tokens"),
        ({"temperature": 0.0}, "temperature is 0: it must be above 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"visit_temperature": float("nan")}, "visit_temperature is nan"),
        ({"repetition_penalty": float("nan")}, "repetition_penalty is nan"),
        ({"alpha": 1.5}, "alpha is 1.5"),
        ({"likelihood": "sum"}, "likelihood is 'sum'"),
        ({"anneal": True}, "anneal says nothing here: give visit_temperature with it"),
        ({"foresight_power": -1.0}, "foresight_power is -1.0"),
        ({"kl": -0.1}, "kl is -0.1"),
        ({"kl": float("inf")}, "kl is inf"),
        ({"kl": 0.1, "rollout": 2}, "rollout is 2 and kl is 0.1: no reference reads"),
        ({"visit_temperature": -1.0}, "visit_temperature is -1.0"),
        (
            {"visit_temperature": 1.0, "considered": 4},
            "considered is 4",
        ),
        ({"mix_base": -0.1, "visit_temperature": 1.0}, "mix_base is -0.1"),
        ({"mix_base": 0.1}, "mix_base says nothing here: give visit_temperature with it"),
        ({"value_power": -1.0}, "value_power is -1.0"),
        ({"value_power": float("inf")}, "value_power is inf"),
        ({"value_power": 1.0, "visit_temperature": 0.5}, "exclude each other"),
        ({"value_power": 1.0, "alpha": 0.5}, "a root has none to compare"),
        ({"value_power": 1.0, "kl": 0.1}, "which may make values negative"),
        ({"rollout": -1}, "rollout is -1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0"),
    ],
)
def test_wrong_settings_are_named(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        MCTSConfig().with_settings(**wrong)
