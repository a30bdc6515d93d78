"""The command `coopgen evaluate annotate`."""

import json
import sys
from pathlib import Path
from typing import Any

from coopgen_jax.cli.annotate_options import AnnotateOptions, ExportOptions, ReadOptions
from coopgen_jax.cli.evaluate_texts import read_entry
from coopgen_jax.data.sources import left_out
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.annotation import Scale, export, read_sheet, summarise
from coopgen_jax.evaluation.tables import Format, p_value, render
from coopgen_jax.evaluation.texts import check_names
from coopgen_jax.files import check_writable, read_text, to_json, write_whole


def run_annotate(options: AnnotateOptions) -> None:
    """Writes a sheet, or reads filled ones; raises UserError where a file is of no use."""
    if isinstance(options.what, ExportOptions):
        _export(options.what)
    else:
        _read(options.what)


def _export(what: ExportOptions) -> None:
    scale = Scale(what.questions, what.lowest, what.highest)
    if what.seed < 0:
        raise UserError(f"--seed is {what.seed}: give 0 or more")
    if not what.files:
        raise UserError("there are no texts: give files of `coopgen generate --out`")
    methods = [method for entry in what.files for method in read_entry(entry)]
    for note in (note for method in methods for note in left_out(method.broken)):
        print(f"coopgen: {note}", file=sys.stderr)
    check_names([method.name for method in methods], None)
    if what.out.resolve() == what.key.resolve():
        raise UserError(f"--out and --key both write {what.out}: give each a file of its own")
    for path, option in ((what.out, "--out"), (what.key, "--key")):
        check_writable(path, option)
    sheet, key = export(methods, scale, seed=what.seed, most=what.most)
    write_whole(what.key, to_json(key, indent=1) + "\n")
    # The mark in front tells spreadsheets that it is UTF-8.
    write_whole(what.out, "\ufeff" + sheet)
    print(f"{what.out}: {len(key['texts'])} texts to rate from {what.lowest} to {what.highest}")


def _read(what: ReadOptions) -> None:
    if not what.sheets:
        raise UserError("there are no sheets: give the filled copies")
    if len({sheet.resolve() for sheet in what.sheets}) < len(what.sheets):
        raise UserError("a sheet is named twice: give each person's once")
    key = _key(what.key)
    against = check_names(key["methods"], what.against)
    if what.out:
        check_writable(what.out, "--out")
    sheets, notes = [], []
    for path in what.sheets:
        found, note = read_sheet(_content(path), str(path), key)
        sheets.append(found)
        notes += [note] if note else []
    report = {
        "against": against,
        "people": len(sheets),
        "questions": summarise(key, sheets, against),
        "notes": notes,
    }
    if what.out:
        write_whole(what.out, to_json(report, indent=1) + "\n")
    if what.json:
        print(to_json(report, indent=1))
        return
    print(_tables(report, what.format), end="")
    for note in notes:
        print(f"coopgen: {note}", file=sys.stderr)


def _content(path: Path) -> str:
    return read_text(path, "save it as CSV in UTF-8")


def _key(path: Path) -> dict[str, Any]:
    try:
        key: dict[str, Any] = json.loads(_content(path))
        low, high = key["scale"]
        Scale(tuple(key["questions"]), low, high)
        for places in key["texts"].values():
            if any(place["method"] not in key["methods"] for place in places):
                raise ValueError("a method is unknown")
            [(place["prompt"], place["target"], place["number"]) for place in places]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is no key of `coopgen evaluate annotate export`") from error
    return key


def _tables(report: dict[str, Any], form: Format) -> str:
    parts = []
    people = report["people"]
    comment = "% " if form == "latex" else ""
    for question, found in report["questions"].items():
        agreement = "-" if found["alpha"] != found["alpha"] else f"{found['alpha']:.3f}"
        parts.append(f"{comment}{question} ({people} people, Krippendorff's alpha {agreement})\n\n")
        table = [["method", "target", "texts", "mean", f"p against {report['against']}"]]
        for target, rows in found["groups"].items():
            for method, row in rows.items():
                low, high = row["interval"]
                mean = f"{row['mean']:.2f} [{low:.2f}, {high:.2f}]"
                table.append([method, target, str(row["texts"]), mean, p_value(row.get("p_holm"))])
        parts.append(render(table, form) + "\n")
    return "".join(parts)
