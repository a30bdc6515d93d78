"""Watermarks in the logits and in the draw, over many secrets, against what they claim to be."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from coopgen_jax.decoding.rules.draw import draw
from coopgen_jax.decoding.rules.keys import token_words, window_seed
from coopgen_jax.decoding.rules.shaping import Rules, Seen, marked
from coopgen_jax.decoding.rules.watermark import Watermark, mark_behind, marking_of, tournament

COUNT, VOCAB = 6000, 6
SCORES = np.log(np.asarray([0.4, 0.25, 0.05, 0.0 + 1e-30, 0.2, 0.1], np.float32))
P = np.exp(SCORES.astype(np.float64)) / np.exp(SCORES.astype(np.float64)).sum()


def many_marks(watermark, *, text=(3, 1, 4, 2), count=COUNT, message=0):
    """Returns the mark behind one text under many secrets, one row each."""

    def one(secret):
        tokens, length = jnp.asarray([[text]]), jnp.asarray([[len(text)]])
        marking = marking_of(secret, jnp.asarray([message]))
        return mark_behind(watermark, marking, tokens, length, vocab_size=VOCAB)

    secrets = jax.random.bits(jax.random.key(8), (count, 4), jnp.uint32)
    marks = jax.vmap(one)(secrets)
    return jax.tree.map(lambda array: array[:, 0, 0], marks), np.asarray(secrets)


def seen_of(mark):
    rows = mark.there.shape
    nothing, mask = jnp.zeros((*rows, 1), jnp.int32), jnp.ones((*rows, 1), bool)
    return Seen(nothing, mask, jnp.ones(rows, jnp.int32), mark=mark)


def drawn(watermark, mark, scores=SCORES, tokens=None, key=0, **rules):
    rows = mark.there.shape[0]
    keys = jax.random.split(jax.random.key(key), rows)
    scores = jnp.tile(jnp.asarray(scores), (rows, 1))
    tokens = None if tokens is None else jnp.tile(jnp.asarray(tokens), (rows, 1))
    rule = Rules(watermark=watermark, **rules)
    token, log_p = jax.jit(lambda *a: draw(rule, a[0], a[1], a[2], seen=seen_of(a[3])))(
        keys, scores, tokens, mark
    )
    return np.asarray(token), np.asarray(log_p)


def as_often(token, p):
    seen = np.bincount(token, minlength=len(p))
    kept = p > 1e-12
    assert seen[~kept].sum() == 0
    return stats.chisquare(seen[kept], p[kept] / p[kept].sum() * len(token)).pvalue


@pytest.mark.parametrize("message", [0, 4])
@pytest.mark.parametrize("scheme", ["gumbel", "tournament"])
def test_over_secrets_a_marked_draw_is_a_draw_from_p(scheme, message):
    watermark = Watermark(scheme)
    mark, _ = many_marks(watermark, message=message)
    assert mark.there.all()
    token, log_p = drawn(watermark, mark, top_k=VOCAB)
    assert as_often(token, P) > 1e-3
    np.testing.assert_allclose(np.exp(log_p), P[token], rtol=1e-4)
    # Among candidates too, whatever their order.
    order = np.asarray([4, 0, 5, 1])
    token, log_p = drawn(watermark, mark, SCORES[order], order)
    share = np.where(np.isin(np.arange(VOCAB), order), P, 0.0)
    assert as_often(token, share / share.sum()) > 1e-3


def test_given_the_secret_gumbel_and_permute_flip_leave_nothing_to_chance():
    for scheme in ("gumbel", "permute-flip"):
        watermark = Watermark(scheme)
        mark, secrets = many_marks(watermark, count=200)
        first, other = (drawn(watermark, mark, key=key)[0] for key in (0, 1))
        np.testing.assert_array_equal(first, other)
        # By NumPy: r^(1/p), and log p + E.
        seed = [window_seed(secret, np.asarray([[3, 1, 4, 2]], np.uint32)) for secret in secrets]
        index = np.arange(VOCAB, dtype=np.uint32)
        u = np.stack([(token_words(one, index) + 0.5) / 2**32 for one in seed])
        scores = np.log(P) - (np.log(-np.log1p(-u)) if scheme == "gumbel" else np.log(u))
        np.testing.assert_array_equal(first, scores.argmax(axis=1))


def test_permute_flip_comes_as_often_as_its_integral_says_and_has_no_log_p():
    watermark = Watermark("permute-flip")
    mark, _ = many_marks(watermark)
    token, log_p = drawn(watermark, mark)
    assert np.isnan(log_p).all()
    log_share = np.log(P)

    def wins(token, e):
        others = np.delete(log_share, token)
        return np.exp(-e) * np.prod(np.clip(-np.expm1(-(log_share[token] + e - others)), 0, 1))

    # No token with a smaller score than the best can win by less than what it lacks.
    share = np.asarray([
        integrate.quad(lambda e, v=v: wins(v, e), max(log_share) - log_share[v], 60)[0]
        for v in range(VOCAB)
    ])  # fmt: skip
    assert share.sum() == pytest.approx(1, abs=1e-6)
    assert as_often(token, share) > 1e-3


@pytest.mark.parametrize("delta", [0.7, 3.0, float("inf")])
def test_a_greenlist_draws_from_the_biased_p(delta):
    watermark = Watermark(gamma=0.4, delta=delta)
    mark, secrets = many_marks(watermark, count=400)
    scores = jnp.tile(jnp.asarray(SCORES), (400, 1))
    biased = np.asarray(jax.nn.softmax(marked(Rules(watermark=watermark), scores, seen_of(mark))))
    window = np.asarray([[3, 1, 4, 2]], np.uint32)
    green = np.stack([
        token_words(window_seed(secret, window), np.arange(VOCAB, dtype=np.uint32)) / 2**32 < 0.4
        for secret in secrets
    ])  # fmt: skip
    assert abs(green.mean() - 0.4) < 4 * np.sqrt(0.24 / green.size)
    lifted = np.where(green, 1.0, 0.0) if np.isinf(delta) else np.exp(delta * green)
    lifted[lifted.sum(axis=1) == 0] = 1.0
    wanted = P * lifted / (P * lifted).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(biased, wanted, rtol=1e-4, atol=1e-6)


def test_a_tournament_is_that_of_its_rounds():
    """Against a recursion: of two from the layer below the bit wins, and a coin at a tie."""
    p = P[[0, 1, 4, 5]]
    p = p / p.sum()
    words = np.asarray([0b01101, 0b11010, 0b00111, 0b10001], np.uint32)
    for layers in (1, 2, 5):
        wanted = p
        for layer in range(layers):
            g = words >> layer & 1
            met = wanted[:, None] * wanted[None, :]
            first = np.where(g[:, None] == g[None, :], 0.5, g[:, None] > g[None, :])
            wanted = (met * first).sum(axis=1) + (met * (1 - first)).sum(axis=0)
        found = tournament(jnp.log(jnp.asarray(p, jnp.float32)), jnp.asarray(words), layers=layers)
        np.testing.assert_allclose(np.exp(found), wanted, rtol=1e-5)


def mark_of(watermark, tokens, length):
    marking = marking_of(np.arange(4), np.zeros(len(tokens)))
    tokens, length = jnp.asarray(tokens), jnp.asarray(length)
    return mark_behind(watermark, marking, tokens, length, vocab_size=VOCAB)


TEXT = [1, 2, 3, 1, 2, 3, 4, 0]


@pytest.mark.parametrize("scheme", ["greenlist", "gumbel"])
def test_marks_begin_with_a_whole_window_and_skip_those_that_were_there(scheme):
    watermark = Watermark(scheme, window=2)
    there = [bool(mark_of(watermark, [[TEXT]], [[n]]).there[0, 0]) for n in range(9)]
    # Behind 3 tokens stands [2, 3]; behind 5 [1, 2], which stood there behind 2 already.
    repeats = {5, 6} if scheme == "gumbel" else set()
    assert there == [n >= 2 and n not in repeats for n in range(9)]
    always = replace(watermark, mark_repeats=True)
    assert [bool(mark_of(always, [[TEXT]], [[n]]).there[0, 0]) for n in range(9)] == [
        n >= 2 for n in range(9)
    ]
    whole = Watermark(scheme, window=0)
    assert all(mark_of(whole, [[TEXT]], [[n]]).there[0, 0] for n in range(9))
    longer = Watermark(scheme, window=8)
    assert [bool(mark_of(longer, [[TEXT]], [[n]]).there[0, 0]) for n in (7, 8)] == [False, True]


def test_of_texts_with_one_window_the_first_is_marked():
    rows = [
        [[1, 2, 3], [0, 2, 3], [1, 2, 4], [5, 2, 3]],
        [[1, 2, 3], [4, 4, 4], [1, 4, 4], [4, 4, 4]],
    ]
    length = [[3, 3, 3, 3], [3, 3, 3, 2]]
    there = mark_of(Watermark("gumbel", window=2), rows, length).there
    # In the second row [4, 4] is behind three texts: the second has had it before.
    np.testing.assert_array_equal(there, [[1, 0, 1, 0], [1, 0, 1, 0]])
    green = mark_of(Watermark(window=2), rows, length).there
    np.testing.assert_array_equal(green, np.ones((2, 4)))


def test_what_is_not_marked_is_drawn_by_the_texts_own_noise_from_p():
    for scheme in ("gumbel", "permute-flip", "tournament"):
        watermark = Watermark(scheme)
        mark, _ = many_marks(watermark)
        mark = replace(mark, there=jnp.zeros_like(mark.there))
        token, _ = drawn(watermark, mark, top_k=VOCAB)
        assert as_often(token, P) > 1e-3
        # The same key, and other secrets: nothing of the secret is left.
        same = replace(mark, seed=tuple(word + 1 for word in mark.seed))
        np.testing.assert_array_equal(drawn(watermark, same, top_k=VOCAB)[0], token)
        assert (drawn(watermark, mark, key=1, top_k=VOCAB)[0] != token).mean() > 0.3


def test_a_token_that_alone_is_left_is_drawn_whatever_its_word():
    scores = np.full(VOCAB, -np.inf, np.float32)
    scores[4] = 0.3
    for scheme in ("gumbel", "permute-flip", "tournament"):
        mark, _ = many_marks(Watermark(scheme), count=500)
        token, _ = drawn(Watermark(scheme), mark, scores, top_k=2)
        assert (token == 4).all()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [({"scheme": "kgw"}, "scheme is 'kgw'"), ({"window": 9}, "window is 9"),
     ({"window": -1}, "window is -1"), ({"gamma": 0.0}, "gamma is 0.0"),
     ({"gamma": 1.0}, "gamma is 1.0"), ({"delta": 0.0}, "delta is 0.0"),
     ({"delta": float("nan")}, "delta is nan"), ({"delta": 1e9}, "delta is 1000000000.0"),
     ({"delta": -float("inf")}, "delta is -inf"), ({"layers": 33}, "layers is 33"),
     ({"scheme": "tournament", "window": 0}, "window is 0 and scheme is tournament")],
)  # fmt: skip
def test_settings_out_of_range_are_told(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        Watermark(**settings)
