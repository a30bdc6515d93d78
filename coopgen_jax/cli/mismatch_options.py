"""The options of `coopgen mismatch`; imports nothing that takes long."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from coopgen_jax.cli.options import _unset

Measure = Literal["text-text", "image-text", "image-image", "person", "scene"]
Hardness = Literal["hard", "medium", "easy"]

EXAMPLES = """\
examples:
  coopgen mismatch --data pictures/train.csv --clip clip --out pairs.jsonl
  # one measure, the hardest pairs alone, and whether a detector tells them
  coopgen mismatch --data pictures/train.csv --clip clip --out pairs.jsonl --by image-text \\
      --hardness hard --evaluate
  # by what captions name; needs the extra ner
  coopgen mismatch --data pictures/train.csv --clip clip --out pairs.jsonl --by person scene
"""


@dataclass(frozen=True)
class MismatchOptions:
    """Pair captions with images that fit them and are not theirs, to train what detects such pairs.

    Each image and each caption is as often true as false.

    Attributes:
      data: Images and their captions: a .csv, .tsv or .jsonl file with a caption a row, or a .json
        file in COCO's form.
      out: Where the records go: .jsonl, one a line, or .json, the published document.
      clip: What compares captions and images: a folder of `coopgen train clip`, or a folder or a
        hub name of a CLIP or a SigLIP.
      images: The folder of the images.
      by: What makes a false image similar: a caption of it to the caption (text-text), the image to
        the caption (image-text) or to the true image (image-image), a caption of it that names an
        entity of the same kind to the caption (person), or its scene to the true one, where nobody
        is named (scene). Captions are dealt over several.
      hardness: How similar false images are: hard ones are the nearest of their part, medium ones
        start behind a twentieth of it, easy ones behind a quarter. Captions are dealt over several.
      candidates: Images that a caption may be matched to; few are more similar, and leave more
        captions over.
      folds: Folds of images; no pair goes from one to another, so that they are to train and test.
      image_ceiling: Images whose cosine is above it are near-duplicates, and no pair; 1 lets all
        pass.
      text_ceiling: The same of a caption and the captions of an image.
      evaluate: Train and test detectors on the pairs, by fold: of text and image, and of each
        alone, which must find nothing.
      language: Of the captions, for person and scene.
      image: The column of the images.
      caption: The column of the captions.
      states: Where its backbone's states of the images are kept, so that they are read once.
      seed: Seed of everything random; the same seed gives the same pairs.
      json: Print JSON instead of tables.
      quiet: Show no progress.
    """

    data: Annotated[Path, arg(metavar="FILE")]
    out: Annotated[Path, arg(metavar="FILE")]
    clip: Annotated[str, arg(metavar="FOLDER|NAME")]
    images: Annotated[Path | None, _unset("FOLDER", "images beside the data")] = None
    by: tuple[Measure, ...] = ("text-text", "image-text", "image-image")
    hardness: tuple[Hardness, ...] = ("hard", "medium", "easy")
    candidates: Annotated[int, arg(metavar="N")] = 20
    folds: Annotated[int, arg(metavar="N")] = 5
    image_ceiling: Annotated[float, arg(metavar="COSINE")] = 0.95
    text_ceiling: Annotated[float, arg(metavar="COSINE")] = 0.95
    evaluate: bool = False
    language: Literal["english", "french"] = "english"
    image: Annotated[str, arg(metavar="COLUMN")] = "image"
    caption: Annotated[str, arg(metavar="COLUMN")] = "caption"
    states: Annotated[Path | None, _unset("FOLDER", "the cache of models")] = None
    seed: Annotated[int, arg(metavar="N")] = 0
    json: bool = False
    quiet: bool = False
