"""All rules in their order, against a loop over tokens in NumPy."""

from dataclasses import fields, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coopgen_jax.decoding.rules.keys import token_words
from coopgen_jax.decoding.rules.shaping import (
    REMOVES_SUPPORT,
    SHAPING,
    Rules,
    Seen,
    constrain,
    log_constrained,
    shape,
    unrepeated,
)
from coopgen_jax.decoding.rules.stop import StopStrings
from coopgen_jax.decoding.rules.watermark import Mark, Watermark
from tests.byte_tokenizer import make_tokenizer
from tests.decoding.rules.slow_rules import slow_constraints, slow_shape, softmax

VOCAB, ROOM, ENDS = 12, 9, (10, 11)
TOKENIZER = make_tokenizer()
# The first tokens of the byte tokenizer are "!", '"', "#", "$", ...
STOP = StopStrings.compile(('"#', "#$"), TOKENIZER, VOCAB)


def some_marks(rng, rows) -> Mark:
    seed = tuple(jnp.asarray(rng.integers(0, 2**32, rows, np.uint32)) for _ in range(2))
    message = rng.integers(0, VOCAB, rows).astype(np.uint32)
    return Mark(seed, jnp.asarray(message), jnp.asarray(rng.random(rows) < 0.8), VOCAB)


def green_at(mark, at, gamma) -> np.ndarray:
    """Returns which tokens are green behind one text, none where it is not marked."""
    seed = tuple(np.asarray(word)[at].reshape(1) for word in mark.seed)
    tokens = (np.arange(VOCAB, dtype=np.uint32) + int(mark.message[at])) % np.uint32(VOCAB)
    return (token_words(seed, tokens) / 2**32 < gamma) & bool(mark.there[at])


def some_rules(rng) -> Rules:
    def maybe(value, default):
        return value if rng.random() < 0.6 else default

    return Rules(
        repetition_penalty=maybe(1.7, 1.0),
        no_repeat_ngram=maybe(int(rng.integers(2, 4)), 0),
        token_bias=maybe(((3, 2.5), (7, -1.5), (3, 1.0)), ()),
        bad_words=maybe(((5,), (1, 2), (0, 1, 4)), ()),
        min_tokens=maybe(int(rng.integers(1, 5)), 0),
        forced=maybe((5, 2), ()),
        stop=maybe(STOP, ()),
        temperature=maybe(0.6, maybe(0.0, 1.0)),
        top_k=maybe(6, 0),
        top_p=maybe(0.8, 1.0),
        min_p=maybe(0.1, 0.0),
        typical_p=maybe(0.9, 1.0),
        eta=maybe(0.1, 0.0),
        watermark=maybe(Watermark(gamma=0.4), None),
    )


def some_texts(seed, rows):
    rng = np.random.default_rng(seed)
    logits = (2 * rng.normal(size=(*rows, VOCAB))).astype(np.float32)
    tokens = rng.integers(0, 4, (*rows, ROOM)).astype(np.int32)
    mask = rng.random((*rows, ROOM)) < 0.7
    length = rng.integers(0, 5, rows).astype(np.int32)
    state = rng.integers(0, len(STOP.table), rows).astype(np.int32)
    mark = some_marks(rng, rows)
    return logits, Seen(tokens=tokens, mask=mask, length=length, stop=state, mark=mark)


def each_row(seen, rows):
    for at in np.ndindex(rows):
        text = seen.tokens[at][seen.mask[at]].tolist()
        yield at, (text, int(seen.length[at]), int(seen.stop[at]))


@pytest.mark.parametrize("seed", range(25))
def test_rules_apply_in_the_order_of_the_loop(seed):
    rows = (2, 3)
    rules = some_rules(np.random.default_rng(seed))
    logits, seen = some_texts(100 + seed, rows)
    got = np.asarray(shape(rules, jnp.asarray(logits), jax.tree.map(jnp.asarray, seen), ends=ENDS))
    for at, behind in each_row(seen, rows):
        green = green_at(seen.mark, at, gamma=0.4)
        wanted = slow_shape(rules, logits[at].astype(np.float64), *behind, ENDS, green=green)
        np.testing.assert_array_equal(np.isneginf(got[at]), np.isneginf(wanted), str(rules))
        there = np.isfinite(wanted)
        np.testing.assert_allclose(got[at][there], wanted[there], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(8))
