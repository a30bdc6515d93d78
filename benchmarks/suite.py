"""What all benchmarks share: they yield rows, which become a table, a JSON file and a picture."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.machine import describe
from benchmarks.settings import Settings, resolve

Row = dict[str, Any]


@dataclass(frozen=True)
class Benchmark:
    """One timed thing.

    name: on the command line and of its files.
    about: what it shows, in one line.
    measure: `settings -> rows`, each yielded as soon as it has been taken.
    columns: what the table shows: a row's key, its title and its format.
    own: the settings that a user leaves open; quick: those that differ under `--quick`.
    draw: draws the rows into matplotlib axes, or None.
    """

    name: str
    about: str
    measure: Callable[[Settings], Iterator[Row]]
    columns: tuple[tuple[str, str, str], ...]
    own: dict[str, Any] = field(default_factory=dict)
    quick: dict[str, Any] = field(default_factory=dict)
    draw: Callable[[list[Row], Any], None] | None = None


def cells(benchmark: Benchmark, row: Row) -> list[str]:
    """Returns a row as text; what could not be measured is a dash."""
    return [
        "-" if row.get(key) is None else format(row[key], form)
        for key, _, form in benchmark.columns
    ]


def run(benchmark: Benchmark, settings: Settings) -> Path:
    """Runs one benchmark, printing every row as it comes.

    The file is rewritten after every row, so that an interrupted run leaves what it has measured.

    Returns:
      The JSON file, named by benchmark, model, dtype and platform; a picture stands beside it.

    Raises:
      OSError: the files cannot be written.
      ValueError: the settings are not for this benchmark.
    """
    settings = resolve(settings, benchmark.name, benchmark.own, benchmark.quick)
    console = Console(highlight=False, soft_wrap=True)
    machine = describe()
    settings.out.mkdir(parents=True, exist_ok=True)
    parts = [benchmark.name, settings.model, settings.dtype, machine["platform"]]
    parts += ["quick"] if settings.quick else []
    path = settings.out / ("-".join(map(str, parts)) + ".json")
    console.print(f"[bold]{benchmark.name}[/bold]: {benchmark.about}")
    console.print(f"{settings.model}, {settings.dtype}, {machine['device']}, jax {machine['jax']}")
    titles = [title for _, title, _ in benchmark.columns]
    console.print(" | ".join(titles))
    rows: list[Row] = []
    try:
        for row in benchmark.measure(settings):
            rows.append(row)
            padded = zip(cells(benchmark, row), titles, strict=True)
            console.print(" | ".join(cell.rjust(len(title)) for cell, title in padded))
            report = {
                "benchmark": benchmark.name,
                "machine": machine,
                "settings": asdict(settings) | {"out": str(settings.out)},
                "rows": rows,
            }
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
            partial.replace(path)
    finally:
        picture(benchmark, rows, path.with_suffix(".png"))
    console.print(f"written to {path}\n")
    return path


def picture(benchmark: Benchmark, rows: list[Row], path: Path) -> None:
    """Draws the rows, where the benchmark knows how."""
    if benchmark.draw is None or not rows:
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    benchmark.draw(rows, axes)
    axes.set_title(benchmark.about, fontsize=10)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    figure.savefig(path, dpi=150)


def draw_ratios(rows: list[Row], names: list[str], axes: Any) -> None:
    """Draws every row's ratio as a bar with its spread, and a line at 1."""
    low = [row["ratio"] - row["ratio_spread"][0] for row in rows]
    high = [row["ratio_spread"][1] - row["ratio"] for row in rows]
    axes.barh(names, [row["ratio"] for row in rows], xerr=[low, high], ecolor="0.3")
    axes.axvline(1, color="0.3", linewidth=1)
    axes.invert_yaxis()


def markdown(benchmark: Benchmark, report: dict[str, Any]) -> str:
    """Returns a report as a Markdown table under a line that names the machine."""
    machine, settings = report["machine"], report["settings"]
    lines = [
        f"**{benchmark.name}**: {benchmark.about} ({settings['model']}, {settings['dtype']}, "
        f"{machine['device']}, {machine['cores']} cores, jax {machine['jax']})",
        "",
        "| " + " | ".join(title for _, title, _ in benchmark.columns) + " |",
        "| " + " | ".join("---" for _ in benchmark.columns) + " |",
    ]
    lines += ["| " + " | ".join(cells(benchmark, row)) + " |" for row in report["rows"]]
    return "\n".join(lines) + "\n"
