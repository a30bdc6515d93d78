"""What can be said to `coopgen evaluate annotate`; imports nothing that takes long."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg, subcommand

from coopgen_jax.cli.options import _unset


@dataclass(frozen=True)
class ExportOptions:
    """Write a blinded sheet for people to rate, and the key to it."""

    files: Annotated[Positional[tuple[str, ...]], arg(metavar="[NAME=]FILE ...")]
    """Texts of `coopgen generate --out` or `coopgen compare`, a method each."""
    out: Annotated[Path, arg(metavar="SHEET.csv")]
    """The sheet: ids, prompts and texts in random order, and empty columns; a copy for each
    person."""
    key: Annotated[Path, arg(metavar="KEY.json")]
    """Which method wrote what; keep it from those who rate."""
    questions: Annotated[tuple[str, ...], arg(metavar="NAME ...")] = ("polarity", "readability")
    """What is rated, a column each."""
    lowest: Annotated[int, arg(metavar="N")] = 1
    """The lowest rating."""
    highest: Annotated[int, arg(metavar="N")] = 5
    """The highest rating."""
    most: Annotated[int | None, _unset("N", "all")] = None
    """Texts of each method, drawn from the prompts and targets that all methods have."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Seed of the order, the ids and the choice."""


@dataclass(frozen=True)
class ReadOptions:
    """Read filled sheets: means, intervals, paired significance and agreement."""

    sheets: Annotated[Positional[tuple[Path, ...]], arg(metavar="SHEET.csv ...")]
    """Filled copies of the sheet, one of each person."""
    key: Annotated[Path, arg(metavar="KEY.json")]
    """The key that was written with the sheet."""
    against: Annotated[str | None, _unset("NAME", "the first one")] = None
    """The method that the others are tested against."""
    out: Annotated[Path | None, _unset("FILE", "none")] = None
    """Write the figures as JSON."""
    format: Literal["text", "markdown", "latex"] = "text"
    """How the tables look."""
    json: bool = False
    """Print JSON instead of tables."""


@dataclass(frozen=True)
class AnnotateOptions:
    """Have people rate texts: blinded sheets out, filled copies in."""

    what: (
        Annotated[
            ExportOptions,
            subcommand("export", prefix_name=False, description=ExportOptions.__doc__),
        ]
        | Annotated[
            ReadOptions,
            subcommand("read", prefix_name=False, description=ReadOptions.__doc__),
        ]
    )
