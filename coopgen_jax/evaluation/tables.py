"""Figures as tables for a terminal, a page or a paper; a picture of quality against cost."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from coopgen_jax.errors import UserError

Format = Literal["text", "markdown", "latex"]
# Of every figure: its heading, and how a number of it looks.
FIGURES = {
    "accuracy": ("accuracy", "{:.3f}"),
    "neither": ("neither", "{:.3f}"),
    "opposite": ("opposite", "{:.3f}"),
    "guide_gap": ("guide's gap", "{:+.3f}"),
    "perplexity": ("perplexity", "{:.2f}"),
    "self_bleu_5": ("5-self-BLEU", "{:.3f}"),
    "distinct_1": ("dist-1", "{:.3f}"),
    "distinct_2": ("dist-2", "{:.3f}"),
    "distinct_3": ("dist-3", "{:.3f}"),
    "seq_rep_4": ("seq-rep-4", "{:.4f}"),
    "mauve": ("MAUVE", "{:.3f}"),
    "length": ("length", "{:.1f}"),
    "seconds_per_token": ("s/token", "{:.4f}"),
    "seconds_per_text": ("s/text", "{:.2f}"),
    "calls_per_token": ("calls/token", "{:.1f}"),
}
MARKS = "os^D"
P_VALUES = {"accuracy_p": "p (accuracy)", "perplexity_p": "p (perplexity)"}
ESCAPED = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
})  # fmt: skip


def cells(report: dict[str, Any]) -> list[list[str]]:
    """Returns a report of `evaluate_texts` as rows of words, the headings first.

    An interval stands in brackets behind its figure; what is nowhere known has no column.
    """
    rows = report["methods"]
    shown = [name for name in FIGURES if any(name in row for row in rows)]
    tests = [name for name in P_VALUES if any(name in row.get("paired", {}) for row in rows)]
    head = ["method", "texts", *(FIGURES[name][0] for name in shown)]
    table = [[*head, *(P_VALUES[name] for name in tests)]]
    for row in rows:
        line = [row["method"], str(row["texts"])]
        line += [figure_cell(row.get(name), FIGURES[name][1]) for name in shown]
        line += [p_value(row.get("paired", {}).get(f"{name}_holm")) for name in tests]
        table.append(line)
    return table


def figure_cell(found: dict[str, Any] | None, form: str) -> str:
    """Returns a figure as a word, its interval in brackets behind it."""
    if found is None or found["value"] is None or np.isnan(found["value"]):
        return "-"
    value = form.format(found["value"])
    if found.get("interval") is None:
        return value
    low, high = (form.format(end) for end in found["interval"])
    return f"{value} [{low}, {high}]"


def p_value(value: float | None) -> str:
    """Returns a p-value as a word."""
    if value is None:
        return "-"
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def render(table: Sequence[Sequence[str]], form: Format) -> str:
    """Returns rows of words as a table, the first row its headings, the first column to the left.

    As "text" it is aligned with spaces; as "latex" it wants the package booktabs.
    """
    if form == "markdown":
        rule = ["---", *["---:"] * (len(table[0]) - 1)]
        escaped = [[word.replace("|", r"\|") for word in row] for row in table]
        page = [escaped[0], rule, *escaped[1:]]
        return "".join(f"| {' | '.join(row)} |\n" for row in page)
    if form == "latex":
        lines = [" & ".join(word.translate(ESCAPED) for word in line) + r" \\" for line in table]
        columns = "l" + "r" * (len(table[0]) - 1)
        body = [lines[0], r"\midrule", *lines[1:]]
        whole = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", *body, r"\bottomrule"]
        return "\n".join([*whole, r"\end{tabular}"]) + "\n"
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    marks = ["<", *[">"] * (len(widths) - 1)]
    line = "  ".join(f"{{:{mark}{width}}}" for mark, width in zip(marks, widths, strict=True))
    return "".join(line.format(*row).rstrip() + "\n" for row in table)


def draw(report: dict[str, Any], path: Path) -> None:
    """Draws accuracy and perplexity of the methods against their seconds per token.

    Raises:
      UserError: there is no matplotlib, or no method has the figures.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import LogLocator
    except ImportError as error:
        raise UserError("a picture needs matplotlib: pip install matplotlib") from error
    rows = [row for row in report["methods"] if "seconds_per_token" in row]
    panels = [name for name in ("accuracy", "perplexity") if any(name in row for row in rows)]
    if not panels:
        raise UserError(
            "there is nothing to draw: quality against cost wants seconds in the files, and a "
            "--judge or an --oracle"
        )
    figure = Figure(figsize=(4.5 * len(panels), 4 + 0.2 * len(rows)), layout="constrained")
    marks = {}
    for axes, name in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for number, row in enumerate(rows):
            if name not in row:
                continue
            cost, found = row["seconds_per_token"]["value"], row[name]
            value, (low, high) = found["value"], found["interval"]
            gaps = np.clip([[value - low], [high - value]], 0, None)
            # Ten colours come again with another mark.
            shape = MARKS[number // 10 % len(MARKS)]
            marks[row["method"]] = axes.errorbar(
                [cost], [value], gaps, fmt=shape, capsize=3, color=f"C{number}"
            )
        axes.set_xscale("log")
        if name == "perplexity":
            axes.set_yscale("log")
            # Words at every unit would overlap where decades meet.
            axes.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
            for formatted in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
                formatted("{x:g}")
        axes.set_xlabel("seconds per token")
        better = "higher" if name == "accuracy" else "lower"
        axes.set_ylabel(f"{name} ({better} is better)")
        axes.grid(alpha=0.3)
    figure.legend(
        list(marks.values()), list(marks), loc="outside lower center", fontsize=8, frameon=False
    )
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} could not be drawn: {error}") from error
