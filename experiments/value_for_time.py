"""Value for time: accuracy against perplexity against seconds, every method tuned.

    python -m experiments.value_for_time --prompts PROMPTS.jsonl --tuning-prompts OTHERS.jsonl \
        --work FOLDER --judges FOLDER FOLDER --oracle NAME

The prompts are lines with a "text", the tuning prompts lines with a "text" or "prompt", of which
the first words count. Four stages follow one another, and each goes on where it was interrupted:
`tune` chooses temperature, top-p, strength and power on the tuning prompts, as `coopgen compare
--seconds-per-text` does; `cost` times a text of every method, in turn; `texts` writes; `figures`
judges. `cost` is short, and wants a machine with nothing else to do: give `--stages` to run it
alone. What was compiled is kept for later runs where JAX_COMPILATION_CACHE_DIR names a folder.

`--stages texts parts --human FOLDER` asks no seconds: it sets what judges say of the texts beside
what the guide says, and what the judges say of texts that people wrote, as short ones.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

import coopgen_jax as cg
from coopgen_jax.bulk.growing_file import append, resume, rows_in
from coopgen_jax.comparison.loaded_run import Reading, load_runs
from coopgen_jax.comparison.method_run import MethodRun
from coopgen_jax.comparison.tuning import Trial, Tunable, Tuned, check_apart, spread, tune
from coopgen_jax.comparison.tuning_grid import Grid, grid_of
from coopgen_jax.comparison.writing import Progress, compare, job_of, lines_of
from experiments.value_for_time_figures import report
from experiments.value_for_time_parts import write_parts

STAGES = ("tune", "cost", "texts", "figures", "parts")
# Candidates for presets: a root, and the waves that are tried with it.
SEARCHES = {"default": (4, 8, 16), "puct": (4, 8)}


@dataclass(frozen=True)
class Config:
    """What to compare.

    Attributes:
      prompts: JSONL file with "text", whose prompts are continued towards every target.
      tuning_prompts: JSONL file with "text" or "prompt", other ones, to tune on.
      work: Folder for trials, seconds and texts; an interrupted run goes on with what it holds.
      judges: Folders of judges; one with a class "neither" tells three parts apart.
      human: A folder with sst2/ and amazon_reviews/, each with validation.csv, for `parts`.
      human_rows: How many rows of each set to use, evenly spread over it.
      oracle: The language model whose perplexity counts; None for the writing model's.
      look_ahead_head: Folder of a guide that has foresight, for `fudge` with `look_ahead`; None to
        leave that out.
      out: Folder for the figures.
      picture: File of the picture; None for one beside the figures.
      stages: Which to run; `parts` is run where it is named.
      methods: Which methods to take, by the words in front of what is tuned, such as `rerank:of=8`;
        none for all.
      targets: Classes that texts are to have.
      model: The language model.
      guide: The discriminator that guides and chooses.
      samples: How many texts best-of-n chooses from.
      simulations: Of the search.
      particles: Of sequential Monte Carlo.
      candidates: Of FUDGE and RAD.
      new_tokens: Of every text.
      batch_size: Prompts written at once.
      limit: How many of the prompts to use, evenly spread over the file; None for all.
      tuning_rows: How many of the tuning prompts to use, evenly spread over the file.
      tuning_words: How many of their first words.
      repeats: Times that a batch of every method is timed.
      dtype: Of the language model, float32, bfloat16, or auto for the faster one here.
      seed: Of sampling.
    """

    prompts: Path
    tuning_prompts: Path
    work: Path
    judges: tuple[Path, ...] = ()
    human: Path | None = None
    human_rows: int = 1000
    oracle: str | None = None
    look_ahead_head: Path | None = None
    out: Path = Path("experiments/results")
    picture: Path | None = None
    stages: tuple[str, ...] = STAGES[:-1]
    methods: tuple[str, ...] = ()
    targets: tuple[str, ...] = ("negative", "positive")
    model: str = "smollm2-135m"
    guide: str = "sentiment"
    samples: tuple[int, ...] = (4, 8, 16, 32)
    simulations: tuple[int, ...] = (16, 32, 64, 128)
    particles: tuple[int, ...] = (8, 16)
    candidates: int = 20
    new_tokens: int = 24
    batch_size: int = 8
    limit: int | None = None
    tuning_rows: int = 24
    tuning_words: int = 7
    repeats: int = 5
    dtype: str = "float32"
    seed: int = 0


def tunables(config: Config) -> list[Tunable]:
    """Returns the methods, each with what is tried of it; that of a search is nothing."""
    found = [tunable(config, "sample", cg.SamplingConfig(), {"top_p": 0.9}, grid=Grid())]
    found += [tunable(config, "rerank", cg.RerankConfig(), {"of": n}) for n in config.samples]
    for preset, waves in SEARCHES.items():
        for simulations in config.simulations:
            for wave in (wave for wave in waves if simulations % wave == 0):
                given = {"preset": preset, "simulations": simulations, "wave": wave}
                found.append(tunable(config, "mcts", cg.PRESETS[preset], given))
    few = {"candidates": config.candidates}
    found.append(tunable(config, "fudge", cg.FudgeConfig(), few))
    found.append(tunable(config, "fudge", cg.FudgeConfig(), {"score": "value"} | few))
    if config.look_ahead_head is not None:
        ahead = few | {"look_ahead": True}
        guide = str(config.look_ahead_head)
        found.append(tunable(config, "fudge", cg.FudgeConfig(), ahead, guide=guide))
        # As a search does, it takes the best and repeats no three tokens.
        best = ahead | {"greedy": True, "no_repeat_ngram": 3}
        grid = Grid(settings=tuple({"strength": strength} for strength in (4, 8, 12, 16)))
        found.append(tunable(config, "fudge", cg.FudgeConfig(), best, grid=grid, guide=guide))
    for count in config.particles:
        found.append(tunable(config, "smc", cg.SMCConfig(), {"samples": count}))
    known = [method.name for method in found]
    for name in config.methods:
        if name not in known:
            raise SystemExit(f"--methods {name} is unknown: choose from {', '.join(known)}")
    return [method for method in found if not config.methods or method.name in config.methods]


def tunable(
    config: Config,
    name: str,
    settings: cg.DecoderSettings,
    given: Mapping[str, Any],
    *,
    grid: Grid | None = None,
    guide: str | None = None,
) -> Tunable:
    """Returns a method some of whose settings are given, named as `coopgen compare` names it."""

    def in_words(values: Mapping[str, Any]) -> str:
        pairs = (f"{key}={str(v).lower() if v is True else v}" for key, v in values.items())
        return ":".join([name, *pairs])

    def run_with(values: Mapping[str, Any]) -> MethodRun:
        every = {**given, **values}
        flat = {key: value for key, value in every.items() if key != "preset"}
        decoding = settings.with_settings(new_tokens=config.new_tokens, **flat)
        about = {"model": config.model, "discriminator": guide or config.guide}
        preset = every.get("preset")
        return MethodRun(in_words(every), decoding, method=name, preset=preset, **about)

    return Tunable(in_words(given), grid_of(name, given) if grid is None else grid, run_with)


def prompts_of(path: Path) -> list[str]:
    """Returns the prompts of a JSONL file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines if line.strip()]
    return [row["text"] if "text" in row else row["prompt"] for row in rows]


