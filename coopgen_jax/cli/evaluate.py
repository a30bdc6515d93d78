"""The command `coopgen evaluate`."""

import io
import itertools
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from coopgen_jax.cli.annotate import run_annotate
from coopgen_jax.cli.annotate_options import AnnotateOptions
from coopgen_jax.cli.evaluate_captions import run_captions
from coopgen_jax.cli.evaluate_options import (
    CaptionsOptions,
    EvaluateOptions,
    JudgementOptions,
    TextsOptions,
)
from coopgen_jax.cli.evaluate_texts import run_texts
from coopgen_jax.cli.train_data import pair
from coopgen_jax.data.labelled import Labelled, read_labelled, read_texts
from coopgen_jax.data.sources import left_out
from coopgen_jax.discriminators.host.python_file import is_python
from coopgen_jax.discriminators.loading import folder_of, is_packaged, load_discriminator
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.discriminator_accuracy import (
    all_beginnings,
    by_length,
    evaluations_per_second,
    fit_temperature,
    judge_prefixes,
    no_opinion,
    of_whole_texts,
)
from coopgen_jax.files import check_writable, write_whole
from coopgen_jax.models.pretrained.loaded_model import load
from coopgen_jax.training.card import write_card

# Columns of the table by what they show of a row.
COLUMNS = {
    "texts": "{texts}",
    "accuracy": "{accuracy:.3f}",
    "95 %": "{interval[0]:.3f} to {interval[1]:.3f}",
    "macro F1": "{macro_f1:.3f}",
    "calibration error": "{calibration_error:.3f}",
    "Brier": "{brier:.3f}",
}
LENGTHS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
# A discriminator that is almost always sure leaves a search nothing to choose by.
SATURATED = 0.9


def run_evaluate(options: EvaluateOptions) -> None:
    """Measures and reports; raises UserError where options, data and judges do not go together."""
    what = options.what
    if isinstance(what, TextsOptions):
        run_texts(what)
        return
    if isinstance(what, CaptionsOptions):
        run_captions(what)
        return
    if isinstance(what, AnnotateOptions):
        run_annotate(what)
        return
    for name in ("rows", "longest", "batch_size"):
        value = getattr(what, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} is {value}: give 1 or more")
    if what.calibrate:
        _check_cards(what.discriminator)
    for path, option in ((what.out, "--out"), (what.picture, "--picture")):
        if path:
            check_writable(path, option)
    if what.picture:
        _check_picture(what.picture)
    found = _figures(what)
    text = json.dumps(found, indent=1, ensure_ascii=False)
    if what.out:
        write_whole(what.out, text + "\n")
    if what.picture:
        _draw(found, what.picture)
    if what.json:
        print(text)
    else:
        _print(found)


def _figures(what: JudgementOptions) -> dict[str, Any]:
    model = load(what.model, dtype=what.dtype)
    judges = {name: load_discriminator(name, language_model=model) for name in what.discriminator}
    classes = next(iter(judges.values())).discriminator.classes
    for name, judge in judges.items():
        if len(judge.discriminator.classes) < 2:
            raise UserError(f"{name} gives a reward, which has no classes to compare labels with")
        if judge.discriminator.classes != classes:
            raise UserError(
                f"{name} has the classes {', '.join(judge.discriminator.classes)}, not "
                f"{', '.join(classes)}: evaluate it by itself"
            )
    data: Labelled = read_labelled(
        what.data,
        text=what.text,
        label=what.label,
        classes=classes,
        rename=dict(map(pair, what.rename)),
    )
    broken = list(data.broken)
    for note in left_out(broken):
        print(f"coopgen: {what.data}: {note}", file=sys.stderr)
    data = data.rows(_evenly(what, len(data.texts)))
    calm = [text for where in what.neutral for text in read_texts(where, text=what.text)[0]]
    calm = [calm[number] for number in _evenly(what, len(calm))]
    lengths = [length for length in LENGTHS if length <= what.longest]
    report: dict[str, Any] = {
        "data": what.data, "classes": list(classes), "judges": {}, "left_out": broken,
    }  # fmt: skip
    guesses = {}
    for name, judge in judges.items():
        if what.states and not judge.discriminator.taps:
            note = f"coopgen: {name} reads no states of the language model: --states keeps none"
            print(note, file=sys.stderr)
        speed = evaluations_per_second(model, judge) if what.speed else None
        judged = partial(
            judge_prefixes, model, judge, longest=what.longest, batch=what.batch_size,
            states=what.states, listener=_listener(what, name),
        )  # fmt: skip
        said = judged(data.texts, asked=what.asked)
        guesses[name] = of_whole_texts(said).argmax(axis=-1)
        report["judges"][name] = {
            "by_tokens_read": by_length(said, data.labels, lengths),
            "temperature": fit_temperature(*all_beginnings(said, data.labels)),
        }
        if calm:
            whole = of_whole_texts(judged(calm, asked="last"))
            found = no_opinion(of_whole_texts(said), whole, classes)
            report["judges"][name]["neutral"] = found
        if speed is not None:
            report["judges"][name]["evaluations_per_second"] = speed
        if what.calibrate:
            _calibrate(folder_of(name), report["judges"][name]["temperature"])
    report["agreement"] = {
        f"{one} and {other}": float((guesses[one] == guesses[other]).mean())
        for one, other in itertools.combinations(guesses, 2)
    }
    return report


