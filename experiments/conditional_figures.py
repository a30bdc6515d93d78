"""The table, the figures and the picture of texts for sources, generator by generator."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from coopgen_jax.evaluation.metrics import wilson_interval

# What Chaffin's thesis reports of questions: BLEU-4, ROUGE-1, ROUGE-L, Base and Base+, in percent,
# before and after SelfGAN with tree search; its networks, data and discriminators are others.
REPORTED = {
    "maximum likelihood": {
        "beam": (16.5, 43.9, 40.0, 15.2, 15.0),
        "DAS local": (16.7, 43.9, 40.0, 28.1, 19.3),
        "DAS global": (16.8, 43.9, 40.1, 20.2, 17.3),
        "tree search": (16.8, 44.1, 40.2, 33.5, 20.6),
    },
    "selfgan": {
        "beam": (17.2, 44.3, 40.6, 34.1, 21.9),
        "DAS local": (17.3, 44.4, 40.6, 41.5, 23.6),
        "DAS global": (17.2, 44.3, 40.6, 38.7, 20.8),
        "tree search": (17.5, 44.6, 41.0, 39.9, 26.2),
    },
}
QUALITY = {"bleu_4": "BLEU-4", "rouge_1": "ROUGE-1", "rouge_l": "ROUGE-L"}
JUDGED = {"base": "Base", "base_plus": "Base+"}


def share(said: list[float]) -> dict[str, Any]:
    """Returns the share of texts that are taken for people's, with Wilson's interval."""
    hits = int(np.sum(np.asarray(said) > 0.5))
    interval = wilson_interval(hits, len(said))
    return {"value": hits / len(said), "interval": list(interval), "mean": float(np.mean(said))}


def figures_of(measured: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Returns the measured figures with every judge's word as a share."""
    return {
        name: {way: row | {base: share(row[base]) for base in JUDGED} for way, row in rows.items()}
        for name, rows in measured.items()
    }


def table(found: dict[str, Any], *, reported: bool) -> str:
    """Returns the figures as text; `reported`, whether the papers' stand below."""
    heads = [*QUALITY.values(), "words", *JUDGED.values()]
    lines = [f"{'':20} {'':12}" + "".join(f" {head:>16}" for head in heads)]
    for name, rows in found["figures"].items():
        for way, row in rows.items():
            cells = [f"{100 * row[key]:.1f}" if key in row else "" for key in QUALITY]
            cells.append(f"{row['words']:.1f}" if "words" in row else "")
            for base in JUDGED:
                low, high = row[base]["interval"]
                cells.append(f"{row[base]['value']:.0%} [{low:.0%}, {high:.0%}]")
            shown = way if way != name else ""
            lines.append(f"{name:20} {shown:12}" + "".join(f" {cell:>16}" for cell in cells))
    lines.append("")
    for name, card in found["trained"].items():
        moved = ", ".join(
            f"{key} {card['start'][key]:.3f} to {value:.3f}" for key, value in card["last"].items()
        )
        lines.append(f"{name}, training: {moved}")
    for name, means in found["judges_held_out"].items():
        lines.append(f"{name}: accuracy on held-out sources {means['accuracy']:.2f}")
    if reported:
        lines += ["", "Reported in Chaffin's thesis (BLEU-4, ROUGE-1, ROUGE-L, Base, Base+):"]
        for name, rows in REPORTED.items():
            for way, row in rows.items():
                lines.append(f"{name:20} {way:12}" + "".join(f" {value:>7.1f}" for value in row))
    return "\n".join(lines)


def report(out: Path, name: str, found: dict[str, Any]) -> None:
    """Prints the table, and writes it with all figures and the picture."""
    found = {**found, "figures": figures_of(found["measured"])}
    del found["measured"]
    text = table(found, reported=name == "questions")
    print(text, flush=True)
    out.mkdir(parents=True, exist_ok=True)
    (out / f"gcn_{name}.txt").write_text(text + "\n", encoding="utf-8")
    (out / f"gcn_{name}.json").write_text(
        json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    draw(found["figures"], out / f"gcn_{name}.png")


def draw(figures: dict[str, dict[str, Any]], path: Path) -> None:
    """Draws every figure as bars, a group for a decoder."""
    figure = Figure(figsize=(13, 7), layout="constrained")
    panels = figure.subplots(2, 2).flat
    names = [name for name in figures if name != "people"]
    ways = list(figures[names[0]])
    width = 0.8 / len(names)
    keys = ("bleu_4", "rouge_l", *JUDGED)
    for axes, key in zip(panels, keys, strict=True):
        for number, name in enumerate(names):
            rows = [figures[name][way][key] for way in ways]
            judged = key in JUDGED
            heights = np.asarray([100 * (row["value"] if judged else row) for row in rows])
            spans = None
            if judged:
                ends = 100 * np.asarray([row["interval"] for row in rows]).T
                spans = np.abs(ends - heights[None])
            places = np.arange(len(ways)) + (number - (len(names) - 1) / 2) * width
            axes.bar(places, heights, width, yerr=spans, capsize=2, label=name)
        if key in JUDGED:
            people = 100 * figures["people"]["people"][key]["value"]
            axes.axhline(people, color="black", linestyle=":", label="people")
        axes.set_xticks(range(len(ways)), ways)
        axes.set_title({**QUALITY, **{k: f"{v}: judged human" for k, v in JUDGED.items()}}[key])
        axes.set_ylabel("%")
        axes.grid(axis="y", alpha=0.3)
    # The last panel has all that is drawn.
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.savefig(path, dpi=130)
