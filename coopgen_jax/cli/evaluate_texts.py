"""The command `coopgen evaluate texts`."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coopgen_jax.cli.compare_options import CompareOptions
from coopgen_jax.cli.evaluate_options import TextsOptions
from coopgen_jax.cli.train_data import pair
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.report import (
    ReportSettings,
    footnotes,
    read_reference,
    report_files,
    report_on,
    write_report,
)
from coopgen_jax.evaluation.tables import cells, render
from coopgen_jax.evaluation.written_texts import Method, read_methods
from coopgen_jax.files import check_apart, check_writable, to_json


def run_texts(what: TextsOptions) -> None:
    """Reports on the texts of files; raises UserError where they or the judge are of no use."""
    if not what.files:
        raise UserError("there are no texts: give files of `coopgen generate --out`")
    methods = [method for entry in what.files for method in read_entry(entry)]
    for path in report_files(what.out, what.format).values() if what.out else ():
        check_apart(path, {f"the file {entry}": named_file(entry)[1] for entry in what.files})
        check_writable(path, "--out")
    how = report_settings(what, guide=what.guide, target=what.target, model=what.model)
    deliver(report_on(methods, how, on_method=measuring(what.quiet)), what, what.out)


def read_entry(entry: str) -> list[Method]:
    """Returns the methods of FILE or of NAME=FILE; see `read_methods`."""
    name, path = named_file(entry)
    return read_methods(path, name)


def named_file(entry: str) -> tuple[str | None, Path]:
    """Returns the name, None without one, and the file of FILE or of NAME=FILE."""
    name, separator, file = entry.partition("=")
    if not separator or Path(entry).exists():
        return None, Path(entry)
    if not name or not file:
        raise UserError(f"{entry}: give the method's name and its file as NAME=FILE")
    return name, Path(file)


def report_settings(what: TextsOptions | CompareOptions, **more: Any) -> ReportSettings:
    """Returns what the options say; raises UserError where texts or a renaming cannot be read."""
    if not 0 <= what.shared_rows <= 1:
        raise UserError(f"--shared-rows is {what.shared_rows}: give a share from 0 to 1")
    shared = ("judge", "oracle", "force", "shared_rows", "against", "encoder")
    return ReportSettings(
        **{name: getattr(what, name) for name in shared},
        rename=tuple(map(pair, what.rename)),
        reference=read_reference(what.reference) if what.reference else (),
        **more,
    )


def measuring(quiet: bool) -> Callable[[str], None]:
    """Returns a listener that names on stderr what is measured."""

    def show(name: str) -> None:
        if not quiet:
            print(f"coopgen: measuring {name}", file=sys.stderr, flush=True)

    return show


def deliver(report: dict[str, Any], what: TextsOptions | CompareOptions, stem: Path | None) -> None:
    """Writes a report where files of it are asked for, and prints it."""
    if stem:
        write_report(report, stem, what.format)
    if what.json:
        print(to_json(report, indent=1))
        return
    print(render(cells(report), what.format), end="")
    comment = "% " if what.format == "latex" else ""
    gap = "\n" if what.format == "markdown" else ""
    for line in footnotes(report):
        print(f"{gap}{comment}{line}")
