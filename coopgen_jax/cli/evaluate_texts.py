"""The command `coopgen evaluate texts`."""

import importlib.util
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from coopgen_jax.cli.evaluate_options import TextsOptions
from coopgen_jax.cli.train import pair
from coopgen_jax.data.sources import left_out, split_lines
from coopgen_jax.discriminators.loading import folder_of
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.independence import Independence, independence, learnt, require
from coopgen_jax.evaluation.sentence_features import sentence_features
from coopgen_jax.evaluation.tables import cells, draw, render
from coopgen_jax.evaluation.text_judges import load_text_judge
from coopgen_jax.evaluation.texts import check_names, check_targets, evaluate_texts
from coopgen_jax.evaluation.written_texts import Method, read_methods
from coopgen_jax.files import check_writable, to_json, write_whole
from coopgen_jax.models.pretrained.loaded_model import DEFAULT_MODEL, load, load_encoder

SUFFIXES = {"text": ".txt", "markdown": ".md", "latex": ".tex"}


def run_texts(what: TextsOptions) -> None:
    """Reads the files, measures their texts and reports.

    Raises:
      UserError: a file is not as it should be, the judge is not independent, or the texts and the
        judge do not go together.
    """
    if not what.files:
        raise UserError("there are no texts: give files of `coopgen generate --out`")
    methods = [method for entry in what.files for method in read_entry(entry)]
    report_on(methods, what)


def read_entry(entry: str) -> list[Method]:
    """Returns the methods of FILE or of NAME=FILE.

    Raises:
      UserError: see `read_methods`.
    """
    name, separator, file = entry.partition("=")
    if separator and not Path(entry).exists():
        if not name or not file:
            raise UserError(f"{entry}: give the method's name and its file as NAME=FILE")
        return read_methods(Path(file), name)
    return read_methods(Path(entry))


def report_on(methods: Sequence[Method], what: TextsOptions) -> None:
    """Measures the texts of methods and reports; what can be refused is refused at first.

    Raises:
      UserError: see `run_texts`.
    """
    outputs = _outputs(what)
    for path in outputs.values():
        check_writable(path, "--out")
    methods, reference, notes = prepare(methods, what)
    oracle = load(what.oracle) if what.oracle else None
    if oracle is not None:
        same = [
            m.name
            for m in methods
            if oracle.sha256 in m.hashes or (not m.hashes and what.oracle in writers(m))
        ]
        notes += _refuse_writer(what, same)
    features = None
    if reference:
        features = partial(sentence_features, load_encoder(what.encoder))
    report = evaluate_texts(
        methods,
        judge=load_text_judge(what.judge, model=_model(methods, what)) if what.judge else None,
        oracle=oracle,
        against=what.against,
        reference=reference,
        features=features,
        listener=lambda name: _tell(what, f"measuring {name}"),
    )
    whole = all(text.batch is None for method in methods for text in method.texts)
    if whole and any("seconds_per_token" in row for row in report["methods"]):
        notes.append("seconds are those of whole runs, their compilation included")
    report |= {"judge": what.judge, "oracle": what.oracle, "notes": notes}
    _deliver(report, what, outputs)


def prepare(
    methods: Sequence[Method], what: TextsOptions
) -> tuple[list[Method], tuple[str, ...], list[str]]:
    """Checks what can be known before anything is loaded.

    Returns:
      The methods with what the options say of them, the reference texts, and what the report says.

    Raises:
      UserError: see `run_texts`.
    """
    methods = [_completed(method, what) for method in methods]
    notes = [note for method in methods for note in left_out(method.broken)]
    reference = _reference(what.reference)
    if reference and importlib.util.find_spec("mauve") is None:
        reference = ()
        notes.append("MAUVE is left out: its library is not installed (pip install mauve-text)")
    check_names([method.name for method in methods], what.against)
    classes = _classes(what.judge) if what.judge else ()
    notes += _independent(methods, what)
    if what.judge:
        for method in methods:
            check_targets(method, classes)
    if what.oracle:
        _refuse_writer(what, [m.name for m in methods if what.oracle in writers(m)])
    return methods, reference, notes


def writers(method: Method) -> tuple[str | None, ...]:
    """Returns the names of the language models that wrote a method's texts."""
    return (method.model, *method.steering)


