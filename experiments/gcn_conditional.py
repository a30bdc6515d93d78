"""Generative Cooperative Networks on questions about a sentence, under every cooperative decoder.

    python -m experiments.gcn_conditional --data FOLDER --work FOLDER --out experiments/results

After Lamprier et al. (ICML 2022, arXiv 2201.12320) and Scialom et al. (SelfGAN, NeurIPS 2021, arXiv
2106.06363) on the questions of SQuAD: a language model learns by maximum likelihood (LoRA) to write
the question behind its sentence, and goes on with a discriminator and a cooperative tree search as
its proposal. Before and after that its questions are written by greedy decoding, beam search, DAS
in its local and its global form, and cooperative search. Told are BLEU-4, ROUGE-1 and ROUGE-L, and
how many questions two discriminators take for people's: "Base" knows beam search on the maximum
likelihood model, "Base+" all generators under all decoders. Both learn from sentences that neither
the generators nor their guides have seen, and judge other ones again.

Sizes are those of two processor cores, far below the papers'. A folder with train.jsonl and
test.jsonl of another task does as well, with --name, --source and --text: --data SUMMARIES --name
summaries --source source --text target. No summaries have been run, and that table is open.
What was trained and written stands in folders of its own; a run that was interrupted, or whose
minutes were spent, goes on.
"""

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import tyro

from coopgen_jax.data.batches import BatchConfig
from coopgen_jax.data.pairs import Pairs
from coopgen_jax.discriminators.loading import load_discriminator
from coopgen_jax.models.pretrained.loaded_model import LoadedModel, load
from coopgen_jax.parallel.mesh import make_mesh
from coopgen_jax.training.gcn.examination import Examination
from coopgen_jax.training.gcn.gcn_recipe import train_gcn
from coopgen_jax.training.gcn.gcn_training import GcnTraining
from coopgen_jax.training.loop import LoopConfig
from coopgen_jax.training.run import RecipeConfig
from experiments.conditional_figures import report
from experiments.conditional_settings import FIRST, Config, decoders, round_of
from experiments.conditional_texts import Data, Reading, chosen, quality, read_data, write_texts
from experiments.domain import is_done
from experiments.pair_judge import says_human, train_pair_judge
from experiments.train_heads import told


class SpentError(Exception):
    """The minutes are spent."""


@dataclass(frozen=True)
class Clock:
    """When it ends; None for never."""

    end: float | None

    def left(self) -> float | None:
        """Returns the minutes that are left.

        Raises:
          SpentError: there are none.
        """
        if self.end is None:
            return None
        if self.end <= time.monotonic():
            raise SpentError
        return (self.end - time.monotonic()) / 60


def pretrained(config: Config) -> LoadedModel:
    """Returns what everything begins as."""
    model = load(config.model, stacked=True)
    if config.layers is None:
        return model
    layers = jax.tree.map(lambda leaf: leaf[: config.layers], model.params["layers"])
    return replace(
        model,
        config=replace(model.config, layers=config.layers),
        params={**model.params, "layers": layers},
        sha256=f"{model.sha256}, {config.layers} layers",
    )


