"""The command `coopgen watermark`."""

import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from coopgen_jax.cli.watermark_evaluation import run_evaluation
from coopgen_jax.cli.watermark_options import DetectOptions, KeyOptions, WatermarkOptions
from coopgen_jax.data.sources import left_out, split_lines
from coopgen_jax.decoding.rules.watermark import Watermark
from coopgen_jax.decoding.rules.watermark_key import load_key, new_key, save_key
from coopgen_jax.errors import UserError
from coopgen_jax.files import check_writable, to_json, write_whole
from coopgen_jax.models.pretrained.loaded_model import load_tokenizer
from coopgen_jax.tokenizer import Tokenizer, has_half_character
from coopgen_jax.watermark.detection import Detection, detect
from coopgen_jax.watermark.page import render_page

# Columns of a table that is not cut to a terminal's.
WIDEST = 400


@dataclass(frozen=True)
class Found:
    """A text that is tested: where it comes from, its prompt where that is known, and itself."""

    source: str
    prompt: str
    text: str


def run_watermark(options: WatermarkOptions) -> None:
    """Makes a key, tests texts or tries a key; raises UserError where something is of no use."""
    if isinstance(options.what, KeyOptions):
        _make_key(options.what)
    elif isinstance(options.what, DetectOptions):
        _detect(options.what)
    else:
        run_evaluation(options.what)


def _make_key(what: KeyOptions) -> None:
    names = ("scheme", "window", "gamma", "delta", "layers", "mark_repeats")
    try:
        watermark = Watermark(**{name: getattr(what, name) for name in names})
    except ValueError as error:
        raise UserError(str(error)) from error
    tokenizer, vocab_size = load_tokenizer(what.model)
    key = new_key(watermark, tokenizer=tokenizer, vocab_size=vocab_size, model=what.model)
    save_key(key, what.out)
    print(
        f"{what.out}: key {key.identity} of a {what.scheme} mark for {what.model}; keep it secret "
        "and keep a copy: without it no mark is found"
    )


def _detect(what: DetectOptions) -> None:
    key = load_key(what.key)
    if what.html:
        check_writable(what.html, "--html")
    texts, broken = [], []
    for entry in what.texts:
        read, notes = read_texts(entry)
        texts += read
        broken += notes
    if not what.quiet:
        for sentence in left_out(broken):
            print(f"coopgen: {sentence}", file=sys.stderr)
    if not texts:
        raise UserError(broken[0] if broken else "there are no texts: give some, or files of them")
    tokenizer, _ = load_tokenizer(what.model or key.model)
    found = detect(
        [one.text for one in texts],
        key=key,
        tokenizer=tokenizer,
        messages=what.messages,
        fpr=what.fpr,
        by_passage=what.passages,
    )
    report = {
        "key": key.identity,
        "watermark": key.watermark.on_disc(),
        "fpr": what.fpr,
        "messages": what.messages,
        "marked": sum(one.marked for one in found),
        "texts": [
            {"source": text.source, **as_json(one)} for text, one in zip(texts, found, strict=True)
        ],
    }
    if what.html:
        write_whole(what.html, _page(report, texts, found, tokenizer))
    unicode = (sys.stdout.encoding or "utf-8").lower().replace("-", "") == "utf8"
    if what.json:
        print(to_json(report, indent=1, ascii_only=not unicode))
    else:
        print(_for_people(report, what), end="")


def as_json(found: Detection) -> dict[str, Any]:
    """Returns the report on one text, without its tokens."""
    names = (
        "tokens", "scored", "skipped", "score", "expected", "log10_p", "message",
        "log10_p_message", "passage", "log10_p_passage", "marked", "more_tokens",
    )  # fmt: skip
    return {name: getattr(found, name) for name in names}


