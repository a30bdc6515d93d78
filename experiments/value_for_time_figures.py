"""The figures, the table and the picture of `experiments.value_for_time`."""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from coopgen_jax.bulk.growing_file import rows_in
from coopgen_jax.comparison.method_run import text_files
from coopgen_jax.comparison.tuning import Tuned
from coopgen_jax.evaluation.metrics import (
    percentile_interval,
    perplexity,
    wilson_interval,
)
from coopgen_jax.evaluation.oracle import log_likelihoods
from coopgen_jax.evaluation.significance import perplexity_interval
from coopgen_jax.evaluation.tables import render
from coopgen_jax.evaluation.text_judges import TextJudge, load_text_judge
from coopgen_jax.evaluation.texts import judged_parts
from coopgen_jax.evaluation.written_texts import Written
from coopgen_jax.files import write_json
from coopgen_jax.models.pretrained.loaded_model import LoadedModel, load

if TYPE_CHECKING:
    from experiments.value_for_time import Config

# What the others are set against, at these numbers of texts.
BASES = ("rerank:of=8", "rerank:of=16")
FAMILIES = {
    "sample": "sampling",
    "rerank": "best of n (tuned)",
    "mcts": "search",
    "fudge": "FUDGE, RAD (tuned)",
    "smc": "SMC (tuned)",
    "look-ahead": "FUDGE, head distilled from searches",
}


def report(config: "Config", tuned: Sequence[Tuned], seconds: dict[str, list[float]]) -> None:
    """Judges the texts of methods, and writes figures, table and picture.

    `seconds` of a text are those of every repeat, by the name of what was chosen.
    """
    judges = load_judges(config)
    oracle = None if config.oracle is None else load(config.oracle)
    runs = [one.run for one in tuned]
    found = {}
    for one, path in zip(tuned, text_files(runs, config.work / "texts"), strict=True):
        found[one.asked] = measured(rows_in(path), judges, oracle)
    rows = []
    for one in tuned:
        times = seconds[one.run.name]
        median = statistics.median(times)
        own = found[one.asked]
        row = {"method": one.asked, "chosen": one.run.name, "texts": len(own["log_prob"])}
        row["seconds_per_text"] = {"value": median, "range": [min(times), max(times)]}
        row |= figures(own) | {"against": {}}
        for base in BASES:
            if base in found and base != one.asked:
                row["against"][base] = differences(own, found[base])
                slower = statistics.median(
                    next(seconds[two.run.name] for two in tuned if two.asked == base)
                )
                row["against"][base]["seconds_ratio"] = median / slower
        rows.append(row)
    names = ("new_tokens", "batch_size", "limit", "tuning_rows", "repeats", "seed", "oracle")
    about = {name: getattr(config, name) for name in names}
    result = {
        "settings": about | {"judges": list(judges)},
        "frontier": frontier(rows),
        "methods": rows,
        "tuning": [one.about() for one in tuned],
    }
    write_json(config.out / "value_for_time.json", result)
    print(table(rows, list(judges)))
    print(f"on the frontier: {', '.join(result['frontier'])}")
    draw(rows, config.picture or config.out / "value_for_time.png")


def load_judges(config: "Config") -> dict[str, TextJudge]:
    """Returns the judges by the names of their folders."""
    if not config.judges:
        raise SystemExit("there are no --judges: give the folders of one or two")
    judges = {path.name: load_text_judge(path, model=config.model) for path in config.judges}
    if len(judges) < len(config.judges):
        raise SystemExit("two --judges have folders of one name: rename one of them")
    return judges


