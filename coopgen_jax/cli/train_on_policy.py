"""How `coopgen train discriminator --on-policy` writes, trains, and leaves a guide and its card."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from coopgen_jax.cli.ask import flag
from coopgen_jax.cli.compare_methods import method_config
from coopgen_jax.cli.guide_shape import shape_settings
from coopgen_jax.cli.on_policy_options import OnPolicyOptions
from coopgen_jax.cli.prompts import read_prompts
from coopgen_jax.cli.train_data import Labeller
from coopgen_jax.cli.train_gcn import own_words
from coopgen_jax.cli.train_options import DiscriminatorOptions
from coopgen_jax.cli.train_progress import check_numbers, now_and_then, tell
from coopgen_jax.comparison.method_run import MethodRun, text_files
from coopgen_jax.comparison.writing import Progress, compare
from coopgen_jax.data.labelled import Labelled, joined
from coopgen_jax.decoding.decoder_settings import DecoderSettings
from coopgen_jax.decoding.methods.sampling import SamplingConfig
from coopgen_jax.discriminators.loading import load_discriminator
from coopgen_jax.errors import UserError
from coopgen_jax.files import read_json, replacing
from coopgen_jax.models.pretrained.loaded_model import LoadedModel, load
from coopgen_jax.models.prompt import ids_of, make_prompt
from coopgen_jax.parallel.mesh import make_mesh
from coopgen_jax.tokenizer import Tokenizer
from coopgen_jax.training.card import write_card
from coopgen_jax.training.on_policy import UNFINISHED, OnPolicyConfig, Rounds, train_on_policy
from coopgen_jax.training.on_policy_calibration import calibration
from coopgen_jax.training.over_optimisation import Visited
from coopgen_jax.training.run import RecipeConfig
from coopgen_jax.training.training_folder import claim

# Prompts that are worked on at once.
BATCH = 8
ROUNDS = 3
# Options that --from-search has too.
SHARED = ("search", "rounds", "new_tokens")
# What a round's folder has of a guide; the others are of its training.
FILES, FOLDERS = ("head.safetensors", "rows.npy"), ("network", "encoder")

# From options, training and validation texts to a card: an ordinary training.
Fit = Callable[[DiscriminatorOptions, Labelled, Labelled], dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Plan:
    """What rounds are made of beside the texts of the data.

    Attributes:
      config: How many rounds.
      writer: The language model that writes.
      prompts: What its texts continue.
      search: The settings of the search.
    """

    config: OnPolicyConfig
    writer: LoadedModel
    prompts: tuple[str, ...]
    search: DecoderSettings

    @property
    def prompts_sha256(self) -> str:
        """The fingerprint of the prompts."""
        return hashlib.sha256(json.dumps(self.prompts).encode()).hexdigest()


class _BudgetSpentError(Exception):
    """Ends the writing of a round between two batches."""


@dataclass(frozen=True)
class _Data:
    """What a folder is claimed for: texts and what is learned of them."""

    texts: tuple[str, ...]
    targets: list[Any]


def check_on_policy(what: DiscriminatorOptions) -> None:
    """Raises UserError where options of the rounds do not go together."""
    if what.on_policy is None:
        for option in fields(OnPolicyOptions):
            if what.from_search is not None and option.name in SHARED:
                continue
            if getattr(what, option.name) != option.default:
                more = " or --from-search" if option.name in SHARED else ""
                raise UserError(
                    f"{flag(option.name)} says nothing without --on-policy{more}: leave it out, or "
                    "say what is written"
                )
        return
    if what.from_search is not None:
        raise UserError(
            "--on-policy trains a guide and --from-search a look-ahead head: train one, then the "
            "other with the first as its --guide"
        )
    check_numbers(what, "on_policy_texts", "new_tokens")
    if what.rounds is not None:
        check_numbers(what, "rounds")
    if what.teacher is None:
        raise UserError("--on-policy wants a --teacher, which labels what is written: name one")
    if what.on_policy_prompts is None:
        raise UserError(
            "--on-policy wants prompts, which its texts continue: give a file of them with "
            "--on-policy-prompts"
        )
    if what.kind == "shared-trunk" and what.on_policy != what.model:
        raise UserError(
            f"--on-policy is {what.on_policy} and --model {what.model}: a shared trunk reads the "
            "states of the model that writes, so name the same"
        )
    if what.coordinator is not None:
        raise UserError(
            "several machines cannot train in rounds together: leave --coordinator or --on-policy "
            "out"
        )
    if said := own_words(what.search):
        raise UserError(
            f"--search {what.search}: the search is of the guide that is trained, so {said[0]} "
            "says nothing to it: leave it out"
        )


def plan_of(what: DiscriminatorOptions) -> Plan:
    """Reads prompts and settings and loads the language model that writes.

    Raises:
      UserError: there is no such model, the prompts are of no use or too long, or the search is
        none or is not guided.
    """
    assert what.on_policy is not None
    config = OnPolicyConfig(what.rounds or ROUNDS, what.tolerance)
    search = method_config(what.search, new_tokens=what.new_tokens, samples=1, source="--search")
    if not search.guided:
        raise UserError(f"--search {what.search} asks no guide: give a guided method such as mcts")
    found = read_prompts((), what.on_policy_prompts, partial(tell, what))
    prompts = tuple(dict.fromkeys(prompt for prompt in found if prompt is not None))
    writer = load(what.on_policy, dtype=what.dtype)
    make_prompt(writer.tokenizer, prompts, context=writer.config.context, reserve=search.ahead)
    return Plan(config, writer, prompts, search)


def run_on_policy(
    what: DiscriminatorOptions,
    plan: Plan,
    data: tuple[Labelled, Labelled],
    labeller: Labeller,
    recipe: RecipeConfig,
    fit: Fit,
) -> dict[str, Any]:
    """Trains a guide in rounds; see `train_on_policy`. Returns the card.

    Every round has a folder in `--out`, for its training and the texts written with its guide.
    What comes out is copied from the last one.

    Args:
      what: the options.
      plan: what is written.
      data: the training and the validation texts.
      labeller: the teacher.
      recipe: how the first round is trained.
      fit: trains a round.

    Raises:
      UserError: the folder holds another training, or something cannot be written.
    """
    training, validation = data
    classes, end = training.classes, _end_of(what)
    _claim(what, plan, data, labeller, recipe)
    texts = 2 * len(classes) * _each(what, plan, classes)
    if texts < what.on_policy_texts:
        tell(what, f"{len(plan.prompts)} different prompts give {texts} texts a round: add prompts")
    card: dict[str, Any] = {}

    def train(number: int, rows: list[Labelled]) -> dict[str, Any]:
        nonlocal card
        folder = _folder(what, number)
        if (folder / "card.json").is_file():
            found = read_json(folder / "card.json")
            if found.get("stopped") not in UNFINISHED:
                card = found
                return card
        left = None if end is None else (end - time.monotonic()) / 60
        if left is not None and left <= 0 and card:
            return {**card, "stopped": "budget"}
        tell(what, f"round {number}: training on {sum(len(p.texts) for p in rows)} written texts")
        states = what.states or _states(what)
        own = replace(
            what, out=folder, budget_minutes=None if left is None else max(left, 1e-6),
            states=states if what.kind == "shared-trunk" else None,
        )  # fmt: skip
        card = fit(own, joined([training, *rows]), validation)
        return card

    found = train_on_policy(
        plan.config, classes, labeller.teacher,
        train=train,
        write=lambda number: _write(what, plan, classes, number, end),
        judge=lambda number, texts: labeller.shares(what, f"round {number}", texts, classes),
        listener=partial(_tell_gap, what),
    )  # fmt: skip
    report = {**_report(what, plan, labeller, found), "texts_of_a_round": texts}
    if found.visited is None:
        return {**found.card, "on_policy": report}
    guide = load_discriminator(_folder(what, found.number), language_model=plan.writer)
    tell(what, "calibrating on the texts of the last round")
    rows = min(what.validation_rows, len(validation.texts))
    evenly = validation.rows([at * len(validation.texts) // rows for at in range(rows)])
    temperature, measured = calibration(
        plan.writer, guide, found.visited, evenly, longest=(what.new_tokens, what.longest)
    )
    card = {**found.card, "on_policy": {**report, **measured}, "temperature": temperature}
    _deliver(_folder(what, found.number), what.out, card)
    shutil.rmtree(_states(what), ignore_errors=True)
    return card


def _end_of(what: DiscriminatorOptions) -> float | None:
    return None if what.budget_minutes is None else time.monotonic() + 60 * what.budget_minutes


def _folder(what: DiscriminatorOptions, number: int) -> Path:
    return what.out / "rounds" / str(number)


def _states(what: DiscriminatorOptions) -> Path:
    """Returns where a shared trunk's states are kept from round to round."""
    return what.out / "rounds" / "states"


