"""Which discriminator for cooperative text generation? Every kind on the same texts, as guides.

    python -m experiments.which_discriminator --data FOLDER --work FOLDER \
        --prompts PROMPTS.jsonl --judge FOLDER --out experiments/results

Chaffin et al. (SIGIR 2022, arXiv 2204.11586) asked this of networks of one size, fine-tuned on one
data set. Guides learn from half A of the training rows: the networks as large as the language model
here, the small ones as their cards say, from the same texts in other pieces. The judge (see
train_judge.py) and the oracle language model, which say how good the texts are, learn from half B.
What is trained and written here goes to `work`: what is there is not made again, and what was
interrupted goes on.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from matplotlib.figure import Figure
from scipy.special import log_softmax

import coopgen_jax as cg
from coopgen_jax.data.batches import BatchConfig
from coopgen_jax.data.cuts import Cutting, cut_all
from coopgen_jax.data.labelled import Labelled, half, joined
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.discriminators.loading import folder_of
from coopgen_jax.evaluation.discriminator_accuracy import (
    all_beginnings,
    by_length,
    evaluations_per_second,
    fit_temperature,
    judge_prefixes,
)
from coopgen_jax.evaluation.oracle import oracle_perplexity
from coopgen_jax.models.pretrained.loaded_model import LoadedModel, load
from coopgen_jax.parallel.mesh import make_mesh
from coopgen_jax.training.card import write_card
from coopgen_jax.training.loop import LoopConfig
from coopgen_jax.training.recipes import (
    train_causal,
    train_generative,
    train_language_model,
)
from coopgen_jax.training.run import RecipeConfig
from experiments.sentiment import Config as SentimentConfig
from experiments.sentiment import write_missing
from experiments.sentiment_data import read_sets
from experiments.train_heads import evenly, told

LENGTHS = (1, 2, 4, 8, 16, 32, 64)
KINDS = ("shared-trunk", "causal", "generative", "bidirectional")


@dataclass(frozen=True)
class Config:
    """What to compare.

    Attributes:
      data: A folder with sst2/ and amazon_reviews/, each with train.csv and validation.csv.
      work: Where everything trained and written goes.
      prompts: As in `experiments.sentiment`. None to stop behind the training.
      judge: As in `experiments.sentiment`. None to stop behind the training.
      out: Where the table's figures and the pictures go.
      model: The language model to guide, as which the causal and generative kinds begin.
      shared_trunk: A trained discriminator of this kind, of half A.
      bidirectional: A trained discriminator of this kind, of half A.
      rows: Texts of a step.
      longest: Tokens read of each.
      causal_steps: Steps of the causal network, which is as large as the language model.
      generative_steps: Steps of the generative one; a step reads every text once per class.
      oracle_steps: Steps of the oracle.
      validation_rows: Texts of either set that are judged.
      limit: Prompts, evenly spread over the file.
      new_tokens: Tokens of every text.
      simulations: Of the searches of equal simulations.
      wave: Of the same searches.
      only: What to train of causal, generative and oracle; everything where nothing is named.
    """

    data: Path
    work: Path
    prompts: Path | None = None
    judge: Path | None = None
    out: Path = Path("experiments/results")
    model: str = "smollm2-135m"
    shared_trunk: str = "sentiment"
    bidirectional: str = "sentiment-minilm"
    rows: int = 16
    longest: int = 64
    causal_steps: int = 300
    generative_steps: int = 160
    oracle_steps: int = 200
    validation_rows: int = 300
    limit: int = 24
    new_tokens: int = 24
    simulations: int = 32
    wave: int = 8
    only: tuple[Literal["causal", "generative", "oracle"], ...] = ()


def texts_of(config: Config, split: str, part: str | None) -> Labelled:
    """Returns sentences, and pieces of reviews that begin anywhere, of a half or of both."""
    sets = read_sets(config.data, split)
    if part:
        sets = {name: half(data, part) for name, data in sets.items()}
    cutting = Cutting(pieces=1, shortest=16, longest=48, mid_word=0.0)
    rng = np.random.default_rng([split == "train", part == "B"])
    return joined([sets["sst2"], cut_all(rng, sets["amazon_reviews"], cutting)])


def recipe(steps: int, shortest: int | None, rate: float, config: Config) -> RecipeConfig:
    """Returns how a network is trained."""
    every = max(1, steps // 4)
    return RecipeConfig(
        LoopConfig(steps=steps, validate_every=every, save_every=every),
        BatchConfig(rows=config.rows, longest=config.longest, shortest=shortest),
        learning_rate=rate,
        validation_rows=256,
    )


def train_all(config: Config) -> None:
    """Trains what is not there yet, and says how much of the data each reads."""
    validation = texts_of(config, "validation", None)
    # A class can be read off no state at first, so that kind has the longest way to go.
    kinds: dict[str, tuple[Any, str, int, int | None, float]] = {
        "causal": (train_causal, "A", config.causal_steps, 1, 1.5e-3),
        "generative": (train_generative, "A", config.generative_steps, 2, 5e-4),
        "oracle": (train_language_model, "B", config.oracle_steps, None, 5e-4),
    }
    for name, (train, part, steps, shortest, rate) in kinds.items():
        folder = config.work / name
        if (config.only and name not in config.only) or (folder / "card.json").is_file():
            continue
        training: Any = texts_of(config, "train", part)
        held_out: Any = validation
        read = steps * config.rows
        print(f"{name}: reads {read} texts of the {len(training.texts)} in half {part}", flush=True)
        if name == "oracle":
            train = partial(train, sources=training.origins)
            training, held_out = training.texts, held_out.texts
        train(
            load(config.model, stacked=True), training, held_out,
            recipe(steps, shortest, rate, config),
            folder=folder, mesh=make_mesh(1), listener=told(name),
        )  # fmt: skip


def folder_name(config: Config, kind: str) -> str:
    """Returns the name or the folder of a kind's discriminator."""
    trained = {"shared-trunk": config.shared_trunk, "bidirectional": config.bidirectional}
    return trained.get(kind, str(config.work / kind))


