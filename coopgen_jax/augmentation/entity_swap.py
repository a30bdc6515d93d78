"""False texts by a swap of names, so that no name says whether a text is false.

A true text becomes false when a name in it gives way to another of the same kind. Done carelessly,
some names end up in false texts alone and others in true ones, and a detector learns names. Here
two things hold every name's share of false texts near that of all texts: texts are dealt to true
and false so that the texts of each name are dealt alike (`deal_texts`), and the names that are
taken out of false texts are put back into other false texts, one to one (`balanced_matching`).

`n` texts. A name is known by its text, case folded, and its kind.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from coopgen_jax.augmentation.balanced_matching import UNUSED, balanced_matching
from coopgen_jax.augmentation.named_entities import Name
from coopgen_jax.errors import UserError

Entity = tuple[str, str]
# Names that are matched at a time: a name that stands often makes as many places as texts.
BLOCK = 2000


@dataclass(frozen=True)
class SwappedText:
    """A text of the collection.

    Attributes:
      row: which of the texts it was.
      text: as it is now.
      falsified: whether a name was swapped.
      names: the names in it, where they stand now.
      old: the name that was taken out, None of a true text.
      new: the name that was put in, None of a true text.
    """

    row: int
    text: str
    falsified: bool
    names: tuple[Name, ...]
    old: str | None = None
    new: str | None = None


def swap_entities(
    texts: Sequence[str],
    names: Sequence[Sequence[Name]],
    *,
    rate: float = 0.5,
    candidates: int = 20,
    seed: int = 0,
) -> list[SwappedText]:
    """Returns true and false texts, in order.

    A false text has one name swapped, everywhere it stands in the text, for a name of the same kind
    that the text does not have. A text without a name that can be swapped would always be true, and
    is left out; so is a text that is to be false and finds no name in balance.

    Args:
      texts: true texts.
      names: the names in each, in order and without overlap.
      rate: share of false texts.
      candidates: names that one may be swapped for, drawn as often as they stand in false texts.
      seed: of everything random.

    Raises:
      ValueError: the rate is not above 0 and below 1, the seed is below 0, or names are not those
        of the texts, in order, where they stand.
      UserError: no text has a name that can be swapped.
    """
    if not 0 < rate < 1:
        raise ValueError(f"rate is {rate}: give a share above 0 and below 1")
    if seed < 0:
        raise ValueError(f"seed is {seed}: give 0 or more")
    _check_names(texts, names)
    rng = np.random.default_rng(seed)
    own = [frozenset(map(entity_of, found)) for found in names]
    kinds = Counter(kind for _, kind in set().union(*own))
    # Another of the kind must stand in another text.
    there = [Counter(kind for _, kind in found) for found in own]
    able = [
        [one for one in sorted(found) if kinds[one[1]] > held[one[1]]]
        for found, held in zip(own, there, strict=True)
    ]
    rows = [row for row, found in enumerate(able) if found]
    if not rows:
        raise UserError(
            "no text has a name that another text's name of the same kind can replace: give more "
            "texts with names"
        )
    false = deal_texts([own[row] for row in rows], rate, rng)
    chosen = [row for row, falsified in zip(rows, false, strict=True) if falsified]
    outgoing = [able[row][rng.integers(len(able[row]))] for row in chosen]
    incoming = _incoming(outgoing, [own[row] for row in chosen], candidates, rng)
    swaps = dict(zip(chosen, zip(outgoing, incoming, strict=True), strict=True))
    # Names come in as they were spelled where they went out, so that spelling says nothing either.
    spelled: dict[Entity, list[str]] = defaultdict(list)
    for row, (old, new) in swaps.items():
        if new is not None:
            spelled[old].append(next(one.text for one in names[row] if entity_of(one) == old))
    swapped = []
    for row in rows:
        if row not in swaps:
            swapped.append(SwappedText(row, texts[row], False, tuple(names[row])))
            continue
        old, new = swaps[row]
        if new is not None:
            swapped.append(_rewritten(row, texts[row], names[row], old, spelled[new].pop()))
    return swapped


def _check_names(texts: Sequence[str], names: Sequence[Sequence[Name]]) -> None:
    if len(texts) != len(names):
        raise ValueError(f"there are {len(texts)} texts and names of {len(names)}")
    for text, found in zip(texts, names, strict=True):
        end = 0
        for name in found:
            if name.begin < end or text[name.begin : name.end] != name.text:
                raise ValueError(f"{name.text!r} does not stand at {name.begin} of {text!r}, apart")
            end = name.end


def entity_of(name: Name) -> Entity:
    """Returns what a name is known by."""
    return " ".join(name.text.casefold().split()), name.kind


def deal_texts(
    entities: Sequence[frozenset[Entity]], rate: float, rng: np.random.Generator
) -> np.ndarray:
    """Returns which texts are to be false, `[n]` bool, dealt alike within the texts of every name.

    The sum over names of (false texts - rate * texts)^2 / texts, with the texts in all as one more
    name, is lowered text by text, in drawn order, until no change of one text lowers it.
    """
    known = {one: number for number, one in enumerate(sorted(set().union(*entities)))}
    members = [np.array([*(known[one] for one in found), len(known)]) for found in entities]
    counts = np.bincount(np.concatenate(members), minlength=len(known) + 1).astype(float)
    excess = -rate * counts
    false = np.zeros(len(entities), bool)
    order = rng.permutation(len(entities))
    changed = True
    while changed:
        changed = False
        for row in order:
            step = -1.0 if false[row] else 1.0
            at = members[row]
            # (e + s)^2 - e^2 of each name, over its texts; a rounding must not go on for ever.
            if ((2 * step * excess[at] + 1) / counts[at]).sum() < -1e-9:
                false[row] = not false[row]
                excess[at] += step
                changed = True
    return false


def _incoming(
    outgoing: Sequence[Entity],
    own: Sequence[frozenset[Entity]],
    candidates: int,
    rng: np.random.Generator,
) -> list[Entity | None]:
    """Returns the name that takes each one's place: as often as it is taken out, or None."""
    incoming: list[Entity | None] = [None] * len(outgoing)
    of_kind: dict[str, list[int]] = defaultdict(list)
    for place, one in enumerate(outgoing):
        of_kind[one[1]].append(place)
    for places in of_kind.values():
        mixed = rng.permutation(places)
        for block in np.array_split(mixed, -(-len(mixed) // BLOCK)):
            known = sorted({outgoing[place] for place in block})
            number = np.array([known.index(outgoing[place]) for place in block])
            table = np.full((len(block), candidates), UNUSED)
            for row, place in enumerate(block):
                drawn = number[rng.permutation(len(block))]
                fitting = [one for one in dict.fromkeys(drawn) if known[one] not in own[place]]
                table[row, : min(len(fitting), candidates)] = fitting[:candidates]
            scores = np.where(table == UNUSED, -np.inf, rng.uniform(size=table.shape))
            for place, found in zip(block, balanced_matching(table, scores, number), strict=True):
                incoming[place] = None if found == UNUSED else known[found]
    return incoming


def _rewritten(row: int, text: str, names: Sequence[Name], old: Entity, new: str) -> SwappedText:
    """Returns a text with one name in place of another, and where all names stand now."""
    parts, moved, end, length = [], [], 0, 0
    taken = ""
    for name in names:
        parts.append(text[end : name.begin])
        length += name.begin - end
        word = name.text
        if entity_of(name) == old:
            taken, word = taken or name.text, new
        moved.append(Name(word, name.kind, length))
        parts.append(word)
        length += len(word)
        end = name.end
    return SwappedText(row, "".join(parts) + text[end:], True, tuple(moved), taken, new)


def entity_balance(texts: Sequence[SwappedText], least: int = 10) -> dict[str, Any]:
    """Returns how evenly names stand in true and false texts.

    Returns:
      `texts`, `rate` (the share of false ones), `names` with at least `least` texts, the `farthest`
      distance of a name's share of false texts from the rate (None without such names), and
      `entities`: `name`, `kind`, `texts` and `rate` of each, the farthest first.
    """
    rate = sum(one.falsified for one in texts) / len(texts) if texts else 0.0
    counts: Counter[Entity] = Counter()
    false: Counter[Entity] = Counter()
    for one in texts:
        found = set(map(entity_of, one.names))
        counts.update(found)
        if one.falsified:
            false.update(found)
    often = {one: false[one] / count for one, count in counts.items() if count >= least}
    order = sorted(often, key=lambda one: (-abs(often[one] - rate), one))
    rows = [
        {"name": one[0], "kind": one[1], "texts": counts[one], "rate": often[one]} for one in order
    ]
    farthest = abs(often[order[0]] - rate) if order else None
    return {
        "texts": len(texts), "rate": rate, "names": len(rows), "farthest": farthest,
        "entities": rows,
    }  # fmt: skip
