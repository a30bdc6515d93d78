"""Every filter, with a text that it keeps and one that it leaves out."""

import pytest

from coopgen_jax.augmentation.filters import (
    LONG,
    LOOPS,
    NAME,
    NUMBER,
    ORIGINAL,
    OTHER_CLASS,
    REASONS,
    SHORT,
    TWICE,
    CopyFilter,
    FilterSettings,
    class_fault,
    fault_of,
    private_fault,
    shape_fault,
)
from coopgen_jax.augmentation.named_entities import Name
from coopgen_jax.augmentation.substitution import private_content
from coopgen_jax.errors import UserError

LETTERS = "one two three four five six seven eight nine ten eleven twelve"
ORIGINALS = (f"{LETTERS} at Lyon", "it broke after 2015 tries and was sent back")


def test_texts_are_of_the_length_that_is_asked_for():
    settings = FilterSettings(least_words=3, most_words=5)
    assert shape_fault("... two words", settings) == SHORT == shape_fault("", settings)
    assert shape_fault("three short words", settings) is None
    assert shape_fault("now these are six short words", settings) == LONG


def test_texts_do_not_repeat_themselves():
    again = f"{LETTERS} {LETTERS}"
    # 21 runs of four words, 12 of which are different.
    assert shape_fault(again, FilterSettings(repetition=9 / 21 + 1e-9)) is None
    assert shape_fault(again, FilterSettings(repetition=9 / 21 - 1e-9)) == LOOPS
    assert shape_fault("we saw it there again = = = = = = = = = = = =", FilterSettings()) == LOOPS


def test_texts_are_of_their_class():
    assert class_fault([0.3, 0.4, 0.3], 1, FilterSettings()) is None
    assert class_fault([0.3, 0.4, 0.3], 0, FilterSettings()) == OTHER_CLASS
    assert class_fault([0.3, 0.4, 0.3], 1, FilterSettings(threshold=0.5)) == OTHER_CLASS
    assert class_fault([0.3, 0.4, 0.3], 1, FilterSettings(threshold=0.4)) is None


def test_texts_repeat_neither_originals_nor_texts_that_were_kept():
    copies = CopyFilter(ORIGINALS, FilterSettings())
    words = LETTERS.split()
    seven, eight = " ".join(words[2:9]), " ".join(words[2:10])
    assert copies.copies_original(f"{seven} and much else that stands nowhere") is None
    assert copies.copies_original(f"{eight} and much else that stands nowhere") == ORIGINAL
    assert (copies.longest(seven), copies.longest("nothing")) == (7, 0)
    changed = ORIGINALS[1].replace("broke", "fell")
    assert copies.copies_original(changed) == ORIGINAL
    new = "a new text of seven words here"
    assert copies.copies_kept(new) is None
    copies.keep(new)
    assert copies.copies_kept(new.upper()) == TWICE
    assert copies.copies_kept("a new text of seven words there") == TWICE
    copies.keep("and a longer one that has more than eight words")
    assert copies.copies_kept("it has a longer one that has more, indeed") is None
    assert copies.copies_kept("so a longer one that has more than eight words, he says") == TWICE


def test_short_texts_that_are_equal_are_copies():
    copies = CopyFilter(["Good!", "Very bad"], FilterSettings())
    assert copies.copies_original("good") == ORIGINAL
    assert copies.copies_original("good and cheap") is None


def test_texts_of_five_and_six_words_with_one_changed_are_copies():
    for original in ("it broke after two days", "it broke after only two days"):
        copies = CopyFilter([original], FilterSettings())
        copies.keep("we sent that back so soon")
        assert copies.copies_original(original.replace("two", "three")) == ORIGINAL
        assert copies.copies_original("it broke never and was sent") is None
        assert copies.copies_kept("we sent that back too soon") == TWICE


def test_a_text_that_has_a_whole_original_is_a_copy():
    copies = CopyFilter(["it broke after two days", "never buy one again"], FilterSettings())
    text = "My first one was cheap; it broke after two days, as others wrote before."
    assert copies.copies_original(text) == ORIGINAL
    assert copies.copies_original(text.replace("two", "three")) is None
    # An original of fewer words than a text must have is no text.
    text = "My first one was cheap and I shall never buy one again, as others wrote."
    assert copies.copies_original(text) is None
    short = CopyFilter(["never buy one again"], FilterSettings(least_words=4))
    assert short.copies_original(text) == ORIGINAL


def names(texts):
    return [[Name("Lyon", "GPE")] if "Lyon" in text else [] for text in texts]


def test_nothing_private_is_passed_on():
    private = private_content(ORIGINALS, names)
    assert private_fault("made in 2015 again", private) == NUMBER
    assert private_fault("made in Lyon", private) == NAME
    assert private_fault("made in 2014 in Paris", private) is None
    assert private_fault("made in Lyon", None) is None


@pytest.mark.parametrize(
    ("text", "p", "reason"),
    [
        ("too few", None, SHORT),
        ("no no no no no no no no no no", [0.0, 1.0], LOOPS),
        ("this is of the other class", [0.9, 0.1], OTHER_CLASS),
        ("this is of the other class", None, None),
        (LETTERS, [0.1, 0.9], ORIGINAL),
        ("we had 2015 of them in Lyon", [0.1, 0.9], NUMBER),
        ("we had some of them in Lyon", [0.1, 0.9], NAME),
        ("we had some of them in June", [0.1, 0.9], TWICE),
        ("something else that nobody wrote", [0.1, 0.9], None),
    ],
)
def test_the_first_reason_is_given(text, p, reason):
    copies = CopyFilter(ORIGINALS, FilterSettings())
    copies.keep("we had some of them in June")
    private = private_content(ORIGINALS, names)
    given = {"settings": FilterSettings(), "copies": copies, "private": private}
    assert fault_of(text, p, 1, **given) == reason
    assert reason is None or reason in REASONS


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"threshold": 1.5}, "threshold is 1.5"),
        ({"repetition": -0.1}, "repetition is -0.1"),
        ({"near": 0.0}, "near is 0.0"),
        ({"least_words": 0}, "least_words is 0"),
        ({"most_words": 4}, "most_words is 4, below least_words"),
    ],
)
def test_settings_out_of_range_are_told(change, told):
    with pytest.raises(UserError, match=told):
        FilterSettings(**change)
