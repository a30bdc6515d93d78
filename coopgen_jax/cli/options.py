"""What can be said on the command line; imports nothing that takes long."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, UseAppendAction, arg

EXAMPLES = """\
examples:
  coopgen generate "This film was" --target positive
  coopgen generate "This film was" --target negative --compare --trace search.html
  coopgen generate --prompts prompts.txt --target positive --samples 3 \\
      --preset puct --visit-temperature 0.5 --out texts.jsonl
  coopgen generate "This match was" --discriminator sentiment=positive \\
      --discriminator topic=sports:0.5
  # a function of your own: its file is executed
  coopgen generate "Tomorrow we expect" --discriminator python:weather.py:judge --target good
  echo "My neighbour is" | coopgen generate - --target positive --json
  coopgen generate --prompts prompts.txt --target positive --devices 4 --batch-size 32
  # on the first of two machines; on the second the same with --host 1
  coopgen generate --prompts prompts.txt --target positive \\
      --coordinator 10.0.0.1:8476 --hosts 2 --host 0
  coopgen generate "How was it?" --chat --method sample --top-p 0.9 --temperature 0.8
  coopgen generate "This film was" --method sample --discriminator none \\
      --expert tuned --anti-expert smollm2-135m --expert-weight 2
"""


# What --judge is where it is left out.
JUDGES = "sentiment-judge for the packaged heads of sentiment, none for others"


def _unset(metavar: str, default: str = "the preset's") -> Any:
    """Describes an option that takes its default from elsewhere."""
    return arg(metavar=metavar, help_behavior_hint=f"(default: {default})")


@dataclass(frozen=True)
class PromptOptions:
    """What is continued, and towards what.

    Attributes:
      texts: Texts to continue, each in quotes; - reads them from standard input, one a line.
      prompts: Read the prompts from a file: .txt with one a line, or .jsonl with a "prompt" or
        "text".
      target: The class that the texts are to have, such as positive.
      chat: Put each prompt to the model's assistant, in its chat template, instead of continuing
        it.
      control_strings: Read control strings of the model in a prompt, such as <|im_end|>, as control
        tokens in a --chat too, where they are text by default.
    """

    texts: Annotated[
        Positional[tuple[str, ...]], arg(metavar="[PROMPT ...]", help_behavior_hint="")
    ] = ()
    prompts: Annotated[Path | None, _unset("FILE", "none")] = None
    target: Annotated[str | None, _unset("CLASS", "none; the guided methods need one")] = None
    chat: bool = False
    control_strings: bool = False


@dataclass(frozen=True)
class ModelOptions:
    """What writes.

    Attributes:
      model: The language model: a name from `coopgen models`, a folder, a GGUF file, or a hub name.
      dtype: Number format of the language model; auto is bfloat16 where the machine multiplies it
        faster, and float32 elsewhere. Reports say which it was.
      reference: A search's reference: a language model with the same tokens that leaving costs
        --kl, such as the one that --model was tuned from, or --model itself where experts are
        combined with it (PPO-MCTS).
      expert: A model of texts as they are to be, with the same tokens: --expert-weight times the
        logits by which it differs from --anti-expert are added to the model's (DExperts, proxy
        tuning). Whatever the --method, truncation and candidates are of the sum. Alone it is mixed
        with the model.
      anti_expert: A model of texts as they are not to be; alone the model itself is the expert.
      expert_weight: Weight of the expert against the anti-expert.
      negative_prompt: What the model reads in place of the prompt to be guided away from
        (classifier-free guidance).
      guidance: How far away from it: 1 not at all, above 1 the prompt counts more.
      control_code: Stands in front of every prompt, a chat's template included, for the model alone
        (a class-conditional one); it is not reported, nor read by discriminators but in the model's
        own states. In it, and in the names of experts, {target} stands for the target.
    """

    model: Annotated[str, arg(metavar="NAME|PATH")] = "smollm2-135m"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    reference: Annotated[str | None, _unset("NAME|PATH", "none")] = None
    expert: Annotated[str | None, _unset("NAME|PATH", "none")] = None
    anti_expert: Annotated[str | None, _unset("NAME|PATH", "none")] = None
    expert_weight: Annotated[float | None, _unset("ALPHA", "1")] = None
    negative_prompt: Annotated[str | None, _unset("TEXT", "none")] = None
    guidance: Annotated[float | None, _unset("GAMMA", "1.5")] = None
    control_code: Annotated[str | None, _unset("TEXT", "none")] = None


@dataclass(frozen=True)
class GuideOptions:
    """What guides.

    Attributes:
      discriminator: What judges the texts: a name from `coopgen models`, the folder of a head or of
        a Hugging Face sequence classifier, such a classifier's hub name, python:FILE.py:FUNCTION
        (any function from a list of texts to probabilities or to rewards; the file is executed), or
        none. To write towards several classes at once, repeat it as
        NAME=CLASS or NAME=CLASS:WEIGHT, without --target: their probabilities are multiplied, each
        to the power of its weight (1 where none is given). A name may hold = and : too; the longest
        beginning that is the name of a discriminator is taken for it.
    """

    discriminator: Annotated[
        UseAppendAction[tuple[str, ...]],
        arg(
            metavar="NAME|FOLDER|python:FILE.py:FUNCTION[=CLASS[:WEIGHT]]",
            help_behavior_hint="(default: sentiment; may be repeated)",
        ),
    ] = ()


@dataclass(frozen=True)
class MarkOptions:
    """How texts are marked, so that `coopgen watermark detect` recognises them.

    Attributes:
      watermark: The key file of `coopgen watermark key`; its mark goes into every text, but not
        into those of --compare.
      watermark_message: What the mark says, such as the number of a user; a "message" in a line of
        --prompts goes before it.
    """

    watermark: Annotated[Path | None, _unset("KEYFILE", "none")] = None
    watermark_message: Annotated[int, arg(metavar="N")] = 0


@dataclass(frozen=True)
class WorkOptions:
    """How much is written, and where.

    Attributes:
      new_tokens: Most tokens to write per text.
      samples: Texts per prompt; of --method smc the particles, of stochastic-beam the beams.
      seed: Seed of everything random; the same seed gives the same texts.
      batch_size: Prompts worked on at once; memory grows with it.
      devices: Devices of this machine among which each batch is split; it does not change the
        texts.
      tensor: Devices that share the weights of a model too large for one; --devices times as many
        work.
      coordinator: Several machines: where the first can be reached; auto asks a TPU pod, Slurm or
        Open MPI. Run the same command on each: it writes a share of the prompts, and the first
        reports them all.
      hosts: Several machines: how many processes there are.
      host: Several machines: which process this one is; 0 is the first, where the coordinator runs.
    """

    new_tokens: Annotated[int, arg(metavar="T")] = 24
    samples: Annotated[int, arg(metavar="R")] = 1
    seed: Annotated[int, arg(metavar="N")] = 0
    batch_size: Annotated[int, arg(metavar="B")] = 8
    devices: Annotated[int, arg(metavar="N")] = 1
    tensor: Annotated[int, arg(metavar="N")] = 1
    coordinator: Annotated[str | None, _unset("HOST:PORT", "none, one process")] = None
    hosts: Annotated[int | None, _unset("N", "none")] = None
    host: Annotated[int | None, _unset("K", "none")] = None


@dataclass(frozen=True)
class OutputOptions:
    """What comes out.

    Attributes:
      compare: Write plain nucleus sampling (top-p 0.9, same seed) beside each text.
      json: Print one JSON document instead of a report.
      out: Write the JSON document to a file too; .jsonl has one text a line.
      trace: Write the search tree of every token: .json, or .html to look at.
      quiet: Show no progress.
    """

    compare: bool = False
    json: bool = False
    out: Annotated[Path | None, _unset("FILE", "none")] = None
    trace: Annotated[Path | None, _unset("FILE", "none")] = None
    quiet: bool = False


@dataclass(frozen=True)
class GenerateOptions(PromptOptions, ModelOptions, MarkOptions, WorkOptions, OutputOptions):
    """Continue prompts so that a discriminator finds the target class in them.

    Attributes:
      discriminator: what judges the texts, or "none"; several joined by commas.
      wishes: the classes that several discriminators are to find, none with one discriminator; see
        `guides.Wish`.
      method: the decoder, by its name.
      preset: the settings of a search that the others change.
      settings: the method's settings that are given, by flat name.
      words: options in words that are given; see `token_options.WORDS`.
    """

    discriminator: str = "sentiment"
    wishes: tuple[Any, ...] = ()
    method: str = "mcts"
    preset: str = "default"
    settings: Mapping[str, Any] = field(default_factory=dict)
    words: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelsOptions:
    """List what can be had by name: language models, encoders, discriminator heads.

    Attributes:
      fetch: Fetch a model now, so that it is there when it is needed.
      json: Print JSON instead of a table.
    """

    fetch: Annotated[str | None, _unset("NAME", "none")] = None
    json: bool = False


@dataclass(frozen=True)
class PlanOptions:
    """Predict what a guided decode would take on this machine: bytes, and seconds per token.

    Attributes:
      model: The language model, as for generate; or gpt2-small, gpt2-large, llama-1b: shapes alone.
      guide: A head on the model's own states, or a network of the model's shape beside it.
      dtype: Number format of the weights; auto is bfloat16 where the machine multiplies it faster,
        and float32 elsewhere. Of a machine that --bandwidth and --rate describe it is bfloat16.
      batch_size: Prompts worked on at once.
      samples: Texts per prompt.
      prompt_length: Tokens of every prompt, padding included.
      new_tokens: Tokens to write per text.
      bandwidth: Read bandwidth of another machine, in gigabytes per second; with --rate.
      rate: Matrix rate of another machine, in teraflops per second; with --bandwidth.
      json: Print JSON instead of a table.
    """

    model: Annotated[str, arg(metavar="NAME|PATH")] = "smollm2-135m"
    guide: Literal["trunk", "causal"] = "trunk"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    batch_size: Annotated[int, arg(metavar="B")] = 8
    samples: Annotated[int, arg(metavar="R")] = 1
    prompt_length: Annotated[int, arg(metavar="P")] = 16
    new_tokens: Annotated[int, arg(metavar="T")] = 24
    bandwidth: Annotated[float | None, _unset("GB/S", "measured here")] = None
    rate: Annotated[float | None, _unset("TFLOP/S", "measured here")] = None
    json: bool = False


@dataclass(frozen=True)
class PlannedOptions(PlanOptions):
    """What a decode would take, with its search.

    Attributes:
      preset: the settings of the search that the others change.
      settings: the search's settings that are given, by flat name.
    """

    preset: str = "default"
    settings: Mapping[str, Any] = field(default_factory=dict)
