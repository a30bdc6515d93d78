"""Generative Cooperative Networks on unconditional text, beside the GANs that they come from.

    python -m experiments.gcn_unconditional --data FOLDER --work FOLDER --out experiments/results

After Lamprier et al. (ICML 2022, arXiv 2201.12320) on image captions (the sentences of Texygen): a
small decoder learns them from scratch by maximum likelihood and goes on with a discriminator. Three
schedules of a discrete GAN (none, manual, and division by Z, which makes it GCN with the generator
as its own proposal) under plain gradient descent and under Adam, SelfGAN, and GCN by nucleus and by
tree search, several seeds each. Told are BLEU and perplexity under a large language model against
self-BLEU over temperatures, and what rounds do to held-out texts. What was trained and measured
stands in a folder of its own; a run that was interrupted, or whose minutes were spent, goes on.
"""

import hashlib
import json
import time
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

from coopgen_jax.data.batches import BatchConfig
from coopgen_jax.data.pairs import Pairs, tokenise_pairs
from coopgen_jax.decoding.decode import decode
from coopgen_jax.decoding.mcts.mcts_config import ByVisits, MCTSConfig
from coopgen_jax.decoding.methods.sampling import SamplingConfig
from coopgen_jax.decoding.presets import PRESETS
from coopgen_jax.decoding.rules.shaping import Rules
from coopgen_jax.evaluation.metrics import bleu, self_bleu
from coopgen_jax.evaluation.oracle import oracle_perplexity
from coopgen_jax.models.decoder import language_model
from coopgen_jax.models.pretrained.loaded_model import LoadedModel, load
from coopgen_jax.parallel.mesh import make_mesh
from coopgen_jax.training.gcn.examination import Examination
from coopgen_jax.training.gcn.gcn_config import GcnConfig
from coopgen_jax.training.gcn.gcn_recipe import train_gcn
from coopgen_jax.training.gcn.gcn_training import GcnTraining
from coopgen_jax.training.loop import LoopConfig
from coopgen_jax.training.recipes import train_language_model
from coopgen_jax.training.recipes.scratch import ScratchConfig, fresh_model, train_tokenizer
from coopgen_jax.training.run import RecipeConfig
from experiments.conditional_settings import searching
from experiments.train_heads import told
from experiments.unconditional_figures import report

TOKENS = 24
SAMPLES = 4
PLAIN = SamplingConfig(new_tokens=TOKENS, samples=SAMPLES)
NUCLEUS = PLAIN.with_settings(top_p=0.9, mix_base=0.1)
TREE = MCTSConfig(
    new_tokens=TOKENS,
    samples=SAMPLES,
    search=searching(16),
    rules=Rules(repetition_penalty=1.0),
    choice=ByVisits(visit_temperature=1.0, mix_base=0.1),
)
VALUES = replace(PRESETS["values"], new_tokens=TOKENS, samples=SAMPLES)
# Sentences that nothing learns from: so many to check networks on, and as many for samples.
ASIDE = 1000
TEMPERATURES = (0.7, 0.85, 1.0, 1.15)
# Has read far more than captions, and reads them behind this.
ORACLE, BEGINNING = "smollm2-135m", "The picture shows"
# Texts that it reads of every sample.
READ = 100
_write = jax.jit(decode, static_argnames=("language_model", "config"))


@dataclass(frozen=True)
class Variant:
    """One row: how the generator goes on from maximum likelihood.

    Attributes:
      config: Of a round.
      sgd: Whether by plain gradient descent instead of Adam.
    """

    config: GcnConfig
    sgd: bool = False


def variants(config: "Config") -> dict[str, Variant]:
    """Returns the rows by name."""
    base = GcnConfig(
        proposal=PLAIN, sources=config.texts // SAMPLES, discriminator_rows=config.judge_rows,
        discriminator_steps=config.judge_steps,
        first_discriminator_steps=config.first_judge_steps,
        replay_rows=4 * config.texts, half_life=config.rounds / 4,
    )  # fmt: skip
    gan = replace(base, objective="gan")
    rows = {
        "more maximum likelihood": Variant(replace(base, objective="mle",
                                                   sources=config.texts)),
        "GAN, no scheduler": Variant(gan),
        "GAN, manual scheduler": Variant(replace(gan, scheduler="manual")),
        "GAN, division by Z": Variant(replace(gan, scheduler="z")),
    }  # fmt: skip
    rows |= {
        f"{name}, SGD": Variant(row.config, sgd=True)
        for name, row in rows.items()
        if name.startswith("GAN")
    }
    return rows | {
        "SelfGAN, tree search": Variant(replace(base, objective="selfgan", proposal=TREE)),
        "GCN, nucleus": Variant(replace(base, proposal=NUCLEUS)),
        "GCN, tree search": Variant(replace(base, proposal=TREE)),
        "GCN, tree search by values": Variant(replace(base, proposal=VALUES)),
    }


