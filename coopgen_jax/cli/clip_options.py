"""The options of `coopgen train clip`; imports nothing that takes long."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from coopgen_jax.cli.options import _unset

# What is taken where nothing is said: for heads, and for additions to a CLIP.
HEADS = {"epochs": 12.0, "rows": 256, "learning_rate": 1e-3}
ADDITIONS = {"epochs": 3.0, "rows": 64, "learning_rate": 1e-4, "rank": 8, "towers": "both"}
# Options that say nothing to additions.
OF_HEADS = ("vision", "encoder", "width", "dropout", "states")


@dataclass(frozen=True)
class ClipOptions:
    """Train a small CLIP: two heads that bring images and captions into one space.

    It says how well a text and an image belong together; as a guide it has any decoder write what
    tells an image from others. Both networks below the heads stay as they are. With --clip,
    low-rank additions to a CLIP's towers are trained instead.

    Attributes:
      data: Images and captions: a .csv, .tsv or .jsonl file with the columns image and caption, a
        .json file in COCO's form, or a folder with train.csv and validation.csv.
      validation: Other images and captions, to choose the best heads by.
      out: Where everything goes; a run that stopped there goes on.
      images: The folder of the images.
      vision: What sees the images: efficientnet-lite0, or a folder or a hub name of a CLIP or a
        SigLIP.
      encoder: What reads the captions: a name or a folder of a BERT encoder.
      clip: Train low-rank additions to this CLIP or SigLIP instead: a folder or a hub name.
      rank: Rank of the additions.
      towers: Which towers are added to; with text, images are read once.
      width: Numbers of a vector.
      epochs: Times that every caption is trained on.
      rows: Captions of a step, each of which competes with the others.
      longest: Word pieces, or a CLIP's tokens, that are read of a caption.
      learning_rate: The highest learning rate.
      dropout: Share of a head's inputs that a step leaves out.
      validate_every: Steps between validations, and between checkpoints.
      patience: Validations without a better loss after which training stops.
      budget_minutes: Minutes of training after which this run saves and stops; start it again to go
        on.
      states: Where the backbone's states of the images are kept, for any other training too.
      seed: Seed of everything random.
      json: Print the card as JSON instead of a report.
      quiet: Show no progress.
    """

    data: Annotated[str, arg(metavar="FILE|FOLDER")]
    out: Annotated[Path, arg(metavar="FOLDER")]
    validation: Annotated[str | None, _unset("FILE", "validation.csv in the folder")] = None
    images: Annotated[Path | None, _unset("FOLDER", "images beside the file, or there")] = None
    vision: Annotated[str, arg(metavar="NAME|PATH")] = "efficientnet-lite0"
    encoder: Annotated[str, arg(metavar="NAME|PATH")] = "minilm-l6"
    clip: Annotated[str | None, _unset("NAME|PATH", "none")] = None
    rank: Annotated[int | None, _unset("N", "8 with --clip")] = None
    towers: Annotated[Literal["both", "text"] | None, _unset("both|text", "both with --clip")] = (
        None
    )
    width: Annotated[int, arg(metavar="F")] = 512
    epochs: Annotated[float | None, _unset("N", "12, with --clip 3")] = None
    rows: Annotated[int | None, _unset("B", "256, with --clip 64")] = None
    longest: Annotated[int, arg(metavar="T")] = 64
    learning_rate: Annotated[float | None, _unset("X", "0.001, with --clip 0.0001")] = None
    dropout: Annotated[float, arg(metavar="X")] = 0.4
    validate_every: Annotated[int, arg(metavar="N")] = 100
    patience: Annotated[int | None, _unset("N", "none")] = None
    budget_minutes: Annotated[float | None, _unset("MIN", "none")] = None
    states: Annotated[Path | None, _unset("FOLDER", "the cache of models")] = None
    seed: Annotated[int, arg(metavar="N")] = 0
    json: bool = False
    quiet: bool = False
