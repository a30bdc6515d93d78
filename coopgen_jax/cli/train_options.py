"""The options of `coopgen train`; imports nothing that takes long."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from coopgen_jax.cli.options import _unset

EXAMPLES = """\
examples:
  coopgen train discriminator --data train.csv --validation dev.csv --out judge
  coopgen train discriminator --kind causal --data train.csv --validation dev.csv --out reader
  coopgen train discriminator --kind generative --data reviews.jsonl --label stars \\
      --rename 1=negative 5=positive --validation dev.jsonl --out gedi
  coopgen generate "This film was" --discriminator judge --target positive
  coopgen train lm --data corpus.txt --validation held-out.txt --out writer --budget-minutes 30
  coopgen generate "This film was" --model writer --method sample --discriminator none
  coopgen train lm --from-scratch --vocabulary 4000 --data corpus.txt --validation dev.txt \\
      --out small
  # a generator together with its discriminator: Generative Cooperative Networks
  coopgen train gcn --model small --rank 0 --data corpus.txt --validation dev.txt --out better
  coopgen train gcn --data pairs.jsonl --validation dev.jsonl --source context --text question \\
      --proposal mcts:preset=values --out asker
"""


@dataclass(frozen=True)
class _Base:
    data: Annotated[str, arg(metavar="FILE|tfds:NAME/SPLIT")]
    """Texts to train on: .csv, .tsv, .jsonl, .txt, or a dataset of TensorFlow Datasets."""
    validation: Annotated[str, arg(metavar="FILE|tfds:NAME/SPLIT")]
    """Other texts, to choose the best parameters by; gcn, which keeps the last ones, is measured on
    them."""
    out: Annotated[Path, arg(metavar="FOLDER")]
    """Where everything goes; a run that stopped there goes on."""
    text: Annotated[str, arg(metavar="COLUMN")] = "text"
    """The column of the texts."""
    model: Annotated[str, arg(metavar="NAME|PATH")] = "smollm2-135m"
    """The language model to begin with: a name, a folder, a GGUF file, or a hub name."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of the network's products; trained parameters are always float32."""
    micro_batches: Annotated[int, arg(metavar="N")] = 1
    """Equal parts that the texts of a step are read in, one after another, to save memory
    (gradient accumulation)."""
    rank: Annotated[int | None, _unset("R", "8")] = None
    """Rank of LoRA's additions to a frozen network; 0 trains all of the network."""
    learning_rate: Annotated[float | None, _unset("X", "5e-4; full: 5e-5")] = None
    """The highest learning rate; a pretrained network that is trained in full wants a tenth."""
    validate_every: Annotated[int, arg(metavar="N")] = 100
    """Steps between validations, and between checkpoints."""
    validation_rows: Annotated[int, arg(metavar="N")] = 1000
    """Validation texts that are read, at most."""
    budget_minutes: Annotated[float | None, _unset("MIN", "none")] = None
    """Minutes after which this run saves and stops; start it again to go on."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Seed of everything random."""
    devices: Annotated[int, arg(metavar="N")] = 1
    """Devices among which the texts of a step are split."""
    coordinator: Annotated[str | None, _unset("HOST:PORT", "none, one process")] = None
    """Several machines: where the first can be reached; auto asks a TPU pod, Slurm or Open MPI. Run
    the same command on each, with --out in a folder that all of them see: their devices train as
    one, for every training but that of shared-trunk and bidirectional discriminators. Ctrl-C or the
    loss of a machine ends all of them behind their last checkpoint; start them again to go on."""
    hosts: Annotated[int | None, _unset("N", "none")] = None
    """Several machines: how many processes there are."""
    host: Annotated[int | None, _unset("K", "none")] = None
    """Several machines: which process this one is; 0 is the first, which reports."""
    mapper: Literal["shard_map", "pmap"] = "shard_map"
    """How a step is mapped over devices."""
    shard_optimiser: bool = False
    """Every device keeps and updates its share of the optimiser's state only (ZeRO): of n devices
    each has an n-th of AdamW's state, two numbers for every trainable parameter. The parameters
    stay complete on every device, and the result is the same."""
    json: bool = False
    """Print the card as JSON instead of a report."""
    quiet: bool = False
    """Show no progress."""


@dataclass(frozen=True)
class _Common(_Base):
    epochs: Annotated[float | None, _unset("N", "1; shared-trunk: 12")] = None
    """Times that every text is trained on."""
    rows: Annotated[int, arg(metavar="B")] = 32
    """Texts of a step."""
    longest: Annotated[int, arg(metavar="T")] = 64
    """Tokens read of a text, the first ones."""
    patience: Annotated[int | None, _unset("N", "none")] = None
    """Validations without a better loss after which training stops."""


