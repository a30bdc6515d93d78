"""What a search's budget buys: simulations, waves, exploration, likelihood, roll-outs, the root.

    python -m experiments.budget --prompts PROMPTS.jsonl --judge FOLDER --out experiments/results

The figure of the thesis (Chaffin 2023; PPL-MCTS, NAACL 2022, arXiv 2109.13582): one
setting is changed at a time, and the share on target under an independent judge and the perplexity
are told beside the seconds of one prompt's token, so that what costs the same can be compared.
Every setting's texts stand in a file of their own as soon as they are written; a run that was
interrupted, or whose minutes were spent, goes on with the settings that are missing.
"""

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro
from matplotlib.figure import Figure

import coopgen_jax as cg
from experiments.sentiment import Config as SentimentConfig
from experiments.sentiment import write_missing
from experiments.waves import seconds_per_token

# Settings on a line of the pictures, by what is changed along it.
SIMULATIONS = (1, 2, 4, 8, 16, 32, 64, 128)
WAVES = (1, 4, 8, 16)
C_PUCT = (0.1, 0.5, 1.5, 3.0, 8.0)
ALPHA = (1.0, 0.75, 0.5, 0.25)
ROLLOUT = (0, 4, 8, 16)
LINES = ("PUCT", "halving", "wave", "c_puct", "alpha", "rollout")


@dataclass(frozen=True)
class Config:
    """What to compare.

    Attributes:
      prompts: As in `experiments.sentiment`.
      judge: As in `experiments.sentiment`.
      out: As in `experiments.sentiment`.
      limit: As in `experiments.sentiment`.
      batch_size: As in `experiments.sentiment`.
      new_tokens: As in `experiments.sentiment`.
      lines: Which settings to change, of PUCT and halving (simulations under either root), wave,
        c_puct, alpha and rollout.
      simulations: Simulations where they are not what is changed.
      repeats: Timed tokens.
      budget_minutes: Minutes after which no further setting is started; None for all of them.
    """

    prompts: Path
    judge: Path
    out: Path = Path("experiments/results")
    limit: int | None = 12
    batch_size: int = 48
    new_tokens: int = 24
    lines: tuple[str, ...] = LINES
    simulations: int = 32
    repeats: int = 5
    budget_minutes: float | None = None


def wave_of(simulations: int, widest: int) -> int:
    """Returns the widest wave that divides the simulations."""
    return max(wave for wave in range(1, widest + 1) if simulations % wave == 0)


