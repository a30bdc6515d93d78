"""What can be said to `coopgen evaluate`; imports nothing that takes long."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from coopgen_jax.cli.annotate_options import AnnotateOptions
from coopgen_jax.cli.options import _unset

EXAMPLES = """\
examples:
  coopgen evaluate discriminator --data dev.csv --discriminator sentiment
  coopgen evaluate discriminator --data dev.csv --discriminator sentiment judge gedi \\
      --out judges.json --picture judges.png
  # what two decoders wrote for the same prompts, each in a file of `coopgen generate --out`
  coopgen evaluate texts greedy.json search.json --judge judge --oracle oracle --out figures
  coopgen evaluate texts plain=a.jsonl guided=b.jsonl --guide sentiment --judge judge \\
      --format latex
  # people rate copies of the sheet, without the key; then they are read back
  coopgen evaluate annotate export greedy.json search.json --out sheet.csv --key key.json
  coopgen evaluate annotate read anna.csv bela.csv --key key.json
"""


@dataclass(frozen=True)
class JudgementOptions:
    """Tell how well discriminators judge unfinished texts, by how much they have read."""

    data: Annotated[str, arg(metavar="FILE|tfds:NAME/SPLIT")]
    """Labelled texts that the discriminators have not learnt from; see `coopgen train`."""
    discriminator: Annotated[tuple[str, ...], arg(metavar="NAME|FOLDER ...")] = ("sentiment",)
    """The discriminators, all of the same classes."""
    model: Annotated[str, arg(metavar="NAME|PATH")] = "smollm2-135m"
    """The language model that they guide."""
    text: Annotated[str, arg(metavar="COLUMN")] = "text"
    """The column of the texts."""
    label: Annotated[str, arg(metavar="COLUMN")] = "label"
    """The column of the classes."""
    rename: Annotated[tuple[str, ...], arg(metavar="[OLD=NEW ...]")] = ()
    """What classes are called by the discriminators that the data call otherwise."""
    rows: Annotated[int | None, _unset("N", "all")] = None
    """Texts to judge, at most, taken evenly from the data."""
    longest: Annotated[int, arg(metavar="T")] = 64
    """Tokens read of a text, the first ones."""
    batch_size: Annotated[int, arg(metavar="B")] = 32
    """Texts read at once."""
    speed: bool = False
    """Time a search under each of them too."""
    calibrate: bool = False
    """Store the temperature in each folder's card: what is loaded from it is calibrated."""
    out: Annotated[Path | None, _unset("FILE", "none")] = None
    """Write the figures as JSON."""
    picture: Annotated[Path | None, _unset("FILE.png", "none")] = None
    """Draw accuracy and calibration by tokens read (needs matplotlib)."""
    json: bool = False
    """Print JSON instead of tables."""
    quiet: bool = False
    """Show no progress."""


@dataclass(frozen=True)
class TextsOptions:
    """Tell how good written texts are: on target, likely, diverse, and at what cost."""

    files: Annotated[Positional[tuple[str, ...]], arg(metavar="[NAME=]FILE ...")]
    """Texts of `coopgen generate --out` or `coopgen compare`, a method each; the first is what the
    others are tested against."""
    judge: Annotated[str | None, _unset("NAME|FOLDER", "none: no accuracy")] = None
    """What says whether a text is on target, from the continuation alone: a discriminator or a
    judge that was trained on other rows than the guide."""
    oracle: Annotated[str | None, _unset("NAME|PATH", "none: no perplexity")] = None
    """A language model, trained on held-out texts, that says how likely the texts are; not the one
    that wrote them."""
    guide: Annotated[str | None, _unset("NAME|FOLDER|none", "what the files say")] = None
    """What guided the texts of files that do not say it."""
    force: bool = False
    """Let a judge judge that knows the guide's rows, or of which nobody knows; the report says
    so."""
    target: Annotated[str | None, _unset("CLASS", "what the files say")] = None
    """The class that texts were to have of which the files do not say it."""
    rename: Annotated[tuple[str, ...], arg(metavar="[OLD=NEW ...]")] = ()
    """What targets are called by the judge that the files call otherwise."""
    against: Annotated[str | None, _unset("NAME", "the first one")] = None
    """The method that the others are tested against."""
    reference: Annotated[Path | None, _unset("FILE", "none: no MAUVE")] = None
    """Human texts, one a line, for MAUVE (needs mauve-text and the encoder)."""
    encoder: Annotated[str, arg(metavar="NAME|PATH")] = "minilm-l6"
    """The encoder whose features MAUVE compares."""
    model: Annotated[str | None, _unset("NAME|PATH", "what its card or the files say")] = None
    """The language model in whose tokens the judge reads."""
    out: Annotated[Path | None, _unset("STEM", "none")] = None
    """Write STEM.json, the table as STEM.txt, .md or .tex, and STEM.png, quality against cost."""
    format: Literal["text", "markdown", "latex"] = "text"
    """How the table looks."""
    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """Show no progress."""


@dataclass(frozen=True)
class EvaluateOptions:
    """Measure discriminators or written texts, by figures or by people."""

    what: JudgementOptions | TextsOptions | AnnotateOptions
