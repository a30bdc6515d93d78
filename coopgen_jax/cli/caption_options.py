"""The options of `coopgen caption`; imports nothing that takes long."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from coopgen_jax.cli.options import _unset

# The method where none is named, without and with a CLIP.
METHOD, GUIDED_METHOD = "beam", "mcts"
# How many others a picture competes with where nothing is said.
OTHERS = 100
# How a file of captions ends.
WRITTEN = (".jsonl", ".csv", ".json")

EXAMPLES = """\
examples:
  coopgen caption photo.jpg --model captioner
  coopgen caption photos/ --model captioner --out captions.jsonl
  # what tells a photo from others, with the folder of `coopgen train clip`
  coopgen caption photo.jpg --among photos/ --model captioner --clip clip
  coopgen caption photos/ --model captioner --clip clip --method rerank --of 16
"""


@dataclass(frozen=True)
class PhotoOptions:
    """What is captioned, by what, and what guides.

    Attributes:
      photos: Files of pictures, or folders of them.
      model: The captioner: a folder that `coopgen train captioner` wrote, or the folder or the hub
        name of a vision-language model such as SmolVLM.
      question: What a vision-language model is asked of every picture.
      clip: Write what tells an image from others: the folder of `coopgen train clip`, or that of a
        CLIP or a SigLIP, which says how likely a caption makes its image among others.
      among: The others: files of pictures, or folders of them.
      others: How many of the others a picture competes with: those most like it.
      dtype: Number format of the captioner; auto is bfloat16 where the machine multiplies it
        faster, and float32 elsewhere.
      states: Where what the backbones make of the images is kept.
    """

    photos: Annotated[
        Positional[tuple[str, ...]], arg(metavar="[PHOTO ...]", help_behavior_hint="")
    ] = ()
    model: Annotated[str | None, arg(metavar="FOLDER|NAME", help_behavior_hint="(required)")] = None
    question: Annotated[str | None, _unset("TEXT", "to describe it in one short sentence")] = None
    clip: Annotated[str | None, _unset("FOLDER|NAME", "none: nothing guides")] = None
    among: Annotated[tuple[str, ...], _unset("[PHOTO ...]", "the other pictures")] = ()
    others: Annotated[int | None, _unset("K", f"{OTHERS} with --clip")] = None
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    states: Annotated[Path | None, _unset("FOLDER", "the cache of models")] = None


@dataclass(frozen=True)
class CaptionWorkOptions:
    """How much is written, and where it goes.

    Attributes:
      new_tokens: Most tokens of a caption.
      samples: Captions of an image.
      seed: Seed of everything random; the same seed gives the same captions.
      batch_size: Images worked on at once.
      out: Write the captions to a file too: .jsonl or .csv with one a line, or .json.
      json: Print one JSON document instead of a report.
      quiet: Show no progress.
    """

    new_tokens: Annotated[int, arg(metavar="T")] = 32
    samples: Annotated[int, arg(metavar="R")] = 1
    seed: Annotated[int, arg(metavar="N")] = 0
    batch_size: Annotated[int, arg(metavar="B")] = 16
    out: Annotated[Path | None, _unset("FILE", "none")] = None
    json: bool = False
    quiet: bool = False


@dataclass(frozen=True)
class CaptionOptions(PhotoOptions, CaptionWorkOptions):
    """Write captions of pictures: by beam search, or by a tree search where --clip guides it.

    Attributes:
      method: the decoder, by its name.
      preset: the settings of a search that the others change.
      settings: the method's settings that are given, by flat name.
      words: options in words that are given; see `token_options.WORDS`.
    """

    method: str = METHOD
    preset: str = "default"
    settings: Mapping[str, Any] = field(default_factory=dict)
    words: Mapping[str, Any] = field(default_factory=dict)
