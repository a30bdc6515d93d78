"""What counts as a word of a text."""

import pytest

from coopgen_jax.explanation.content_words import (
    STOP_WORDS,
    content_words,
    vectorizer,
    without_words,
    words_of,
)

CURLY = "\N{RIGHT SINGLE QUOTATION MARK}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("I don't think SO!", ["i", "don't", "think", "so"]),
        (f"L{CURLY}amour n'est pas", ["l'amour", "n'est", "pas"]),
        ("3 apples, x2 and 'quoted'", ["apples", "x", "and", "quoted"]),
        ("snake_case ... été", ["snake", "case", "été"]),
        ("", []),
    ],
)
def test_words_keep_contractions_and_lose_digits_and_signs(text, words):
    assert words_of(text) == words


def test_stop_words_and_single_letters_are_left_out_and_negations_stay():
    assert content_words("It is not a good x, nor the best") == ["not", "good", "nor", "best"]
    assert not {"not", "no", "never", "don't", "very", "good"} & STOP_WORDS
    assert len(STOP_WORDS) < 150


def test_terms_are_sequences_of_content_words():
    terms = vectorizer(ngrams=2, min_count=1).fit(["the cold rain of winter"])
    assert terms.get_feature_names_out().tolist() == [
        "cold", "cold rain", "rain", "rain winter", "winter",
    ]  # fmt: skip


def test_a_term_must_stand_in_enough_texts():
    made = vectorizer(min_count=2).fit(["rain rain", "rain sun", "sun", "wind wind"])
    assert made.get_feature_names_out().tolist() == ["rain", "sun"]


def test_words_are_put_out_at_all_of_their_places():
    text = f"Rain, rain! The rainy train: don{CURLY}t."
    assert without_words(text, {"rain", "don't"}) == ", ! The rainy train: ."
