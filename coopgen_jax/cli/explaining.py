"""The command `coopgen explain`."""

import csv
import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from coopgen_jax.cli.compare_methods import method_config
from coopgen_jax.cli.explain_options import ExplainOptions, ShowOptions, TrialOptions
from coopgen_jax.cli.machines import keep_compilations
from coopgen_jax.cli.printing import note
from coopgen_jax.cli.prompts import read_prompts
from coopgen_jax.cli.train_progress import check_numbers, tell_broken
from coopgen_jax.comparison.tuning import spread
from coopgen_jax.data.labelled import read_texts
from coopgen_jax.decoding.decoder_settings import DecoderSettings
from coopgen_jax.discriminators.host.python_file import is_python
from coopgen_jax.discriminators.loading import load_discriminator
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.independence import card_of, trained_on
from coopgen_jax.evaluation.text_judges import load_text_judge
from coopgen_jax.explanation.class_texts import Progress, WritingSettings
from coopgen_jax.explanation.explain import explain
from coopgen_jax.explanation.explained import Explanation, Order, as_json, load_explanation
from coopgen_jax.explanation.explanation_page import bar_chart, made, render_explanation, sentence
from coopgen_jax.explanation.local import over_texts
from coopgen_jax.explanation.reaction import BlackBox
from coopgen_jax.explanation.surrogate import SurrogateSettings
from coopgen_jax.explanation.trial import (
    agreement,
    changed_by_deletion,
    changed_by_insertion,
    precision_recall,
    strongest,
)
from coopgen_jax.files import check_writable, to_json, write_whole
from coopgen_jax.models.pretrained.loaded_model import DEFAULT_MODEL, load
from coopgen_jax.models.pretrained.packaged import cache_folder

# Sizes of word sets, lengths of lists and words that are moved, as tables show them.
SETS = (50, 100, 200)
LENGTHS = (10, 20, 50, 100, 200)
MOVES = (0, 1, 2, 4, 8)


def run_explain(options: ExplainOptions | ShowOptions | TrialOptions) -> None:
    """Explains, shows or rates; raises UserError where something is of no use."""
    if isinstance(options, ShowOptions):
        _show(options)
    elif isinstance(options, TrialOptions):
        _rate(options)
    else:
        _explain(options)


def _explain(what: ExplainOptions) -> None:
    check_numbers(what, "top")
    if what.uses < 2:
        raise UserError(f"--uses is {what.uses}: give 2 or more, for an interval")
    if what.tried < 0:
        raise UserError(f"--tried is {what.tried}: give 0 or more")
    if what.vocabulary and not what.tried:
        raise UserError("--vocabulary tries words, and --tried is 0: leave out one of them")
    decoder: DecoderSettings | None = None
    if what.method is not None:
        decoder = method_config(
            what.method, new_tokens=what.new_tokens, samples=1, source="--method"
        )
    surrogate = SurrogateSettings(ngrams=what.ngrams, min_count=what.min_count, seed=what.seed)
    openings: Sequence[str | None] = ()
    if what.openings is not None:
        openings = read_prompts((), what.openings, partial(note, what.quiet))
    names = ("texts", "opening_tokens", "new_tokens", "temperature", "seed")
    writing = WritingSettings(
        **{name: getattr(what, name) for name in names},
        openings=tuple(one for one in openings if one is not None),
        decoder=decoder,
        batch=what.batch_size,
    )
    if what.settled is not None and not 0 < what.settled <= 1:
        raise UserError(f"--settled is {what.settled}: give a share above 0, at most 1")
    keep_compilations(cache_folder() / "compilation")
    model = load(what.model, dtype=what.dtype)
    guide = load_discriminator(what.discriminator, language_model=model)
    found = explain(
        model, guide, out=what.out, writing=writing, surrogate=surrogate, weighted=what.weighted,
        tried=what.tried, uses=what.uses, vocabulary=what.vocabulary, settled=what.settled,
        budget_minutes=what.budget_minutes, black_box=_black_box(what.discriminator),
        name=what.discriminator, weights_hash=trained_on(what.discriminator).weights,
        listener=lambda progress: _progress(progress, what.quiet),
    )  # fmt: skip
    about = {"model": what.model, "discriminator": what.discriminator, "method": what.method}
    found = replace(found, about=about | found.about)
    found.save(what.out)
    _print(found, what.top, what.json)
    lacking = len(guide.discriminator.classes) * what.texts - found.about["empty"]
    lacking -= len(found.texts)
    if lacking > 0 and what.settled is None and not what.json:
        print(f"{lacking} texts are not written yet: start the same command again to go on")