def settings(config: Config) -> dict[str, cg.MCTSConfig]:
    """Returns the searches by "line=value"."""
    drawn = replace(cg.PRESETS["puct"], new_tokens=config.new_tokens)
    default = replace(cg.PRESETS["default"], new_tokens=config.new_tokens)

    def puct(simulations: int = config.simulations, **changes: Any) -> cg.MCTSConfig:
        return drawn.with_settings(simulations=simulations, early_stop=True, **changes)

    def halved(simulations: int = config.simulations, wave: int = 8) -> cg.MCTSConfig:
        considered = min(16, simulations)
        wave = wave_of(simulations, min(wave, considered))
        return default.with_settings(simulations=simulations, considered=considered, wave=wave)

    lines: dict[str, dict[Any, cg.MCTSConfig]] = {
        "PUCT": {count: puct(count) for count in SIMULATIONS},
        "halving": {count: halved(count) for count in SIMULATIONS if count > 1},
        "wave": {wave: halved(wave=wave) for wave in WAVES},
        "c_puct": {weight: puct(c_puct=weight) for weight in C_PUCT},
        "alpha": {alpha: halved().with_settings(alpha=alpha) for alpha in ALPHA},
        "rollout": {tokens: puct().with_settings(rollout=tokens) for tokens in ROLLOUT},
    }
    unknown = sorted(set(config.lines) - set(lines))
    if unknown:
        raise SystemExit(f"--lines {unknown[0]} is unknown: choose from {', '.join(lines)}")
    return {
        f"{line}={value}": found for line in config.lines for value, found in lines[line].items()
    }


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draws share on target and perplexity, against the simulations and against the seconds."""
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    grid = figure.subplots(2, 2)
    for line in dict.fromkeys(row["method"].partition("=")[0] for row in rows):
        own = [row for row in rows if row["method"].partition("=")[0] == line]
        share = [row["all"]["share"] for row in own]
        ends = [
            [s - row["all"]["interval"][0] for s, row in zip(share, own, strict=True)],
            [row["all"]["interval"][1] - s for s, row in zip(share, own, strict=True)],
        ]
        perplexity = [row["perplexity"] for row in own]
        seconds = [row["seconds_per_token"] for row in own]
        if line in ("PUCT", "halving"):
            counts = [int(row["method"].partition("=")[2]) for row in own]
            grid[0, 0].errorbar(counts, share, yerr=ends, fmt="o-", elinewidth=0.5, label=line)
            grid[1, 0].plot(counts, perplexity, "o-", label=line)
        grid[0, 1].plot(seconds, share, "o-", label=line)
        grid[1, 1].plot(seconds, perplexity, "o-", label=line)
        for row, x, y in zip(own, seconds, share, strict=True):
            grid[0, 1].annotate(
                row["method"].partition("=")[2], (x, y), (4, -9), textcoords="offset points",
                fontsize=7,
            )  # fmt: skip
    for axes, label in zip(grid[:, 0], ("share on target", "perplexity"), strict=True):
        axes.set_ylabel(label)
        axes.set_xscale("log", base=2)
    grid[1, 0].set_xlabel("simulations per token")
    grid[1, 1].set_xlabel("seconds per token, one prompt")
    for axes in grid.flat:
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8)
    for axes in grid[:, 1]:
        axes.set_xscale("log")
    figure.savefig(path, dpi=150)


def main(config: Config) -> None:
    """Writes what is missing, times every search, and draws the picture."""
    started = time.monotonic()
    searches = settings(config)
    texts = SentimentConfig(
        prompts=config.prompts, judge=config.judge, out=config.out, limit=config.limit,
        batch_size=config.batch_size, new_tokens=config.new_tokens,
    )  # fmt: skip
    # What stands on several lines is written once.
    first: dict[cg.MCTSConfig, str] = {}
    for name, decoding in searches.items():
        first.setdefault(decoding, name)
    methods = {name: (decoding, texts.trunk) for decoding, name in first.items()}
    settled = {
        name: getattr(texts, name) for name in ("limit", "new_tokens", "model", "trunk", "seed")
    }
    rows: list[dict[str, Any]] = []
    for row in write_missing(texts, methods, "budget"):
        decoding = searches[row["method"]]
        row["seconds_per_token"] = seconds_per_token(decoding, config.repeats)
        rows += [row | {"method": name} for name, own in searches.items() if own == decoding]
        rows.sort(key=lambda row: list(searches).index(row["method"]))
        share = row["all"]
        print(
            f"{row['method']:14} {share['share']:.3f} "
            f"[{share['interval'][0]:.2f}, {share['interval'][1]:.2f}], "
            f"mean p {share['mean_probability']:.3f}, "
            f"perplexity {row['perplexity']:.2f}, deepest {row['deepest']:.1f}, "
            f"{row['seconds_per_token']:.3f} s per token",
            flush=True,
        )
        report = json.dumps({"settings": settled, "rows": rows}, indent=1) + "\n"
        (config.out / "budget.json").write_text(report, encoding="utf-8")
        spent = (time.monotonic() - started) / 60
        if config.budget_minutes is not None and spent >= config.budget_minutes:
            left = len(searches) - len(rows)
            print(f"{spent:.0f} minutes are spent and {left} settings left: run it again to go on")
            break
    draw(rows, config.out / "budget.png")


if __name__ == "__main__":
    main(tyro.cli(Config))