@dataclass(frozen=True)
class Config:
    """What to train and to measure.

    Attributes:
      data: A folder with train.txt and test.txt, a sentence a line; see `divided`.
      work: Where everything trained goes.
      out: Where table and pictures go.
      seeds: Of networks, data order and noise.
      rounds: Rounds of every variant.
      texts: Texts of a round.
      judge_steps: Steps of the discriminator in a round.
      first_judge_steps: Its steps in the first round.
      judge_rows: Texts of such a step.
      layers: Layers of the decoder.
      width: Its width.
      vocabulary: Tokens of its tokenizer.
      epochs: Epochs of maximum likelihood.
      rate: Learning rate of the generator.
      sgd_rate: The same by plain gradient descent.
      judge_rate: Learning rate of the discriminator.
      measured: Texts sampled at every temperature.
      references: Human texts that they are compared with.
      only: Names of variants to train; all where none is named.
      budget_minutes: Minutes after which nothing further is started; run it again to go on.
    """

    data: Path
    work: Path
    out: Path = Path("experiments/results")
    seeds: tuple[int, ...] = (0, 1, 2)
    rounds: int = 30
    texts: int = 256
    judge_steps: int = 6
    first_judge_steps: int = 400
    judge_rows: int = 64
    layers: int = 3
    width: int = 128
    vocabulary: int = 2000
    epochs: int = 1
    rate: float = 1e-4
    sgd_rate: float = 0.01
    judge_rate: float = 3e-4
    measured: int = 200
    references: int = 500
    only: tuple[str, ...] = ()
    budget_minutes: float | None = None


def lines(path: Path) -> list[str]:
    """Returns the sentences of a file."""
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def divided(data: Path) -> tuple[list[str], list[str], list[str]]:
    """Returns what networks learn, what they are checked on, and what samples are held to.

    The two files are of different pictures (bathrooms and kitchens in one, skiing and zebras in the
    other), so that one is no held-out text of the other: they are joined and divided anew, and no
    sentence is on two sides.
    """
    texts = list(dict.fromkeys(lines(data / "train.txt") + lines(data / "test.txt")))
    mixed = [texts[row] for row in np.random.default_rng(0).permutation(len(texts))]
    if len(mixed) <= 2 * ASIDE:
        raise SystemExit(f"{data} has {len(mixed)} sentences: {2 * ASIDE} of them are kept aside")
    return mixed[2 * ASIDE :], mixed[:ASIDE], mixed[ASIDE : 2 * ASIDE]


def settings_of(config: Config) -> dict[str, Any]:
    """Returns what was trained and measured, without where, how long and which part of it."""
    other = ("data", "work", "out", "seeds", "only", "budget_minutes")
    return {name: value for name, value in vars(config).items() if name not in other}


def claim(config: Config, training: list[str]) -> None:
    """Notes in the working folder what is done there; ends the run where it was something else."""
    digest = hashlib.sha256("\n".join(training).encode()).hexdigest()
    own, path = settings_of(config) | {"training_sha256": digest}, config.work / "settings.json"
    config.work.mkdir(parents=True, exist_ok=True)
    if not path.is_file() and any(config.work.iterdir()):
        raise SystemExit(f"{config.work} holds something else: give an empty folder as --work")
    if not path.is_file():
        path.write_text(json.dumps(own, indent=1) + "\n", encoding="utf-8")
    found = json.loads(path.read_text(encoding="utf-8"))
    for name in own:
        if found.get(name) != own[name]:
            raise SystemExit(
                f"{config.work} was begun with another {name.replace('_', ' ')} "
                f"({found.get(name)}): give an empty folder as --work, or the same settings"
            )


def pairs_of(tokenizer: Any, texts: list[str]) -> Pairs:
    """Returns sentences as texts without a source."""
    return tokenise_pairs(
        tokenizer, [("", text) for text in texts], source_width=1, text_width=TOKENS, template=None
    )


def first_model(config: Config, seed: int, training: list[str], held_out: list[str]) -> Path:
    """Trains the decoder by maximum likelihood where it is missing, and returns its folder."""
    folder = config.work / f"first-{seed}"
    if (folder / "card.json").is_file():
        return folder
    shape = ScratchConfig(config.layers, config.width, 64)
    model = fresh_model(train_tokenizer(training, config.vocabulary), shape, seed=seed)
    steps = config.epochs * len(training) // 64
    recipe = RecipeConfig(
        LoopConfig(steps=steps, validate_every=100, save_every=steps, patience=3, log_every=50),
        BatchConfig(rows=64, longest=TOKENS, shortest=None, seed=seed),
        lora=None, learning_rate=2e-3, saved_dtype="float32",
    )  # fmt: skip
    train_language_model(
        model, training, held_out, recipe, folder=folder, mesh=make_mesh(1),
        listener=told(folder.name, "step"),
    )  # fmt: skip
    return folder


