"""Effects of considered tokens, added up, kept and put together by words."""

import numpy as np
import pytest
import tokenizers

from coopgen_jax.errors import UserError
from coopgen_jax.explanation.token_effects import (
    TokenEffects,
    effects_of_words,
    keep_effects,
    kept_effects,
    words_in,
)
from coopgen_jax.tokenizer import Tokenizer

# As byte-level tokenizers spell: a space in front of a word is part of it.
TOKENS = ("house", " sun", " Sun", " rain", "set", " x9", " the", ".", "\n", " rain.")


@pytest.fixture
def tokenizer():
    marked = {token.replace(" ", "\u0120").replace("\n", "\u010a"): number
              for number, token in enumerate(TOKENS)}  # fmt: skip
    core = tokenizers.Tokenizer(tokenizers.models.BPE(marked, []))
    core.decoder = tokenizers.decoders.ByteLevel()
    return Tokenizer(core, end_tokens=[8])


def test_counts_and_sums_are_added_up_and_begin_anew():
    effects = TokenEffects(vocab_size=5, classes=2)
    effects(np.array([3, 1, 3]), np.array([[1, -1], [2, -2], [0.5, -0.5]], np.float32))
    effects(np.array([1]), np.array([[4, -4]], np.float32))
    tokens, counts, sums = effects.taken()
    assert tokens.tolist() == [1, 3] and counts.tolist() == [2, 2]
    np.testing.assert_allclose(sums, [[6, -6], [1.5, -1.5]])
    assert [len(part) for part in effects.taken()] == [0, 0, 0]


def batch(rows):
    """A batch of token numbers with their counts and their sums for the first of two classes."""
    tokens, counts, sums = zip(*sorted(rows), strict=True)
    return np.array(tokens), np.array(counts), np.outer(sums, [1.0, -1.0])


def test_words_are_whole_and_stand_behind_others(tokenizer):
    every = [(number, 50, 50.0) for number in range(len(TOKENS))]
    assert set(effects_of_words([batch(every)] * 4, tokenizer)) == {"sun", "rain"}
    assert words_in(tokenizer) == ["rain", "sun"]


def test_means_and_intervals_are_those_of_a_ratio_of_sums(tokenizer):
    batches = [
        batch([(1, 10, 20.0), (2, 10, 30.0), (3, 5, 1.0)]),
        batch([(1, 40, 60.0)]),
        batch([(2, 20, 10.0), (3, 5, 3.0)]),
    ]
    found = effects_of_words(batches, tokenizer, least=15, clusters=3)
    assert set(found) == {"sun"}, "rain was judged ten times"
    counts, sums = np.array([20, 40, 20]), np.array([50.0, 60.0, 10.0])
    mean = 120 / 80
    error = np.sqrt(3 / 2 * ((sums - mean * counts) ** 2).sum()) / 80
    times = 4.302653  # of Student's distribution with two degrees of freedom
    for one, sign in zip(found["sun"], (1, -1), strict=True):
        assert one.mean == pytest.approx(sign * mean)
        assert one.high - one.mean == pytest.approx(times * error)
        assert one.mean - one.low == pytest.approx(times * error)


def test_of_a_word_that_few_batches_have_nothing_is_said(tokenizer):
    rest = [batch([(3, 50, float(shift))]) for shift in range(8)]
    found = effects_of_words([*rest, batch([(1, 500, 900.0)])], tokenizer)
    assert set(found) == {"rain"}, "the sun was judged often, and in one batch alone"
    three = effects_of_words([*rest, *[batch([(1, 500, 900.0)])] * 3], tokenizer)
    assert set(three) == {"rain"}
    # Batches without the word are no clusters of it.
    alone = effects_of_words(rest, tokenizer)["rain"]
    padded = effects_of_words([*rest, *[batch([(1, 500, 900.0)])] * 3], tokenizer)["rain"]
    assert padded[0].low == pytest.approx(alone[0].low)


@pytest.mark.parametrize("count", [4, 20])
def test_an_interval_holds_the_mean_as_often_as_it_says(tokenizer, count):
    """Batches have means of their own, as texts have: counted one by one it would be too narrow."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(300):
        shifts = rng.normal(1.0, 0.5, count)
        batches = [batch([(1, 10, float(rng.normal(one, 0.1, 10).sum()))]) for one in shifts]
        reaction = effects_of_words(batches, tokenizer)["sun"][0]
        held += reaction.low <= 1.0 <= reaction.high
    assert 0.92 <= held / 300 <= 0.98


def test_of_too_few_batches_nothing_is_said(tokenizer):
    assert effects_of_words([], tokenizer) == {}
    assert effects_of_words([batch([(1, 50, 50.0)])], tokenizer) == {}
    assert effects_of_words([batch([(7, 50, 50.0)])] * 4, tokenizer) == {}


def test_they_are_kept_by_batch(tmp_path, tokenizer):
    batches = [batch([(1, 10, 20.0)]), batch([(3, 30, 2.0), (1, 9, 1.0)])]
    for number, one in enumerate(batches):
        keep_effects(tmp_path, number, one)
    for one, other in zip(batches, kept_effects(tmp_path, 2), strict=True):
        for part, again in zip(one, other, strict=True):
            np.testing.assert_array_equal(part, again)


@pytest.mark.parametrize("fault", ["missing", "cut", "text"])
def test_what_cannot_be_read_is_told(tmp_path, fault):
    keep_effects(tmp_path, 0, batch([(1, 10, 20.0)]))
    (path,) = (tmp_path / "effects").iterdir()
    if fault == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:60] if fault == "cut" else b"no archive")
    with pytest.raises(UserError, match=r"00000\.npz cannot be read: delete"):
        kept_effects(tmp_path, 1)
