"""Draws `docs/quality.png` for the README; run it by hand when the figures change."""

from pathlib import Path

from matplotlib.figure import Figure
from tables import method_label, read, rounded

# Where a label would lie on another point or label: points to the right and up, and its side.
MOVED = {
    "greedy": (7, -12, "left"),
    "nucleus 0.9": (7, 4, "left"),
    "SMC, 4 particles": (7, 2, "left"),
    "DExperts, weight 2, nucleus 0.9": (-7, -4, "right"),
    "MCTS, causal (32)": (7, -4, "left"),
    "MCTS, bidirectional (MiniLM, 16)": (-7, 2, "right"),
    "sampling-argmax, best of 20": (7, -12, "left"),
    "RAD (`fudge` by value, strength 10)": (-7, -4, "right"),
    "MCTS, shared trunk (32 simulations)": (-7, -4, "right"),
}
SHORT = {
    "RAD (`fudge` by value, strength 10)": "RAD",
    "DExperts, weight 2, nucleus 0.9": "DExperts",
    "CC-LM, nucleus 0.9": "CC-LM",
    "sampling-argmax, best of 20": "best of 20 samples",
    "beam-argmax, 10 beams": "best of 10 beams",
    "MCTS, shared trunk (32 simulations)": "MCTS, shared trunk",
    "MCTS, causal (32)": "MCTS, causal",
    "MCTS, generative (32)": "MCTS, generative",
    "MCTS, bidirectional (MiniLM, 16)": "MCTS, bidirectional",
}


def draw(path: Path) -> None:
    """Draws the share on target against milliseconds per token, with every perplexity."""
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    axes = figure.subplots()
    for row in read("polarity")["methods"]:
        name, cell = method_label(row["method"]), row["accuracy"]
        x, y = 1000 * row["seconds_per_token"]["value"], cell["value"]
        low, high = cell["interval"]
        colour = "#0b6e5f" if name.startswith("MCTS") else "#8a8a8a"
        axes.errorbar(x, y, [[y - low], [high - y]], fmt="o", color=colour, elinewidth=1, capsize=2)
        right, up, side = MOVED.get(name, (7, -4, "left"))
        axes.annotate(
            f"{SHORT.get(name, name)} · {rounded(row['perplexity']['value'])}",
            (x, y),
            xytext=(right, up),
            textcoords="offset points",
            ha=side,
            fontsize=9,
            color=colour if name.startswith("MCTS") else "#333333",
        )
    axes.set(xscale="log", xlim=(5, 700), ylim=(0.4, 1.02))
    axes.set(xlabel="milliseconds per token, one CPU core", ylabel="share of texts on target")
    axes.set_title("after each name: perplexity under a separate language model", fontsize=10)
    axes.set_xticks([10, 100], ["10", "100"])
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    draw(Path(__file__).parents[1] / "quality.png")
