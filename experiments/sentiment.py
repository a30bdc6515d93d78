"""How often is the text on target? Every decoder on the same prompts, under an independent judge.

    python -m experiments.sentiment --prompts PROMPTS.jsonl --judge FOLDER --out experiments/results

The prompts are objects with a "text" and a "kind": the mood that their usual continuations have.
Every prompt is continued towards both targets; the judge (see train_judge.py) was trained on other
data than the guides and reads the continuation only. Each method's texts go to a file of their own
as soon as they are written; a run that was interrupted goes on with the methods that are missing.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

import coopgen_jax as cg
from coopgen_jax.discriminators.loading import packaged_heads
from coopgen_jax.evaluation import metrics
from coopgen_jax.evaluation.text_judges import load_text_judge

TARGETS = ("negative", "positive")


@dataclass(frozen=True)
class Config:
    """What to compare.

    Attributes:
      prompts: JSONL file with "text" and "kind" (neutral, positive, negative).
      judge: Folder of a trained judge of the classes negative and positive.
      out: Folder for the texts, the table's figures and its picture (drawn with matplotlib, which
        the extra `bench` installs).
      methods: Which methods to run, in this order.
      new_tokens: Tokens of every text.
      batch_size: Prompts decoded at once.
      limit: How many of the prompts to use, evenly spread over the file; None for all.
      model: The language model.
      trunk: The guide on its states.
      bidirectional: The guide that reads texts anew.
      seed: Of sampling.
    """

    prompts: Path
    judge: Path
    out: Path = Path("experiments/results")
    methods: tuple[str, ...] = (
        "greedy", "nucleus", "trunk", "puct", "sampled-visits", "bidirectional",
    )  # fmt: skip
    new_tokens: int = 24
    batch_size: int = 32
    limit: int | None = None
    model: str = "smollm2-135m"
    trunk: str = "sentiment"
    bidirectional: str = "sentiment-minilm"
    seed: int = 0


def decoders(config: Config) -> dict[str, tuple[Any, str]]:
    """Returns every method's settings and its guide (plain decoding is only scored by it)."""
    search = replace(cg.PRESETS["default"], new_tokens=config.new_tokens)
    puct = replace(cg.PRESETS["puct"], new_tokens=config.new_tokens)
    paper = replace(cg.PRESETS["paper"], new_tokens=config.new_tokens)
    greedy = cg.SamplingConfig(new_tokens=config.new_tokens, rules=cg.Rules(temperature=0.0))
    return {
        "greedy": (greedy, config.trunk),
        "nucleus": (greedy.with_settings(temperature=1.0, top_p=0.9), config.trunk),
        "trunk": (search, config.trunk),
        "sampled-visits": (puct.with_settings(visit_temperature=1.0), config.trunk),
        # An encoder that reads every text anew costs more than the language model's own step: with
        # so many simulations a text takes about as long as one guided by the shared trunk.
        "bidirectional": (
            replace(puct, search=replace(puct.search, simulations=20)),
            config.bidirectional,
        ),
        "puct": (puct, config.trunk),
        "paper": (paper, config.trunk),
    }


def recipe(config: Config, decoding: Any, guide: str, rows: Sequence[dict]) -> dict[str, Any]:
    """Returns what a method's texts depend on; texts of another recipe are not used again."""
    folder = packaged_heads().get(guide) or Path(guide)
    # A card can hold a temperature, which changes what the guide says.
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    return {
        "decoding": json.loads(json.dumps(asdict(decoding))),
        "model": config.model,
        "guide": guide,
        "guide_sha256": hashlib.sha256((folder / "head.safetensors").read_bytes()).hexdigest(),
        **({"temperature": card["temperature"]} if "temperature" in card else {}),
        "prompts_sha256": hashlib.sha256(json.dumps(list(rows)).encode()).hexdigest(),
        "seed": config.seed,
    }


def write_texts(
    config: Config, method: str, model: Any, rows: Sequence[dict], decoding: Any, guide_name: str
) -> dict[str, Any]:
    """Returns every prompt's texts towards both targets, and the seconds with compilation."""
    guide = cg.load_discriminator(guide_name, language_model=model)
    prompts = [row["text"] for row in rows] * len(TARGETS)
    targets = [target for target in TARGETS for _ in rows]
    common = {"config": decoding, "discriminator": guide, "batch_size": config.batch_size}
    for call in guide.calls:
        call.reset()
    start = time.perf_counter()
    texts = cg.generate(
        model,
        prompts,
        target=targets,
        seed=config.seed,
        listener=lambda step: print(
            f"\r{method}: batch {step.batch + 1}/{step.batches}, token {step.step}   ",
            end="",
            flush=True,
        ),
        **common,
    )
    print()
    return {
        "made_with": recipe(config, decoding, guide_name, rows),
        "method": method,
        "seconds": time.perf_counter() - start,
        "crossing_seconds": guide.host_seconds,
        "texts": [
            {"kind": row["kind"]} | asdict(text)
            for row, text in zip(list(rows) * len(TARGETS), texts, strict=True)
        ],
    }