def read_texts(entry: str) -> tuple[list[Found], list[str]]:
    """Returns the texts of a file, or the entry itself as a text, and what was broken.

    Raises:
      UserError: the file cannot be read, or is named and not there.
    """
    if entry == "-":
        source = "standard input"
        if sys.stdin is None:
            raise UserError(f"- reads a text from {source}, which is closed: give it otherwise")
        return [Found(source, "", _decoded(sys.stdin.buffer.read(), source))], []
    if not entry.strip():
        return [Found("the command line", "", entry)], []
    path = Path(entry)
    try:
        there = path.is_file()
        if path.is_dir():
            raise UserError(f"{path} is a folder: give texts, or files of them")
    except OSError:
        there = False  # A text that is too long for the name of a file.
    if not there:
        # What is one word with a dot or a slash in it was meant as a file.
        if (path.suffix or "/" in entry) and not any(letter.isspace() for letter in entry):
            raise UserError(f"there is no file {entry}: give texts in quotes, or files of them")
        return [Found("the command line", "", entry)], []
    try:
        content = _decoded(path.read_bytes(), str(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    if path.suffix == ".jsonl":
        return _of_lines(content, path)
    if path.suffix == ".json":
        return _of_document(content, path)
    return [Found(str(path), "", content)], []


def _decoded(content: bytes, label: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{label} is not UTF-8 (byte {error.start}): give a text, or convert it first"
        ) from error


def _of_lines(content: str, path: Path) -> tuple[list[Found], list[str]]:
    found, broken = [], []
    for number, line in enumerate(split_lines(content), start=1):
        if not line.strip():
            continue
        place = f"line {number} of {path}"
        try:
            found.append(_entry(json.loads(line), place))
        except (ValueError, RecursionError):
            broken.append(f"{place} is not JSON")
        except UserError as error:
            broken.append(str(error))
    return found, broken


def _of_document(content: str, path: Path) -> tuple[list[Found], list[str]]:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    entries = document.get("texts") if isinstance(document, dict) else document
    if not isinstance(entries, list):
        raise UserError(f'{path} has no "texts": give a file of `coopgen generate --out`')
    found, broken = [], []
    for number, entry in enumerate(entries, start=1):
        try:
            found.append(_entry(entry, f"text {number} of {path}"))
        except UserError as error:
            broken.append(str(error))
    return found, broken


def _entry(entry: Any, place: str) -> Found:
    fields = {"text": entry} if isinstance(entry, str) else entry
    text, prompt = (
        fields.get(name) if isinstance(fields, dict) else None for name in ("text", "prompt")
    )
    if not isinstance(text, str):
        raise UserError(f'{place} has no "text" that is a string')
    prompt = prompt if isinstance(prompt, str) else ""
    if has_half_character(text) or has_half_character(prompt):
        raise UserError(f"{place} holds half a character: it is not valid Unicode")
    if isinstance(fields, dict) and fields.get("method") == "compare":
        place += ", of --compare"
    return Found(place, prompt, text)


def _for_people(report: dict[str, Any], what: DetectOptions) -> str:
    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = ["text", "tokens", "scored", "skipped", "score", "expected", "log10 p"]
    columns += ["message", "its log10 p"] if what.messages else []
    columns += ["passage", "its log10 p"] if what.passages else []
    for name in (*columns, "verdict"):
        words = name in ("text", "verdict")
        table.add_column(name, justify="left" if words else "right", no_wrap=True)
    for one in report["texts"]:
        cells = [one["source"], *(str(one[n]) for n in ("tokens", "scored", "skipped"))]
        cells += [f"{one['score']:.1f}", f"{one['expected']:.1f}", f"{one['log10_p']:.1f}"]
        if what.messages:
            cells += [str(one["message"]), f"{one['log10_p_message']:.1f}"]
        if what.passages:
            passage, log10_p = one["passage"], one["log10_p_passage"]
            cells += [f"{passage[0]} to {passage[1]}" if passage else "-"]
            cells += [f"{log10_p:.1f}" if log10_p is not None else "-"]
        table.add_row(*cells, _verdict(one))
    console = Console(
        file=io.StringIO(), width=WIDEST, highlight=False, soft_wrap=True, emoji=False, markup=False
    )
    console.print(table)
    count = len(report["texts"])
    console.print(
        f"{report['marked']} of {count} {'text' if count == 1 else 'texts'} marked with key "
        f"{report['key']}, at a false-positive rate of {what.fpr:g}"
    )
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def _verdict(one: dict[str, Any]) -> str:
    if one["marked"]:
        return "marked"
    if one["scored"] == 0:
        return "nothing to score"
    if one["more_tokens"] is None:
        return "no mark found"
    return f"no mark found; {one['more_tokens']} more tokens like these would show one"


def _page(
    report: dict[str, Any], texts: list[Found], found: list[Detection], tokenizer: Tokenizer
) -> str:
    shown = [
        {
            "source": text.source,
            "prompt": text.prompt,
            "scheme": report["watermark"]["scheme"],
            "verdict": _verdict(one),
        }
        for text, one in zip(texts, report["texts"], strict=True)
    ]
    return render_page(report | {"texts": shown}, found, tokenizer)
