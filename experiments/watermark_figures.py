"""The tables and pictures of `experiments.watermarks`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from coopgen_jax.evaluation.metrics import wilson_interval

LEVELS = (1e-5, 1e-6)
ATTACKS = ("none", "substitution", "deletion", "in human text")


def report(out: Path, found: dict[str, Any]) -> None:
    """Prints the tables, and writes them with all figures and the pictures.

    Stages that are not among what was found are kept as an earlier run wrote them.
    """
    out.mkdir(parents=True, exist_ok=True)
    before = out / "watermarks.json"
    if before.exists():
        found = json.loads(before.read_text(encoding="utf-8")) | found
    parts = []
    if "rates" in found:
        parts.append(rates_table(found["rates"]))
        draw_rates(found["rates"], out / "watermark_rates.png")
    if "strength" in found:
        parts.append(strength_table(found["strength"]))
        draw_strength(found["strength"], out / "watermark_strength.png")
    if "squad" in found:
        parts.append(squad_table(found["squad"]))
    if "paraphrase" in found:
        parts.append(paraphrase_table(found["paraphrase"]))
    if "users" in found:
        parts.append(users_table(found["users"]))
    if "tasks" in found:
        parts.append(tasks_table(found["tasks"]))
    if "guided" in found:
        parts.append(guided_table(found["guided"]))
    if "cost" in found:
        parts.append(cost_table(found["cost"]))
    text = "\n\n".join(parts) + "\n"
    print(text, end="")
    (out / "watermarks.txt").write_text(text, encoding="utf-8")
    (out / "watermarks.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def rates_table(rates: dict[str, Any]) -> str:
    """Returns how often unmarked texts were called marked, at every nominal level."""
    levels = list(next(iter(rates.values())))
    lines = [f"{'false positives at':44}" + "".join(f"{level:>10}" for level in levels)]
    for name, row in rates.items():
        lines.append(f"{name:44}" + "".join(f"{row[level]['rate']:>10.1e}" for level in levels))
    return "\n".join(lines)


def strength_table(rows: dict[str, Any]) -> str:
    """Returns true positives, median p, similarity and perplexity of every kind of text."""
    lines = [f"{'':24}{'similarity':>11}{'perplexity':>11}{'median':>8}"
             + "".join(f"{attack:>15}" for attack in ATTACKS)]  # fmt: skip
    for name, row in rows.items():
        line = f"{name:24}{row['similarity']:>11.3f}{row['perplexity']:>11.2f}"
        if row["window"] is not None:
            line += f"{np.median(row['none']):>8.1f}"
            for attack in ATTACKS:
                shares = [np.mean(np.asarray(row[attack]) <= np.log10(level)) for level in LEVELS]
                line += f"{' '.join(f'{share:.2f}' for share in shares):>15}"
        lines.append(line)
    lines.append("columns on the right: share found at false-positive rates of 1e-5 and 1e-6")
    return "\n".join(lines)


def squad_table(rows: dict[str, Any]) -> str:
    """Returns perplexity, median p and true positives of passages that were continued."""
    lines = [f"{'passages':24}{'perplexity':>11}{'median':>8}{'1e-5':>8}{'1e-6':>8}"]
    for name, row in rows.items():
        p = np.asarray(row["log10_p"])
        shares = "".join(f"{np.mean(p <= np.log10(level)):>8.2f}" for level in LEVELS)
        lines.append(f"{name:24}{row['perplexity']:>11.2f}{np.median(p):>8.1f}{shares}")
    return "\n".join(lines)


def paraphrase_table(rows: dict[str, Any]) -> str:
    """Returns median p and true positives in front of and behind a paraphrase."""
    lines = [f"{'paraphrase':24}{'similarity':>11}" + f"{'median':>10}{'1e-5':>8}{'1e-6':>8}" * 2]
    for name, row in rows.items():
        line = f"{name:24}{row['similarity']:>11.3f}"
        for when in ("before", "behind"):
            p = np.asarray(row[when])
            line += f"{np.median(p):>10.1f}"
            line += "".join(f"{np.mean(p <= np.log10(level)):>8.2f}" for level in LEVELS)
        lines.append(line)
    return "\n".join(lines)


def tasks_table(tasks: dict[str, Any]) -> str:
    """Returns the shares of right answers with intervals of 95 %."""
    lines = [f"{'right answers':24}" + "".join(f"{task:>24}" for task in tasks)]
    for name in next(iter(tasks.values())):
        cells = []
        for rows in tasks.values():
            low, high = wilson_interval(sum(rows[name]), len(rows[name]))
            cells.append(f"{np.mean(rows[name]):.3f} [{low:.3f}, {high:.3f}]")
        lines.append(f"{name:24}" + "".join(f"{cell:>24}" for cell in cells))
    return "\n".join(lines)


def users_table(rows: dict[str, Any]) -> str:
    """Returns how often the right one of many users was named."""
    lines = [f"{'scheme, users':24}{'at 1e-3':>10}{'at 1e-6':>10}"]
    lines += [f"{name:24}" + "".join(f"{row[f]:>10.2f}" for f in row) for name, row in rows.items()]
    return "\n".join(lines)


def guided_table(rows: dict[str, Any]) -> str:
    """Returns the share on target and the median p of guided texts, and their difference."""
    lines = [f"{'guided texts':24}{'on target':>24}{'median log10 p':>16}{'p <= 1e-6':>11}"]
    for name, row in rows.items():
        hit = np.asarray(row["on_target"])
        low, high = wilson_interval(int(hit.sum()), len(hit))
        p = np.asarray(row["log10_p"])
        share = f"{hit.mean():.3f} [{low:.3f}, {high:.3f}]"
        lines.append(f"{name:24}{share:>24}{np.median(p):>16.1f}{np.mean(p <= -6):>11.2f}")
    one, other = (np.asarray(row["on_target"], float) for row in rows.values())
    # A prompt's texts by several keys are not independent of one another.
    gap = (other - one).reshape(rows["gumbel"].get("keys", 1), -1).mean(axis=0)
    error = 1.96 * gap.std(ddof=1) / np.sqrt(len(gap))
    lines.append(
        f"difference {gap.mean():+.3f} [{gap.mean() - error:+.3f}, {gap.mean() + error:+.3f}]"
    )
    return "\n".join(lines)


def cost_table(rows: dict[str, list[float]]) -> str:
    """Returns a token's seconds and their ratio to those of unmarked texts."""
    lines = [f"{'a token of 8 texts':24}{'ms':>8}{'ratio':>8}"]
    for name, seconds in rows.items():
        base = rows["unmarked, top 50" if "top 50" in name else "unmarked"]
        lines.append(f"{name:24}{1000 * np.median(seconds):>8.1f}"
                     f"{np.median(seconds) / np.median(base):>8.3f}")  # fmt: skip
    return "\n".join(lines)


