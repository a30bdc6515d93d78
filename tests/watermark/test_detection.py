"""Detection against a slow reference, on texts with and without a mark."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import binom, binomtest, gamma, kstest

from coopgen_jax.decoding.rules.keys import green_below, shifted, token_words, window_seed
from coopgen_jax.decoding.rules.watermark import Watermark
from coopgen_jax.decoding.rules.watermark_key import WatermarkKey
from coopgen_jax.errors import UserError
from coopgen_jax.watermark.detection import Detection, detect
from coopgen_jax.watermark.mark_scores import (
    block_scores,
    scores_of,
    tokens_to_score,
    tournament_weights,
)
from tests.byte_tokenizer import make_tokenizer

V = 1200
SCHEMES = ("greenlist", "gumbel", "permute-flip", "tournament")


def make_key(
    scheme: str = "greenlist", *, window: int = 2, secret: Sequence[int] = (7, 8, 9, 10), **kwargs
) -> WatermarkKey:
    watermark = Watermark(scheme, window=window, **kwargs)
    return WatermarkKey(watermark, tuple(secret), V, make_tokenizer().identity, "bytes")


def random_ids(seed: int, count: int, vocab_size: int = V) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, vocab_size, count)


# The reference: whole numbers of Python, one token after another.


def threefry_reference(key: tuple[int, int], counter: tuple[int, int]) -> tuple[int, int]:
    mask = 2**32 - 1
    keys = [*key, key[0] ^ key[1] ^ 0x1BD11BDA]
    x, y = (counter[0] + keys[0]) & mask, (counter[1] + keys[1]) & mask
    turns = [13, 15, 26, 6, 17, 29, 16, 24]
    for step in range(20):
        x = (x + y) & mask
        turn = turns[step % 8]
        y = ((y << turn) & mask | y >> (32 - turn)) ^ x
        if step % 4 == 3:
            group = step // 4 + 1
            x = (x + keys[group % 3]) & mask
            y = (y + keys[(group + 1) % 3] + group) & mask
    return x, y


def word_reference(key: WatermarkKey, window: Sequence[int], token: int, message: int) -> int:
    seed = threefry_reference(key.secret[:2], key.secret[2:])
    for before in window:
        seed = threefry_reference(seed, (before, 0))
    return threefry_reference(seed, ((token + message) % key.vocab_size, 1))[0]


def score_reference(key: WatermarkKey, word: int) -> float:
    if key.watermark.scheme == "greenlist":
        return float(word < green_below(key.watermark.gamma))
    if key.watermark.scheme == "tournament":
        layers = key.watermark.layers
        step = 9 / (layers - 1)
        return float(sum(round(10 - step * bit) for bit in range(layers) if word >> bit & 1))
    return -math.log((word + 0.5) / 2**32)


def scores_reference(key: WatermarkKey, ids: Sequence[int], message: int) -> dict[int, float]:
    h, known, scores = key.watermark.window, set(), {}
    for place in range(h, len(ids)):
        pair = tuple(ids[place - h : place + 1])
        # Repeated windows are left unmarked by all schemes but one.
        told = pair[:-1] if h and key.watermark.scheme != "greenlist" else pair
        if told not in known:
            known.add(told)
            word = word_reference(key, pair[:-1], pair[-1], message)
            scores[place] = score_reference(key, word)
    return scores


def test_the_words_are_those_of_threefry():
    # The known answers of Random123 for Threefry-2x32 with 20 rounds.
    assert threefry_reference((0, 0), (0, 0)) == (0x6B200159, 0x99BA4EFE)
    key, counter = (0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3)
    assert threefry_reference(key, counter) == (0xC4923A9C, 0x483DF7A0)


@pytest.mark.parametrize("window", [0, 1, 4])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_detection_is_that_of_the_reference(scheme, window):
    if scheme == "tournament":
        window = max(window, 1)  # A tournament has one.
    key = make_key(scheme, window=window, gamma=0.3)
    # Few different tokens, so that pairs repeat.
    ids = random_ids(window, 90, 4).tolist() + random_ids(1, 30).tolist()
    sums = [sum(scores_reference(key, ids, message).values()) for message in range(20)]
    best = int(np.argmax(sums))
    (one,), (several,) = (detect([ids], key=key, messages=count) for count in (0, 20))
    for found, message in ((one, 0), (several, best)):
        scores = scores_reference(key, ids, message)
        assert found.tokens == 120 and found.scored == len(scores) == 120 - found.skipped
        assert np.flatnonzero(~np.isnan(found.token_scores)).tolist() == list(scores)
        expected = list(scores.values())
        np.testing.assert_allclose(found.token_scores[list(scores)], expected, rtol=1e-13)
        assert found.score == pytest.approx(sums[message], rel=1e-12)
        assert found.token_ids.tolist() == ids
    n = one.scored
    assert one.message is None and one.log10_p_message is None and several.message == best
    if scheme == "greenlist":
        share = green_below(0.3) / 2**32
        p, expected = binom.sf(several.score - 1, n, share), n * share
    elif scheme == "tournament":
        expected = n * tournament_weights(30).sum() / 2
        p = 10**several.log10_p
    else:
        p, expected = gamma.sf(several.score, n), n
    assert several.expected == pytest.approx(expected)
    assert 10**several.log10_p == pytest.approx(p, rel=1e-9)
    assert 10**several.log10_p_message == pytest.approx(1 - (1 - p) ** 20, rel=1e-6)


def test_each_pair_is_scored_at_its_first_place():
    ids = [1, 2, 1, 2, 1, 2, 3, 2, 3]
    assert np.flatnonzero(tokens_to_score(ids, 0)).tolist() == [0, 1, 6]
    assert np.flatnonzero(tokens_to_score(ids, 1)).tolist() == [1, 2, 6, 7]
    assert np.flatnonzero(tokens_to_score(ids, 2)).tolist() == [2, 3, 6, 7, 8]
    assert not tokens_to_score([1, 2], 2).any() and not tokens_to_score([], 0).any()


def test_each_window_is_scored_at_its_first_place_where_repeats_are_unmarked():
    ids = [1, 2, 1, 3, 1, 2, 1, 2]
    assert np.flatnonzero(tokens_to_score(ids, 1, windows_once=True)).tolist() == [1, 2, 4]
    assert np.flatnonzero(tokens_to_score(ids, 2, windows_once=True)).tolist() == [2, 3, 4, 5]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_texts_that_are_too_short_are_not_marked(scheme):
    found = detect(
        ["", "ab", [], [3, 4]],
        key=make_key(scheme),
        tokenizer=make_tokenizer(),
        messages=5,
        by_passage=True,
    )
    for one in found:
        assert (one.scored, one.score, one.expected, one.log10_p) == (0, 0, 0, 0)
        assert not one.marked and one.more_tokens is None and one.passage is None
        assert one.log10_p_message == 0 and one.skipped == one.tokens
    assert [one.tokens for one in found] == [0, 2, 0, 2]


def test_a_string_is_its_tokens():
    text = " the cat sat on the mat and the dog on the log"
    ids = make_tokenizer().encode(text)
    one, other = detect([text, np.asarray(ids)], key=make_key(), tokenizer=make_tokenizer())
    assert one.token_ids.tolist() == other.token_ids.tolist() == ids
    assert one.log10_p == other.log10_p


# Texts without a mark.


def unmarked(scheme: str, count: int, **options: object) -> list[Detection]:
    """Returns what is found, each by a secret of its own, in texts whose tokens repeat."""
    found = []
    rng = np.random.default_rng(5)
    for _ in range(count):
        key = make_key(scheme, window=1, secret=rng.integers(0, 2**32, 4).tolist())
        found += detect([rng.zipf(1.3, 60) % 40], key=key, fpr=0.01, **options)
    return found


@pytest.mark.parametrize(
    ("scheme", "options"),
    [
        ("greenlist", {}),
        ("gumbel", {}),
        ("tournament", {}),
        ("gumbel", {"messages": 16}),
        ("greenlist", {"by_passage": True}),
        ("gumbel", {"by_passage": True, "messages": 4}),
    ],
)
def test_the_false_positive_rate_is_kept(scheme, options):
    found = unmarked(scheme, 200 if scheme == "tournament" else 800, **options)
    marked = sum(one.marked for one in found)
    assert binomtest(marked, len(found), 0.01, alternative="greater").pvalue > 0.025
    if scheme == "gumbel" and not options:
        assert kstest([10**one.log10_p for one in found], "uniform").pvalue > 0.01
        assert binomtest(marked, len(found), 0.01).pvalue > 0.025
    # Without care for repeats it is not kept.
    if scheme == "greenlist" and not options:
        careless = unmarked(scheme, 800, deduplicate=False)
        assert sum(one.marked for one in careless) > 0.015 * len(careless)


def test_a_text_of_one_token_is_not_marked():
    ids = [5] * 300
    secret = next(
        (1, 2, 3, number)
        for number in range(99)
        if scores_of(make_key(secret=(1, 2, 3, number)), np.asarray(ids[:3]), [0])[0, 2]
    )
    (found,) = detect([ids], key=make_key(secret=secret))
    assert not found.marked and found.scored == 1 and found.skipped == 299
    (careless,) = detect([ids], key=make_key(secret=secret), deduplicate=False)
    assert careless.marked and careless.log10_p < -100


# Texts with a mark.


def marked_ids(key: WatermarkKey, count: int, message: int, seed: int) -> np.ndarray:
    """Draws a text from random distributions over the vocabulary, with a key's mark."""
    rng = np.random.default_rng(seed)
    h, secret = key.watermark.window, np.asarray(key.secret, np.uint32)
    ids = rng.integers(0, V, h).tolist()
    index = shifted(np.arange(V, dtype=np.uint32), np.uint32(message), V)
    for _ in range(count - h):
        p = rng.dirichlet(np.full(V, 0.05))
        log_p = np.log(np.maximum(p, 1e-300))
        window = np.asarray(ids[len(ids) - h :], np.uint32)[None]
        one, two = window_seed(secret, window)
        words = token_words((one, two), index)
        u = (words.astype(float) + 0.5) / 2**32
        if key.watermark.scheme == "greenlist":
            green = words < np.uint32(green_below(key.watermark.gamma))
            ids.append(int(np.argmax(log_p + 2.0 * green + rng.gumbel(size=V))))
        elif key.watermark.scheme == "gumbel":
            ids.append(int(np.argmax(log_p - np.log(-np.log1p(-u)))))
        elif key.watermark.scheme == "permute-flip":
            ids.append(int(np.argmax(log_p - np.log(u))))
        else:
            for layer in range(key.watermark.layers):
                g = (words >> np.uint32(layer)) & 1
                p = p * (1 + g - (p * g).sum())
            ids.append(int(rng.choice(V, p=p / p.sum())))
    return np.asarray(ids)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_mark_and_its_message_are_found(scheme):
    key = make_key(scheme, gamma=0.25)
    ids = marked_ids(key, 150, 321, seed=3)
    (found,) = detect([ids], key=key, messages=1000)
    assert found.marked and found.message == 321 and found.more_tokens == 0
    assert found.log10_p < -12 and found.log10_p_message == pytest.approx(found.log10_p + 3)
    # Neither another message nor another secret fits.
    (silent,) = detect([ids], key=key)
    other = dataclasses.replace(key, secret=(1, 1, 1, 1))
    (alien,) = detect([ids], key=other, messages=1000)
    assert not silent.marked and not alien.marked and silent.log10_p > -4
    # Half of the tokens do not suffice for as small a p, and as many again would.
    fpr = 10**found.log10_p_message
    (half,) = detect([ids[:76]], key=key, messages=1000, fpr=fpr)
    assert not half.marked and half.message == 321 and 40 < half.more_tokens < 130


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_marked_passage_is_found(scheme):
    key = make_key(scheme)
    passage = marked_ids(key, 100, 17, seed=4)
    ids = np.concatenate([random_ids(1, 700), passage, random_ids(2, 500)])
    (found,) = detect([ids], key=key, by_passage=True, messages=50)
    start, end = found.passage
    assert found.marked and found.message == 17
    assert min(end, 800) - max(start, 700) > 40 and end - start <= 210
    (alone,) = detect([ids], key=key, by_passage=True)
    assert not alone.marked and alone.message is None
    # Positions are those of tokens, not of scored ones.
    (behind,) = detect([np.concatenate([[3] * 400, ids])], key=key, by_passage=True, messages=50)
    assert behind.marked and abs(behind.passage[0] - start - 400) <= 60