def figures(result: dict[str, Any], judge: Any) -> dict[str, Any]:
    """Returns one method's row of the table; a group without texts is left out."""
    texts = result["texts"]
    positive = judge.predict_proba([text["text"] for text in texts])[:, 1]
    kind = np.array([text["kind"] for text in texts])
    target = np.array([text["target"] for text in texts])
    hit = (positive >= 0.5) == (target == "positive")
    # Says of few texts more than the share of those on target does.
    judged = np.where(target == "positive", positive, 1 - positive)
    groups = {
        "all": np.ones(len(texts), bool),
        "neutral": kind == "neutral",
        "with": kind == target,
        "against": (kind != "neutral") & (kind != target),
        "positive": target == "positive",
        "negative": target == "negative",
    }
    row: dict[str, Any] = {"method": result["method"], "seconds": result["seconds"]}
    for name, chosen in groups.items():
        if not chosen.any():
            continue
        low, high = metrics.wilson_interval(int(hit[chosen].sum()), int(chosen.sum()))
        row[name] = {
            "share": float(hit[chosen].mean()),
            "interval": [low, high],
            "mean_probability": float(judged[chosen].mean()),
        }
    by_target = [[t["text"] for t in texts if t["target"] == name] for name in TARGETS]
    row["perplexity"] = float(
        np.exp(
            -sum(text["log_prob"] for text in texts) / sum(len(text["tokens"]) for text in texts)
        )
    )
    # Diversity is that of the texts of one target: plain decoding writes the same for both.
    for name, measure in {
        "repetition_3": lambda group: float(
            np.mean([metrics.seq_rep(t.split(), 3) for t in group])
        ),
        "distinct_2": lambda group: metrics.distinct_n(group, 2),
        "self_bleu_5": lambda group: metrics.self_bleu(group),
    }.items():
        row[name] = float(np.mean([measure(group) for group in by_target]))
    row["crossing_share"] = (result["crossing_seconds"] or 0.0) / result["seconds"]
    row["seconds_per_text"] = result["seconds"] / len(texts)
    row["simulations_per_token"] = float(
        np.mean([text["simulations"] / max(1, len(text["tokens"])) for text in texts])
    )
    row["deepest"] = float(np.mean([text["deepest"] for text in texts]))
    return row


def show(rows: list[dict[str, Any]]) -> None:
    """Prints the table."""
    table = Table(title="Share on target under the judge, with 95 % intervals")
    for name in (
        "method", "all", "neutral", "with", "against", "perplexity", "rep-3", "distinct-2",
        "self-BLEU-5", "s / text", "in callback",
    ):  # fmt: skip
        table.add_column(name, justify="right")

    def share(entry: dict[str, Any] | None) -> str:
        if entry is None:
            return "none"
        low, high = entry["interval"]
        return f"{entry['share']:.3f} [{low:.2f}, {high:.2f}]"

    for row in rows:
        table.add_row(
            row["method"],
            *(share(row.get(name)) for name in ("all", "neutral", "with", "against")),
            f"{row['perplexity']:.2f}",
            f"{row['repetition_3']:.4f}",
            f"{row['distinct_2']:.3f}",
            f"{row['self_bleu_5']:.3f}",
            f"{row['seconds_per_text']:.2f}",
            f"{row['crossing_share']:.1%}",
        )
    Console(width=160).print(table)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draws the shares by kind of prompt, with their intervals."""
    names = {
        "all": "all", "with": "mood with", "neutral": "neutral", "against": "mood against",
    }  # fmt: skip
    groups = [name for name in names if name in rows[0]]
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(rows)
    for number, row in enumerate(rows):
        share = np.array([row[name]["share"] for name in groups])
        ends = np.array([row[name]["interval"] for name in groups])
        axes.bar(
            np.arange(len(groups)) + (number + 0.5) * width - 0.4,
            share,
            width,
            yerr=np.stack([share - ends[:, 0], ends[:, 1] - share]).clip(0),
            error_kw={"elinewidth": 1, "ecolor": "0.3"},
            label=f"{row['method']} (perplexity {row['perplexity']:.1f})",
        )
    axes.set_xticks(range(len(groups)), [names[name] for name in groups])
    axes.set_ylabel("share on target under the judge")
    axes.set_ylim(0, 1)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend(fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.08), frameon=False)
    figure.savefig(path, dpi=150)


def is_done(path: Path, wanted: dict[str, Any]) -> bool:
    """Tells whether a file holds the texts of this recipe."""
    if not path.exists():
        return False
    return json.loads(path.read_text(encoding="utf-8")).get("made_with") == wanted


def rows_of(config: Config) -> list[dict]:
    """Reads the prompts."""
    lines = config.prompts.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines if line.strip()]
    if config.limit is not None and config.limit < 1:
        raise SystemExit(f"--limit is {config.limit}: give 1 or more prompts, or leave it out")
    count = min(config.limit or len(rows), len(rows))
    return [rows[number * len(rows) // count] for number in range(count)]


def write_missing(
    config: Config, methods: dict[str, tuple[Any, str]], prefix: str
) -> Iterator[dict[str, Any]]:
    """Yields each method's row of the table, after writing the texts that are not there yet.

    Args:
      config: prompts, judge, model and folder.
      methods: settings and guide by name.
      prefix: of the files' names.
    """
    rows = rows_of(config)
    config.out.mkdir(parents=True, exist_ok=True)
    judge = load_text_judge(config.judge, model=config.model)
    model = None
    for method, (decoding, guide) in methods.items():
        path = config.out / f"{prefix}-{method}.json"
        if not is_done(path, recipe(config, decoding, guide, rows)):
            model = model or cg.load_language_model(config.model)
            result = write_texts(config, method, model, rows, decoding, guide)
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            partial.replace(path)
        yield figures(json.loads(path.read_text(encoding="utf-8")), judge)


def main(config: Config) -> None:
    """Runs what is missing, then prints the table of everything that is there."""
    known = decoders(config)
    table = []
    for row in write_missing(config, {name: known[name] for name in config.methods}, "sentiment"):
        table.append(row)
        show(table)
    report = json.dumps(table, indent=2) + "\n"
    (config.out / "sentiment.json").write_text(report, encoding="utf-8")
    draw(table, config.out / "sentiment.png")


if __name__ == "__main__":
    main(tyro.cli(Config))
