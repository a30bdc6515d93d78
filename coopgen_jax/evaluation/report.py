"""A report on written texts by a judge and an oracle that are named: checks, figures, files.

What can be refused is refused before a network is loaded: a judge that shares rows with a guide, an
oracle that wrote the texts itself, a target that the judge does not know.
"""

import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from coopgen_jax.data.sources import left_out, split_lines
from coopgen_jax.discriminators.host.python_file import is_python
from coopgen_jax.discriminators.loading import classes_of, folder_of
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.independence import (
    TOLERATED,
    Independence,
    card_of,
    independence,
    require,
    trained_on,
)
from coopgen_jax.evaluation.packaged_judge import NOBODY, packaged_judge, sentence_on
from coopgen_jax.evaluation.sentence_features import sentence_features
from coopgen_jax.evaluation.tables import Format, cells, draw, render
from coopgen_jax.evaluation.text_judges import TextJudge, load_text_judge, read_judge
from coopgen_jax.evaluation.texts import check_names, check_targets, evaluate_texts
from coopgen_jax.evaluation.written_texts import Method
from coopgen_jax.files import to_json, write_whole
from coopgen_jax.models.pretrained.loaded_model import (
    DEFAULT_ENCODER,
    DEFAULT_MODEL,
    LoadedModel,
    load,
    load_encoder,
)

SUFFIXES = {"text": ".txt", "markdown": ".md", "latex": ".tex"}


@dataclass(frozen=True)
class ReportSettings:
    """What texts are measured by.

    Attributes:
      judge: Name or folder of what says whether a text is on target; None for the packaged judge
        where packaged heads of sentiment guided, "none" to leave accuracy out.
      oracle: Name or path of the language model that says how likely texts are; None leaves
        perplexity out.
      guide: What guided the texts of files that do not say it; "none" for nothing.
      force: Whether a judge or an oracle that is not independent may be used; the report says so.
      shared_rows: Share of the judge's training rows that a guide's may have in common.
      target: The class asked for in texts whose files do not say it.
      rename: Pairs of what a target is called in the files and what the judge calls it.
      against: The method that the others are tested against; None for the first.
      reference: Human texts for MAUVE, none to leave it out.
      encoder: Name or path of the encoder whose features MAUVE compares.
      model: Language model in whose tokens the judge reads; None for what its card or the files
        say.
    """

    judge: str | None = None
    oracle: str | None = None
    guide: str | None = None
    force: bool = False
    shared_rows: float = TOLERATED
    target: str | None = None
    rename: tuple[tuple[str, str], ...] = ()
    against: str | None = None
    reference: tuple[str, ...] = ()
    encoder: str = DEFAULT_ENCODER
    model: str | None = None


def report_on(
    methods: Sequence[Method],
    how: ReportSettings,
    *,
    on_method: Callable[[str], None] = lambda name: None,
) -> dict[str, Any]:
    """Returns the figures of methods: those of `evaluate_texts`, with judge, oracle and notes.

    `on_method` gets the name of every method before it is measured.

    Raises:
      UserError: see `check_methods`, or a model cannot be loaded.
    """
    methods, notes = check_methods(methods, how)
    named = how.judge
    how, _ = _with_judge(methods, how)
    oracle = load(how.oracle) if how.oracle else None
    if oracle is not None:
        notes += _check_oracle(methods, how, oracle)
    features, reference = None, how.reference if _has_mauve() else ()
    if reference:
        features = partial(sentence_features, load_encoder(how.encoder))
    judge = None
    try:
        judge = _judge(methods, how)
    except UserError as error:
        if named is not None:
            raise
        notes[0] = f"accuracy is left out, for the packaged judge {how.judge} is not there: {error}"
        how = replace(how, judge=None)
    report = evaluate_texts(
        methods,
        judge=judge,
        oracle=oracle,
        against=how.against,
        reference=reference,
        features=features,
        listener=on_method,
    )
    unbatched = all(text.batch is None for method in methods for text in method.texts)
    if unbatched and any("seconds_per_token" in row for row in report["methods"]):
        notes.append("seconds are those of whole runs, their compilation included")
    return report | {"judge": how.judge, "oracle": how.oracle, "notes": notes}


def check_methods(methods: Sequence[Method], how: ReportSettings) -> tuple[list[Method], list[str]]:
    """Checks what can be known before a network is loaded, of methods that need not be written yet.

    Returns:
      The methods with what `how` says of their targets and guides, and notes for the report.

    Raises:
      UserError: two methods share a name, a judge or an oracle is not independent of what wrote the
        texts, or the judge does not know a target.
    """
    methods = [_completed(method, how) for method in methods]
    notes = [note for method in methods for note in left_out(method.broken)]
    if how.reference and not _has_mauve():
        notes.append("MAUVE is left out: its library is not installed (pip install mauve-text)")
    check_names([method.name for method in methods], how.against)
    how, said = _with_judge(methods, how)
    classes = _classes(how.judge) if how.judge else ()
    notes = said + notes + _check_independence(methods, how)
    if how.judge:
        for method in methods:
            check_targets(method, classes)
    if how.oracle:
        _check_oracle(methods, how)
    return methods, notes


