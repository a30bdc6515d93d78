"""Corrupted captions: what every kind may change."""

from collections import Counter

import numpy as np
import pytest

from coopgen_jax.training.captioning.corruptions import KINDS, MOST, corrupt

WORDS = ["a", "brown", "dog", "runs", "over", "the", "wet", "grass"]
VOCABULARY = ["zebra", "yellow", "xylophone"]


def many(kind: str | None, words=WORDS, count: int = 200) -> list[list[str]]:
    rng = np.random.default_rng(0)
    return [corrupt(words, VOCABULARY, rng, kind=kind) for _ in range(count)]


@pytest.mark.parametrize("kind", [None, *KINDS])
@pytest.mark.parametrize("words", [WORDS, ["dog"], ["dog", "dog"]])
def test_a_corrupted_caption_is_never_the_caption(kind, words):
    assert all(found and found != words for found in many(kind, words, 50))


def test_a_repetition_adds_copies_of_an_ngram_in_place():
    lengths = set()
    for found in many("repeat"):
        more = len(found) - len(WORDS)
        lengths.add(more)
        # Some n-gram of one to three words, its copies taken out, gives the caption back.
        assert any(
            found[:begin] + found[begin + more :] == WORDS
            and found[begin : begin + more] == WORDS[begin : begin + n] * (more // n)
            for n in range(1, MOST + 1)
            for begin in range(len(WORDS))
        )
    assert lengths == {1, 2, 3, 4, 6, 9}


def test_deletion_keeps_the_order():
    for found in many("delete"):
        rest = iter(WORDS)
        assert all(word in rest for word in found)
        assert 1 <= len(WORDS) - len(found) <= MOST


def test_insertion_adds_words_of_the_vocabulary():
    for found in many("insert"):
        assert [word for word in found if word not in VOCABULARY] == WORDS
        assert 1 <= len(found) - len(WORDS) <= MOST


@pytest.mark.parametrize("kind, most", [("swap", MOST), ("shuffle", len(WORDS))])
def test_exchanged_words_are_the_same_words(kind, most):
    moved = set()
    for found in many(kind):
        assert Counter(found) == Counter(WORDS)
        moved.add(sum(one != other for one, other in zip(found, WORDS, strict=True)))
    assert min(moved) >= 2 and max(moved) == most


def test_every_kind_is_drawn_and_the_seed_decides():
    assert many(None) == many(None)
    grown = {len(found) - len(WORDS) for found in many(None)}
    assert min(grown) < 0 and 0 in grown and max(grown) > MOST


def test_a_caption_without_words_is_refused():
    with pytest.raises(ValueError, match="without words"):
        corrupt([], VOCABULARY, np.random.default_rng(0))
