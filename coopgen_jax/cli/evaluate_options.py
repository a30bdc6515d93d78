"""What can be said to `coopgen evaluate`; imports nothing that takes long."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from coopgen_jax.cli.annotate_options import AnnotateOptions
from coopgen_jax.cli.options import JUDGES, _unset

EXAMPLES = """\
examples:
  coopgen evaluate discriminator --data dev.csv --discriminator sentiment
  coopgen evaluate discriminator --data dev.csv --discriminator sentiment judge gedi \\
      --out judges.json --picture judges.png
  # two heads on the same states: the language model reads the texts once
  coopgen evaluate discriminator --data dev.csv --discriminator first second --states states
  coopgen evaluate discriminator --data dev.csv --discriminator python:weather.py:judge
  # what two decoders wrote for the same prompts, each in a file of `coopgen generate --out`
  coopgen evaluate texts greedy.json search.json --judge judge --oracle oracle --out figures
  coopgen evaluate texts plain=a.jsonl guided=b.jsonl --guide sentiment --judge judge \\
      --format latex
  # a function of your own judges; which rows it knows is not known
  coopgen evaluate texts greedy.json search.json --judge python:weather.py:judge --force
  # captions of images, against what people wrote for the same images
  coopgen evaluate captions captions.jsonl --references references.csv
  # and whether they find their images among all, under a CLIP that nothing was trained for
  coopgen evaluate captions captions.jsonl --clip clip --images photos
  # people rate copies of the sheet, without the key; then they are read back
  coopgen evaluate annotate export greedy.json search.json --out sheet.csv --key key.json
  coopgen evaluate annotate read anna.csv bela.csv --key key.json
