"""What can be said to `coopgen train`; imports nothing that takes long."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from coopgen_jax.cli.options import _unset

EXAMPLES = """\
examples:
  coopgen train discriminator --kind causal --data train.csv --validation dev.csv --out judge
  coopgen train discriminator --kind generative --data reviews.jsonl --label stars \\
      --rename 1=negative 5=positive --validation dev.jsonl --out gedi
  coopgen generate "This film was" --discriminator judge --target positive
  coopgen train lm --data corpus.txt --validation held-out.txt --out writer --budget-minutes 30
  coopgen generate "This film was" --model writer --method sample --discriminator none
"""


@dataclass(frozen=True)
class _Common:
    data: Annotated[str, arg(metavar="FILE|tfds:NAME/SPLIT")]
    """Texts to learn from: .csv, .tsv, .jsonl, .txt, or a dataset of TensorFlow Datasets."""
    validation: Annotated[str, arg(metavar="FILE|tfds:NAME/SPLIT")]
    """Other texts, to choose the best parameters by."""
    out: Annotated[Path, arg(metavar="FOLDER")]
    """Where everything goes; a run that stopped there goes on."""
    text: Annotated[str, arg(metavar="COLUMN")] = "text"
    """The column of the texts."""
    model: Annotated[str, arg(metavar="NAME|PATH")] = "smollm2-135m"
    """The language model to begin with: a name, a folder, a GGUF file, or a hub name."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of the network's products; what is learnt is always float32."""
    epochs: Annotated[float, arg(metavar="N")] = 1.0
    """Times that every text is read."""
    rows: Annotated[int, arg(metavar="B")] = 32
    """Texts of a step."""
    pieces: Annotated[int, arg(metavar="N")] = 1
    """Parts that they are read in, one after another, to save memory."""
    longest: Annotated[int, arg(metavar="T")] = 64
    """Tokens read of a text, the first ones."""
    rank: Annotated[int, arg(metavar="R")] = 8
    """Rank of LoRA's additions to a frozen network; 0 trains all of the network."""
    learning_rate: Annotated[float, arg(metavar="X")] = 5e-4
    """The highest learning rate; full training wants about a tenth."""
    validate_every: Annotated[int, arg(metavar="N")] = 100
    """Steps between validations, and between checkpoints."""
    validation_rows: Annotated[int, arg(metavar="N")] = 1000
    """Validation texts that are read, at most."""
    patience: Annotated[int | None, _unset("N", "none")] = None
    """Validations without a better loss after which training stops."""
    budget_minutes: Annotated[float | None, _unset("MIN", "none")] = None
    """Minutes after which this run saves and stops; start it again to go on."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Seed of everything random."""
    devices: Annotated[int, arg(metavar="N")] = 1
    """Devices among which the texts of a step are split."""
    mapper: Literal["shard_map", "pmap"] = "shard_map"
    """How a step is mapped over devices."""
    json: bool = False
    """Print the card as JSON instead of a report."""
    quiet: bool = False
    """Show no progress."""


@dataclass(frozen=True)
class DiscriminatorOptions(_Common):
    """Train a discriminator on labelled texts; `coopgen generate --discriminator` takes it."""

    kind: Literal["causal", "generative"] = "causal"
    """A class head on a network of its own, or a language model per class (GeDi's loss)."""
    label: Annotated[str, arg(metavar="COLUMN")] = "label"
    """The column of the classes."""
    classes: Annotated[tuple[str, ...], arg(metavar="[CLASS ...]")] = ()
    """The classes in their order; those of the data where none are given."""
    rename: Annotated[tuple[str, ...], arg(metavar="[OLD=NEW ...]")] = ()
    """What classes are to be called that the data call otherwise."""
    shortest: Annotated[int | None, _unset("N", "1; generative: 2")] = None
    """Every step reads its texts up to a random number of tokens, from this one on; 0 for whole."""
    balanced: bool = False
    """Draw every class as often as any other."""
    class_weight: Annotated[float, arg(metavar="X")] = 0.4
    """Generative: weight of judging against writing in the loss."""


@dataclass(frozen=True)
class LanguageModelOptions(_Common):
    """Train a language model by maximum likelihood; `coopgen generate --model` takes it."""

    label: Annotated[str | None, _unset("COLUMN", "none")] = None
    """A column of classes, whose names are put in front of the texts (CC-LM)."""


@dataclass(frozen=True)
class TrainOptions:
    """Train a discriminator or a language model."""

    what: DiscriminatorOptions | LanguageModelOptions