@dataclass(frozen=True)
class DiscriminatorOptions(_Common):
    """Train a discriminator on labelled texts; `coopgen generate --discriminator` takes it."""

    kind: Literal["shared-trunk", "causal", "bidirectional", "generative"] = "shared-trunk"
    """Small layers on the states of the frozen language model; a class head on a copy of it
    that is trained; an encoder that reads every text anew; or a language model per class (GeDi's
    loss)."""
    label: Annotated[str, arg(metavar="COLUMN")] = "label"
    """The column of the classes."""
    classes: Annotated[tuple[str, ...], arg(metavar="[CLASS ...]")] = ()
    """The classes in their order; those of the data where none are given."""
    rename: Annotated[tuple[str, ...], arg(metavar="[OLD=NEW ...]")] = ()
    """New names for classes of the data."""
    shortest: Annotated[int | None, _unset("N", "1; generative: 2")] = None
    """Every step cuts its texts to prefixes of a random length, this one or longer; 0 for full
    texts."""
    balanced: bool = False
    """Draw every class as often as any other."""
    class_weight: Annotated[float, arg(metavar="X")] = 0.4
    """Generative: weight of the class loss against the language loss."""
    encoder: Annotated[str, arg(metavar="NAME|PATH")] = "minilm-l6"
    """Bidirectional: the encoder to begin with."""
    frozen: bool = False
    """Bidirectional: freeze the encoder and train the head alone."""
    taps: Annotated[tuple[int, ...], arg(metavar="[LAYER ...]")] = ()
    """Shared-trunk: the layers whose states are read, 0 for the embedding; four of them, spread
    evenly, where none are given."""
    layers: Annotated[int, arg(metavar="N")] = 1
    """Shared-trunk: small causal layers on these states; 0 for their last and their mean alone."""
    width: Annotated[int, arg(metavar="E")] = 128
    """Shared-trunk: width of the small layers, a multiple of 32."""
    look_ahead: Annotated[int, arg(metavar="K")] = 0
    """Shared-trunk: width of the keys by which tokens are scored before they are read; 0 for no
    look-ahead head. It is for decoders that score candidates (`evaluate_children`)."""
    hidden: Annotated[tuple[int, ...], arg(metavar="[N ...]")] = ()
    """Widths of the hidden layers of the class head, none for a linear one."""
    dropout: Annotated[float | None, _unset("X", "0.1; shared-trunk: 0.4")] = None
    """Share of a head's inputs that a step leaves out."""
    states: Annotated[Path | None, _unset("FOLDER", "none")] = None
    """Shared-trunk: where the states are kept for another training on the same texts."""


@dataclass(frozen=True)
class LanguageModelOptions(_Common):
    """Train a language model by maximum likelihood; `coopgen generate --model` takes it."""

    label: Annotated[str | None, _unset("COLUMN", "none")] = None
    """A column of classes, whose names are put in front of the texts (CC-LM)."""
    pack: bool = False
    """Read texts one behind the other in windows of --longest tokens, without padding."""
    from_scratch: bool = False
    """Begin with random weights instead of the model's; its tokenizer is taken."""
    vocabulary: Annotated[int | None, _unset("N", "the model's tokenizer")] = None
    """From scratch: train a tokenizer of so many tokens on the texts too."""
    layers: Annotated[int, arg(metavar="N")] = 6
    """From scratch: layers of the network."""
    width: Annotated[int, arg(metavar="E")] = 256
    """From scratch: width of the network, a multiple of 64."""
    context: Annotated[int, arg(metavar="T")] = 512
    """From scratch: the longest text that the network can read."""


