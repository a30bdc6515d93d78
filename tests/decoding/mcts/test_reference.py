"""What a search is charged for leaving a reference language model."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coopgen_jax.decoding.decode import mcts
from coopgen_jax.decoding.mcts.mcts_config import ByVisits, MCTSConfig, Reference
from coopgen_jax.decoding.presets import PRESETS
from coopgen_jax.decoding.rules.shaping import Rules
from coopgen_jax.errors import UserError
from coopgen_jax.testing import ToyLanguage, toy_language_model
from tests.decoding.mcts.slow_texts import (
    MODEL,
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

KEY = jax.random.key(3)
CHARGED = MCTSConfig(
    new_tokens=4,
    samples=2,
    search=search_config(simulations=12, wave=3, reused_nodes=6, first_play_urgency="value"),
    choice=ByVisits(visit_temperature=1.0),
    reference=Reference(kl=0.3),
)


def arrays(tables: dict) -> dict:
    return jax.tree.map(jnp.asarray, tables)


def assert_equal(one, other) -> None:
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_without_a_price_nothing_is_computed():
    """It compiles to the same program whether there is a reference or not."""
    config = MCTSConfig(new_tokens=2, search=search_config(simulations=2, reused_nodes=2))
    params, programs = arrays(with_reference(tables_of(0), 50)), []
    for other in (MODEL, None):
        parts = parts_of(params, jnp.asarray([1]), config) | {"reference": other}
        static = ("language_model", "discriminator", "reference", "config")
        write = jax.jit(mcts, static_argnames=static)
        programs.append(write.lower(KEY, prompt_of([0, 1]), **parts).as_text())
    assert programs[0] == programs[1]


def test_what_never_leaves_the_reference_is_charged_nothing():
    tables, prompt, targets = tables_of(2), prompt_of([0, 1], [2]), jnp.asarray([0, 1])
    itself = arrays({**tables, "reference": {"logits": tables["logits"]}})
    free = CHARGED.with_settings(kl=0.0)
    got = decode(KEY, prompt, itself, targets, CHARGED)
    assert_equal(got, decode(KEY, prompt, arrays(tables), targets, free))
    left = decode(KEY, prompt, arrays(with_reference(tables, 52)), targets, CHARGED)
    assert (np.asarray(left.tokens) != np.asarray(got.tokens)).any()


def test_a_row_does_not_depend_on_its_neighbours_or_on_padding():
    params = arrays(with_reference(tables_of(2), 52))
    together = decode(
        KEY, prompt_of([0, 1], [2], [3, 3, 1]), params, jnp.asarray([0, 1, 0]), CHARGED
    )
    counted = decode._cache_size()
    other = arrays(with_reference(tables_of(4), 54))
    decode(KEY, prompt_of([1, 1], [3], [2, 0, 1]), other, jnp.asarray([1, 1, 0]), CHARGED)
    assert decode._cache_size() == counted
    alone = decode(KEY, prompt_of([2], length=9, first=1), params, jnp.asarray([1]), CHARGED)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[1], b[0]), together, alone)


@pytest.mark.parametrize("kl", [0.05, 0.4])
def test_a_large_budget_finds_the_token_that_is_worth_its_price(kl):
    """Of all tokens, the end among them, the one whose value less its price is the highest."""
    tables = with_reference(tables_of(1), 51)
    params = arrays(tables)
    config = MCTSConfig(
        new_tokens=1,
        search=search_config(
            simulations=2048,
            candidates=6,
            depth=1,
            reused_nodes=0,
            c_puct=0.3,
            first_play_urgency="value",
        ),
        rules=Rules(repetition_penalty=1.0, temperature=50.0),
        reference=Reference(kl=kl),
    )
    rows = [[first, second] for first in range(4) for second in range(4)]
    prompt, targets = prompt_of(*rows), jnp.zeros(len(rows), jnp.int32)
    state = begin(prompt, params, targets, config)
    state, _ = advance(KEY, prompt, state, params, targets, config)
    written, best, free = [], [], []
    for row, token in zip(rows, np.asarray(state.generation.tokens)[:, 0, 0], strict=True):
        texts = Texts(tables, row, 0, config)
        value = np.asarray([texts.class_probs([token])[0] for token in range(TOY.vocab_size)])
        worth = value + texts.rewards(0, np.arange(TOY.vocab_size))
        first, second = np.sort(worth)[:-3:-1]
        if first - second < 0.03:
            continue  # would need a larger budget
        written.append(int(token))
        best.append(int(worth.argmax()))
        free.append(int(value.argmax()))
    assert written == best
    assert len(best) > 8
    assert best != free
    if kl > 0.1:
        assert TOY.vocab_size - 1 in best, "no text is best ended"


def test_a_token_that_a_model_rules_out_leaves_numbers_that_are_numbers():
    tables = with_reference(tables_of(3), 53)
    tables["reference"]["logits"][:, 2] = -np.inf
    tables["logits"][:, 1] = tables["reference"]["logits"][:, 1] = -np.inf
    params, prompt, target = arrays(tables), prompt_of([0, 3]), jnp.asarray([1])
    config = MCTSConfig(
        new_tokens=3, search=search_config(first_play_urgency="value"), reference=Reference(kl=0.1)
    )
    state = begin(prompt, params, target, config)
    for _ in range(3):
        state, tree = advance(KEY, prompt, state, params, target, config)
        assert np.isfinite(tree.value_sum).all() and np.isfinite(tree.rewards).all()
        # What is known to cost so much is not even tried.
        assert not (np.asarray(tree.token)[np.asarray(tree.visits) > 0] == 2).any()
    assert not set(state.generation.tokens[0, 0].tolist()) & {1, 2}


def test_a_reference_that_does_not_go_with_the_model_is_refused():
    params = arrays(with_reference(tables_of(0), 50))
    parts = parts_of(params, jnp.asarray([1]), PRESETS["ppo"].with_settings(kl=0.1))
    embedded = replace(prompt_of([0]), embeddings=jnp.zeros((1, 4, 1)))
    for prompt, other, sentence in (
        (prompt_of([0]), None, "kl is 0.1, the price of leaving a reference, and there is none"),
        (prompt_of([0]), toy_language_model(ToyLanguage(7)), "the reference has 7 tokens and"),
        (prompt_of([0]), replace(MODEL, vocab_shards=2), "the reference's logits lie on 2 devices"),
        (prompt_of([0]), replace(MODEL, context=9), "exceed the reference's context of 9"),
        (embedded, MODEL, "vectors in place of tokens"),
    ):
        with pytest.raises(UserError, match=sentence):
            mcts(KEY, prompt, **parts | {"reference": other})