def generator(config: Config, data: Data, name: str, clock: Clock) -> dict[str, Any]:
    """Trains a generator where it is missing, and returns its card."""
    folder = folder_of(config, name)
    if is_done(folder):
        card: dict[str, Any] = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        return card
    left, first = clock.left(), name == FIRST
    steps = config.first_steps if first else config.rounds
    every = max(1, steps // 4)
    training = GcnTraining(
        LoopConfig(steps=steps, validate_every=every, save_every=every, budget_minutes=left),
        learning_rate=config.rate if first else config.gcn_rate,
        discriminator_learning_rate=config.judge_rate,
        warmup=steps // 10 if first else 3,
        examination=Examination(texts=32, held_out=64, rows=16),
        seed=config.seed,
    )
    # A discriminator of texts that the generator knows by heart would tell people's by that.
    pairs = data.training if first else data.fresh
    model = pretrained(config) if first else load(folder_of(config, FIRST), stacked=True)
    card = train_gcn(
        model, pairs, data.validation, round_of(config, name), training,
        folder=folder, mesh=make_mesh(1), discriminator=None if first else pretrained(config),
        listener=told(folder.name, "step"),
        watch=lambda phase, found: print(found, flush=True) if phase == "warning" else None,
    )  # fmt: skip
    if not is_done(folder):
        raise SpentError
    return card


def folder_of(config: Config, name: str) -> Path:
    """Returns a generator's folder."""
    return config.work / ("first" if name == FIRST else name)


def judge(
    config: Config, name: str, human: Pairs, written: Pairs, clock: Clock, *, guides: bool = False
) -> Path:
    """Trains a discriminator where it is missing, and returns its folder."""
    folder = config.work / name
    if is_done(folder):
        return folder
    left, steps = clock.left(), config.guide_steps if guides else config.base_steps
    every = max(1, steps // 4)
    # The generator may know people's texts by heart, and a guide begun as it would tell by that.
    model, longest = pretrained(config), human.source_width + human.text_width
    how = RecipeConfig(
        LoopConfig(steps=steps, validate_every=every, save_every=every, budget_minutes=left),
        BatchConfig(rows=config.judge_rows, longest=longest, shortest=None, seed=config.seed),
        learning_rate=config.judge_rate,
    )
    train_pair_judge(model, human, written, how, beginnings=guides, folder=folder)
    if not is_done(folder):
        raise SpentError
    return folder


def guide(config: Config, data: Data, clock: Clock) -> Path:
    """Trains the maximum likelihood model's guide, against what its beams write."""
    if is_done(config.work / "guide"):
        return config.work / "guide"
    clock.left()
    written = write_texts(
        config.work / "texts" / "guide.json", load(config.work / "first"), decoders(config)["beam"],
        data.guide, guide=None, rows=config.rows, seed=config.seed,
    )  # fmt: skip
    return judge(config, "guide", data.guide, written, clock, guides=True)


def joined(parts: tuple[Pairs, ...]) -> Pairs:
    """Returns pairs of several sets as one set."""
    names = ("sources", "texts", "written")
    rows = {name: sum((getattr(part, name) for part in parts), ()) for name in names}
    return replace(parts[0], **rows)


def written_by(
    config: Config, data: Data, name: str, guided_by: Path, number: int, clock: Clock
) -> dict[str, tuple[Pairs, Pairs]]:
    """Returns, by decoder, a generator's texts for test sources and for its share of the judges'.

    Every generator under every decoder has as many sources of the judges'; the maximum likelihood
    model's beam search, which Base learns from, has all of them. `number` is the generator's.
    """
    model = load(folder_of(config, name))
    adviser = load_discriminator(guided_by, language_model=model)
    found, ways = {}, decoders(config)
    cells = len(ways) * (1 + len(config.objectives))
    for place, (way, how) in enumerate(ways.items()):
        parts = []
        share = range(number * len(ways) + place, len(data.judges), cells)
        every = name == FIRST and way == "beam"
        asked = data.judges if every else chosen(data.judges, share)
        for use, sources in (("test", data.test), ("judges", asked)):
            clock.left()
            path = config.work / "texts" / f"{folder_of(config, name).name}-{way}-{use}.json"
            parts.append(write_texts(
                path.with_name(path.name.replace(" ", "-")), model, how, sources, guide=adviser,
                rows=config.rows, seed=config.seed,
            ))  # fmt: skip
        found[way] = (parts[0], parts[1])
    return found


def measure(config: Config, data: Data, clock: Clock) -> dict[str, Any]:
    """Trains and writes what is missing, and returns all figures."""
    names = (FIRST, *config.objectives)
    cards = {name: generator(config, data, name, clock) for name in names}
    guides = {FIRST: guide(config, data, clock)}
    guides |= {name: folder_of(config, name) / "judge" for name in config.objectives}
    texts = {
        name: written_by(config, data, name, guides[name], number, clock)
        for number, name in enumerate(names)
    }
    every = texts[FIRST]["beam"][1]
    order, sides = [], []
    ways = decoders(config)
    cells = len(names) * len(ways)
    for cell, (name, way) in enumerate((name, way) for name in names for way in ways):
        share = range(cell, len(data.judges), cells)
        order += share
        own = texts[name][way][1]
        sides.append(chosen(own, share) if own is every else own)
    folders = {
        "base": judge(config, "base", data.judges, every, clock),
        "base_plus": judge(
            config, "base-plus", chosen(data.judges, order), joined(tuple(sides)), clock
        ),
    }
    measured: dict[str, dict[str, Any]] = {name: {} for name in ("people", *names)}
    measured["people"]["people"] = {}
    for name in names:
        for way, (written, _) in texts[name].items():
            measured[name][way] = quality(written.written, data.references)
            measured[name][way]["texts"] = list(written.written[:10])
    for base, folder in folders.items():
        says = load_discriminator(folder, language_model=load(config.work / "first"))
        measured["people"]["people"][base] = says_human(says, data.test, rows=config.rows).tolist()
        for name in names:
            for way, (written, _) in texts[name].items():
                said = says_human(says, written, rows=config.rows)
                measured[name][way][base] = said.tolist()
    trained = {name: {key: card[key] for key in ("start", "last")} for name, card in cards.items()}
    held_out = {
        base: json.loads((folder / "card.json").read_text(encoding="utf-8"))["held_out"]
        for base, folder in (folders | {"guide": guides[FIRST]}).items()
    }
    return {"measured": measured, "trained": trained, "judges_held_out": held_out}


def run(config: Config) -> int:
    """Trains, writes and measures what is missing; returns the exit status."""
    minutes = config.budget_minutes
    clock = Clock(None if minutes is None else time.monotonic() + 60 * minutes)
    reading = Reading(
        config.data, config.source, config.text, config.template, config.source_tokens,
        config.new_tokens, config.cut_sources, training=config.pairs, guide=config.guide_sources,
        judges=config.judge_sources, fresh=config.fresh, validation=64, test=config.test,
    )  # fmt: skip
    data = read_data(reading, pretrained(config).tokenizer)
    try:
        found = measure(config, data, clock)
    except SpentError:
        print("the minutes are spent: run it again to go on", flush=True)
        return 0
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(config).items()
                if k not in ("data", "work", "out")}  # fmt: skip
    report(config.out, config.name, {"settings": settings, **found})
    return 0


if __name__ == "__main__":
    raise SystemExit(run(tyro.cli(Config)))