def _evenly(what: JudgementOptions, texts: int) -> list[int]:
    """Returns the numbers of the texts that are judged."""
    count = min(what.rows or texts, texts)
    return [number * texts // count for number in range(count)]


def _check_cards(names: tuple[str, ...]) -> None:
    """Raises UserError where a card is that of the package, is named twice or cannot be written."""
    for name in filter(is_python, names):
        raise UserError(f"--calibrate writes into the card of a folder, and {name} has none")
    folders = [folder_of(name).resolve() for name in names]
    for name, folder in zip(names, folders, strict=True):
        if is_packaged(folder):
            raise UserError(
                f"--calibrate writes into the card of a folder, and {name} comes with the library: "
                "name a folder of your own"
            )
        if not (folder / "card.json").is_file():
            raise UserError(
                f"--calibrate writes into a card, and {name} has none: it is a Hugging Face "
                "classifier, leave --calibrate out"
            )
        if folders.count(folder) > 1:
            raise UserError(f"{name} is named twice: --calibrate would count it twice")
        check_writable(folder / "card.json", "--calibrate")


def _calibrate(folder: Path, temperature: float) -> None:
    """Multiplies the temperature in a folder's card; what is loaded from it is calibrated."""
    path = folder / "card.json"
    card = json.loads(path.read_text(encoding="utf-8"))
    write_card(folder, card | {"temperature": card.get("temperature", 1.0) * temperature})


def _listener(what: JudgementOptions, name: str) -> Callable[[int, int], None]:
    def listen(done: int, total: int) -> None:
        if not what.quiet:
            end = "\n" if done == total or not sys.stderr.isatty() else ""
            begin = "\r" if sys.stderr.isatty() else ""
            line = f"coopgen: {name}: {done} of {total} texts"
            print(f"{begin}{line}", end=end, file=sys.stderr, flush=True)

    return listen


def _print(found: dict[str, Any]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for name, judge in found["judges"].items():
        table = Table(title=name, box=None, pad_edge=False)
        for column in ("tokens read", *COLUMNS):
            table.add_column(column, justify="right")
        for length, row in judge["by_tokens_read"].items():
            table.add_row(length, *(form.format(**row) for form in COLUMNS.values()))
        console.print(table)
        whole = judge["by_tokens_read"]["whole"]
        console.print(
            f"unfinished texts are judged best calibrated at a temperature of "
            f"{judge['temperature']:.2f}"
        )
        if "neutral" in judge:
            console.print(
                "texts without a class have a mean confidence of {confidence:.2f}, labelled ones "
                "of {labelled_confidence:.2f}; AUROC {auroc:.2f}".format(**judge["neutral"])
            )
        if "evaluations_per_second" in judge:
            console.print(
                f"{judge['evaluations_per_second']:.0f} evaluations a second in a search, the "
                "language model's calls included"
            )
        if whole["saturated"] > SATURATED:
            console.print(
                f"warning: {whole['saturated']:.0%} of the texts are judged with more than 0.999, "
                "which leaves a search little to choose by"
            )
    for names, share in found["agreement"].items():
        console.print(f"{names} agree on {share:.3f} of the texts")


def _check_picture(path: Path) -> None:
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError as error:
        raise UserError("--picture needs matplotlib: pip install matplotlib") from error
    known = FigureCanvasBase.get_supported_filetypes()
    if path.suffix[1:].lower() not in (*known, ""):
        raise UserError(f"--picture {path} must end in .{', .'.join(sorted(known))}")


def _draw(found: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, judge in found["judges"].items():
        rows = {int(n): row for n, row in judge["by_tokens_read"].items() if n != "whole"}
        accuracy = [row["accuracy"] for row in rows.values()]
        low, high = zip(*(row["interval"] for row in rows.values()), strict=True)
        (line,) = left.plot(list(rows), accuracy, "o-", label=name)
        left.fill_between(list(rows), low, high, alpha=0.15, color=line.get_color())
        gaps = [row["calibration_error"] for row in rows.values()]
        right.plot(list(rows), gaps, "o-", label=name, color=line.get_color())
    for axes, what in ((left, "accuracy"), (right, "expected calibration error")):
        axes.set_xscale("log", base=2)
        axes.set_xlabel("tokens read")
        axes.set_ylabel(what)
        axes.grid(alpha=0.3)
    left.legend(frameon=False)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=150, format=path.suffix[1:] or "png")
    write_whole(path, drawn.getvalue())
