"""What can be said to `coopgen explain`; imports nothing that takes long."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from coopgen_jax.cli.options import _unset

EXAMPLES = """\
examples:
  coopgen explain --discriminator sentiment --out explanation --texts 300
  # a classifier of Hugging Face, and any function of texts
  coopgen explain --discriminator ./my-classifier --out explanation --budget-minutes 30
  coopgen explain --discriminator python:spam.py:judge --out explanation --settled 0.9
  coopgen explain show explanation --top 20 --html page.html --contrast positive negative
  coopgen explain evaluate explanation --data texts.csv --against lime shap
"""


@dataclass(frozen=True)
class ExplainOptions:
    """Explain a classifier without data, by what is written for each of its classes (Therapy).

    The language model writes texts that the classifier accepts as one class or another; the words
    that tell them apart are the explanation. Interrupted, the same command goes on. `coopgen
    explain show` prints what was found and makes pictures, `coopgen explain evaluate` rates it.

    Attributes:
      discriminator: The classifier: a name from `coopgen models`, the folder of a head or of a
        Hugging Face sequence classifier, such a classifier's hub name, or
        python:FILE.py:FUNCTION, whose file is executed.
      out: Where texts and explanation go; a run that stopped there goes on.
      texts: Texts of each class.
      new_tokens: Most tokens of a text.
      method: How texts are written: a name of `coopgen generate --method`, with its own options
        as name:key=value:key=value. Where none is given it is fudge with 200 candidates of a
        classifier that reads texts anew, else with 20.
      temperature: Divides the classifier's log-odds while it guides, so that it does not stop
        guiding where it is sure already; 1 leaves them.
      opening_tokens: Tokens that the language model samples in front of every text, so that texts
        differ; they are no part of it.
      openings: Continue these instead, in turn: .txt with one a line, or .jsonl with a "prompt" or
        "text".
      weighted: Count texts by their importance weights, so that the words are of the classifier and
        not of how the method chooses. The method must draw, as fudge or mcts:preset=values.
      ngrams: Most words of a term; stop words between them are left out.
      min_count: Texts that a term must stand in.
      tried: Words of each class that are put into texts to see whether the classifier reacts: so
        many of the heaviest, and so many that moved it most where the language model considered
        them; 0 for none.
      uses: Texts that each of them is put into; more of them rank words better.
      vocabulary: Find also the words that no text has: put every word of the language model's
        vocabulary (some 25,000) into four texts, and try those that move the classifier most.
      settled: Stop writing when this share of the twenty strongest words stayed while the number of
        texts doubled.
      budget_minutes: Begin no batch after so many minutes; start the command again to go on.
      model: The language model: a name from `coopgen models`, a folder, a GGUF file, or a hub name.
      dtype: Number format of the language model; auto is bfloat16 where the machine multiplies it
        faster, and float32 elsewhere.
      batch_size: Texts written at once.
      seed: Seed of everything random.
      top: Words of each class that are shown.
      json: Print JSON instead of a table.
      quiet: Show no progress.
    """

    out: Annotated[Path, arg(metavar="FOLDER")]
    discriminator: Annotated[str, arg(metavar="NAME|FOLDER|python:FILE.py:FUNCTION")] = "sentiment"
    texts: Annotated[int, arg(metavar="N")] = 500
    new_tokens: Annotated[int, arg(metavar="T")] = 40
    method: Annotated[str | None, _unset("NAME[:KEY=VALUE...]", "fudge")] = None
    temperature: Annotated[float, arg(metavar="X")] = 4.0
    opening_tokens: Annotated[int, arg(metavar="N")] = 7
    openings: Annotated[Path | None, _unset("FILE", "none: they are sampled")] = None
    weighted: bool = False
    ngrams: Annotated[int, arg(metavar="N")] = 1
    min_count: Annotated[int, arg(metavar="N")] = 2
    tried: Annotated[int, arg(metavar="N")] = 50
    uses: Annotated[int, arg(metavar="N")] = 20
    vocabulary: bool = False
    settled: Annotated[float | None, _unset("SHARE", "none: all texts are written")] = None
    budget_minutes: Annotated[float | None, _unset("MIN", "none")] = None
    model: Annotated[str, arg(metavar="NAME|PATH")] = "smollm2-135m"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    batch_size: Annotated[int, arg(metavar="B")] = 32
    seed: Annotated[int, arg(metavar="N")] = 0
    top: Annotated[int, arg(metavar="N")] = 10
    json: bool = False
    quiet: bool = False


@dataclass(frozen=True)
class ShowOptions:
    """Show an explanation: the strongest words of every class, a page, a bar chart.

    Attributes:
      folder: What `coopgen explain --out` wrote.
      top: Words of each class.
      by: The order of words: their weight in the texts; how surely they move the classifier when
        they are put into texts; or where the language model considered them. Texts need not have
        the words of the two last ones.
      html: Write a page that needs nothing else: words, texts with words marked, settings and cost.
      png: Draw a bar chart (needs matplotlib).
      contrast: Two classes to tell apart from each other alone.
      json: Print JSON instead of a table.
    """

    folder: Annotated[Positional[Path], arg(metavar="FOLDER")]
    top: Annotated[int, arg(metavar="N")] = 20
    by: Literal["weight", "reaction", "considered"] = "weight"
    html: Annotated[Path | None, _unset("FILE", "none")] = None
    png: Annotated[Path | None, _unset("FILE", "none")] = None
    contrast: Annotated[tuple[str, ...], arg(metavar="[CLASS CLASS]")] = ()
    json: bool = False


@dataclass(frozen=True)
class TrialOptions:
    """Rate an explanation: against weights that are known, and by moving its words.

    Attributes:
      folder: What `coopgen explain --out` wrote.
      glass_box: The classifier's own weights: a .csv with the columns "term" and one per class,
        or the folder of a judge of words. Spearman's rank correlation, precision and recall.
      data: Texts that words are put out of and into: .csv, .tsv, .jsonl or .txt.
      text: The column of the texts.
      discriminator: The classifier; where it lies now, if not where the explanation says.
      against: Explain the data by these too, and rate them beside it: lime, shap.
      samples: What each of these asks the classifier for one text.
      rows: Texts of the data that are used, at most, evenly spread over them.
      model: The language model in whose tokens the classifier reads.
      out: Write the figures as JSON.
      seed: Seed of everything random.
      json: Print JSON instead of tables.
      quiet: Show no progress.
    """

    folder: Annotated[Positional[Path], arg(metavar="FOLDER")]
    glass_box: Annotated[Path | None, _unset("FILE|FOLDER", "none")] = None
    data: Annotated[str | None, _unset("FILE", "none")] = None
    text: Annotated[str, arg(metavar="COLUMN")] = "text"
    discriminator: Annotated[str | None, _unset("NAME|FOLDER", "what the explanation says")] = None
    against: tuple[Literal["lime", "shap"], ...] = ()
    samples: Annotated[int, arg(metavar="N")] = 300
    rows: Annotated[int, arg(metavar="N")] = 200
    model: Annotated[str | None, _unset("NAME|PATH", "what the explanation says")] = None
    out: Annotated[Path | None, _unset("FILE", "none")] = None
    seed: Annotated[int, arg(metavar="N")] = 0
    json: bool = False
    quiet: bool = False
