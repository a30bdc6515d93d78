"""One domain, all methods: what every experiment on texts of one kind shares.

Half A of the training rows teaches the language model of the domain and whatever guides it, half B
the judge and the oracle language model, which say how good the texts are. Texts go on from the
first words of validation rows, every one towards every class, and are measured as `coopgen
compare` measures them. What was trained is not trained again, and what was interrupted goes on.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from coopgen_jax.comparison.method_run import announced
from coopgen_jax.comparison.writing import Progress, compare
from coopgen_jax.data.batches import BatchConfig
from coopgen_jax.data.cuts import Cutting, cut_all, first_words
from coopgen_jax.data.labelled import Labelled, half, read_labelled
from coopgen_jax.evaluation.report import (
    ReportSettings,
    check_methods,
    footnotes,
    report_on,
    write_report,
)
from coopgen_jax.evaluation.tables import cells, render
from coopgen_jax.models.pretrained.loaded_model import load, load_encoder
from coopgen_jax.parallel.mesh import make_mesh
from coopgen_jax.training.loop import LoopConfig
from coopgen_jax.training.recipes import (
    TrunkConfig,
    train_bidirectional,
    train_causal,
    train_generative,
    train_language_model,
    train_shared_trunk,
)
from coopgen_jax.training.run import RecipeConfig
from experiments.calibration import calibrate
from experiments.domain_methods import DomainMethod
from experiments.train_heads import evenly, told

# What trains a network: from settings, rows to learn from and held-out ones, its folder, and the
# minutes left, None without limit.
Training = Callable[["Config", Labelled, Labelled, Path, float | None], None]
# A judge reads continuations, which begin anywhere and are short.
PIECES = Cutting(pieces=1, shortest=12, longest=48, mid_word=0.0)
# What results repeat of a card.
SAID = (
    "kind", "model", "encoder", "trained", "steps", "rows_of_a_step", "longest", "learning_rate",
    "taps", "width", "half", "best", "temperature", "perplexity",
)  # fmt: skip
# What guides a search.
GUIDES = ("trunk", "causal", "generative")


@dataclass(frozen=True)
class Domain:
    """What is compared on which texts.

    Attributes:
      name: Of the results.
      folder: Of the data.
      classes: Of the texts, in their order.
      methods: What is compared, of `domain_methods`.
      trained: What the methods need of lm, trunk, causal, generative and experts.
      taps: Layers that the shared trunk reads.
      rate: Learning rate of causal and generative guides all of whose parameters are trained; None
        for LoRA beside the language model, which is too little beside a weak one.
      language_model: What trains language model and oracle; None to begin as `Config.model`.
      judge: What trains the judge; None to begin as the encoder that comes with the library.
    """

    name: str
    folder: str
    classes: tuple[str, ...]
    methods: tuple[DomainMethod, ...]
    trained: tuple[str, ...] = ("lm", "trunk", "causal", "generative")
    taps: tuple[int, ...] = (0, 15, 20, 25)
    rate: float | None = None
    language_model: Training | None = None
    judge: Training | None = None


@dataclass(frozen=True)
class Config:
    """What to train and to write.

    Attributes:
      data: A folder with a folder per data set, each with train.csv and validation.csv.
      work: Where everything trained and written goes.
      out: Where the table, its figures and the picture go.
      model: The language model that networks begin as, unless the domain has them begin otherwise.
      longest: Tokens of a training text, and of prompt and continuation together about as many.
      rows: Texts of a step.
      lm_steps: Steps of the language model, and of the oracle.
      guide_steps: Steps of the causal and the generative guide.
      expert_steps: Steps of every class's expert.
      judge_steps: Steps of the judge.
      trunk_rows: Texts that the shared trunk learns from, at most.
      trunk_epochs: How often it learns from each.
      texts: Prompts, each continued towards every class.
      words: Of every prompt.
      new_tokens: Tokens of a text.
      batch_size: Texts written at once.
      only: What to train of what is needed; everything where nothing is named.
      train_only: Stop behind the training.
      budget_minutes: After which nothing further is trained, and training stops in between; run it
        again to go on.
    """

    data: Path
    work: Path
    out: Path = Path("experiments/results")
    model: str = "smollm2-135m"
    longest: int = 64
    rows: int = 16
    lm_steps: int = 280
    guide_steps: int = 160
    expert_steps: int = 60
    judge_steps: int = 400
    trunk_rows: int = 6000
    trunk_epochs: int = 6
    texts: int = 100
    words: int = 5
    new_tokens: int = 59
    batch_size: int = 20
    only: tuple[str, ...] = ()
    train_only: bool = False
    budget_minutes: float | None = None


def rows_of(config: Config, domain: Domain, split: str, part: str | None) -> Labelled:
    """Returns the rows of a split, or of a half of it."""
    path = config.data / domain.folder / f"{split}.csv"
    data = read_labelled(path, classes=domain.classes)
    return half(data, part) if part else data


def recipe(config: Config, steps: int, left: float | None, **more: Any) -> RecipeConfig:
    """Returns how a network is trained in the minutes that are left."""
    every = max(1, steps // 4)
    return RecipeConfig(
        LoopConfig(steps=steps, validate_every=every, save_every=every, budget_minutes=left),
        BatchConfig(rows=config.rows, longest=config.longest, shortest=more.pop("shortest", None)),
        validation_rows=256,
        **more,
    )


def of_class(data: Labelled, number: int) -> Labelled:
    """Returns the rows of one class."""
    return data.rows([row for row, label in enumerate(data.labels) if label == number])


def train_all(config: Config, domain: Domain) -> bool:
    """Trains what is missing; tells whether everything is there then."""
    started = time.monotonic()
    learn, judged = (rows_of(config, domain, "train", part) for part in ("A", "B"))
    held_out = rows_of(config, domain, "validation", None)
    tasks = tasks_of(config, domain, learn, judged, held_out)
    for name, task in tasks.items():
        folder = config.work / name
        if is_done(folder) or (config.only and name not in config.only):
            continue
        left = None
        if config.budget_minutes is not None:
            left = config.budget_minutes - (time.monotonic() - started) / 60
            if left <= 0:
                print(f"the minutes are spent before {name}: run it again to go on", flush=True)
                return False
        print(f"{domain.name}: {name}", flush=True)
        task(folder, left)
        if not is_done(folder):
            print(f"{name} is not finished: run it again to go on", flush=True)
            return False
    return all(map(is_done, (config.work / name for name in tasks)))


def is_done(folder: Path) -> bool:
    """Tells whether a training is finished: its card comes last, and says what stopped it."""
    cards = [path for name in ("card.json", "judge.json") if (path := folder / name).is_file()]
    stopped = [json.loads(path.read_text(encoding="utf-8")).get("stopped") for path in cards]
    return bool(cards) and not {"budget", "interrupt"} & set(stopped)


def tasks_of(
    config: Config, domain: Domain, learn: Labelled, judged: Labelled, held_out: Labelled
) -> dict[str, Callable[[Path, float | None], Any]]:
    """Returns every training by name, as a function of its folder and of the minutes left."""
    mesh = make_mesh(1)

    def base() -> Any:
        return load(config.work / "lm", stacked=True)

    def write(model: Callable[[], Any], rows: Labelled, steps: int) -> Callable:
        def task(folder: Path, left: float | None) -> None:
            train_language_model(
                model(), rows.texts, held_out.texts, recipe(config, steps, left),
                sources=rows.origins, folder=folder, mesh=mesh, listener=told(folder.name, "step"),
            )  # fmt: skip

        return task

    def guide(train: Callable, shortest: int, rate: float) -> Callable:
        def task(folder: Path, left: float | None) -> None:
            how = recipe(config, config.guide_steps, left, shortest=shortest, learning_rate=rate)
            if domain.rate is not None:
                how = replace(how, lora=None, learning_rate=domain.rate)
            train(
                base(), learn, held_out, how,
                folder=folder, mesh=mesh, listener=told(folder.name, "step"),
            )  # fmt: skip

        return task

    def trunk(folder: Path, left: float | None) -> None:
        rows, validation = evenly(learn, config.trunk_rows), evenly(held_out, 1000)
        steps = max(1, config.trunk_epochs * len(rows.texts) // 64)
        how = replace(
            recipe(config, steps, left, dropout=0.4, learning_rate=1e-3),
            batch=BatchConfig(rows=64, longest=config.longest, shortest=None),
        )
        train_shared_trunk(
            base(), rows, validation, how, TrunkConfig(domain.taps),
            folder=folder, mesh=mesh, listener=told(folder.name, "step"),
            reading=told(folder.name, "text"), states=config.work / "states",
        )  # fmt: skip

    def judge(folder: Path, left: float | None) -> None:
        data = cut_all(np.random.default_rng(0), judged, PIECES)
        how = replace(
            recipe(config, config.judge_steps, left, dropout=0.1, learning_rate=5e-4),
            batch=BatchConfig(rows=32, longest=64, shortest=None),
        )
        train_bidirectional(
            load_encoder("minilm-l6"), data, cut_all(np.random.default_rng(1), held_out, PIECES),
            how, folder=folder, mesh=mesh, listener=told(folder.name, "step"),
        )  # fmt: skip

    def pretrained() -> Any:
        return load(config.model, stacked=True)

    def own(train: Training, rows: Labelled) -> Callable:
        return lambda folder, left: train(config, rows, held_out, folder, left)

    def begun(rows: Labelled) -> Callable:
        train = domain.language_model
        return own(train, rows) if train else write(pretrained, rows, config.lm_steps)

    tasks: dict[str, Callable[[Path, float | None], Any]] = {
        "lm": begun(learn),
        "trunk": trunk,
        "causal": guide(train_causal, 1, 1e-3),
        "generative": guide(train_generative, 2, 5e-4),
    }
    tasks = {name: task for name, task in tasks.items() if name in domain.trained}
    if "experts" in domain.trained:
        for number, name in enumerate(domain.classes):
            rows = of_class(learn, number)
            tasks[f"expert-{name}"] = write(base, rows, config.expert_steps)
    judging = own(domain.judge, judged) if domain.judge else judge
    return tasks | {"judge": judging, "oracle": begun(judged)}


def prompts_of(config: Config, domain: Domain) -> list[str]:
    """Returns the first words of validation rows, as many of every class."""
    rows = first_words(rows_of(config, domain, "validation", None), config.words)
    share = -(-config.texts // len(domain.classes))
    chosen = [evenly(of_class(rows, number), share).texts for number in range(len(domain.classes))]
    return [text for group in zip(*chosen, strict=False) for text in group][: config.texts]


def settings_of(config: Config) -> dict[str, Any]:
    """Returns how texts were written, and what the cards of all that was trained say."""
    written = {
        name: getattr(config, name) for name in ("texts", "words", "new_tokens", "batch_size")
    }
    cards = sorted((*config.work.glob("*/card.json"), *config.work.glob("*/judge.json")))
    trained = {}
    for path in cards:
        card = json.loads(path.read_text(encoding="utf-8"))
        trained[path.parent.name] = {
            # Of a model's folder the name alone.
            name: Path(card[name]).name if name == "model" else card[name]
            for name in SAID
            if name in card
        }
    return {**written, "trained": trained}


def run(config: Config, domain: Domain) -> int:
    """Trains, writes and measures; returns the exit status."""
    config.work.mkdir(parents=True, exist_ok=True)
    if not train_all(config, domain) or config.train_only:
        return 0
    for name in (guide for guide in GUIDES if guide in domain.trained):
        calibrate(
            config.work / name, config.work / "lm",
            rows_of(config, domain, "validation", None), longest=config.longest,
        )  # fmt: skip
    write_and_measure(config, domain)
    return 0


def write_and_measure(config: Config, domain: Domain) -> None:
    """Writes every method's texts and their figures, and prints the table."""
    runs = [method(config.work, config.new_tokens) for method in domain.methods]
    how = ReportSettings(judge=str(config.work / "judge"), oracle=str(config.work / "oracle"))
    # A judge that shares rows with a guide is refused before anything is written.
    check_methods(announced(runs, domain.classes), how)
    methods = compare(
        runs, prompts_of(config, domain), domain.classes,
        folder=config.work / "texts", batch_size=config.batch_size, on_progress=show,
    )  # fmt: skip
    report = report_on(methods, how, on_method=lambda name: print(f"measuring {name}", flush=True))
    config.out.mkdir(parents=True, exist_ok=True)
    write_report({"settings": settings_of(config), **report}, config.out / domain.name)
    print(render(cells(report), "text"), end="")
    print("\n".join(footnotes(report)))


def show(progress: Progress) -> None:
    """Prints which batch of a method has been written."""
    print(f"{progress.method}: batch {progress.batch} of {progress.batches}", flush=True)