def test_a_passage_is_corrected_for_all_that_were_looked_at():
    key = make_key("gumbel")
    ids = random_ids(9, 110)
    (found,) = detect([ids], key=key, by_passage=True)
    scores = found.token_scores[2:]
    tried = {
        (start, start + length)
        for length in (25, 50, 100, 108)
        for start in range(0, 108 - length + 1, length // 4)
    }
    values = {(a, b): gamma.sf(scores[a:b].sum(), b - a) for a, b in tried}
    start, end = min(values, key=values.get)
    assert found.passage == (start + 2, end + 2)
    expected = 1 - (1 - values[start, end]) ** len(tried)
    assert 10**found.log10_p_passage == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_forecast_is_where_the_average_suffices(scheme):
    key = make_key(scheme)
    for seed in range(30):
        (found,) = detect([random_ids(seed, 60)], key=key, fpr=1e-5)
        if found.score <= found.expected:
            assert found.more_tokens is None
            continue
        assert found.more_tokens > 0
        if found.more_tokens > 5000:
            continue
        mean, n = found.score / found.scored, found.scored + found.more_tokens
        z = (mean - found.expected / found.scored) * math.sqrt(n)
        # The tail is near the normal one at 1e-5, z = 4.26.
        layers = float((tournament_weights(30) ** 2).sum()) / 4
        deviation = {"greenlist": math.sqrt(0.1875), "tournament": math.sqrt(layers)}
        assert 4 < z / deviation.get(scheme, 1.0) < 5.5


def test_long_texts_and_many_messages_are_read_in_blocks(monkeypatch):
    monkeypatch.setattr("coopgen_jax.watermark.mark_scores._BLOCK", 256)
    monkeypatch.setattr("coopgen_jax.watermark.detection._BLOCK", 1 << 16)
    for scheme in ("greenlist", "gumbel"):
        key = make_key(scheme)
        ids = random_ids(0, 300)
        scores = scores_of(key, ids, range(V))[:, 2:]
        (found,) = detect([ids], key=key, messages=V)
        assert found.message == int(scores.sum(axis=1).argmax())
        assert found.score == pytest.approx(scores.sum(axis=1).max(), rel=1e-13)
        (passage,) = detect([ids], key=key, messages=V, by_passage=True)
        start, end = passage.passage
        exact = scores[passage.message, start - 2 : end - 2].sum()
        assert exact == pytest.approx(scores[:, start - 2 : end - 2].sum(axis=1).max())


def test_texts_of_about_one_length_share_a_program():
    key = make_key("gumbel", window=3)
    detect([random_ids(0, 140)], key=key, messages=40)
    before = block_scores._cache_size()
    texts = [random_ids(seed, length) for seed, length in enumerate((160, 200, 256))]
    detect(texts, key=key, messages=40)
    # Neither the secret nor how many messages there are is part of a program.
    detect(texts, key=dataclasses.replace(key, secret=(5, 6, 7, 8)), messages=60)
    assert block_scores._cache_size() == before


@pytest.mark.parametrize(
    ("texts", "options", "why"),
    [
        ("a text", {}, "texts is not a list"),
        (5, {}, "texts is not a list"),
        (["a text"], {"tokenizer": None}, "there is no tokenizer: give the tokenizer of bytes"),
        ([[1, V]], {}, f"text 1 holds the token id {V}, and the key is for ids from 0 to {V - 1}"),
        ([[1], [2, -1]], {}, "text 2 holds the token id -1"),
        ([1, 2], {}, "text 1 is neither a string nor a list of token ids"),
        ([[1.5]], {}, "text 1 is neither"),
        ([[[1]]], {}, "text 1 is neither"),
        ([[[1], [2, 3]]], {}, "text 1 is neither"),
        ([["a"]], {}, "text 1 is neither"),
        ([b"a"], {}, "text 1 is neither"),
        ([None], {}, "text 1 is neither"),
        ([], {"fpr": 0.0}, "fpr is 0.0"),
        ([], {"fpr": 1}, "fpr is 1"),
        ([], {"fpr": math.nan}, "fpr is nan"),
        ([], {"fpr": "low"}, "fpr is 'low'"),
        ([], {"messages": -1}, "messages is -1"),
        ([], {"messages": 1.5}, "messages is 1.5"),
        ([], {"messages": V + 1}, f"give at most {V}"),
        (["a"], {"tokenizer": make_tokenizer(close_tokens=[1])}, None),
    ],
)
def test_mistakes_are_named(texts, options, why):
    options = {"tokenizer": make_tokenizer()} | options
    if why is None:
        assert len(detect(texts, key=make_key(), **options)) == 1
        return
    with pytest.raises(UserError) as told:
        detect(texts, key=make_key(), **options)
    message = str(told.value)
    assert why in message and ". " not in message and "\n" not in message


def test_a_tokenizer_of_another_model_is_refused():
    key = dataclasses.replace(make_key(), tokenizer="0" * 64)
    with pytest.raises(UserError, match="give the tokenizer of bytes"):
        detect(["a"], key=key, tokenizer=make_tokenizer())
