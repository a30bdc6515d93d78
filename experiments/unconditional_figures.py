"""The table, the figures and the pictures of texts without a source, variant by variant."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

DIVERSITY = "self-BLEU-4 (lower: more diverse)"
NATS = "held-out nats a token, over the start's"


def spread(values: list[float]) -> str:
    """Returns the mean over seeds, and half of how far they lie apart."""
    return f"{np.mean(values):.3f} ± {(max(values) - min(values)) / 2:.3f}"


def report(out: Path, settings: dict[str, Any], results: dict[str, list[dict[str, Any]]]) -> None:
    """Prints the table, and writes it with all figures and the pictures."""
    rows = [f"{'':32} {'nats a token':>15} {'KL to start':>15} {'BLEU-4':>15} {'self-BLEU-4':>15} "
            f"{'perplexity':>15} {'effective':>9}"]  # fmt: skip
    for name, seeds in results.items():
        at = [seed["measured"]["1.0"] for seed in seeds]
        cells = [spread([one[key] for one in at]) for key in ("bleu", "self_bleu", "perplexity")]
        last = [seed["last"] for seed in seeds if "last" in seed]
        shares = [
            np.mean([line["effective_share"] for line in seed["rounds"]
                     if "effective_share" in line])
            for seed in seeds
            if any("effective_share" in line for line in seed.get("rounds", []))
        ]  # fmt: skip
        own = [spread([one[key] for one in last]) if last else "" for key in
               ("loss", "kl_to_start")]  # fmt: skip
        effective = f"{np.mean(shares):.2f}" if shares else ""
        rows.append(f"{name:32} " + " ".join(f"{c:>15}" for c in own + cells)
                    + f" {effective:>9}")  # fmt: skip
    table = "\n".join(rows)
    print(table)
    out.mkdir(parents=True, exist_ok=True)
    (out / "gcn_unconditional.txt").write_text(table + "\n", encoding="utf-8")
    said = {"settings": settings, "results": results}
    (out / "gcn_unconditional.json").write_text(
        json.dumps(said, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    draw(results, out / "gcn_unconditional.png")


def draw(results: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Draws quality against diversity over temperatures, and what rounds do."""
    figure = Figure(figsize=(18, 10), layout="constrained")
    grid = figure.subplots(2, 3)
    by_adam = {name: seeds for name, seeds in results.items() if not name.endswith("SGD")}
    every = dict.fromkeys(name.removesuffix(", SGD") for name in results)
    colours = {name: f"C{number}" for number, name in enumerate(every)}
    by_descent = {name: seeds for name, seeds in results.items() if name.endswith("SGD")}
    for axes, key, label in (
        (grid[0, 0], "bleu", "BLEU-4"),
        (grid[1, 0], "perplexity", "perplexity under a large language model"),
    ):
        for name, seeds in by_adam.items():
            own = seeds[0]["measured"]
            curve = [
                [np.mean([seed["measured"][t][one] for seed in seeds]) for t in own]
                for one in ("self_bleu", key)
            ]
            axes.plot(*curve, "o-", color=colours[name], markersize=3)
        axes.set(xlabel=DIVERSITY, ylabel=label, title="temperatures 0.7 to 1.15")
    grid[1, 0].set_yscale("log")
    for name, seeds in by_adam.items():
        both = [[rounds_of(seed, key) for seed in seeds] for key in ("self_bleu", "bleu")]
        if all(both[0]):
            curve = [
                [np.mean([v for _, v in at]) for at in zip(*runs, strict=True)] for runs in both
            ]
            grid[0, 1].plot(*curve, "o-", color=colours[name], markersize=3)
    grid[0, 1].set(xlabel=DIVERSITY, ylabel="BLEU-4", title="Adam, rounds 0 to the last")
    for axes, key, label, title, shown in (
        (grid[1, 1], "judge_accuracy", "discriminator's held-out accuracy", "Adam", by_adam),
        (grid[0, 2], "loss", NATS, "Adam", by_adam),
        (grid[1, 2], "loss", NATS, "plain gradient descent", by_descent),
    ):
        for name, seeds in shown.items():
            runs = [rounds_of(seed, key) for seed in seeds]
            if not all(runs):
                continue
            steps = [step for step, _ in runs[0]]
            values = np.array([[value for _, value in run] for run in runs])
            if key == "loss":
                values -= values[:, :1]
            colour = colours[name.removesuffix(", SGD")]
            axes.plot(steps, values.mean(axis=0), color=colour)
            axes.fill_between(
                steps, values.min(axis=0), values.max(axis=0), alpha=0.15, color=colour
            )
        axes.set(xlabel="rounds", ylabel=label, title=title)
    for axes in grid.flat:
        axes.grid(alpha=0.3)
    marks = [Line2D([], [], color=colour) for colour in colours.values()]
    figure.legend(marks, list(colours), loc="outside lower center", ncols=5)
    figure.savefig(path, dpi=110)


def rounds_of(result: dict[str, Any], key: str) -> list[tuple[int, float]]:
    """Returns a figure at the start and after rounds; none where it was not measured."""
    found = [
        (line["step"], line[key])
        for line in result.get("rounds", [])
        if line["split"] == "validation" and key in line
    ]
    begun = [(0, result["start"][key])] if found and key in result["start"] else []
    # Before its first steps a discriminator says nothing.
    return found if key == "judge_accuracy" else begun + found
