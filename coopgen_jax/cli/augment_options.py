"""What can be said to `coopgen augment`; imports nothing that takes long."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from coopgen_jax.cli.options import _unset

EXAMPLES = """\
examples:
  coopgen augment --data train.csv --out synthetic.csv --per-class 200
  # classes of your own: train a guide on the originals first
  coopgen train discriminator --data train.csv --validation dev.csv --out guide
  coopgen augment --data train.csv --out synthetic.csv --discriminator guide
  # texts that may be shared in place of the originals
  coopgen augment --data train.csv --out shared.csv --substitute --opening-words 0
  # only the rarer class, by search, filtered by another classifier
  coopgen augment --data train.csv --out more.jsonl --classes negative \\
      --method mcts:preset=values --filter sentiment-minilm --threshold 0.9
  coopgen augment evaluate --data train.csv --synthetic synthetic.csv --test test.csv
"""


@dataclass(frozen=True)
class AugmentOptions:
    """Write training texts for the classes of a labelled file: to add to it, or to share instead.

    Each text continues the first words of a real text of its class, under a guide, and is kept only
    if filters find nothing wrong with it: above all it must be of its class, and repeat neither an
    original nor another written text. Texts are marked with a watermark, so that they can be
    recognised as written by a model. Beside --out stand a report (.report.json), all texts that
    were tried, with the reasons why some were left out (.tries.jsonl), and the watermark's key
    (.key). Interrupted, the same command goes on.

    Attributes:
      data: The originals: .csv, .tsv or .jsonl with a text and a class in each row, or
        tfds:NAME/SPLIT.
      out: Where kept texts go: .csv or .jsonl, with the columns text and label, and others that
        say where each comes from.
      text: The column of the texts.
      label: The column of the classes.
      rename: Call a class of the file otherwise, as the guide calls it.
      classes: Write for these classes alone.
      per_class: Texts that are kept of each class.
      tries: Most texts that are written, for one that is asked for.
      discriminator: The guide, which must know the classes: a name from `coopgen models`, the
        folder of a head or of a Hugging Face sequence classifier, or python:FILE.py:FUNCTION, whose
        file is executed.
      method: How texts are written: a name of `coopgen generate --method` that is guided, with its
        own options as name:key=value:key=value.
      opening_words: First words of a real text of the class that a text continues, and that are a
        part of it, at most 7; 0 for none.
      new_tokens: Most tokens that are written behind them.
      filter: The classifier that must find a text likeliest of its class: like --discriminator, or
        the folder of a judge; originals trains one on the words of --data; none leaves it out.
      threshold: Least probability of its class under the filter.
      least_words: Fewest words of a text.
      most_words: Most words of a text.
      repetition: Largest share of a text's runs of four words that stood in it before.
      near: Texts are near-copies from this similarity on (Jaccard, of pairs of words).
      substitute: Leave out texts that pass on a name, or a number of three digits or more, of the
        originals (needs pip install 'coopgen_jax[ner]').
      language: The language of the originals, in which --substitute finds names.
      watermark: The key that texts are marked with, from `coopgen watermark key`.
      no_watermark: Write texts without a mark.
      budget_minutes: Begin no batch after so many minutes; start the command again to go on.
      model: The language model: a name from `coopgen models`, a folder, a GGUF file, or a hub name.
      dtype: Number format of the language model; auto is bfloat16 where the machine multiplies it
        faster, and float32 elsewhere.
      batch_size: Texts written at once.
      seed: Seed of everything random.
      json: Print the report as JSON.
      quiet: Show no progress.
    """

    data: Annotated[str, arg(metavar="FILE")]
    out: Annotated[Path, arg(metavar="FILE")]
    text: Annotated[str, arg(metavar="COLUMN")] = "text"
    label: Annotated[str, arg(metavar="COLUMN")] = "label"
    rename: Annotated[tuple[str, ...], arg(metavar="[OLD=NEW ...]")] = ()
    classes: Annotated[tuple[str, ...], arg(metavar="[CLASS ...]")] = ()
    per_class: Annotated[int, arg(metavar="N")] = 500
    tries: Annotated[int, arg(metavar="N")] = 10
    discriminator: Annotated[str, arg(metavar="NAME|FOLDER|python:FILE.py:FUNCTION")] = "sentiment"
    method: Annotated[str, arg(metavar="NAME[:KEY=VALUE...]")] = (
        "fudge:strength=8:no_repeat_ngram=4"
    )
    opening_words: Annotated[int, arg(metavar="N")] = 4
    new_tokens: Annotated[int, arg(metavar="T")] = 40
    filter: Annotated[str, arg(metavar="originals|none|NAME|FOLDER")] = "originals"
    threshold: Annotated[float, arg(metavar="P")] = 0.0
    least_words: Annotated[int, arg(metavar="N")] = 5
    most_words: Annotated[int, arg(metavar="N")] = 400
    repetition: Annotated[float, arg(metavar="SHARE")] = 0.2
    near: Annotated[float, arg(metavar="X")] = 0.6
    substitute: bool = False
    language: Literal["english", "french"] = "english"
    watermark: Annotated[Path | None, _unset("FILE", "a key beside --out, made at first use")] = (
        None
    )
    no_watermark: bool = False
    budget_minutes: Annotated[float | None, _unset("MIN", "none")] = None
    model: Annotated[str, arg(metavar="NAME|PATH")] = "smollm2-135m"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    batch_size: Annotated[int, arg(metavar="B")] = 32
    seed: Annotated[int, arg(metavar="N")] = 0
    json: bool = False
    quiet: bool = False


@dataclass(frozen=True)
class SyntheticOptions:
    """Rate a synthetic training set: is it of use, does it give itself away, what does it repeat?

    A classifier of words is trained on originals, on synthetic texts and on both, and tested on
    real texts; intervals are over seeds and test texts. A detector tells synthetic texts from real
    ones, class by class: where classes differ in that, classifiers learn it in place of the
    classes.

    Attributes:
      data: The originals, as `coopgen augment` had them.
      synthetic: What `coopgen augment --out` wrote.
      test: Real texts that neither has seen.
      text: The column of the texts in --data and --test.
      label: The column of the classes in --data and --test.
      rename: Call a class of these files otherwise, as --synthetic does.
      shares: Shares of the originals that are trained on.
      seeds: How often training texts are drawn.
      out: Write the figures as JSON.
      seed: Seed of everything random.
      json: Print JSON instead of tables.
      quiet: Show no progress.
    """

    data: Annotated[str, arg(metavar="FILE")]
    synthetic: Annotated[str, arg(metavar="FILE")]
    test: Annotated[str, arg(metavar="FILE")]
    text: Annotated[str, arg(metavar="COLUMN")] = "text"
    label: Annotated[str, arg(metavar="COLUMN")] = "label"
    rename: Annotated[tuple[str, ...], arg(metavar="[OLD=NEW ...]")] = ()
    shares: Annotated[tuple[float, ...], arg(metavar="SHARE ...")] = (0.1, 0.5, 1.0)
    seeds: Annotated[int, arg(metavar="N")] = 5
    out: Annotated[Path | None, _unset("FILE", "none")] = None
    seed: Annotated[int, arg(metavar="N")] = 0
    json: bool = False
    quiet: bool = False
