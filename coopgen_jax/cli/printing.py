"""What a run found out: as one JSON document, and for people."""

import sys
from collections.abc import Sequence
from io import StringIO
from typing import Any

from rich.console import Console
from rich.text import Text as Styled

from coopgen_jax.discriminators.composition import ALL
from coopgen_jax.files import to_json
from coopgen_jax.text_generation import Text

# Escape sequences in a text must not reach the terminal.
CONTROL = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def note(quiet: bool, sentence: str) -> None:
    """Tells something that the user may want to know."""
    if not quiet:
        print(f"coopgen: note: {sentence}", file=sys.stderr)


def to_json_lines(document: dict[str, Any]) -> str:
    """Returns every text of a document on a line of its own, those compared after the others."""
    method = document["settings"]["method"]
    entries = [{"method": method, **text} for text in document["texts"]]
    entries += [{"method": "compare", **text} for text in document["compare"] or []]
    return "".join(to_json(entry) + "\n" for entry in entries)


def for_people(
    document: dict[str, Any], texts: Sequence[Text], compared: Sequence[Text] | None, *, style: bool
) -> str:
    """Returns the report: every text with its figures, then the settings of the JSON document.

    `compared` are plainly sampled texts of the same prompts; `style` asks for a terminal's colours.
    """
    console = Console(
        file=StringIO(), force_terminal=style, highlight=False, soft_wrap=True, emoji=False
    )
    method = document["settings"]["method"]
    # What is written of a source does not go on from it.
    between = "\n→ " if document["model"].get("encodes_prompt") else ""
    for place, text in enumerate(texts):
        _show(console, text, method if compared else None, between)
        if compared:
            _show(console, compared[place], "plain sampling", between)
        console.print()
    console.print(_settings(document), style="dim", markup=False)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def _show(console: Console, text: Text, heading: str | None, between: str) -> None:
    if heading:
        console.print(f"{heading}:", style="bold", markup=False)
    written = text.text.translate(CONTROL)
    prompt = Styled(text.prompt.translate(CONTROL) + between, "dim")
    console.print(prompt + Styled(written, "not dim"))
    names = text.class_probabilities if text.target in (None, ALL) else [text.target]
    figures = [f"p({name}) {text.class_probabilities[name]:.3f}" for name in names]
    figures += [f"log-likelihood {text.log_prob:.2f}", f"perplexity {text.perplexity:.2f}"]
    if text.log_weight:
        figures.append(f"log-weight {text.log_weight:.2f}")
    figures.append(f"{len(text.tokens)} tokens" + (", ended" if text.finished else ""))
    console.print("  " + " · ".join(figures), style="cyan", markup=False)


def _settings(document: dict[str, Any]) -> str:
    settings = dict(document["settings"])
    search = {**settings.pop("search", {}), **settings.pop("proposal", {})}
    settings.pop("compare", None)
    if settings["method"] != "mcts":
        settings.pop("preset", None)
    shown = {**search, **settings}
    if "watermark" in shown:
        shown["watermark"] = shown["watermark"]["scheme"]
    words = [
        f"{name.replace('_', ' ')} {format(value, 'g' if isinstance(value, float) else '')}"
        for name, value in shown.items()
        if value is not None and value is not False and value not in ([], ())
    ]
    judge = document["discriminator"]
    parties = f"{document['model']['name']}, judged by {judge['name'] if judge else 'nobody'}"
    seconds, host = document["seconds"], document["host_seconds"]
    cost = "" if host is None else f", {host / seconds:.1%} of it in functions of the host"
    return f"{parties}: {', '.join(words)}; {seconds:.1f} s{cost}"