def measured(
    lines: Sequence[dict[str, Any]], judges: dict[str, TextJudge], oracle: LoadedModel | None
) -> dict[str, Any]:
    """Returns what is known of a method's texts, in the order of their targets and prompts.

    Of every judge that is which texts are on target and which are neither, of the oracle, or of the
    model that wrote, log-probabilities and numbers of tokens.
    """
    lines = sorted(lines, key=lambda line: (line["target"], line["number"]))
    texts = [Written(line["prompt"], line["text"], line["target"]) for line in lines]
    if oracle is None:
        log_prob = np.array([line["log_prob"] for line in lines])
        tokens = np.array([len(line["tokens"]) for line in lines])
    else:
        prompts, written = ([getattr(text, n) for text in texts] for n in ("prompt", "text"))
        log_prob, tokens = log_likelihoods(oracle, prompts, written)
    return {
        "asked": [(line["prompt"], line["target"]) for line in lines],
        "parts": {name: judged_parts(judge, texts) for name, judge in judges.items()},
        "log_prob": log_prob,
        "tokens": tokens,
    }


def figures(own: dict[str, Any]) -> dict[str, Any]:
    """Returns the shares of a method's texts under every judge, and their perplexity."""
    judged = {name: cells_of(*parts) for name, parts in own["parts"].items()}
    some = own["tokens"] > 0
    log_prob, tokens = own["log_prob"][some], own["tokens"][some]
    return {
        "judges": judged,
        "perplexity": {
            "value": perplexity(log_prob, tokens),
            "interval": list(perplexity_interval(log_prob, tokens)),
        },
    }


def cells_of(hits: np.ndarray, neither: np.ndarray) -> dict[str, Any]:
    """Returns the shares of three parts, of which texts `[n]` are on target, and which neither."""
    parts = {"on_target": hits, "neither": neither, "against": ~hits & ~neither}
    return {part: shares(there) for part, there in parts.items()}