def kept(path: Path, made_with: list[Any], make: Callable[[], Any]) -> Any:
    """Returns what a JSON file holds, made first where there is none of these settings."""
    if path.is_file():
        before, found = json.loads(path.read_text(encoding="utf-8"))
        if before == made_with:
            return found
    found = make()
    text = json.dumps([made_with, found], indent=1) + "\n"
    path.with_suffix(".partial").write_text(text, encoding="utf-8")
    path.with_suffix(".partial").replace(path)
    return found


def judgements(
    config: Config, kind: str, model: LoadedModel, guide: LoadedDiscriminator
) -> dict[str, Any]:
    """Returns how well a discriminator judges each set, by tokens read.

    What was trained here is calibrated on both sets, as the other kinds were: the temperature goes
    into its card. Errors of calibration are so those of rows that it was fitted on.
    """
    said, labels = {}, {}
    for name, data in read_sets(config.data, "validation").items():
        data = evenly(data, config.validation_rows)
        labels[name] = data.labels
        said[name] = judge_prefixes(
            model, guide, data.texts, longest=config.longest, listener=told(kind, f"{name} text")
        )
    folder = folder_of(folder_name(config, kind))
    if folder.parent == config.work and "temperature" not in guide.card:
        pairs = [all_beginnings(said[name], labels[name]) for name in said]
        temperature = fit_temperature(*map(np.concatenate, zip(*pairs, strict=True)))
        write_card(folder, guide.card | {"temperature": temperature})
        said = {name: log_softmax(rows / temperature, axis=-1) for name, rows in said.items()}
    return {name: by_length(rows, labels[name], LENGTHS) for name, rows in said.items()}


def searches(config: Config, speeds: dict[str, float]) -> dict[str, tuple[cg.MCTSConfig, str]]:
    """Returns the searches to compare, by name, each with its guide.

    Args:
      config: the experiment's.
      speeds: evaluations per second under every kind.
    """
    default = replace(cg.PRESETS["default"], new_tokens=config.new_tokens)

    def search(simulations: int) -> cg.MCTSConfig:
        return default.with_settings(simulations=simulations, wave=config.wave)

    def equal_time(kind: str) -> int:
        waves = config.simulations * speeds[kind] / speeds["shared-trunk"] / config.wave
        return max(1, round(waves)) * config.wave

    found = {}
    for kind in KINDS:
        guide = folder_name(config, kind)
        found[f"{kind}, {config.simulations}"] = (search(config.simulations), guide)
        if kind != "shared-trunk":
            simulations = equal_time(kind)
            found[f"{kind}, {simulations} (equal time)"] = (search(simulations), guide)
    # The paper spends what cached states save on more simulations.
    found["causal, 104"] = (search(104), folder_name(config, "causal"))
    return found


def compare(config: Config, speeds: dict[str, float]) -> list[dict[str, Any]]:
    """Writes texts under every search and returns the table."""
    assert config.prompts is not None and config.judge is not None
    texts = SentimentConfig(
        prompts=config.prompts,
        judge=config.judge,
        out=config.work,
        limit=config.limit,
        batch_size=2 * config.limit,
        new_tokens=config.new_tokens,
        model=config.model,
    )
    oracle, rows = load(config.work / "oracle"), []
    methods = searches(config, speeds)
    for row in write_missing(texts, methods, "which"):
        name = row["method"]
        path = config.work / f"which-{name}.json"
        written = json.loads(path.read_text(encoding="utf-8"))["texts"]
        row["oracle_perplexity"] = oracle_perplexity(
            oracle, [text["prompt"] for text in written], [text["text"] for text in written]
        )
        simulations = methods[name][0].search.simulations
        row["seconds_per_token"] = simulations / speeds[name.partition(",")[0]]
        share = row["all"]
        print(
            f"{name:32} on target {share['share']:.3f} "
            f"[{share['interval'][0]:.2f}, {share['interval'][1]:.2f}], oracle perplexity "
            f"{row['oracle_perplexity']:.1f}, 5-Self-BLEU {row['self_bleu_5']:.3f}, "
            f"{row['seconds_per_token']:.2f} s per token",
            flush=True,
        )
        rows.append(row)
    return rows