def _classes(judge: str) -> tuple[str, ...]:
    """Returns the classes that the card of a judge names."""
    folder = Path(judge).expanduser()
    path = folder / "judge.json" if _holds_judge(judge) else folder_of(judge) / "card.json"
    try:
        return tuple(json.loads(path.read_text(encoding="utf-8"))["classes"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} names no classes: train the judge anew") from error


def _outputs(what: TextsOptions) -> dict[str, Path]:
    """Returns the files that --out asks for."""
    if what.out is None:
        return {}
    suffixes = {"json": ".json", "table": SUFFIXES[what.format], "picture": ".png"}
    return {kind: what.out.with_name(what.out.name + end) for kind, end in suffixes.items()}


def _reference(path: Path | None) -> tuple[str, ...]:
    if path is None:
        return ()
    try:
        lines = split_lines(path.read_bytes().decode("utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as lines of text: {error}") from error
    texts = tuple(line.strip() for line in lines if line.strip())
    if not texts:
        raise UserError(f"{path} holds no texts: put one on each line")
    return texts


def _completed(method: Method, what: TextsOptions) -> Method:
    """Returns a method with what the options say of targets and guide."""
    names = dict(map(pair, what.rename))

    def target(said: str | None) -> str | None:
        said = what.target if said is None else said
        return said if said is None else names.get(said, said)

    texts = tuple(replace(text, target=target(text.target)) for text in method.texts)
    if not method.told and what.guide is not None:
        guide = None if what.guide == "none" else what.guide
        method = replace(method, guide=guide, told=True)
    return replace(method, texts=texts)


def _independent(methods: Sequence[Method], what: TextsOptions) -> list[str]:
    """Returns what the report says of how independent judge and oracle are of the guides."""
    notes = []
    guides = dict.fromkeys(method.guide for method in methods if method.guide)
    untold = [method.name for method in methods if not method.told]
    if what.judge:
        judge = learnt(what.judge)
        found = [independence(judge, learnt(guide)) for guide in guides]
        if untold:
            why = f"nobody says what guided the texts of {untold[0]} (--guide names it, or none)"
            found.append(Independence(False, why, known=False))
        found += [
            Independence(
                False,
                f"what lies at {method.guide} now is not what guided the texts of {method.name}",
                known=False,
            )
            for method in methods
            if method.guide and method.guide_weights not in (None, learnt(method.guide).weights)
        ]
        notes += [require(one, force=what.force) for one in found]
    # Most language models say nothing of their rows: that is told, not refused.
    steering = dict.fromkeys(name for method in methods for name in method.steering)
    pairs = [(what.judge, name) for name in steering]
    pairs += [(what.oracle, name) for name in (*guides, *steering)]
    for one, other in pairs:
        if one and one != other:
            verdict = independence(learnt(one), learnt(other))
            notes.append(require(verdict, force=what.force) if verdict.known else verdict.why)
    return list(dict.fromkeys(notes))


def _refuse_writer(what: TextsOptions, written: Sequence[str]) -> list[str]:
    """Returns what the report says of methods that the oracle has written, if they are forced."""
    if not written:
        return []
    found = f"the oracle {what.oracle} itself wrote the texts of {written[0]}"
    if not what.force:
        raise UserError(
            f"{found}: take another language model, or give --force to ask it nevertheless"
        )
    return [f"forced: {found}"]


def _holds_judge(folder: str) -> bool:
    return (Path(folder).expanduser() / "judge.json").is_file()


def _model(methods: Sequence[Method], what: TextsOptions) -> str:
    """Returns the name of the language model in whose tokens the judge reads."""
    if what.model:
        return what.model
    said = None
    if what.judge and not _holds_judge(what.judge):
        card = json.loads((folder_of(what.judge) / "card.json").read_text(encoding="utf-8"))
        said = card.get("model") if card.get("kind") == "shared-trunk" else None
    return said or next((method.model for method in methods if method.model), DEFAULT_MODEL)


def _deliver(report: dict[str, Any], what: TextsOptions, outputs: dict[str, Path]) -> None:
    table = render(cells(report), what.format)
    if outputs:
        write_whole(outputs["json"], to_json(report, indent=1) + "\n")
        write_whole(outputs["table"], table)
        try:
            draw(report, outputs["picture"])
        except UserError as error:
            report["notes"].append(f"no picture: {error}")
    if what.json:
        print(to_json(report, indent=1))
        return
    print(table, end="")
    comment = "% " if what.format == "latex" else ""
    gap = "\n" if what.format == "markdown" else ""
    lines = [
        f"intervals of 95 %; lengths in {report['unit']}; p against {report['against']}, paired, "
        "corrected by Holm's rule",
        *report["notes"],
    ]
    for line in lines:
        print(f"{gap}{comment}{line}")


def _tell(what: TextsOptions, message: str) -> None:
    if not what.quiet:
        print(f"coopgen: {message}", file=sys.stderr, flush=True)
