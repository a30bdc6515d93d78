"""Swapped names, by hand and by counting."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from coopgen_jax.augmentation import entity_swap as module
from coopgen_jax.augmentation.entity_swap import (
    SwappedText,
    deal_texts,
    entity_balance,
    entity_of,
    swap_entities,
)
from coopgen_jax.augmentation.named_entities import Name
from coopgen_jax.errors import UserError

PLACES = [f"Place{number:02}" for number in range(30)]
FIRMS = [f"Firm{number:02}" for number in range(12)]


def named(text: str) -> list[Name]:
    """Returns the names of a text: words that begin with Place or Firm, by where they stand."""
    found, at = [], 0
    for word in text.split(" "):
        kind = {"P": "GPE", "F": "ORG"}.get(word[:1]) if word[-1:].isdigit() else None
        if kind:
            found.append(Name(word, kind, at))
        at += len(word) + 1
    return found


def corpus(texts: int = 600) -> list[str]:
    """Texts with one to three names, a few of which stand in most texts."""
    rng = np.random.default_rng(0)
    lines = []
    for number in range(texts):
        some = [PLACES[int(30 * rng.uniform() ** 3)] for _ in range(rng.integers(0, 3))]
        some += [FIRMS[int(12 * rng.uniform() ** 2)] for _ in range(rng.integers(0, 2))]
        if some and rng.uniform() < 0.3:
            some.append(some[0])
        lines.append(" and ".join([f"the story of {chr(97 + number % 26)}", *some]) + " ends")
    return lines


def swapped_corpus(**settings) -> tuple[list[str], list[SwappedText]]:
    texts = corpus()
    return texts, swap_entities(texts, [named(text) for text in texts], **settings)


def test_a_false_text_has_one_name_swapped_for_another_of_its_kind():
    texts, found = swapped_corpus()
    assert [one.row for one in found] == sorted({one.row for one in found})
    for one in found:
        before = [entity_of(name) for name in named(texts[one.row])]
        if not one.falsified:
            assert one.text == texts[one.row] and before and one.old is one.new is None
            continue
        assert one.text == texts[one.row].replace(one.old, one.new) != texts[one.row]
        kind = dict(before)[one.old.casefold()]
        assert (one.new.casefold(), kind) not in before and named(one.new)[0].kind == kind
        assert [(name.text, name.kind, name.begin) for name in one.names] == [
            (name.text, name.kind, name.begin) for name in named(one.text)
        ]
        assert all(name.end <= after.begin for name, after in pairwise(one.names))


@pytest.mark.parametrize("rate", [0.5, 0.3])
def test_every_name_is_false_about_as_often_as_all(rate):
    """The names that go out of false texts are those that come in."""
    texts, found = swapped_corpus(rate=rate)
    false = [one for one in found if one.falsified]
    assert Counter(one.old for one in false) == Counter(one.new for one in false)
    report = entity_balance(found)
    assert abs(report["rate"] - rate) < 0.02 and report["names"] > 15
    assert report["farthest"] <= 0.15
    assert len(found) > 0.95 * sum(bool(named(text)) for text in texts)


def test_blocks_are_balanced_each(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 40)
    _, found = swapped_corpus()
    false = [one for one in found if one.falsified]
    assert len(false) > 200
    assert Counter(one.old for one in false) == Counter(one.new for one in false)


def test_careless_swaps_are_found_by_the_report():
    """Every false text takes one place, as headlines of one town."""
    _, found = swapped_corpus()
    careless = []
    for one in found:
        names = one.names
        if one.falsified:
            names = tuple(Name("Place29", n.kind) if n.text == one.new else n for n in names)
        careless.append(SwappedText(one.row, "", one.falsified, names))
    report = entity_balance(careless)
    assert report["farthest"] > 0.3 and report["entities"][0]["name"] == "place29"


def test_texts_are_dealt_until_no_change_of_one_is_better():
    rng = np.random.default_rng(0)
    entities = [
        frozenset((PLACES[number], "GPE") for number in rng.integers(0, 8, rng.integers(1, 4)))
        for _ in range(60)
    ]
    false = deal_texts(entities, 0.4, np.random.default_rng(1))

    def cost(chosen) -> float:
        total = (sum(chosen) - 0.4 * 60) ** 2 / 60
        for one in set().union(*entities):
            own = [falsified for held, falsified in zip(entities, chosen, strict=True)
                   if one in held]  # fmt: skip
            total += (sum(own) - 0.4 * len(own)) ** 2 / len(own)
        return total

    least = cost(false)
    for row in range(60):
        other = false.copy()
        other[row] = not other[row]
        assert cost(other) >= least - 1e-9
    assert least < cost(np.arange(60) < 24)


def test_the_balance_by_hand():
    def text(falsified, *names):
        return SwappedText(0, "", falsified, tuple(Name(name, "GPE") for name in names))

    texts = [text(True, "Lyon", "lyon"), text(False, "Lyon"), text(True, "Paris")]
    report = entity_balance([*texts, text(True, "Lyon")], least=2)
    assert report == {
        "texts": 4, "rate": 0.75, "names": 1, "farthest": pytest.approx(0.75 - 2 / 3),
        "entities": [{"name": "lyon", "kind": "GPE", "texts": 3, "rate": pytest.approx(2 / 3)}],
    }  # fmt: skip
    assert entity_balance([])["farthest"] is None


def test_texts_whose_names_nothing_can_replace_are_left_out():
    texts = ["Place1 wins", "Place2 loses", "Firm1 sells", "nobody is here"]
    found = swap_entities(texts, [named(text) for text in texts], rate=0.9)
    assert {one.row for one in found} <= {0, 1}
    assert [one.text for one in found] == ["Place2 wins", "Place1 loses"]
    with pytest.raises(UserError, match="no text has a name that another"):
        swap_entities(texts[2:], [named(text) for text in texts[2:]])
    with pytest.raises(ValueError, match="rate is 1"):
        swap_entities(texts, [[] for _ in texts], rate=1)


def test_names_come_in_as_they_were_spelled_where_they_went_out():
    texts = [f"{word} wins" for word in ("Lyon", "LYON", "Paris", "paris") * 3]
    names = [[Name(text.split()[0], "GPE", 0)] for text in texts]
    found = swap_entities(texts, names, rate=0.99)
    assert len(found) == 12 and all(one.falsified for one in found)
    assert Counter(one.text for one in found) == Counter(texts)
    assert all(one.old.casefold() != one.new.casefold() for one in found)


def test_the_seed_decides():
    first, again, other = (swapped_corpus(seed=seed)[1] for seed in (0, 0, 1))
    assert first == again != other


def test_names_that_do_not_stand_there_are_refused():
    text = "New York City wins"
    for names in ([Name("New York City", "GPE"), Name("York", "GPE", 4)], [Name("Oslo", "GPE")]):
        with pytest.raises(ValueError, match="does not stand at"):
            swap_entities([text], [names])
    with pytest.raises(ValueError, match="1 texts and names of 0"):
        swap_entities([text], [])
    with pytest.raises(ValueError, match="seed is -1"):
        swap_entities([text], [[]], seed=-1)