def _black_box(name: str) -> BlackBox | None:
    """Returns what judges texts as strings, None of a head, which reads the model's tokens."""
    if not is_python(name) and card_of(name) is not None:
        return None
    return load_text_judge(name, model="").predict_proba


def _progress(progress: Progress, quiet: bool) -> None:
    if not quiet:
        minutes = progress.seconds / 60
        print(
            f"coopgen: {progress.done} of {progress.total} texts, {minutes:.1f} minutes",
            file=sys.stderr, flush=True,
        )  # fmt: skip


def _show(what: ShowOptions) -> None:
    check_numbers(what, "top")
    for path, option in ((what.html, "--html"), (what.png, "--png")):
        if path:
            check_writable(path, option)
    found = load_explanation(what.folder)
    if what.by == "reaction" and not found.tried:
        raise UserError(f"no word of {what.folder} was tried: explain again with --tried 50")
    if what.by == "considered" and not found.considered:
        raise UserError(
            f"no word of {what.folder} was considered often enough: write more texts (--texts)"
        )
    if what.contrast and len(what.contrast) != 2:
        raise UserError(f"--contrast names {len(what.contrast)} classes: name two")
    for name in what.contrast:
        found.number_of(name)
    two = (what.contrast[0], what.contrast[1]) if what.contrast else None
    if what.html:
        title = f"What {found.about.get('discriminator') or 'the classifier'} looks for"
        page = render_explanation(found, top=what.top, contrast=two, title=title)
        write_whole(what.html, page)
    if what.png:
        try:
            figure = bar_chart(found, top=what.top)
        except ImportError as error:
            raise UserError("--png needs matplotlib: pip install matplotlib") from error
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png", dpi=150)
        write_whole(what.png, drawn.getvalue())
    if two and not what.json:
        console = _console()
        for name, words in zip(two, found.contrast(*two, what.top), strict=True):
            console.print(_table(f"{name}, of {two[0]} and {two[1]}", words))
        return
    _print(found, what.top, what.json, two, by=what.by)


def _print(
    found: Explanation,
    top: int,
    in_json: bool,
    contrast: tuple[str, str] | None = None,
    *,
    by: Order = "weight",
) -> None:
    if in_json:
        print(as_json(found, top, contrast))
        return
    console = _console()
    console.print(sentence(found))
    for name in found.classes:
        console.print(_table(name, found.top_words(name, top, by=by)))
    cost = made(found)
    console.print("; ".join(f"{name} {value}" for name, value in cost.items()))


def _console() -> Console:
    return Console(highlight=False, soft_wrap=True, markup=False)


def _table(title: str, words: Sequence[Any]) -> Table:
    table = Table(title=title, title_justify="left", box=None)
    for column in ("word", "weight", "95 %", "texts", "moves", "considered"):
        table.add_column(column, justify="left" if column == "word" else "right")
    for word in words:
        ends = "" if word.low is None else f"{word.low:.2f} to {word.high:.2f}"
        moves = ""
        if word.reaction is not None:
            moves = f"{word.reaction.mean:+.2f}" + ("" if word.reaction.moves else " (no)")
        considered = "" if word.considered is None else f"{word.considered.mean:+.2f}"
        weight = f"{word.weight:.2f}" if word.texts else ""
        table.add_row(word.term, weight, ends, str(word.texts), moves, considered)
    return table


def _rate(what: TrialOptions) -> None:
    if what.glass_box is None and what.data is None:
        raise UserError("there is nothing to rate by: give --glass-box, --data, or both")
    if what.against and what.data is None:
        raise UserError("--against explains texts: give --data")
    check_numbers(what, "rows")
    if what.samples < 2:
        raise UserError(f"--samples is {what.samples}: give 2 or more")
    if what.out:
        check_writable(what.out, "--out")
    found = load_explanation(what.folder)
    explained: dict[str, list[dict[str, float]]] = {
        "therapy": [found.weights[name] for name in found.classes]
    }
    if found.tried:
        explained["therapy, by reaction"] = [found.sure_reactions[name] for name in found.classes]
    if found.considered:
        explained["therapy, considered"] = [found.sure_effects[name] for name in found.classes]
    texts: list[str] = []
    black_box: Callable[[list[str]], Any] | None = None
    if what.data is not None:
        name = what.discriminator or found.about.get("discriminator")
        if not name:
            raise UserError("the explanation names no classifier: give --discriminator")
        rows, broken = read_texts(what.data, text=what.text)
        tell_broken(what, what.data, broken)
        texts = spread(rows, what.rows)
        model = what.model or found.about.get("model") or DEFAULT_MODEL
        black_box = load_text_judge(name, model=model).predict_proba
        for local in what.against:
            if not what.quiet:
                print(f"coopgen: {local} of {len(texts)} texts", file=sys.stderr, flush=True)
            explained[local] = over_texts(
                local, black_box, texts, samples=what.samples, seed=what.seed
            )
    report: dict[str, Any] = {"classes": list(found.classes)}
    if what.glass_box is not None:
        report["glass_box"] = by_glass_box(
            read_glass_box(what.glass_box, found.classes), explained, found.classes
        )
    if black_box is not None:
        report["moves"] = by_moves(black_box, texts, explained, seed=what.seed)
    if what.out:
        write_whole(what.out, to_json(report, indent=1) + "\n")
    if what.json:
        print(to_json(report, indent=1))
        return
    _print_report(report)


