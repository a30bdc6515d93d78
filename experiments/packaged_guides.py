"""How often are the default model's texts on target under the packaged heads of emotion and topic?

    python -m experiments.packaged_guides --data FOLDER --work FOLDER

Neither model nor head is tuned: the first words of validation rows, or prompts of a file, go on
towards every class by sampling, by the best of eight samples, by FUDGE, and by two searches (the
preset `values`, and 32 simulations of the default one). Two judges are fitted on half B of the
head's training rows, one on words, one on words and MiniLM's states. They read the continuation
alone, and know no class for texts that say nothing. Texts are kept in `work`, and an interrupted
run goes on.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

import coopgen_jax as cg
from coopgen_jax.bulk.growing_file import rows_in
from coopgen_jax.comparison.method_run import MethodRun, text_files
from coopgen_jax.comparison.tuning import spread
from coopgen_jax.comparison.writing import compare
from coopgen_jax.data.cuts import Cutting, cut_all, first_words
from coopgen_jax.data.labelled import half, read_labelled
from coopgen_jax.evaluation.metrics import wilson_interval
from coopgen_jax.evaluation.tfidf_judge import Judge, fit_judge
from coopgen_jax.files import write_json
from coopgen_jax.models.pretrained.loaded_model import load_encoder
from experiments.train_heads import HEADS
from experiments.value_for_time import prompts_of, show
from experiments.value_for_time_figures import figures, measured

# Of a head's data the folder.
GUIDES = {"topic": "ag_news", "emotion": "emotion"}
SPANS = Cutting(pieces=1, shortest=8, longest=24, mid_word=0.0)


@dataclass(frozen=True)
class Config:
    """What to write and to judge.

    Attributes:
      data: A folder with a folder per data set, each with train.csv and validation.csv.
      work: Folder of the texts.
      prompts: JSONL file with "text"; None for the first words of validation rows.
      words: How many first words.
      methods: Which methods to take; none for all.
      out: Folder for the figures.
      guides: Packaged heads, of topic and emotion.
      model: The language model.
      encoder: The encoder of the second judge.
      limit: How many of the prompts to use, evenly spread over the file.
      new_tokens: Of every text.
      batch_size: Prompts written at once.
      dtype: Number format of the language model.
      seed: Of sampling.
    """

    data: Path
    work: Path
    prompts: Path | None = None
    words: int = 5
    methods: tuple[str, ...] = ()
    out: Path = Path("experiments/results")
    guides: tuple[str, ...] = tuple(GUIDES)
    model: str = "smollm2-135m"
    encoder: str = "minilm-l6"
    limit: int = 16
    new_tokens: int = 24
    batch_size: int = 16
    dtype: str = "bfloat16"
    seed: int = 0


def runs_of(config: Config, guide: str) -> list[MethodRun]:
    """Returns the methods."""
    sampled = {"top_p": 0.9, "temperature": 0.7}
    decoders = {
        "sample": cg.SamplingConfig().with_settings(top_p=0.9),
        "rerank": cg.RerankConfig().with_settings(of=8, **sampled),
        "fudge": cg.FudgeConfig().with_settings(candidates=20, strength=4.0),
        "mcts:preset=values": cg.PRESETS["values"],
        "mcts:preset=default": cg.PRESETS["default"].with_settings(simulations=32, wave=8),
    }
    runs = []
    for name, decoder in decoders.items():
        if config.methods and name not in config.methods:
            continue
        method, _, preset = name.partition(":preset=")
        settings = decoder.with_settings(new_tokens=config.new_tokens)
        about = {"model": config.model, "discriminator": guide}
        runs.append(MethodRun(name, settings, method=method, preset=preset or None, **about))
    return runs


def prompts_for(config: Config, guide: str) -> list[str]:
    """Returns what is continued: openings of validation rows, or prompts of the file."""
    if config.prompts is not None:
        return spread(prompts_of(config.prompts), config.limit)
    rows = read_labelled(config.data / GUIDES[guide] / "validation.csv")
    openings = first_words(rows, config.words).texts
    return spread(list(dict.fromkeys(openings)), config.limit)


def judges_of(config: Config, guide: str) -> tuple[dict[str, Judge], dict[str, Any]]:
    """Returns the judges of a head's classes, and how often each is right about unseen spans."""
    folder, classes = config.data / GUIDES[guide], HEADS[guide].classes
    rng = np.random.default_rng(0)
    rows = half(read_labelled(folder / "train.csv", classes=classes), "B")
    rows = cut_all(rng, rows, SPANS)
    unseen = cut_all(rng, read_labelled(folder / "validation.csv", classes=classes), SPANS)
    judges = {
        "words": fit_judge(rows, None),
        "MiniLM": fit_judge(rows, load_encoder(config.encoder)),
    }
    right = {}
    for name, judge in judges.items():
        hits = judge.predict_proba(unseen.texts).argmax(axis=1) == unseen.labels
        interval = list(wilson_interval(int(hits.sum()), len(hits)))
        right[name] = {"value": float(hits.mean()), "interval": interval, "texts": len(hits)}
    return judges, right


def main(config: Config) -> None:
    """Writes, judges, prints and saves."""
    found: dict[str, Any] = {}
    for guide in config.guides:
        classes, runs = HEADS[guide].classes, runs_of(config, guide)
        folder = config.work / Path(guide).name
        prompts = prompts_for(config, guide)
        compare(
            runs, prompts, classes, folder=folder, seed=config.seed,
            batch_size=config.batch_size, dtype=config.dtype, on_progress=show,
        )  # fmt: skip
        judges, right = judges_of(config, guide)
        methods = []
        for run, path in zip(runs, text_files(runs, folder), strict=True):
            own = figures(measured(rows_in(path), judges, None))
            methods.append({"method": run.name, **own})
            shares = [judge["on_target"]["value"] for judge in own["judges"].values()]
            print(guide, run.name, shares, own["perplexity"]["value"], flush=True)
        found[guide] = {"judges": right, "texts": len(prompts) * len(classes), "methods": methods}
    settings = {name: getattr(config, name) for name in ("limit", "new_tokens", "model", "seed")}
    config.out.mkdir(parents=True, exist_ok=True)
    stem = "packaged_guides" if config.prompts is None else "packaged_guides_web"
    write_json(config.out / f"{stem}.json", {"settings": settings, "guides": found})


if __name__ == "__main__":
    main(tyro.cli(Config))