def differences(own: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """Returns how a method differs from another on the same prompts and targets.

    Intervals are of prompts that are drawn anew, each with its texts towards all targets: texts of
    one prompt are no independent ones.
    """
    if own["asked"] != base["asked"]:
        raise SystemExit("two methods wrote other prompts: run the stage texts again")
    found: dict[str, Any] = {}
    for name, (hits, _) in own["parts"].items():
        found[name] = mean_by_prompt(own["asked"], hits.astype(float) - base["parts"][name][0])
    columns = tuple(
        by_prompt(own["asked"], side[part])
        for side in (own, base)
        for part in ("log_prob", "tokens")
    )
    found["perplexity_ratio"] = _paired(columns, _ratio)
    return found


def by_prompt(asked: Sequence[tuple[str, str]], values: np.ndarray) -> np.ndarray:
    """Returns the sums of texts' values `[n]`, a prompt each; a text has a prompt and a target."""
    prompts = list(dict.fromkeys(prompt for prompt, _ in asked))
    place = np.array([prompts.index(prompt) for prompt, _ in asked])
    return np.bincount(place, weights=values)


def mean_by_prompt(asked: Sequence[tuple[str, str]], values: np.ndarray) -> dict[str, Any]:
    """Returns the mean of texts' values `[n]`, with an interval for which prompts are drawn."""
    count = by_prompt(asked, np.ones(len(asked)))
    return _paired((by_prompt(asked, values), count), _mean)


def _mean(total: np.ndarray, count: np.ndarray, axis: int = -1) -> np.ndarray:
    return total.sum(axis=axis) / count.sum(axis=axis)


def _ratio(
    log_p: np.ndarray, n: np.ndarray, base_log_p: np.ndarray, base_n: np.ndarray, axis: int = -1
) -> np.ndarray:
    return np.exp(_mean(base_log_p, base_n, axis) - _mean(log_p, n, axis))


def _paired(
    columns: tuple[np.ndarray, ...], statistic: Callable[..., np.ndarray]
) -> dict[str, Any]:
    value = float(statistic(*columns))
    if len(columns[0]) < 2:
        return {"value": value, "interval": [value, value]}
    return {"value": value, "interval": list(percentile_interval(columns, statistic))}


def frontier(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the methods that no other beats: as fast, as often on target, and as likely."""

    def place(row: dict[str, Any]) -> tuple[float, float, float]:
        return row["seconds_per_text"]["value"], -on_target(row), row["perplexity"]["value"]

    def beaten(row: dict[str, Any]) -> bool:
        mine = place(row)
        return any(
            place(other) != mine and all(a <= b for a, b in zip(place(other), mine, strict=True))
            for other in rows
        )

    return [row["method"] for row in rows if not beaten(row)]


def on_target(row: dict[str, Any]) -> float:
    """Returns a method's share of texts on target, the mean over judges."""
    return statistics.fmean(judge["on_target"]["value"] for judge in row["judges"].values())


def table(rows: Sequence[dict[str, Any]], judges: Sequence[str]) -> str:
    """Returns the methods as a table, the fastest first."""
    head = ["method", "s/text"]
    head += [f"{judge}: {part}" for judge in judges for part in ("on target", "neither", "against")]
    lines = [[*head, "perplexity", *(f"on target, less {base}" for base in BASES)]]
    for row in sorted(rows, key=lambda row: row["seconds_per_text"]["value"]):
        cells = [row["chosen"], f"{row['seconds_per_text']['value']:.2f}"]
        for judge in judges:
            parts = row["judges"][judge]
            cells += [_interval(parts["on_target"])]
            cells += [f"{parts[part]['value']:.2f}" for part in ("neither", "against")]
        cells.append(f"{row['perplexity']['value']:.2f}")
        for base in BASES:
            gap = row["against"].get(base)
            cells.append("-" if gap is None else _interval(gap[judges[0]], sign="+"))
        lines.append(cells)
    return render(lines, "text")


def family_of(method: str) -> str:
    """Returns to which line of the picture a method belongs."""
    name, *options = method.split(":")
    return "look-ahead" if "look_ahead=true" in options else name


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draws the share on target and the perplexity against seconds, a line for every family."""
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    best = frontier([row for row in rows if row["method"].startswith("mcts")])
    for number, (family, label) in enumerate(FAMILIES.items()):
        own = [row for row in rows if family_of(row["method"]) == family]
        own.sort(key=lambda row: row["seconds_per_text"]["value"])
        if not own:
            continue
        faint = [row for row in own if family == "mcts" and row["method"] not in best]
        kept = [row for row in own if row not in faint]
        for axes, value in ((left, on_target), (right, lambda row: row["perplexity"]["value"])):
            for several, style in ((faint, {"alpha": 0.3}), (kept, {"label": label})):
                line = "o-" if family in ("mcts", "rerank", "smc") and several is kept else "o"
                times = [row["seconds_per_text"]["value"] for row in several]
                values = [value(row) for row in several]
                wide = {"linewidth": 2.5} if family == "mcts" else {}
                axes.plot(times, values, line, color=f"C{number}", **wide, **style)
            for row in kept:
                words = row["method"].split(":")[1:]
                sizes = [w.partition("=")[2] for w in words if w.startswith(("of", "sim", "samp"))]
                at = (row["seconds_per_text"]["value"], value(row))
                axes.annotate("".join(sizes), at, (4, 5), textcoords="offset points", fontsize=8)
    left.set(ylabel="share on target (higher is better)", ylim=(0, 1))
    right.set(ylabel="perplexity (lower is better)", yscale="log")
    for axes in (left, right):
        axes.set(xlabel="seconds per text", xscale="log")
        axes.grid(alpha=0.3)
    for axis in (left.xaxis, right.xaxis, right.yaxis):
        # Words at every unit would overlap.
        axis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("{x:g}")
    words = "number: texts of best of n, simulations of the search, particles of SMC"
    figure.legend(
        *left.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False,
        title=words,
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def shares(there: np.ndarray) -> dict[str, Any]:
    """Returns the share of texts `[n]` that are there, with Wilson's interval."""
    interval = wilson_interval(int(there.sum()), len(there))
    return {"value": float(there.mean()), "interval": list(interval)}


def _interval(cell: dict[str, Any], *, sign: str = "") -> str:
    low, high = (f"{end:{sign}.2f}" for end in cell["interval"])
    return f"{cell['value']:{sign}.2f} [{low}, {high}]"
