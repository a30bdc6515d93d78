"""Human ratings of texts: blinded sheets out, filled copies in.

A sheet has a text a row in random order, under an id that says nothing, with empty columns for the
ratings. Which method wrote it, and towards what, stands in the key alone. A text that several
methods have written for one prompt stands in the sheet once.
"""

import csv
import io
import string
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.agreement import krippendorff_alpha
from coopgen_jax.evaluation.metrics import bootstrap_interval
from coopgen_jax.evaluation.significance import correct, signed_rank
from coopgen_jax.evaluation.texts import asked_for
from coopgen_jax.evaluation.written_texts import Method

# Of letters alone, none of them a vowel: a spreadsheet must not take an id for a number or a word.
LETTERS = "".join(sorted(set(string.ascii_lowercase) - set("aeiou")))
FIXED = ("id", "prompt", "text")
# What the key says of a text of the sheet.
ASKED = ("method", "prompt", "target", "number")
NAMED = 5


@dataclass(frozen=True)
class Scale:
    """What is asked of every text.

    Attributes:
      questions: what each question is called.
      lowest: the lowest rating.
      highest: the highest rating.
    """

    questions: tuple[str, ...] = ("polarity", "readability")
    lowest: int = 1
    highest: int = 5

    def __post_init__(self) -> None:
        if not self.questions or not all(name.strip() for name in self.questions):
            raise UserError("there is a question without a name: give each a word")
        if len({*self.questions, *FIXED}) < len(self.questions) + len(FIXED):
            raise UserError("two columns would have one name: call every question otherwise")
        if self.lowest >= self.highest:
            raise UserError(f"ratings from {self.lowest} to {self.highest} cannot differ")


def export(
    methods: Sequence[Method], scale: Scale, *, seed: int = 0, most: int | None = None
) -> tuple[str, dict[str, Any]]:
    """Returns a blinded sheet as CSV and its key for JSON.

    Order, ids and choice depend on the seed. At `most` so many texts of each method are taken,
    drawn from what all methods were asked for.

    Raises:
      UserError: `most` is below 1, or the methods have nothing in common to draw from.
    """
    rng = np.random.default_rng(seed)
    tables = [dict(zip(asked_for(m.texts), m.texts, strict=True)) for m in methods]
    chosen: set[Any] | None = None
    if most is not None:
        common = [asked for asked in tables[0] if all(asked in table for table in tables)]
        if most < 1 or not common:
            raise UserError(f"{most} texts of {len(common)} that all methods have: give 1 or more")
        drawn = rng.choice(len(common), min(most, len(common)), replace=False)
        chosen = {common[number] for number in drawn}
    places: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for method, table in zip(methods, tables, strict=True):
        for asked, text in table.items():
            if chosen is None or asked in chosen:
                place = dict(zip(ASKED, (method.name, *asked), strict=True))
                places.setdefault((asked[0], text.text), []).append(place)
    # Sorted first: the order must depend on the seed alone, not on the files'.
    rows = sorted(places)
    order = rng.permutation(len(rows))
    ids = _ids(rng, len(rows))
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*FIXED, *scale.questions])
    for name, number in zip(ids, order, strict=True):
        writer.writerow([name, *map(_plain, rows[number]), *[""] * len(scale.questions)])
    key = {
        "questions": list(scale.questions),
        "scale": [scale.lowest, scale.highest],
        "methods": [method.name for method in methods],
        "texts": {name: places[rows[n]] for name, n in sorted(zip(ids, order, strict=True))},
    }
    return file.getvalue(), key


def _plain(cell: str) -> str:
    """Returns a cell that a spreadsheet shows as it is, and does not compute."""
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@")) else cell


def _ids(rng: np.random.Generator, count: int) -> list[str]:
    names: dict[str, None] = {}
    while len(names) < count:
        names["".join(LETTERS[n] for n in rng.integers(0, len(LETTERS), 6))] = None
    return list(names)


