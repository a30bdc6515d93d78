"""The picture of `experiments.therapy`: how far explanations agree with known weights.

python -m experiments.therapy_figures --results experiments/results/therapy.json
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from coopgen_jax.files import read_json

# Of each method its name in the results, and how its line looks.
METHODS = {
    "therapy": ("Therapy, weights", "tab:blue", "-"),
    "therapy, considered": ("Therapy, considered words", "tab:red", "-"),
    "therapy, by reaction": ("Therapy, reactions", "tab:blue", "--"),
    "therapy, vocabulary": ("Therapy, vocabulary", "tab:cyan", "--"),
    "lime": ("LIME", "tab:orange", "-"),
    "shap": ("KernelSHAP", "tab:green", "-"),
    "lime, other texts": ("LIME, other texts", "tab:orange", ":"),
    "shap, other texts": ("KernelSHAP, other texts", "tab:green", ":"),
    "glass box": ("the classifier itself", "0.2", "-"),
    "random words": ("chance", "0.6", "-"),
}


@dataclass(frozen=True)
class Options:
    """What to draw.

    Attributes:
      results: What `experiments.therapy` wrote.
      picture: The picture; where none is given, beside the results.
    """

    results: Path = Path("experiments/results/therapy.json")
    picture: Path | None = None


def draw(found: dict[str, Any], path: Path) -> None:
    """Draws a row of four charts for every data set of the results."""
    names = [name for name in found if name != "settings"]
    figure = Figure(figsize=(15, 3.6 * len(names)), layout="constrained")
    axes = figure.subplots(len(names), 4, squeeze=False)
    for row, name in zip(axes, names, strict=True):
        own = found[name]
        _by_texts(row[0], own)
        _precision(row[1], own)
        _moves(row[2], own, "put in")
        _moves(row[3], own, "put out")
        row[0].set_ylabel(f"{name}\nrank correlation")
    handles = [
        next(line for line in axes[0, 2].lines if line.get_label() == label)
        for label, _, _ in METHODS.values()
        if any(line.get_label() == label for line in axes[0, 2].lines)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(path, dpi=130)


def _by_texts(axes: Axes, own: dict[str, Any]) -> None:
    """Draws the rank correlation on 100 words against texts of each class, a line for a class.

    The upper axis has the seconds in which so many texts were written.
    """
    classes = list(own["explanations"]["therapy"]["classes"])
    for label, name in enumerate(classes):
        counts = [step["texts"] for step in own["by_texts"]]
        axes.plot(counts, [step["weights"][label] for step in own["by_texts"]], label=name)
    axes.set_xlabel("texts of each class")
    steps = own["by_texts"]
    upper = axes.secondary_xaxis("top")
    upper.set_xticks([step["texts"] for step in steps],
                     [f"{step['seconds']:.0f} s" for step in steps])  # fmt: skip
    axes.set_title("weights, 100 words", fontsize=10, pad=18)
    axes.axhline(0, color="0.8", lw=0.8)
    axes.legend(fontsize=8, frameon=False)


def _precision(axes: Axes, own: dict[str, Any]) -> None:
    """Draws, of the first words of an explanation, the share that is right: means over classes."""
    for method, (label, colour, dashes) in METHODS.items():
        rated = own["explanations"][method].get("classes")
        if rated is None:
            continue
        lists = [one["words"] for one in rated.values()]
        lengths = [word["length"] for word in lists[0]]
        means = np.mean([[word["precision"] for word in words] for words in lists], axis=0)
        axes.plot(lengths, means, color=colour, ls=dashes, label=label)
    axes.set_xlabel("first words of the explanation")
    axes.set_title("share among the classifier's 100", fontsize=10)
    axes.set_ylim(0, 1)


def _moves(axes: Axes, own: dict[str, Any], how: str) -> None:
    for method, (label, colour, dashes) in METHODS.items():
        moves = own["explanations"][method]["moves"]
        axes.plot(moves["words"], moves[how], color=colour, ls=dashes, label=label)
    axes.set_xlabel(f"words {how}")
    axes.set_title("share of texts whose class changes", fontsize=10)
    axes.set_ylim(0, 1)


if __name__ == "__main__":
    options = tyro.cli(Options)
    draw(read_json(options.results), options.picture or options.results.with_suffix(".png"))
