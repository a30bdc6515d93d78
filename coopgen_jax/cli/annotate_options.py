"""What can be said to `coopgen evaluate annotate`; imports nothing that takes long."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg, subcommand

from coopgen_jax.cli.options import _unset


@dataclass(frozen=True)
class ExportOptions:
    """Write a blinded sheet for people to rate, and the key to it.

    Attributes:
      files: Texts of `coopgen generate --out` or `coopgen compare`, a method each.
      out: The sheet: ids, prompts and texts in random order, and empty columns; a copy for each
        person.
      key: Which method wrote what; keep it from those who rate.
      questions: What is rated, a column each.
      lowest: The lowest rating.
      highest: The highest rating.
      most: Texts of each method, drawn from the prompts and targets that all methods have.
      seed: Seed of the order, the ids and the choice.
    """

    files: Annotated[Positional[tuple[str, ...]], arg(metavar="[NAME=]FILE ...")]
    out: Annotated[Path, arg(metavar="SHEET.csv")]
    key: Annotated[Path, arg(metavar="KEY.json")]
    questions: Annotated[tuple[str, ...], arg(metavar="NAME ...")] = ("polarity", "readability")
    lowest: Annotated[int, arg(metavar="N")] = 1
    highest: Annotated[int, arg(metavar="N")] = 5
    most: Annotated[int | None, _unset("N", "all")] = None
    seed: Annotated[int, arg(metavar="N")] = 0


@dataclass(frozen=True)
class ReadOptions:
    """Read filled sheets: means, intervals, paired significance and agreement.

    Attributes:
      sheets: Filled copies of the sheet, one of each person.
      key: The key that was written with the sheet.
      against: The method that the others are tested against.
      out: Write the figures as JSON.
      format: How the tables look.
      json: Print JSON instead of tables.
    """

    sheets: Annotated[Positional[tuple[Path, ...]], arg(metavar="SHEET.csv ...")]
    key: Annotated[Path, arg(metavar="KEY.json")]
    against: Annotated[str | None, _unset("NAME", "the first one")] = None
    out: Annotated[Path | None, _unset("FILE", "none")] = None
    format: Literal["text", "markdown", "latex"] = "text"
    json: bool = False


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
