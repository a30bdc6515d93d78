"""What can be said to `coopgen evaluate`; imports nothing that takes long."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from coopgen_jax.cli.options import _unset

EXAMPLES = """\
examples:
  coopgen evaluate discriminator --data dev.csv --discriminator sentiment
  coopgen evaluate discriminator --data dev.csv --discriminator sentiment judge gedi \\
      --out judges.json --picture judges.png
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
class EvaluateOptions:
    """Measure discriminators."""

    what: JudgementOptions
