"""What can be said to `coopgen compare`; imports nothing that takes long."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from coopgen_jax.cli.options import JUDGES, _unset

EXAMPLES = """\
examples:
  coopgen compare --methods greedy,fudge,mcts --prompts prompts.txt --target positive \\
      --judge judge --oracle oracle --out compared
  # options of a method's own, as of `coopgen generate`, stand behind its name
  coopgen compare --methods sample:top_p=0.9,mcts:simulations=64,mcts:preset=puct \\
      --prompts prompts.txt --target positive negative --out compared
  # every method gets 1.5 seconds a text, and is tuned on other prompts first
  coopgen compare --methods rerank,mcts,fudge,fudge:score=value,smc --seconds-per-text 1.5 \\
      --tuning-prompts others.txt --prompts prompts.txt --target positive negative \\
      --judge judge --out compared
  # interrupted, the same command goes on where it stopped
"""


@dataclass(frozen=True)
class CompareOptions:
    r"""Have several methods continue the same prompts, and tell how good their texts are.

    Attributes:
      methods: What writes: names of --method, each with options of its own as
        name:key=value:key=value (several words joined by +; \: and \, are no separators); the
        first is what the others are tested against.
      out: Where the texts go, a .jsonl file a method, as they are written; and the figures.
      texts: Texts to continue, each in quotes; - reads them from standard input, one a line.
      prompts: Read the prompts from a file: .txt with one a line, or .jsonl with a "prompt" or
        "text".
      target: The classes that the texts are to have: every prompt is continued towards each of
        them.
      seconds_per_text: Seconds that every method may take for a text. Each gets the largest size
        (texts of rerank, simulations of mcts, candidates of fudge, particles of smc) that fits, and
        the settings (temperature and top_p, preset, strength, power) with which its guide finds
        texts of --tuning-prompts likeliest of their targets, where several do by a standard error
        those of the lowest perplexity. What stands behind a method's name stays as given. All that
        was tried is printed.
      tuning_prompts: Prompts to tune on, other ones than --prompts and about as long; a file as
        there.
      tuning_rows: Most tuning prompts that are read, evenly spread over their file.
      discriminator: What guides: a name from `coopgen models`, the folder of a head or of a Hugging
        Face sequence classifier, such a classifier's hub name, or python:FILE.py:FUNCTION, whose
        file is executed.
      model: The language model: a name from `coopgen models`, a folder, a GGUF file, or a hub name.
      dtype: Number format of the language model; auto is bfloat16 where the machine multiplies it
        faster, and float32 elsewhere. A folder with texts goes on in theirs.
      new_tokens: Most tokens to write per text.
      samples: Texts per prompt and target.
      seed: Seed of everything random.
      batch_size: Prompts worked on at once, and what is written at once.
      devices: Devices of this machine among which each batch is split.
      tensor: Devices that share the weights of a model too large for one.
      chat: Put each prompt to the model's assistant, in its chat template, instead of continuing
        it.
      control_strings: Read control strings of the model in a prompt, such as <|im_end|>, as control
        tokens in a --chat too, where they are text by default.
      judge: What says whether a text is on target; see `coopgen evaluate texts --help`.
      oracle: A language model that says how likely the texts are; not the one that writes.
      force: Let a judge judge that knows the guide's rows, or of which nobody knows.
      shared_rows: Share of the judge's training rows that may be the guide's too; the report names
        how many are.
      rename: What targets are called by the judge that the guide calls otherwise.
      against: The method that the others are tested against.
      reference: Human texts, one a line, for MAUVE.
      encoder: The encoder whose features MAUVE compares.
      format: How the table looks.
      json: Print JSON instead of a table.
      quiet: Show no progress.
    """

    methods: Annotated[str, arg(metavar="A,B,...")]
    out: Annotated[Path, arg(metavar="FOLDER")]
    texts: Annotated[
        Positional[tuple[str, ...]], arg(metavar="[PROMPT ...]", help_behavior_hint="")
    ] = ()
    prompts: Annotated[Path | None, _unset("FILE", "none")] = None
    target: Annotated[tuple[str, ...], arg(metavar="CLASS ...")] = ()
    seconds_per_text: Annotated[float | None, _unset("S", "none: methods as they are given")] = None
    tuning_prompts: Annotated[Path | None, _unset("FILE", "none")] = None
    tuning_rows: Annotated[int, arg(metavar="N")] = 32
    discriminator: Annotated[str, arg(metavar="NAME|FOLDER")] = "sentiment"
    model: Annotated[str, arg(metavar="NAME|PATH")] = "smollm2-135m"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    new_tokens: Annotated[int, arg(metavar="T")] = 24
    samples: Annotated[int, arg(metavar="R")] = 1
    seed: Annotated[int, arg(metavar="N")] = 0
    batch_size: Annotated[int, arg(metavar="B")] = 8
    devices: Annotated[int, arg(metavar="N")] = 1
    tensor: Annotated[int, arg(metavar="N")] = 1
    chat: bool = False
    control_strings: bool = False
    judge: Annotated[str | None, _unset("NAME|FOLDER|none", JUDGES)] = None
    oracle: Annotated[str | None, _unset("NAME|PATH", "none: no perplexity")] = None
    force: bool = False
    shared_rows: Annotated[float, arg(metavar="SHARE")] = 0.001
    rename: Annotated[tuple[str, ...], arg(metavar="[OLD=NEW ...]")] = ()
    against: Annotated[str | None, _unset("NAME", "the first one")] = None
    reference: Annotated[Path | None, _unset("FILE", "none: no MAUVE")] = None
    encoder: Annotated[str, arg(metavar="NAME|PATH")] = "minilm-l6"
    format: Literal["text", "markdown", "latex"] = "text"
    json: bool = False
    quiet: bool = False
