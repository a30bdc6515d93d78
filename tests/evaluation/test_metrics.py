"""Metrics against numbers worked out by hand."""

import math

import numpy as np
import pytest

from coopgen_jax.evaluation.metrics import (
    bootstrap_interval,
    corpus_bleu,
    distinct_n,
    ngrams,
    perplexity,
    run_rep,
    self_bleu,
    seq_rep,
    wilson_interval,
)


def test_ngrams_are_runs_of_words():
    assert ngrams(["a", "b", "c"], 2) == [("a", "b"), ("b", "c")]
    assert ngrams(["a"], 2) == []
    assert ngrams([], 1) == []


def test_distinct_n_counts_over_all_texts():
    # bigrams: a b, b a, a b | a b: two different among four
    assert distinct_n(["a b a b", "a b"], 2) == 2 / 4
    assert distinct_n(["a b c"], 1) == 1
    assert math.isnan(distinct_n(["a", ""], 2))
    assert math.isnan(distinct_n([], 1))


def test_repetition_is_the_share_seen_before():
    assert seq_rep(["a", "b", "c", "a", "b", "c", "a"], 3) == pytest.approx(2 / 5)
    assert seq_rep(["a", "b", "c", "d"], 3) == 0
    assert seq_rep(["a", "b"], 3) == 0
    assert seq_rep([], 3) == 0


@pytest.mark.parametrize(
    ("text", "share"),
    [
        # 1 + 2 + 3 + 4 signs: seven of four, of which six stood there before.
        ("# ## ### ####", 6 / 7),
        # Gaps grow, signs do not: five signs, two of four.
        ("=  =   =\n\n=\t    =", 1 / 2),
        ("- -- ---", 2 / 3),
        # Six words and eight signs: eleven of four, five of # alone.
        ("six words and then come these\n########", 4 / 11),
        ("----====", 0),
        ("# #- # #-", 0),
        ("the the the the the the", 0),
        ("- a list\n- of two", 0),
        ("No!!! What...", 0),
        ("!!!!", 0),
        ("", 0),
    ],
)
def test_runs_of_one_character_are_repetition_however_they_are_spaced(text, share):
    assert run_rep(text) == pytest.approx(share)
    assert run_rep(text.replace("#", "_")) == pytest.approx(share)


def test_runs_of_other_lengths_by_hand():
    # Pairs of "....": three, two of which stood there before.
    assert run_rep("....", 2) == pytest.approx(2 / 3)
    # a a b b b: pairs aa, ab, bb, bb.
    assert run_rep("aa b bb", 2) == pytest.approx(1 / 4)


def test_self_bleu_of_equal_texts_is_one_and_of_strangers_near_zero():
    same = "one two three four five six"
    assert self_bleu([same, same, same]) == pytest.approx(1)
    assert self_bleu(["a b c d e f", "g h i j k l"]) < 0.05
    assert math.isnan(self_bleu([same]))


def test_self_bleu_by_hand():
    # Each text against the other: precisions 5/6, 4/5, 3/4, 2/3, 1/2, lengths equal.
    texts = ["a b c d e f", "a b c d e g"]
    expected = math.prod([5 / 6, 4 / 5, 3 / 4, 2 / 3, 1 / 2]) ** (1 / 5)
    assert self_bleu(texts) == pytest.approx(expected)


def test_corpus_bleu_by_hand():
    # Unigrams 5/6 and 2/4, bigrams 4/5 and 1/3; pooled 7/10 and 5/8. The nearest references have 6
    # and 5 words, one more than was written.
    texts = ["a b c d e f", "g h x y"]
    references = [["a b c d e z", "a b"], ["g h i j k", "g q r s t u v w"]]
    brevity = math.exp(1 - 11 / 10)
    pooled = brevity * math.sqrt(7 / 10 * 5 / 8)
    assert corpus_bleu(texts, references, 2) == pytest.approx(pooled)
    singly = [corpus_bleu([text], [own], 2) for text, own in zip(texts, references, strict=True)]
    assert abs(sum(singly) / 2 - pooled) > 0.01
    assert corpus_bleu(["", *texts], [["a"], *references], 2) < pooled
    assert math.isnan(corpus_bleu([], []))


def test_an_empty_text_scores_nothing():
    assert self_bleu(["", "a b c d e f", "a b c d e f"]) == pytest.approx(2 / 3)


def test_perplexity_pools_tokens():
    assert perplexity([2 * math.log(0.5), math.log(0.25)], [2, 1]) == pytest.approx(16 ** (1 / 3))


def test_wilson_interval_of_a_textbook_case():
    low, high = wilson_interval(8, 10)
    assert (low, high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson_interval(0, 0) == (0, 1)
    assert wilson_interval(0, 10)[0] == pytest.approx(0)
    assert wilson_interval(10, 10)[1] == pytest.approx(1)
    narrow, wide = wilson_interval(5, 10, 0.5), wilson_interval(5, 10, 0.99)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_bootstrap_interval_covers_the_mean_and_shrinks():
    values = np.random.default_rng(0).normal(3.0, 1.0, 400)
    low, high = bootstrap_interval(values)
    assert low < values.mean() < high
    # the normal approximation: 1.96 / sqrt(400) on either side
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.15)
    assert bootstrap_interval([2.0, 2.0]) == (2.0, 2.0)
    assert bootstrap_interval([5.0]) == (5.0, 5.0)