def read_sheet(
    content: str, label: str, key: dict[str, Any]
) -> tuple[dict[str, dict[str, float]], str | None]:
    """Reads a filled sheet, a CSV separated by commas, semicolons or tabs.

    Returns:
      The ratings by question and id, and a sentence about those that were left out, or None; in it
      and in errors the sheet is called by its `label`.

    Raises:
      UserError: it is no such sheet, or holds no rating.
    """
    try:
        # The separator that parts the header into the columns of the key.
        heads = {
            mark: next(csv.reader(io.StringIO(content), delimiter=mark), []) for mark in ",;\t"
        }
        wanted = {"id", *key["questions"]}
        mark = max(heads, key=lambda mark: len(wanted & set(heads[mark])))
        rows = list(csv.DictReader(io.StringIO(content), delimiter=mark, strict=True))
    except csv.Error as error:
        raise UserError(f"{label} is not CSV: {error}") from error
    for name in ("id", *key["questions"]):
        if name not in heads[mark]:
            raise UserError(f"{label} has no column {name!r}: give a filled copy of the sheet")
    names = [(row["id"] or "").strip() for row in rows]
    faults: dict[str, list[str]] = defaultdict(list)
    for name in dict.fromkeys(names):
        if name not in key["texts"]:
            faults["unknown ids"].append(name or "an empty one")
        elif names.count(name) > 1:
            faults["ids that stand twice"].append(name)
    for name in key["texts"]:
        if name not in names:
            faults["ids that are not there"].append(name)
    low, high = key["scale"]
    found: dict[str, dict[str, float]] = {question: {} for question in key["questions"]}
    for name, row in zip(names, rows, strict=True):
        if name not in key["texts"] or names.count(name) > 1:
            continue
        for question, ratings in found.items():
            word = (row[question] or "").strip()
            if not word:
                faults["empty ratings"].append(f"{name} {question}")
            elif (value := _whole(word)) is None or not low <= value <= high:
                kind = f"ratings that are no number from {low} to {high}"
                faults[kind].append(f"{name} {question}")
            else:
                ratings[name] = value
    if not any(found.values()):
        raise UserError(f"{label} holds no rating: fill its columns {', '.join(found)}")
    return found, _sentence(label, faults)


def _whole(word: str) -> float | None:
    try:
        value = float(word)
    except ValueError:
        return None
    return value if value.is_integer() else None


def _sentence(label: str, faults: dict[str, list[str]]) -> str | None:
    parts = []
    for kind, names in faults.items():
        more = ", ..." if len(names) > NAMED else ""
        parts.append(f"{len(names)} {kind} ({', '.join(names[:NAMED])}{more})")
    return f"{label}: left out are {'; '.join(parts)}" if parts else None


def summarise(
    key: dict[str, Any], sheets: Sequence[dict[str, dict[str, float]]], against: str
) -> dict[str, Any]:
    """Returns what several raters' sheets, read by `read_sheet`, say.

    Returns:
      By question: `alpha`, the agreement (Krippendorff's, ordinal), and `groups`, by target, "all"
      for all of them, and method: `texts`, `mean` of the texts' mean ratings with a bootstrap
      `interval`, and against the other method the number of `pairs` and `p` (Wilcoxon's, of the
      same prompts and targets), also corrected by Holm's rule as `p_holm`.
    """
    ids = list(key["texts"])
    report = {}
    for question in key["questions"]:
        table = np.array([[s[question].get(name, np.nan) for name in ids] for s in sheets])
        values: dict[str, dict[Any, float]] = {name: {} for name in key["methods"]}
        for name, column in zip(ids, table.T, strict=True):
            given = column[~np.isnan(column)]
            for place in key["texts"][name] if len(given) else ():
                asked = (place["prompt"], place["target"], place["number"])
                values[place["method"]][asked] = float(given.mean())
        targets = sorted({str(asked[1]) for rated in values.values() for asked in rated})
        groups = {"all": _group(values, None, against)}
        if len(targets) > 1:
            groups |= {target: _group(values, target, against) for target in targets}
        report[question] = {"alpha": krippendorff_alpha(table), "groups": groups}
    return report


def _group(
    values: dict[str, dict[Any, float]], target: str | None, against: str
) -> dict[str, dict[str, Any]]:
    """Returns every method's figures of one target, or of all."""
    kept = {
        method: {a: v for a, v in rated.items() if target is None or str(a[1]) == target}
        for method, rated in values.items()
    }
    rows: dict[str, dict[str, Any]] = {}
    for method, rated in kept.items():
        if not rated:
            continue
        numbers = list(rated.values())
        interval = list(bootstrap_interval(numbers))
        rows[method] = {"texts": len(rated), "mean": float(np.mean(numbers)), "interval": interval}
        common = [asked for asked in rated if asked in kept[against]]
        if method != against and common:
            pairs = [[side[asked] for asked in common] for side in (rated, kept[against])]
            rows[method] |= {"pairs": len(common), "p": signed_rank(*pairs)}
    correct(list(rows.values()), "p")
    return rows