def tuned_methods(config: Config, prompts: Sequence[str]) -> list[Tuned]:
    """Returns the methods as they were tuned; what was tried before is not tried again."""
    others = prompts_of(config.tuning_prompts)
    rows = [" ".join(text.split()[: config.tuning_words]) for text in others]
    rows = spread(rows, config.tuning_rows)
    check_apart(rows, prompts)

    def show(method: str, trial: Trial) -> None:
        words = f"log p {trial.score:.3f}, perplexity {trial.perplexity:.1f}"
        print(f"{trial.name}: {words}", flush=True)

    methods = tunables(config)
    # What has one way alone needs no texts to choose it by.
    several = [method for method in methods if len(method.grid.values()) > 1]
    tuned = tune(
        several, rows, config.targets, seconds_per_text=float("inf"),
        folder=config.work / "tuning", seed=config.seed, dtype=config.dtype,
        batch_size=min(config.batch_size, len(rows) * len(config.targets)), on_trial=show,
    )  # fmt: skip
    found = {one.asked: one for one in tuned}
    return [
        found.get(method.name) or Tuned(method.name, method.run_with({}), None, True, ())
        for method in methods
    ]


def cost(config: Config, runs: Sequence[MethodRun], prompts: Sequence[str]) -> dict[str, list]:
    """Returns the seconds of a text of a warm batch of every method, timed in turn."""
    path = config.work / "cost.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    size = config.batch_size
    names = [run.name for run in runs]
    told = {"batch_size": size, "new_tokens": config.new_tokens, "prompts": list(prompts)}
    header = {"settings": told | {"methods": names, "model": config.model, "dtype": config.dtype}}
    done = resume(path, header, [len(runs)] * config.repeats, what="seconds")
    if done < config.repeats:
        loaded = load_runs(runs, config.targets, dtype=config.dtype)
        reading = Reading(prompts)
        jobs = [job_of(run, reading, config.targets, size) for run in loaded]
        # The first round of a process waits for compilations.
        for number in range(done - 1, config.repeats):
            rows = []
            for job, name in zip(jobs, names, strict=True):
                batch = len(job.batches) // 2
                lines = lines_of(job, batch, seed=config.seed, batch_size=size)
                seconds = sum(line["seconds"] for line in lines) / len(lines)
                rows.append({"method": name, "seconds": seconds})
                print(f"{name}: {seconds:.3f} s a text{' (cold)' if number < done else ''}")
            if number >= done:
                append(path, rows)
    found: dict[str, list] = {name: [] for name in names}
    for row in rows_in(path):
        found[row["method"]].append(row["seconds"])
    return found


