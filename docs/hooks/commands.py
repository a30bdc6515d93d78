"""The reference of the command line: what `--help` of every command and method prints."""

import contextlib
import io
import os
import re
import textwrap
from unittest import mock

COMMANDS = (
    "generate",
    "compare",
    "train discriminator",
    "train lm",
    "train gcn",
    "train clip",
    "train captioner",
    "evaluate discriminator",
    "evaluate texts",
    "evaluate captions",
    "evaluate annotate export",
    "evaluate annotate read",
    "watermark key",
    "watermark detect",
    "watermark evaluate",
    "explain",
    "explain show",
    "explain evaluate",
    "augment",
    "augment evaluate",
    "models",
    "plan",
    "caption",
    "mismatch",
)

# A page is as wide as this many characters of code.
WIDTH = "92"


def help_of(command: str) -> str:
    """Returns what a command prints when it is asked for help, without colours."""
    from coopgen_jax.cli import main

    printed = io.StringIO()
    plain = {"COLUMNS": WIDTH, "NO_COLOR": "1", "TERM": "dumb"}
    with mock.patch.dict(os.environ, plain), contextlib.redirect_stdout(printed):
        try:
            main([*command.split(), "--help"])
        except SystemExit as stop:
            assert not stop.code, f"coopgen {command} --help ends with {stop.code}"
    return re.sub(r"\x1b\[[0-9;]*m", "", printed.getvalue())


def section(title: str, text: str, level: int = 2) -> str:
    """Returns a heading and a help text below it."""
    return f"{'#' * level} {title}\n\n```text\n{textwrap.dedent(text).strip()}\n```\n"


def command_line() -> str:
    """Returns the page: every command, and every method of `coopgen generate`."""
    from coopgen_jax.cli.method_flags import methods

    parts = [
        "# Command line\n",
        "This page is what `--help` prints. `coopgen COMMAND --help` prints the same text.\n",
    ]
    for command in COMMANDS:
        parts.append(section(f"coopgen {command}", help_of(command)))
        if command == "generate":
            parts += [
                section(f"--method {name}", help_of(f"generate --method {name}"), level=3)
                for name in methods()
            ]
    return "\n".join(parts)
