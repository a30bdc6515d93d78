"""Judged accuracy against time: waves of every kind, lock step at less, PPL-MCTS's settings.

    python -m experiments.waves --prompts PROMPTS.jsonl --judge FOLDER --out experiments/results

Waves buy simulations per second and may lose what a simulation is worth. Texts are written many
prompts at a time, which changes none of them; the seconds are those of one prompt's token. The
results have two policies more, "siblings" and "descend": waves side by side or ever deeper, which
no longer exist since they brought nothing.
"""

import json
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tyro
from matplotlib.figure import Figure

import coopgen_jax as cg
from coopgen_jax.decoding.job import Job
from coopgen_jax.decoding.mcts import ppl_mcts as mcts
from coopgen_jax.models.decoder import language_model
from experiments.sentiment import Config as SentimentConfig
from experiments.sentiment import write_missing


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
      simulations: Simulations of searches by waves.
      lock_step: Simulations of the searches one leaf at a time.
      waves: How many leaves a wave has.
      policies: Where they stand, or "halving": as in the default preset.
      repeats: Timed tokens.
    """

    prompts: Path
    judge: Path
    out: Path = Path("experiments/results")
    limit: int | None = 24
    batch_size: int = 48
    new_tokens: int = 24
    simulations: int = 64
    lock_step: tuple[int, ...] = (8, 16, 32)
    waves: tuple[int, ...] = (4, 8, 16)
    policies: tuple[str, ...] = ("halving", "spread")
    repeats: int = 7


def settings(config: Config) -> dict[str, cg.MCTSConfig]:
    """Returns the searches by name."""
    default = replace(cg.PRESETS["default"], new_tokens=config.new_tokens)
    preset = replace(cg.PRESETS["puct"], new_tokens=config.new_tokens)

    def search(simulations: int, wave: int, policy: str) -> cg.MCTSConfig:
        if policy == "halving":
            return default.with_settings(simulations=simulations, wave=wave)
        return preset.with_settings(simulations=simulations, wave=wave, reused_nodes=64)

    paper = replace(cg.PRESETS["paper"], new_tokens=config.new_tokens)
    found = {f"paper-{paper.search.simulations}": paper, f"default-{default.search.wave}": default}
    found |= {f"lock-step-{count}": search(count, 1, "spread") for count in config.lock_step}
    for policy in config.policies:
        for wave in config.waves:
            found[f"{policy}-{wave}"] = search(config.simulations, wave, policy)
    return found


def seconds_per_token(decoding: cg.MCTSConfig, repeats: int) -> float:
    """Returns the median seconds of one token of one prompt."""
    model = cg.load_language_model()
    guide = cg.load_discriminator("sentiment", language_model=model)
    network = replace(language_model(model.config, guide.discriminator.taps), end_tokens=())
    job = Job(
        prompt=cg.make_prompt(model.tokenizer, ["The weather was"]),
        params=model.params,
        discriminator_params=guide.params,
        target=jnp.ones(1, jnp.int32),
        language_model=network,
        discriminator=guide.discriminator,
        config=replace(decoding, new_tokens=repeats + 1),
    )
    state = jax.jit(mcts.begin)(job)
    advance = jax.jit(mcts.advance, donate_argnames="state")
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        state, _ = jax.block_until_ready(advance(jax.random.key(0), job, state))
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


# What a line is called, and what the numbers beside its points are.
NAMES = {
    "paper": "PPL-MCTS as published (simulations)",
    "default": "the default preset (wave)",
    "lock-step": "lock step (simulations)",
}


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draws accuracy against seconds, one line per policy."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for policy in dict.fromkeys(row["method"].rpartition("-")[0] for row in rows):
        own = [row for row in rows if row["method"].rpartition("-")[0] == policy]
        axes.errorbar(
            [row["seconds_per_token"] for row in own],
            [row["all"]["share"] for row in own],
            yerr=[
                [row["all"]["share"] - row["all"]["interval"][0] for row in own],
                [row["all"]["interval"][1] - row["all"]["share"] for row in own],
            ],
            fmt="o-",
            elinewidth=0.5,
            label=NAMES.get(policy, f"{policy} (wave)"),
        )
        for row in own:
            number = row["method"].rpartition("-")[2]
            at = (row["seconds_per_token"], row["all"]["share"])
            axes.annotate(number, at, xytext=(5, -11), textcoords="offset points")
    axes.set_xlabel("seconds per token, one prompt")
    axes.set_ylabel("share on target under the judge")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main(config: Config) -> None:
    """Writes what is missing, times every search, and draws the picture."""
    searches = settings(config)
    texts = SentimentConfig(
        prompts=config.prompts,
        judge=config.judge,
        out=config.out,
        limit=config.limit,
        batch_size=config.batch_size,
        new_tokens=config.new_tokens,
    )
    methods = {name: (decoding, texts.trunk) for name, decoding in searches.items()}
    rows = []
    for row in write_missing(texts, methods, "waves"):
        row["seconds_per_token"] = seconds_per_token(searches[row["method"]], config.repeats)
        rows.append(row)
        share = row["all"]
        print(
            f"{row['method']:14} {share['share']:.3f} "
            f"[{share['interval'][0]:.2f}, {share['interval'][1]:.2f}], "
            f"perplexity {row['perplexity']:.2f}, deepest {row['deepest']:.1f}, "
            f"{row['seconds_per_token']:.3f} s per token",
            flush=True,
        )
        (config.out / "waves.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    draw(rows, config.out / "waves.png")


if __name__ == "__main__":
    main(tyro.cli(Config))