def draw_rates(rates: dict[str, Any], path: Path) -> None:
    """Draws the rate that was found against the nominal one, a panel a window and a scheme."""
    windows = list(dict.fromkeys(name.partition(",")[0] for name in rates))
    figure = Figure(figsize=(4 * len(windows), 7), layout="constrained")
    grid = figure.subplots(2, len(windows), squeeze=False)
    for column, window in enumerate(windows):
        for line, scheme in enumerate(("greenlist", "gumbel")):
            axes = grid[line, column]
            for name, row in rates.items():
                if not name.startswith(f"{window}, {scheme}"):
                    continue
                levels = [float(level) for level in row]
                label = name.removeprefix(f"{window}, {scheme} ")
                style = "--" if "once" not in label else "-"
                found = [max(row[level]["rate"], 1e-7) for level in row]
                axes.plot(levels, found, style, marker="o", markersize=3, label=label)
            axes.plot([1e-5, 1e-2], [1e-5, 1e-2], color="black", linewidth=0.7)
            axes.set(xscale="log", yscale="log", title=f"{scheme}, {window}")
            axes.set(xlabel="nominal rate", ylabel="rate found")
            axes.grid(alpha=0.3)
            axes.legend(frameon=False, fontsize=7)
    figure.savefig(path, dpi=130)


def draw_strength(rows: dict[str, Any], path: Path) -> None:
    """Draws the share of texts that are found against their perplexity, as written and changed."""
    figure = Figure(figsize=(12, 4), layout="constrained")
    grid = figure.subplots(1, 3)
    kinds = dict.fromkeys(
        (row["scheme"], row["window"]) for row in rows.values() if row["window"] is not None
    )
    for axes, attack in zip(grid, ("none", "substitution", "in human text"), strict=True):
        for scheme, window in kinds:
            own = [
                row for row in rows.values() if (row["scheme"], row["window"]) == (scheme, window)
            ]
            share = [np.mean(np.asarray(row[attack]) <= -5) for row in own]
            style = "o-" if scheme == "gumbel" else "s--"
            axes.plot(
                [row["perplexity"] for row in own], share, style, label=f"{scheme}, h {window}"
            )
        axes.set(title=attack, xlabel="perplexity", ylabel="found at 1e-5", ylim=(-0.03, 1.03))
        axes.grid(alpha=0.3)
    grid[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)