@cache
def oracle() -> LoadedModel:
    """Returns the language model that texts are read by."""
    return load(ORACLE)


def quality(texts: list[str], references: list[str]) -> dict[str, Any]:
    """Returns the figures of texts, and some of them."""
    read = [f" {text}" for text in texts if text][:READ]
    return {
        "bleu": bleu(texts, [references] * len(texts)),
        "self_bleu": self_bleu(texts, 4),
        "perplexity": oracle_perplexity(oracle(), [BEGINNING] * len(read), read),
        "texts": texts[:10],
    }


def measure(folder: Path, held_out: list[str], config: Config, seed: int) -> dict[str, Any]:
    """Returns the figures of samples at every temperature, measured once."""
    path = folder / "measured.json"
    if path.is_file():
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return kept
    model = load(folder, stacked=True)
    pairs = pairs_of(model.tokenizer, held_out[: config.measured])
    prompt = pairs.prompt(range(config.measured))
    network, found = language_model(model.config), {}
    for temperature in TEMPERATURES:
        generation = _write(
            jax.random.key(seed), prompt, language_model=network, params=model.params,
            config=SamplingConfig(new_tokens=TOKENS, rules=Rules(temperature=temperature)),
        )  # fmt: skip
        ids, length = np.asarray(generation.tokens[:, 0]), np.asarray(generation.length[:, 0])
        texts = model.tokenizer.decode_batch(
            row[:count].tolist() for row, count in zip(ids, length, strict=True)
        )
        texts = [text.strip() for text in texts]
        found[str(temperature)] = quality(texts, held_out[: config.references])
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return found


def run(config: Config) -> int:
    """Trains and measures what is missing; returns the exit status."""
    started = time.monotonic()
    training, held_out, kept_aside = divided(config.data)
    rows = variants(config)
    unknown = sorted(set(config.only) - set(rows))
    if unknown:
        raise SystemExit(f"--only {unknown[0]} is unknown: choose from {', '.join(rows)}")
    if config.measured + config.references > ASIDE:
        raise SystemExit(f"--measured and --references can be {ASIDE} together at most")
    claim(config, training)
    results: dict[str, list[dict[str, Any]]] = {}
    for seed in config.seeds:
        first = first_model(config, seed, training, held_out)
        model = load(first, stacked=True)
        learn, check = pairs_of(model.tokenizer, training), pairs_of(model.tokenizer, held_out)
        begun = {"measured": measure(first, kept_aside, config, seed)}
        results.setdefault("maximum likelihood", []).append(begun)
        for name, variant in rows.items():
            if config.only and name not in config.only:
                continue
            folder = config.work / f"{name.replace(', ', '-').replace(' ', '_')}-{seed}"
            left = None
            if config.budget_minutes is not None:
                left = config.budget_minutes - (time.monotonic() - started) / 60
                if left <= 0:
                    print("the minutes are spent: run it again to go on", flush=True)
                    return 0
            card = trained(config, variant, seed, model, (learn, check), folder, left)
            if card["stopped"] == "budget":
                print("the minutes are spent: run it again to go on", flush=True)
                return 0
            metrics = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
            result = {
                "start": card["start"],
                "last": card["last"],
                "rounds": [json.loads(line) for line in metrics],
                "measured": measure(folder, kept_aside, config, seed),
            }
            results.setdefault(name, []).append(result)
            print(f"{name}, seed {seed}: {card['last']}", flush=True)
    people = quality(kept_aside[-config.measured :], kept_aside[: config.references])
    said = settings_of(config) | {"seeds": config.seeds}
    report(config.out, said, {"people": [{"measured": {"1.0": people}}], **results})
    return 0


def trained(
    config: Config,
    variant: Variant,
    seed: int,
    model: Any,
    pairs: tuple[Pairs, Pairs],
    folder: Path,
    left: float | None,
) -> dict[str, Any]:
    """Trains a variant where it is missing, and returns its card."""
    path = folder / "card.json"
    if path.is_file():
        card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if card["stopped"] == "steps":
            return card
    how = GcnTraining(
        LoopConfig(
            steps=config.rounds,
            validate_every=max(1, config.rounds // 6),
            save_every=max(1, config.rounds // 3),
            budget_minutes=left,
        ),
        lora=None,
        optimiser="sgd" if variant.sgd else "adamw",
        learning_rate=config.sgd_rate if variant.sgd else config.rate,
        discriminator_learning_rate=config.judge_rate,
        # A cut gradient would hide the size of the weights.
        clip=None,
        examination=Examination(texts=128, held_out=256, rows=64),
        seed=seed,
        saved_dtype="float32",
    )
    return train_gcn(
        model, *pairs, variant.config, how, folder=folder, mesh=make_mesh(1),
        listener=told(folder.name, "round"),
        watch=lambda phase, found: print(found, flush=True) if phase == "warning" else None,
    )  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(run(tyro.cli(Config)))