def read_glass_box(path: Path, classes: Sequence[str]) -> list[dict[str, float]]:
    """Returns a classifier's own weights of terms, for each class.

    Raises:
      UserError: the file cannot be read, or lacks a class.
    """
    if path.is_dir():
        from coopgen_jax.evaluation.tfidf_judge import load_judge

        judge = load_judge(path)
        if tuple(judge.classes) != tuple(classes):
            raise UserError(f"{path} has the classes {', '.join(judge.classes)}: give another")
        terms = judge.vectorizer.vocabulary_
        return [
            {term: float(judge.weights[label, place]) for term, place in terms.items()}
            for label in range(len(classes))
        ]
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"--glass-box {path} cannot be read: {error}") from error
    columns = rows[0].keys() if rows else ()
    for name in ("term", *classes):
        if name not in columns:
            raise UserError(f"--glass-box {path} has no column {name}: it wants term and classes")
    try:
        return [{row["term"]: float(row[name]) for row in rows} for name in classes]
    except (TypeError, ValueError) as error:
        raise UserError(f"--glass-box {path} has a weight that is no number: {error}") from error


def by_glass_box(
    truth: Sequence[dict[str, float]],
    explained: dict[str, list[dict[str, float]]],
    classes: Sequence[str],
) -> dict[str, Any]:
    """Returns rank correlations and precision and recall of explanations, by name and class."""
    found: dict[str, Any] = {}
    for method, weights in explained.items():
        rows = {}
        for name, own, other in zip(classes, truth, weights, strict=True):
            ranks = {str(k): asdict(agreement(own, other, k)) for k in SETS}
            ranks["union of 100"] = asdict(agreement(own, other, 100, union=True))
            rows[name] = {"spearman": ranks, "words": precision_recall(own, other, 100, LENGTHS)}
        found[method] = rows
    return found


def by_moves(
    black_box: Callable[[list[str]], Any],
    texts: Sequence[str],
    explained: dict[str, list[dict[str, float]]],
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """Returns the shares of texts whose class changes as words are put out and in, by method."""
    found: dict[str, Any] = {"words": list(MOVES)}
    for method, weights in explained.items():
        # Sequences of words are no words that could be put out.
        alone = [{term: w for term, w in own.items() if " " not in term} for own in weights]
        ranked = [strongest(own, 200) for own in alone]
        found[method] = {
            "put out": changed_by_deletion(black_box, texts, ranked, MOVES),
            "put in": changed_by_insertion(black_box, texts, ranked, MOVES, seed=seed),
        }
    return found


def _print_report(report: dict[str, Any]) -> None:
    console = _console()
    for method, rows in report.get("glass_box", {}).items():
        table = Table(
            title=f"{method}: rank correlation with the classifier's own weights", box=None
        )
        for column in ("class", "words", "Spearman", "95 %", "p", "n"):
            table.add_column(column, justify="left" if column == "class" else "right")
        for name, row in rows.items():
            for k, one in row["spearman"].items():
                ends = f"{one['low']:.2f} to {one['high']:.2f}"
                table.add_row(name, k, f"{one['rho']:.2f}", ends, f"{one['p']:.2g}", str(one["n"]))
        console.print(table)
    moves = report.get("moves")
    if moves:
        table = Table(title="share of texts whose class changes, by words moved", box=None)
        for column in ("method", "", *map(str, moves["words"])):
            table.add_column(column)
        for method, rows in moves.items():
            if method != "words":
                for how, shares in rows.items():
                    table.add_row(method, how, *(f"{share:.2f}" for share in shares))
        console.print(table)