def _claim(
    what: DiscriminatorOptions,
    plan: Plan,
    data: tuple[Labelled, Labelled],
    labeller: Labeller,
    recipe: RecipeConfig,
) -> None:
    # More rounds and another tolerance go on with the rounds that are there.
    claim(
        what.out,
        f"{what.kind} on policy",
        plan.writer.sha256,
        recipe,
        (_Data(data[0].texts, data[0].targets), _Data(data[1].texts, data[1].targets)),
        dtype=what.dtype,
        classes=data[0].classes,
        teacher=labeller.teacher.weights or labeller.teacher.name,
        prompts=plan.prompts_sha256,
        search=what.search,
        new_tokens=what.new_tokens,
        texts=what.on_policy_texts,
        **shape_settings(what, plan.writer),
    )


def _each(what: DiscriminatorOptions, plan: Plan, classes: Sequence[str]) -> int:
    """Returns how many prompts are continued in a round, each once: a search repeats itself."""
    return min(len(plan.prompts), -(-what.on_policy_texts // (2 * len(classes))))


def _write(
    what: DiscriminatorOptions,
    plan: Plan,
    classes: Sequence[str],
    number: int,
    end: float | None = None,
) -> Visited | None:
    """Has the model write the texts of a round, as many samples as searched ones.

    Returns None where that is not done at the time `end`; what is written is kept for the next run.
    """
    guide = load_discriminator(_folder(what, number), language_model=plan.writer)
    each = _each(what, plan, classes)
    prompts = [
        plan.prompts[at % len(plan.prompts)] for at in range(number * each, (number + 1) * each)
    ]
    sampling = SamplingConfig(new_tokens=what.new_tokens)
    runs = [
        MethodRun(name, config, model=plan.writer, discriminator=guide)
        for name, config in (("samples", sampling), ("search", plan.search))
    ]
    folder = _folder(what, number) / "texts"
    told = now_and_then(what)

    def progress(at: Progress) -> None:
        sentence = f"round {number}: {at.method}: batch {at.batch} of {at.batches}"
        told(at.batch, at.batches, lambda: sentence)
        last = at.batch == at.batches and at.method == runs[-1].name
        if end is not None and not last and time.monotonic() > end:
            raise _BudgetSpentError

    try:
        compare(
            runs, prompts, classes, folder=folder, seed=what.seed + number, batch_size=BATCH,
            dtype=what.dtype, mesh=make_mesh(what.devices) if what.devices > 1 else None,
            on_progress=progress,
        )  # fmt: skip
    except _BudgetSpentError:
        return None
    lines = [
        {**json.loads(line), "searched": run.name == "search"}
        for run, path in zip(runs, text_files(runs, folder), strict=True)
        for line in path.read_bytes().split(b"\n")[1:-1]
    ]
    return _visited(plan.writer.tokenizer, classes, lines)


def _visited(
    tokenizer: Tokenizer, classes: Sequence[str], lines: Sequence[dict[str, Any]]
) -> Visited:
    """Returns the texts of lines of files that are not empty."""
    lines = [line for line in lines if line["text"].strip()]
    fronts = ids_of(tokenizer, [line["prompt"] for line in lines])
    said = [[line["class_probabilities"][name] for name in classes] for line in lines]
    # No guide reads the token that ends a text.
    own = [[n for n in line["tokens"] if n not in tokenizer.end_tokens] for line in lines]
    return Visited(
        tuple(line["prompt"] for line in lines),
        tuple(line["text"].strip() for line in lines),
        np.array([classes.index(line["target"]) for line in lines], np.int32),
        np.array([line["searched"] for line in lines], bool),
        np.asarray(said, np.float64).reshape(len(lines), len(classes)),
        tuple((tuple(front), tuple(row)) for front, row in zip(fronts, own, strict=True)),
    )


def _tell_gap(what: DiscriminatorOptions, entry: dict[str, Any]) -> None:
    tell(
        what,
        f"round {entry['round']}: on {entry['texts']} searched texts the guide gives the target "
        f"{entry['guide']:.3f} and its teacher {entry['teacher']:.3f}, a gap of "
        f"{entry['gap']:+.3f}; they agree on {entry['agreement']:.0%}",
    )


def _report(
    what: DiscriminatorOptions, plan: Plan, labeller: Labeller, found: Rounds
) -> dict[str, Any]:
    """Returns what a card says of the rounds."""
    teacher = labeller.teacher
    last = found.history[-1]["gap"] if found.history else None
    return {
        "model": plan.writer.name,
        "model_sha256": plan.writer.sha256,
        "prompts": len(plan.prompts),
        "prompts_sha256": plan.prompts_sha256,
        "search": what.search,
        "new_tokens": what.new_tokens,
        "teacher": {"name": teacher.name, "sha256": teacher.weights},
        "tolerance": what.tolerance,
        "agreed": last is not None and abs(last) <= what.tolerance,
        "rounds": found.history,
    }


def _deliver(round_folder: Path, folder: Path, card: dict[str, Any]) -> None:
    """Copies a round's guide into the folder, its card last."""
    try:
        for name in FOLDERS:
            if (round_folder / name).is_dir():
                begun = folder / f"{name}.part"
                shutil.rmtree(begun, ignore_errors=True)
                shutil.copytree(round_folder / name, begun)
                shutil.rmtree(folder / name, ignore_errors=True)
                begun.rename(folder / name)
    except OSError as error:
        raise UserError(
            f"{round_folder} cannot be copied to {folder} ({error.strerror or error}): make room "
            "and start the same command again"
        ) from error
    for name in FILES:
        with replacing(folder / name) as (begun,):
            shutil.copyfile(round_folder / name, begun)
    write_card(folder, card)


def show_rounds(console: Console, report: dict[str, Any]) -> None:
    """Prints the gap by round."""
    table = Table(title="searched texts, by round", box=None)
    columns = ("round", "rows", "guide", "teacher", "gap", "agreement")
    for name in columns:
        table.add_column(name, justify="right")
    for entry in report["rounds"]:
        figures = (f"{entry[name]:.3f}" for name in columns[2:])
        table.add_row(str(entry["round"]), str(entry["rows"]), *figures)
    console.print(table)