def test_constraints_alone_touch_what_weights_are_of(seed):
    rows = (2, 3)
    rules = some_rules(np.random.default_rng(seed))
    logits, seen = some_texts(200 + seed, rows)
    arrays = jnp.asarray(logits), jax.tree.map(jnp.asarray, seen)
    got = np.asarray(log_constrained(rules, *arrays, ends=ENDS))
    bare = replace(rules, **{field.name: field.default for field in fields(Rules)
                             if field.name in (*SHAPING, "watermark")})  # fmt: skip
    np.testing.assert_array_equal(got, log_constrained(bare, *arrays, ends=ENDS))
    for at, behind in each_row(seen, rows):
        own = logits[at].astype(np.float64)
        wanted = softmax(slow_constraints(rules, own, *behind, own, ENDS))
        np.testing.assert_allclose(np.exp(got[at]), wanted, atol=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_beams_rank_plain_log_p_but_for_what_is_ruled_out(seed):
    rows = (3,)
    rules = replace(some_rules(np.random.default_rng(seed)), no_repeat_ngram=2, min_tokens=3)
    logits, seen = some_texts(300 + seed, rows)
    arrays = jnp.asarray(logits), jax.tree.map(jnp.asarray, seen)
    got = np.asarray(unrepeated(rules, *arrays, ends=ENDS))
    alone = Rules(no_repeat_ngram=2)
    for at, (text, length, state) in each_row(seen, rows):
        left = slow_shape(alone, logits[at], text, length, state, ENDS)
        wanted = slow_constraints(rules, left, text, length, state, logits[at], ENDS)
        np.testing.assert_array_equal(got[at], wanted)


def test_a_forced_token_overrules_every_other_constraint():
    rules = Rules(bad_words=((5,),), min_tokens=4, forced=(5, 10), no_repeat_ngram=2)
    logits = jnp.arange(float(VOCAB))[None]
    tokens, mask = jnp.asarray([[5, 10, 5]]), jnp.ones((1, 3), bool)
    for length, token in ((0, 5), (1, 10)):
        seen = Seen(tokens=tokens, mask=mask, length=jnp.asarray([length]))
        got = np.asarray(shape(rules, logits, seen, ends=ENDS))[0]
        assert np.flatnonzero(np.isfinite(got)).tolist() == [token]
        assert got[token] == token


def test_a_watermark_comes_before_the_temperature_and_behind_what_is_ruled_out():
    rules = Rules(
        token_bias=((0, 3.0),), bad_words=((2,),), temperature=0.5,
        watermark=Watermark(gamma=0.5, delta=1.5),
    )  # fmt: skip
    logits = jnp.arange(float(VOCAB))[None]
    mark = some_marks(np.random.default_rng(4), (1,))
    mark = replace(mark, there=jnp.ones(1, bool))
    seen = Seen(jnp.asarray([[1, 0]]), jnp.asarray([[True, False]]), jnp.asarray([1]), mark=mark)
    green = green_at(mark, (0,), gamma=0.5)
    assert 0 < green.sum() < VOCAB
    wanted = 2.0 * (np.arange(VOCAB) + 3.0 * (np.arange(VOCAB) == 0) + 1.5 * green)
    wanted[2] = -np.inf
    np.testing.assert_allclose(shape(rules, logits, seen, ends=()), wanted[None])
    # What is only tried out, and weights, know of no mark.
    tried = replace(seen, mark=None)
    bare = replace(rules, watermark=None)
    for plain in (constrain, log_constrained, unrepeated):
        np.testing.assert_array_equal(
            plain(rules, logits, seen, ends=()), plain(bare, logits, seen, ends=())
        )
    np.testing.assert_array_equal(
        shape(rules, logits, tried, ends=()), shape(bare, logits, tried, ends=())
    )


def test_every_rule_is_a_constraint_or_shapes():
    constraints = {"bad_words", "min_tokens", "forced", "stop"}
    other = {"penalise_prompt", "watermark"}
    assert {field.name for field in fields(Rules)} == {*SHAPING} | constraints | other
    assert set(REMOVES_SUPPORT) < set(SHAPING)
    rules = Rules(temperature=2.0, bad_words=((1,),), top_k=3)
    assert rules.changed(SHAPING) == ["temperature", "top_k"]
    assert rules.constrains and not Rules(top_k=3, stop=("x",)).constrains
    assert Rules(bad_words=((1, 7),), forced=(9,), token_bias=((4, 1.0),)).largest_token == 9
    assert Rules().largest_token == -1


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0"),
        ({"no_repeat_ngram": 1}, "no_repeat_ngram is 1"),
        ({"token_bias": ((1, float("inf")),)}, "must be finite"),
        ({"token_bias": ((-1, 1.0),)}, "by token ids"),
        ({"bad_words": ((),)}, "has no tokens"),
        ({"bad_words": ((1, -2),)}, "by token ids"),
        ({"min_tokens": -1}, "min_tokens is -1"),
        ({"stop": ("",)}, "a stop string is empty"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"min_p": 1.5}, "min_p is 1.5"),
        ({"typical_p": 0.0}, "typical_p is 0.0"),
        ({"eta": 1.0}, "eta is 1.0"),
    ],
)
def test_values_out_of_range_are_refused(values, told):
    with pytest.raises(ValueError, match=told):
        Rules(**values)
