"""Shared runs and near-copies against slow references, and planted copies that are found."""

from difflib import SequenceMatcher

import numpy as np
import pytest

from coopgen_jax.augmentation.memorisation import (
    NEAR,
    RUN,
    Copy,
    CopyIndex,
    RunSet,
    SharedRun,
    index_runs,
    memorisation,
    near_for,
    pairs_of,
    words_of,
)

REVIEW = (
    "The story of two brothers who mend an old boat is told with patience, and the last hour, "
    "in which nothing happens but rain, is the best that I saw this year."
)


def random_texts(rng, count, vocabulary, longest):
    letters = [chr(ord("a") + number) for number in range(vocabulary)]
    return [" ".join(rng.choice(letters, rng.integers(0, longest + 1))) for _ in range(count)]


def longest_by_difflib(text, others):
    one = text.split()
    return max(
        (
            SequenceMatcher(None, one, other.split(), autojunk=False).find_longest_match().size
            for other in others
        ),
        default=0,
    )


def similarity_by_hand(text, other):
    one, two = pairs_of(text.split()), pairs_of(other.split())
    return len(one & two) / len(one | two) if one | two else 0.0


def has_run(text, run):
    return f" {' '.join(run)} " in f" {' '.join(words_of(text))} "


@pytest.mark.parametrize("vocabulary", [1, 2, 4, 20])
def test_runs_and_similarities_are_those_of_a_slow_search(vocabulary):
    rng = np.random.default_rng(vocabulary)
    for _ in range(20):
        originals = random_texts(rng, 8, vocabulary, 12)
        # Words that no original has stand among those of the texts.
        texts = random_texts(rng, 8, vocabulary + 1, 12)
        runs, copies = index_runs(originals), CopyIndex(originals)
        for text in texts:
            found = runs.longest(text)
            assert len(found) == longest_by_difflib(text, originals)
            if found.words:
                assert has_run(text, found.words) and has_run(originals[found.text], found.words)
            by_hand = [similarity_by_hand(text, other) for other in originals]
            near = copies.nearest(text)
            assert near.similarity == pytest.approx(max(by_hand))
            assert near.text == (int(np.argmax(by_hand)) if max(by_hand) else None)


def test_a_run_does_not_go_from_one_text_into_the_next():
    assert index_runs(["a b", "c d"]).longest("a b c d").words == ("a", "b")
    same = ["a b"] * 3
    assert len(index_runs(same).longest("b a b a b")) == 2


def test_of_several_runs_of_one_length_the_first_is_named():
    assert index_runs(["x a b", "c d y"]).longest("c d a b") == SharedRun(("c", "d"), 1)


def test_nothing_is_shared_with_no_texts_and_by_no_text():
    assert index_runs([]).longest("a") == SharedRun() == index_runs(["a", ""]).longest("")
    assert CopyIndex().nearest("a") == Copy() == CopyIndex(["", "a"]).nearest("")


def test_words_have_no_case_no_punctuation_and_one_kind_of_apostrophe():
    assert words_of("\u201cDon\u2019t!\u201d it said\u2014twice_2 \ufb01ne CAFE\u0301") == [
        "don't", "it", "said", "twice", "2", "fine", "café",
    ]  # fmt: skip
    assert words_of(" ... ") == []


def test_pairs_have_the_ends_of_a_text():
    assert pairs_of(["a", "b"]) == {(None, "a"), ("a", "b"), ("b", None)}
    assert pairs_of(["a"]) == {(None, "a"), ("a", None)} and pairs_of([]) == set()


def test_a_copy_of_one_word_is_found_and_a_text_that_grows_in_is_found_later():
    copies = CopyIndex(["no", "yes"])
    assert copies.nearest("Yes!") == Copy(1.0, 1)
    assert copies.nearest("never").text is None
    copies.add("never")
    assert copies.nearest("never") == Copy(1.0, 2)


@pytest.mark.parametrize("length", [2, 5, 6, 7, 12, 40])
def test_the_similarity_of_a_copy_with_one_word_changed(length):
    words = [f"w{number}" for number in range(length)]
    for place in {0, length // 2, length - 1}:
        changed = " ".join([*words[:place], "other", *words[place + 1 :]])
        found = CopyIndex([" ".join(words)]).nearest(changed)
        assert found.similarity == pytest.approx((length - 1) / (length + 3))
        assert (found.similarity >= NEAR) == (length >= 7)
        assert found.similarity >= near_for(changed, NEAR)
        report = memorisation([changed], [" ".join(words)])
        assert report["near_copies"] == 1


def test_short_texts_are_near_copies_by_one_changed_word_and_not_by_two():
    original = "it broke after two days"
    texts = ["it broke after three days", "it fell after three days", "it", "that"]
    assert memorisation(texts, [original])["near_copies"] == 1
    # What is asked for is never raised.
    assert near_for(original, 0.3) == 0.3 and near_for("one", NEAR) == NEAR


def test_runs_of_written_texts_are_known_as_they_grow():
    runs = RunSet(["one two three"], n=2)
    assert runs.shared("three two three") == SharedRun(("two", "three"), 0)
    assert runs.shared("two one three") == SharedRun()
    runs.add("two one")
    assert runs.shared("so two one") == SharedRun(("two", "one"), 1)
    assert RunSet([REVIEW]).shared(" ".join(REVIEW.split()[: RUN - 1])) == SharedRun()
    assert len(RunSet([REVIEW]).shared(" ".join(REVIEW.split()[:RUN]))) == RUN


def test_a_planted_copy_and_one_with_a_word_changed_are_reported():
    originals = ["A dull phone.", REVIEW, "I would buy it again."]
    texts = [
        "Whales swim",
        REVIEW.upper(),
        REVIEW.replace("patience", "skill"),
        "I would buy it never.",
    ]
    found = memorisation(texts, originals, examples=3)
    words = words_of(REVIEW)
    behind = len(words) - 1 - words.index("patience")
    assert (found["texts"], found["with_run"], found["equal"]) == (4, 2, 1)
    assert found["near_copies"] == 3 and found["longest"] == len(words)
    assert found["lengths"] == {"0": 1, "4": 1, str(behind): 1, str(len(words)): 1}
    assert [(one["text"], one["original"], one["length"]) for one in found["examples"]] == [
        (1, 1, len(words)), (2, 1, behind), (3, 2, 4),
    ]  # fmt: skip
    assert found["examples"][1]["words"] == " ".join(words[-behind:])
    assert found["examples"][0]["similarity"] == 1.0
    assert memorisation([], originals)["longest"] == 0