def read_reference(path: Path) -> tuple[str, ...]:
    """Returns the human texts of a file, one a line; raises UserError where there are none."""
    try:
        lines = split_lines(path.read_bytes().decode("utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as lines of text: {error}") from error
    texts = tuple(line.strip() for line in lines if line.strip())
    if not texts:
        raise UserError(f"{path} holds no texts: put one on each line")
    return texts


def report_files(stem: Path, form: Format = "text") -> dict[str, Path]:
    """Returns the files of a report: its "json", its "table" and its "picture"."""
    suffixes = {"json": ".json", "table": SUFFIXES[form], "picture": ".png"}
    return {kind: stem.with_name(stem.name + end) for kind, end in suffixes.items()}


def write_report(report: dict[str, Any], stem: Path, form: Format = "text") -> None:
    """Writes a report as JSON, as a table, and as a picture of quality against cost.

    Where there is nothing to draw, the report gets a note that says so. The files' path is `stem`
    without their suffixes.

    Raises:
      UserError: a file cannot be written.
    """
    files = report_files(stem, form)
    write_whole(files["json"], to_json(report, indent=1) + "\n")
    write_whole(files["table"], render(cells(report), form))
    try:
        draw(report, files["picture"])
    except UserError as error:
        report["notes"].append(f"no picture: {error}")


def footnotes(report: dict[str, Any]) -> list[str]:
    """Returns the sentences under a report's table."""
    return [
        f"intervals of 95 %; lengths in {report['unit']}; p against {report['against']}, paired, "
        "corrected by Holm's rule",
        *report["notes"],
    ]


def _has_mauve() -> bool:
    return importlib.util.find_spec("mauve") is not None


def _classes(judge: str) -> tuple[str, ...]:
    """Returns the classes that the card of a judge names, or the configuration of a classifier."""
    if is_python(judge):
        return read_judge(judge).classes
    path = card_of(judge)
    if path is None:
        return classes_of(folder_of(judge))
    try:
        return tuple(json.loads(path.read_text(encoding="utf-8"))["classes"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} names no classes: train the judge anew") from error


def _completed(method: Method, how: ReportSettings) -> Method:
    """Returns a method with what the settings say of targets and guide."""
    names = dict(how.rename)

    def renamed(target: str | None) -> str | None:
        target = how.target if target is None else target
        return target if target is None else names.get(target, target)

    texts = tuple(replace(text, target=renamed(text.target)) for text in method.texts)
    if not method.told and how.guide is not None:
        guide = None if how.guide == "none" else how.guide
        method = replace(method, guide=guide, told=True)
    return replace(method, texts=texts)


def _with_judge(methods: Sequence[Method], how: ReportSettings) -> tuple[ReportSettings, list[str]]:
    """Returns the settings with the judge that judges, and what the report says of a packaged one.

    A packaged judge that nobody named is left out where it may not judge: nothing is refused for
    its sake.
    """
    if how.judge is not None:
        return replace(how, judge=None if how.judge == NOBODY else how.judge), []
    found = packaged_judge(method.guide for method in methods if method.guide)
    targets = {text.target for method in methods for text in method.texts}
    if found is None or not targets <= set(found[1]["classes"]):
        return how, []
    name, card = found
    judged = replace(how, judge=name)
    try:
        _check_independence(methods, judged)
    except UserError as error:
        return how, [f"accuracy is left out, for the packaged judge {name} may not judge: {error}"]
    return judged, [sentence_on(name, card)]


def _check_independence(methods: Sequence[Method], how: ReportSettings) -> list[str]:
    """Returns what the report says of how independent judge and oracle are of the guides."""
    notes = []
    guides = dict.fromkeys(method.guide for method in methods if method.guide)
    unknown = [method.name for method in methods if not method.told]
    if how.judge:
        judge = trained_on(how.judge)
        found = [
            independence(judge, trained_on(guide), tolerated=how.shared_rows) for guide in guides
        ]
        if unknown:
            why = f"nobody says what guided the texts of {unknown[0]} (--guide names it, or none)"
            found.append(Independence(False, why, known=False))
        found += [
            Independence(
                False,
                f"what lies at {method.guide} now is not what guided the texts of {method.name}",
                known=False,
            )
            for method in methods
            if method.guide and method.guide_weights not in (None, trained_on(method.guide).weights)
        ]
        notes += [require(one, force=how.force) for one in found]
    # Most language models say nothing of their rows: that is noted, not refused.
    steering = dict.fromkeys(name for method in methods for name in method.steering)
    pairs = [(how.judge, name) for name in steering]
    pairs += [(how.oracle, name) for name in (*guides, *steering)]
    for one, other in pairs:
        if one and one != other:
            verdict = independence(trained_on(one), trained_on(other), tolerated=how.shared_rows)
            notes.append(require(verdict, force=how.force) if verdict.known else verdict.why)
    return list(dict.fromkeys(notes))


def _check_oracle(
    methods: Sequence[Method], how: ReportSettings, oracle: LoadedModel | None = None
) -> list[str]:
    """Returns what the report says of methods that the oracle has written, if they are forced."""

    def wrote(method: Method) -> bool:
        if oracle is not None and method.hashes:
            return oracle.sha256 in method.hashes
        return how.oracle in (method.model, *method.steering)

    written = next(filter(wrote, methods), None)
    if written is None:
        return []
    found = f"the oracle {how.oracle} itself wrote the texts of {written.name}"
    if not how.force:
        raise UserError(
            f"{found}: take another language model, or give --force to ask it nevertheless"
        )
    return [f"forced: {found}"]


def _judge(methods: Sequence[Method], how: ReportSettings) -> TextJudge | None:
    """Loads the judge; it reads in the tokens of the model that is named, or that wrote."""
    if not how.judge:
        return None
    if is_python(how.judge):
        return read_judge(how.judge)
    path = card_of(how.judge)
    card = json.loads(path.read_text(encoding="utf-8")) if path else {}
    named = card.get("model") if card.get("kind") == "shared-trunk" else None
    wrote = next((method.model for method in methods if method.model), DEFAULT_MODEL)
    return load_text_judge(how.judge, model=how.model or named or wrote)