def draw_accuracy(found: dict[str, Any], path: Path) -> None:
    """Draws accuracy by tokens read, one picture per set."""
    sets = list(next(iter(found.values())))
    figure = Figure(figsize=(9, 4), layout="constrained")
    panels = figure.subplots(1, len(sets), sharey=True)
    for axes, name in zip(panels, sets, strict=True):
        for kind, by_set in found.items():
            rows = {int(n): row for n, row in by_set[name].items() if n != "whole"}
            low, high = zip(*(row["interval"] for row in rows.values()), strict=True)
            (line,) = axes.plot(
                list(rows), [row["accuracy"] for row in rows.values()], "o-", label=kind
            )
            axes.fill_between(list(rows), low, high, alpha=0.1, color=line.get_color())
        axes.set_title(name)
        axes.set_xscale("log", base=2)
        axes.set_xticks(LENGTHS, [str(length) for length in LENGTHS])
        axes.set_xlabel("tokens read")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    panels[0].set_ylabel("accuracy")
    figure.savefig(path, dpi=150)


def draw_guides(rows: list[dict[str, Any]], path: Path) -> None:
    """Draws the share on target against seconds per token."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for kind in KINDS:
        own = [row for row in rows if row["method"].partition(",")[0] == kind]
        own.sort(key=lambda row: row["seconds_per_token"])
        shares = np.array([row["all"]["share"] for row in own])
        ends = np.array([row["all"]["interval"] for row in own])
        axes.errorbar(
            [row["seconds_per_token"] for row in own],
            shares,
            yerr=np.stack([shares - ends[:, 0], ends[:, 1] - shares]).clip(0),
            fmt="o-",
            elinewidth=0.5,
            label=kind,
        )
        for row, share in zip(own, shares, strict=True):
            simulations = row["method"].split(", ")[1].split(" ")[0]
            at = (row["seconds_per_token"], share)
            axes.annotate(simulations, at, xytext=(5, -11), textcoords="offset points")
    axes.set_xlabel("seconds per token, one prompt (the numbers are simulations)")
    axes.set_ylabel("share on target under the judge")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main(config: Config) -> None:
    """Trains what is missing, measures every kind, writes under it, and draws."""
    train_all(config)
    if config.prompts is None or config.judge is None:
        return
    model = load(config.model)
    accuracy, speeds = {}, {}
    for kind in KINDS:
        guide = cg.load_discriminator(folder_name(config, kind), language_model=model)
        head = folder_of(folder_name(config, kind)) / "head.safetensors"
        weights = hashlib.sha256(head.read_bytes()).hexdigest()
        accuracy[kind] = kept(
            config.work / f"accuracy-{kind}.json",
            [weights, config.validation_rows, config.longest],
            lambda kind=kind, guide=guide: judgements(config, kind, model, guide),
        )
        speeds[kind] = kept(
            config.work / f"speed-{kind}.json",
            [weights, config.simulations, config.wave],
            lambda guide=guide: evaluations_per_second(
                model,
                guide,
                cg.PRESETS["default"].with_settings(
                    simulations=config.simulations, wave=config.wave
                ),
            ),
        )
        for name, rows in accuracy[kind].items():
            shares = "  ".join(f"{n}: {row['accuracy']:.3f}" for n, row in rows.items())
            print(f"{kind} on {name}: {shares}", flush=True)
        print(f"{kind}: {speeds[kind]:.0f} evaluations a second", flush=True)
    rows = compare(config, speeds)
    config.out.mkdir(parents=True, exist_ok=True)
    # Folders are the user's own; what is left says what was read, cut and written.
    paths = ("data", "work", "prompts", "judge", "out", "only")
    settings = {name: value for name, value in asdict(config).items() if name not in paths}
    halves = {part: len(texts_of(config, "train", part).texts) for part in ("A", "B")}
    report = {
        "settings": settings,
        "texts_of_half": halves,
        "accuracy": accuracy,
        "evaluations_per_second": speeds,
        "guides": rows,
    }
    (config.out / "which_discriminator.json").write_text(
        json.dumps(report, indent=1) + "\n", encoding="utf-8"
    )
    draw_accuracy(accuracy, config.out / "which_discriminator_accuracy.png")
    draw_guides(rows, config.out / "which_discriminator.png")


if __name__ == "__main__":
    main(tyro.cli(Config))