@dataclass(frozen=True)
class GcnOptions(_Base):
    """Train a generator with its discriminator (Generative Cooperative Networks, SelfGAN, GANs).

    The discriminator tells its texts from human ones. `coopgen generate --model` takes the folder,
    and `--discriminator` the folder judge in it, with the target human.
    """

    objective: Literal["gcn", "selfgan", "gan", "gdc", "mle"] = "gcn"
    """How texts are weighed: gcn, importance weights towards p D; selfgan, all alike (imitation of
    a cooperative decoder); gan, the reward D; gdc, importance weights towards the first p times D;
    mle, no sampled texts but human ones (maximum likelihood)."""
    proposal: Annotated[
        str | None,
        _unset(
            "METHOD",
            "sample:top_p=0.9:full_share=0.1; selfgan: mcts:preset=puct:simulations=16; "
            "gan: generator",
        ),
    ] = None
    """What samples the texts: generator for the generator by itself, or a --method with options of
    its own as name:key=value:key=value. For gcn it has to know its probabilities, such as
    mcts:preset=values, or weigh its texts, as smc does."""
    source: Annotated[str | None, _unset("COLUMN", "none: texts without a source")] = None
    """The column of sources that texts are written for, beside --text."""
    template: Annotated[str, arg(metavar="TEXT")] = "{}\\n"
    """What a source is put into, at {}; \\n is a line break. The text follows it at once."""
    source_tokens: Annotated[int, arg(metavar="P")] = 64
    """Tokens of a source at most, the template included."""
    new_tokens: Annotated[int, arg(metavar="T")] = 32
    """Tokens of a text at most, human and sampled ones."""
    rounds: Annotated[int, arg(metavar="N")] = 100
    """Rounds: sample, train the discriminator, weigh, train the generator. A finished training goes
    on where more are asked for."""
    sources: Annotated[int, arg(metavar="B")] = 8
    """Sources of a round."""
    samples: Annotated[int, arg(metavar="R")] = 4
    """Texts sampled for each source, which are compared with each other; without sources all texts
    of a round are."""
    generator_steps: Annotated[int, arg(metavar="N")] = 1
    """Steps of the generator on a round's texts."""
    discriminator_steps: Annotated[int, arg(metavar="N")] = 4
    """Steps of the discriminator in a round."""
    first_discriminator_steps: Annotated[int, arg(metavar="N")] = 50
    """Its steps in the first round, where that is more: those in front are on fresh texts."""
    discriminator_rows: Annotated[int, arg(metavar="N")] = 32
    """Texts of such a step, half of them human ones for the same sources."""
    replay_rows: Annotated[int, arg(metavar="N")] = 512
    """Texts of earlier rounds that are remembered."""
    replay_share: Annotated[float, arg(metavar="X")] = 0.25
    """Their share of such a step."""
    negatives: Literal["proposal", "generator"] = "generator"
    """The texts that the discriminator is trained on beside human ones: the generator's own, which
    are sampled for it, or the proposal's, which saves one sampling pass, but then the fixed point
    of p is not the human distribution."""
    discriminator_reads: Literal["auto", "prefixes", "texts"] = "auto"
    """What the discriminator is trained on: every prefix of a text, which a decoder needs that asks
    it on the way, or full texts; auto for what the proposal needs. A discriminator trained on full
    texts is no guide for a search, which asks for prefixes."""
    discriminator_model: Annotated[str | None, _unset("NAME|PATH", "--model")] = None
    """The language model that the discriminator begins as, with the same tokens. If the generator
    was already fine-tuned on these texts it may have memorised them, and a discriminator that
    begins as it could recognise human texts by that alone: in that case give the generator's
    parent."""
    discriminator_dropout: Annotated[float, arg(metavar="X")] = 0.1
    """Share of the inputs of the discriminator's head that a step leaves out."""
    clip: Annotated[float | None, _unset("X", "none")] = None
    """Cut weights at so many times their mean."""
    kl: Annotated[float, arg(metavar="X")] = 0.0
    """Penalty for diverging from the first generator, per nat of KL divergence."""
    baseline: Literal["none", "mean", "leave-one-out", "greedy"] = "none"
    """gan: what is taken off a reward."""
    scheduler: Literal["none", "manual", "z"] = "none"
    """gan: rewards as they are, halved every --half-life rounds, or divided by their sum."""
    half_life: Annotated[float, arg(metavar="N")] = 100.0
    """Rounds in which the manual scheduler halves the rewards."""
    learning_rate: Annotated[float | None, _unset("X", "1e-4; full: 1e-5")] = None
    """The generator's learning rate."""
    validate_every: Annotated[int, arg(metavar="N")] = 10
    """Rounds between examinations (likelihood, BLEU, accuracy, ...), and between checkpoints."""
    validation_rows: Annotated[int, arg(metavar="N")] = 256
    """Validation texts that are read, at most."""
    optimiser: Literal["adamw", "sgd"] = "adamw"
    """The generator's. AdamW cancels the overall size of the weights; plain gradient descent (sgd)
    shows it."""
    discriminator_learning_rate: Annotated[float | None, _unset("X", "5e-4; full: 5e-5")] = None
    """The discriminator's learning rate."""
    warmup: Annotated[int, arg(metavar="N")] = 0
    """Steps in which either learning rate rises."""
    gradient_clip: Annotated[float, arg(metavar="X")] = 1.0
    """Largest norm of a gradient; 0 for no cut."""
    sample_texts: Annotated[int, arg(metavar="N")] = 64
    """Texts sampled and measured between rounds, every --validate-every of them."""


@dataclass(frozen=True)
class TrainOptions:
    """Train a discriminator, a language model, or both together."""

    what: DiscriminatorOptions | LanguageModelOptions | GcnOptions
