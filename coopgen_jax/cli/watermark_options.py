"""What can be said to `coopgen watermark`; imports nothing that takes long."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from coopgen_jax.cli.options import _unset

EXAMPLES = """\
examples:
  coopgen watermark key --scheme gumbel --out mark.key
  coopgen generate "Once upon a time" --method sample --discriminator none \\
      --watermark mark.key --new-tokens 200 --out texts.jsonl
  coopgen watermark detect texts.jsonl --key mark.key --html page.html
  # which of a thousand users a text was written for
  coopgen generate "Once upon a time" --method sample --discriminator none \\
      --watermark mark.key --watermark-message 17 --new-tokens 200 --out texts.jsonl
  coopgen watermark detect texts.jsonl --key mark.key --messages 1000
  coopgen watermark evaluate --key mark.key --prompts prompts.txt --out evaluation
"""


@dataclass(frozen=True)
class KeyOptions:
    """Make a secret key, without which nobody finds the mark.

    Attributes:
      scheme: greenlist raises the logits of green tokens, and every method can; gumbel,
        permute-flip and tournament take the place of the draw of a token. Over keys gumbel and
        tournament change no text's probability.
      out: The new file, which its owner alone can read.
      model: The language model whose tokens are marked.
      window: How many tokens in front of a token its mark depends on, 0 to 8. A longer window shows
        less of the mark, and an edit destroys more of it.
      gamma: Share of the vocabulary that is green (greenlist).
      delta: What the logits of green tokens gain; inf for nothing but green tokens (greenlist).
      layers: Rounds of a tournament, at most 32.
      mark_repeats: Mark a token also where its window was there before in the text (gumbel,
        permute-flip, tournament).
    """

    out: Annotated[Path, arg(metavar="KEYFILE")]
    scheme: Literal["greenlist", "gumbel", "permute-flip", "tournament"] = "greenlist"
    model: Annotated[str, arg(metavar="NAME|PATH")] = "smollm2-135m"
    window: Annotated[int, arg(metavar="H")] = 4
    gamma: Annotated[float, arg(metavar="X")] = 0.25
    delta: Annotated[float, arg(metavar="X")] = 2.0
    layers: Annotated[int, arg(metavar="N")] = 30
    mark_repeats: bool = False


@dataclass(frozen=True)
class DetectOptions:
    """Tell which texts carry a key's mark, by exact tests; the language model is not needed.

    Attributes:
      texts: Texts in quotes, or files: .jsonl and .json of `coopgen generate --out`, of which the
        continuations alone are tested, any other file as one text; - is standard input, as one.
      key: The key file that the texts may be marked with.
      model: Where the tokenizer comes from, if not from the model that the key names.
      messages: Which of so many messages the mark says; 0 asks for none.
      fpr: The share of unmarked texts that may be called marked.
      passages: Look for the most marked passage, as where a marked text stands in a human text, and
        let it decide.
      html: Write a page that colours every token by its score.
      json: Print JSON instead of a table.
      quiet: Show no notes.
    """

    texts: Annotated[
        Positional[tuple[str, ...]], arg(metavar="TEXT|FILE ...", help_behavior_hint="")
    ]
    key: Annotated[Path, arg(metavar="KEYFILE")]
    model: Annotated[str | None, _unset("NAME|PATH", "the key's")] = None
    messages: Annotated[int, arg(metavar="M")] = 0
    fpr: Annotated[float, arg(metavar="X")] = 1e-6
    passages: bool = False
    html: Annotated[Path | None, _unset("FILE.html", "none")] = None
    json: bool = False
    quiet: bool = False


@dataclass(frozen=True)
class MarkingOptions:
    """Tell how surely a key's mark is found in a model's texts, also in changed ones.

    The same prompts are continued by sampling with the mark and without it. The folder gets
    marked.jsonl, unmarked.jsonl and report.json. An interrupted run continues.

    Attributes:
      key: The key file.
      prompts: A file of prompts: .txt with one a line, or .jsonl with a "prompt" or "text".
      out: The folder.
      model: The language model; its tokens must be the key's.
      dtype: Number format of the language model, as for generate.
      limit: Prompts to use at most, the first ones.
      new_tokens: Most tokens to write per text.
      temperature: Divides the logits.
      top_k: How many of the likeliest tokens may be drawn, 0 for all; a tournament needs it.
      top_p: Probability of the nucleus; 1 for all.
      share: Share of the tokens that an attack substitutes or deletes.
      seed: Seed of everything random.
      batch_size: Prompts worked on at once.
      json: Print JSON instead of a table.
      quiet: Show no progress.
    """

    key: Annotated[Path, arg(metavar="KEYFILE")]
    prompts: Annotated[Path, arg(metavar="FILE")]
    out: Annotated[Path, arg(metavar="FOLDER")]
    model: Annotated[str, arg(metavar="NAME|PATH")] = "smollm2-135m"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    limit: Annotated[int | None, _unset("N", "all")] = None
    new_tokens: Annotated[int, arg(metavar="T")] = 200
    temperature: Annotated[float, arg(metavar="X")] = 1.0
    top_k: Annotated[int, arg(metavar="K")] = 0
    top_p: Annotated[float, arg(metavar="X")] = 1.0
    share: Annotated[float, arg(metavar="X")] = 0.3
    seed: Annotated[int, arg(metavar="N")] = 0
    batch_size: Annotated[int, arg(metavar="B")] = 8
    json: bool = False
    quiet: bool = False


@dataclass(frozen=True)
class WatermarkOptions:
    """Mark texts in secret, and recognise them."""

    what: KeyOptions | DetectOptions | MarkingOptions
