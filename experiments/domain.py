"""One domain, all methods: what every experiment on texts of one kind shares.

Half A of the training rows teaches the language model of the domain and whatever guides it, half B
the judge and the oracle language model, which say how good the texts are. Texts go on from the
first words of validation rows, every one towards every class, and are measured by `coopgen
compare`. What was trained is not trained again, and what was interrupted goes on.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from coopgen_jax.cli import main as coopgen
from coopgen_jax.data.batches import BatchConfig
from coopgen_jax.data.cuts import Cutting, cut_all, first_words
from coopgen_jax.data.labelled import Labelled, half, read_labelled
from coopgen_jax.models.pretrained.loaded_model import load, load_encoder
from coopgen_jax.parallel.mesh import make_mesh
from coopgen_jax.training.loop import LoopConfig
from coopgen_jax.training.recipes.bidirectional_recipe import train_bidirectional
from coopgen_jax.training.recipes.recipes import (
    train_causal,
    train_generative,
    train_language_model,
)
from coopgen_jax.training.recipes.shared_trunk_recipe import TrunkConfig, train_shared_trunk
from coopgen_jax.training.run import RecipeConfig
from experiments.calibration import calibrate
from experiments.train_heads import evenly, told

# What trains a network: from settings, rows to learn from and held-out ones, its folder, and the
# minutes left, None without limit.
Training = Callable[["Config", Labelled, Labelled, Path, float | None], None]
# A judge reads continuations, which begin anywhere and are short.
PIECES = Cutting(pieces=1, shortest=12, longest=48, mid_word=0.0)
SEARCH = "mcts:simulations=32:wave=8"
# Methods of a domain with a generative guide; a class-conditional language model is that guide's
# network behind its prefix.
BASELINES = (
    "sample:top_p=0.9",
    "greedy",
    "sample:top_p=0.9:model={work}/generative/network:control_code={{target}}\\::discriminator=none",
    "gedi:discriminator={work}/generative",
)
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

    name: of the results; folder: of the data.
    classes: of the texts, in their order.
    methods: of `coopgen compare`; {work} stands for the folder of what was trained, and guides are
      trunk, causal and generative there.
    trained: what the methods need of lm, trunk, causal, generative and experts.
    taps: layers that the shared trunk reads.
    rate: at which causal and generative guides learn as a whole; None for LoRA beside the language
      model, which is too little beside one that has not learnt much itself.
    language_model: what trains language model and oracle; None to begin as `Config.model`.
    judge: what trains the judge; None to begin as the encoder that comes with the library.
    """

    name: str
    folder: str
    classes: tuple[str, ...]
    methods: tuple[str, ...]
    trained: tuple[str, ...] = ("lm", "trunk", "causal", "generative")
    taps: tuple[int, ...] = (0, 15, 20, 25)
    rate: float | None = None
    language_model: Training | None = None
    judge: Training | None = None


@dataclass(frozen=True)
class Config:
    """What to train and to write.

    data: a folder with a folder per data set, each with train.csv and validation.csv.
    work: where everything trained and written goes.
    out: where the table, its figures and the picture go.
    model: the language model that networks begin as, unless the domain has them begin otherwise.
    longest: tokens of a training text, and of prompt and continuation together about as many.
    rows: texts of a step.
    lm_steps, guide_steps, expert_steps, judge_steps: steps of the language models (oracle
      included), of the causal and generative guides, of every class's expert, and of the judge.
    trunk_rows: texts that the shared trunk learns from, at most; trunk_epochs: how often.
    texts: prompts, each continued towards every class.
    words: of every prompt.
    new_tokens, batch_size: of the texts.
    only: what to train of what is needed; everything where nothing is named.
    train_only: stop behind the training.
    budget_minutes: after which nothing further is trained, and training stops in between; run it
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


def write_prompts(config: Config, domain: Domain) -> Path:
    """Writes the first words of validation rows, as many of every class, and returns the file."""
    rows = first_words(rows_of(config, domain, "validation", None), config.words)
    share = -(-config.texts // len(domain.classes))
    chosen = [evenly(of_class(rows, number), share).texts for number in range(len(domain.classes))]
    texts = [text for group in zip(*chosen, strict=False) for text in group][: config.texts]
    path = config.work / "prompts.jsonl"
    lines = [json.dumps({"prompt": text}, ensure_ascii=False) + "\n" for text in texts]
    path.write_text("".join(lines), encoding="utf-8")
    return path


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
    written = config.work / "texts"
    status = coopgen([
        "compare",
        "--methods", ",".join(method.format(work=config.work) for method in domain.methods),
        "--prompts", str(write_prompts(config, domain)),
        "--target", *domain.classes,
        "--model", str(config.work / "lm"),
        "--discriminator", str(config.work / "trunk"),
        "--judge", str(config.work / "judge"),
        "--oracle", str(config.work / "oracle"),
        "--new-tokens", str(config.new_tokens),
        "--batch-size", str(config.batch_size),
        "--out", str(written),
    ])  # fmt: skip
    if status == 0:
        config.out.mkdir(parents=True, exist_ok=True)
        for path in written.glob("figures.*"):
            (config.out / f"{domain.name}{path.suffix}").write_bytes(path.read_bytes())
        path = config.out / f"{domain.name}.json"
        figures = {"settings": settings_of(config), **json.loads(path.read_text(encoding="utf-8"))}
        path.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return status