def show(progress: Progress) -> None:
    """Prints how far a method is."""
    print(f"{progress.method}: batch {progress.batch} of {progress.batches}", flush=True)


def main(config: Config) -> None:
    """Runs the stages that are asked for; what is tuned already is read again by all of them."""
    for stage in config.stages:
        if stage not in STAGES:
            raise SystemExit(f"--stages {stage} is unknown: choose from {', '.join(STAGES)}")
    prompts = prompts_of(config.prompts)
    prompts = spread(prompts, len(prompts) if config.limit is None else config.limit)
    if len(prompts) * len(config.targets) < config.batch_size:
        raise SystemExit(
            f"{len(prompts)} prompts towards {len(config.targets)} targets do not fill a batch of "
            f"{config.batch_size}: lower --batch-size, or raise --limit"
        )
    tuned = tuned_methods(config, prompts)
    runs = [one.run for one in tuned]
    seconds: dict[str, list] = {}
    if {"cost", "figures"}.intersection(config.stages):
        seconds = cost(config, runs, prompts)
    if "cost" in config.stages:
        for name, values in sorted(seconds.items(), key=lambda pair: statistics.median(pair[1])):
            print(f"{statistics.median(values):8.3f} s a text: {name}")
    if "texts" in config.stages:
        compare(
            runs, prompts, config.targets, folder=config.work / "texts", seed=config.seed,
            batch_size=config.batch_size, dtype=config.dtype, on_progress=show,
        )  # fmt: skip
    if "figures" in config.stages:
        report(config, tuned, seconds)
    if "parts" in config.stages:
        write_parts(config, tuned)


if __name__ == "__main__":
    main(tyro.cli(Config))