"""


@dataclass(frozen=True)
class JudgementOptions:
    """Tell how well discriminators judge unfinished texts, by how much they have read.

    Attributes:
      data: Labelled texts that the discriminators were not trained on; see `coopgen train`.
      discriminator: The discriminators, all of the same classes; see `coopgen generate --help`.
      model: The language model that they guide.
      dtype: Number format of the language model; `coopgen generate` writes by auto, which is faster
        where the machine multiplies bfloat16 faster, and less exact.
      text: The column of the texts.
      label: The column of the classes.
      rename: What classes are called by the discriminators that the data call otherwise.
      neutral: Files of texts that have none of the classes: tell how sure the discriminators are of
        them, and how well their confidence tells labelled texts from them.
      rows: Texts to judge, at most, taken evenly from the data and from the neutral texts.
      longest: Tokens read of a text, the first ones.
      asked: At which lengths of each text a discriminator is asked that reads every text anew (a
        bidirectional one, a classifier, a function). With doubling these are the lengths of the
        table and the text's own; between them the judgement is that of the last one below. Others
        judge every length in one reading.
      states: Keep the language model's states of the texts in this folder (2.3 kB per token and tap
        for the default model): another head with the same taps does not have them read again.
      batch_size: Texts read at once.
      speed: Time a search under each of them too.
      calibrate: Store the temperature in each folder's card: what is loaded from it is calibrated.
      out: Write the figures as JSON.
      picture: Draw accuracy and calibration by tokens read (needs matplotlib).
      json: Print JSON instead of tables.
      quiet: Show no progress.
    """

    data: Annotated[str, arg(metavar="FILE|tfds:NAME/SPLIT")]
    discriminator: Annotated[tuple[str, ...], arg(metavar="NAME|FOLDER ...")] = ("sentiment",)
    model: Annotated[str, arg(metavar="NAME|PATH")] = "smollm2-135m"
    dtype: Literal["auto", "float32", "bfloat16"] = "float32"
    text: Annotated[str, arg(metavar="COLUMN")] = "text"
    label: Annotated[str, arg(metavar="COLUMN")] = "label"
    rename: Annotated[tuple[str, ...], arg(metavar="[OLD=NEW ...]")] = ()
    neutral: Annotated[tuple[str, ...], arg(metavar="[FILE ...]")] = ()
    rows: Annotated[int | None, _unset("N", "all")] = None
    longest: Annotated[int, arg(metavar="T")] = 64
    asked: Literal["doubling", "every"] = "doubling"
    states: Annotated[Path | None, _unset("FOLDER", "none: they are not kept")] = None
    batch_size: Annotated[int, arg(metavar="B")] = 32
    speed: bool = False
    calibrate: bool = False
    out: Annotated[Path | None, _unset("FILE", "none")] = None
    picture: Annotated[Path | None, _unset("FILE.png", "none")] = None
    json: bool = False
    quiet: bool = False


@dataclass(frozen=True)
class TextsOptions:
    """Tell how good written texts are: on target, likely, diverse, and at what cost.

    Attributes:
      files: Texts of `coopgen generate --out` or `coopgen compare`, a method each; the first is
        what the others are tested against.
      judge: What says whether a text is on target, from the continuation alone: a discriminator (a
        Hugging Face sequence classifier too) or a judge that was trained on other rows than the
        guide, or python:FILE.py:FUNCTION, of whose rows nobody knows. Texts that packaged heads of
        sentiment guided have a packaged judge; none leaves accuracy out.
      oracle: A language model, trained on held-out texts, that says how likely the texts are; not
        the one that wrote them.
      guide: What guided the texts of files that do not say it.
      force: Let a judge judge that knows the guide's rows, or of which nobody knows; the report
        says so.
      shared_rows: Share of the judge's training rows that may be the guide's too; the report names
        how many are.
      target: The class that texts were to have of which the files do not say it.
      rename: What targets are called by the judge that the files call otherwise.
      against: The method that the others are tested against.
      reference: Human texts, one a line, for MAUVE (needs mauve-text and the encoder).
      encoder: The encoder whose features MAUVE compares.
      model: The language model in whose tokens the judge reads.
      out: Write STEM.json, the table as STEM.txt, .md or .tex, and STEM.png, quality against cost.
      format: How the table looks.
      json: Print JSON instead of a table.
      quiet: Show no progress.
    """

    files: Annotated[Positional[tuple[str, ...]], arg(metavar="[NAME=]FILE ...")]
    judge: Annotated[str | None, _unset("NAME|FOLDER|none", JUDGES)] = None
    oracle: Annotated[str | None, _unset("NAME|PATH", "none: no perplexity")] = None
    guide: Annotated[str | None, _unset("NAME|FOLDER|none", "what the files say")] = None
    force: bool = False
    shared_rows: Annotated[float, arg(metavar="SHARE")] = 0.001
    target: Annotated[str | None, _unset("CLASS", "what the files say")] = None
    rename: Annotated[tuple[str, ...], arg(metavar="[OLD=NEW ...]")] = ()
    against: Annotated[str | None, _unset("NAME", "the first one")] = None
    reference: Annotated[Path | None, _unset("FILE", "none: no MAUVE")] = None
    encoder: Annotated[str, arg(metavar="NAME|PATH")] = "minilm-l6"
    model: Annotated[str | None, _unset("NAME|PATH", "what its card or the files say")] = None
    out: Annotated[Path | None, _unset("STEM", "none")] = None
    format: Literal["text", "markdown", "latex"] = "text"
    json: bool = False
    quiet: bool = False


@dataclass(frozen=True)
class CaptionsOptions:
    """Tell how well captions of images are written, and how well they tell images apart.

    A file of captions or references is a .csv, .tsv or .jsonl file with a caption a row, or a .json
    file in COCO's form.

    Attributes:
      files: Captions, a method each.
      references: What people wrote for the images, one caption or more for each; without them
        nothing is compared with human captions.
      meteor_jar: The Java program METEOR 1.5, meteor-1.5.jar with its data beside it; needs Java.
      meteor_nltk: Compute NLTK's METEOR, which has other figures; needs NLTK's copy of WordNet.
      scene_graphs: Compare the things, qualities and relations that captions name; needs the extra
        "captions", and English captions.
      clip: A CLIP under which captions look for their images and images for their captions, trained
        on other images than any that rewarded the captions: a folder of `coopgen train clip`, or a
        folder or a hub name of a CLIP or a SigLIP.
      images: The folder of the images that the CLIP sees.
      states: Where its backbone's states of the images are kept, so that they are read once.
      image: The column of the images, which all files call by the same names.
      caption: The column of the captions.
      against: The method that the others are tested against.
      self_bleu: Captions that self-BLEU compares with each other, the first ones; its time grows
        with their square.
      out: Write the figures as JSON.
      format: How the table looks.
      json: Print JSON instead of a table.
      quiet: Show no progress.
    """

    files: Annotated[Positional[tuple[str, ...]], arg(metavar="[NAME=]FILE ...")]
    references: Annotated[Path | None, _unset("FILE", "none: no BLEU, ROUGE-L, CIDEr-D")] = None
    meteor_jar: Annotated[Path | None, _unset("FILE", "none: no METEOR 1.5")] = None
    meteor_nltk: bool = False
    scene_graphs: bool = False
    clip: Annotated[str | None, _unset("NAME|FOLDER", "none: no retrieval")] = None
    images: Annotated[Path | None, _unset("FOLDER", "images beside the first file")] = None
    states: Annotated[Path | None, _unset("FOLDER", "the cache of models")] = None
    image: Annotated[str, arg(metavar="COLUMN")] = "image"
    caption: Annotated[str, arg(metavar="COLUMN")] = "caption"
    against: Annotated[str | None, _unset("NAME", "the first one")] = None
    self_bleu: Annotated[int, arg(metavar="N")] = 1000
    out: Annotated[Path | None, _unset("FILE", "none")] = None
    format: Literal["text", "markdown", "latex"] = "text"
    json: bool = False
    quiet: bool = False


@dataclass(frozen=True)
class EvaluateOptions:
    """Measure discriminators, written texts or captions, by figures or by people."""

    what: JudgementOptions | TextsOptions | CaptionsOptions | AnnotateOptions
