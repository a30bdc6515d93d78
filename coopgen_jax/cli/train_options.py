"""The options of `coopgen train`; imports nothing that takes long."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from coopgen_jax.cli.captioner_options import CaptionerOptions
from coopgen_jax.cli.clip_options import ClipOptions
from coopgen_jax.cli.on_policy_options import OnPolicyOptions
from coopgen_jax.cli.options import _unset

EXAMPLES = """\
examples:
  coopgen train discriminator --data train.csv --validation dev.csv --out judge
  coopgen train discriminator --kind causal --data train.csv --validation dev.csv --out reader
  coopgen train discriminator --kind generative --data reviews.jsonl --label stars \\
      --rename 1=negative 5=positive --validation dev.jsonl --out gedi
  coopgen generate "This film was" --discriminator judge --target positive
  # a guide that knows when a text says nothing, and one that learns from another
  coopgen train discriminator --data train.csv --validation dev.csv --neutral news.csv --out calm
  coopgen train discriminator --teacher judge --data texts.txt --validation more.txt --out pupil
  # a guide that is trained on what a search with it visits
  coopgen train discriminator --data train.csv --validation dev.csv --out guide --teacher judge \\
      --on-policy smollm2-135m --on-policy-prompts prompts.txt
  # a look-ahead head that makes fudge write as a search would
  coopgen train discriminator --data train.csv --validation dev.csv --look-ahead 64 \\
      --from-search prompts.txt --guide sentiment --out distilled
  coopgen train lm --data corpus.txt --validation held-out.txt --out writer --budget-minutes 30
  coopgen generate "This film was" --model writer --method sample --discriminator none
  coopgen train lm --from-scratch --vocabulary 4000 --data corpus.txt --validation dev.txt \\
      --out small
  # a generator together with its discriminator: Generative Cooperative Networks
  coopgen train gcn --model small --rank 0 --data corpus.txt --validation dev.txt --out better
  coopgen train gcn --data pairs.jsonl --validation dev.jsonl --source context --text question \\
      --proposal mcts:preset=values --out asker
  # how well images and texts belong together
  coopgen train clip --data flickr8k --out clip
  # a captioner
  coopgen train captioner --data flickr8k --out captioner
"""


# What only some kinds of discriminator take, by option: the kinds.
KINDS = {
    "encoder": ("bidirectional",),
    "frozen": ("bidirectional",),
    "taps": ("shared-trunk",),
    "layers": ("shared-trunk",),
    "width": ("shared-trunk",),
    "look_ahead": ("shared-trunk",),
    "states": ("shared-trunk",),
    "from_search": ("shared-trunk",),
    "guide": ("shared-trunk",),
    "class_weight": ("generative",),
    "rank": ("causal", "generative", "bidirectional"),
    "shortest": ("causal", "generative", "bidirectional"),
    "hidden": ("shared-trunk", "causal", "bidirectional"),
    "dropout": ("shared-trunk", "causal", "bidirectional"),
    "neutral": ("shared-trunk", "causal", "bidirectional"),
    "teacher": ("shared-trunk", "causal", "bidirectional"),
    **{own.name: ("shared-trunk", "causal", "bidirectional") for own in fields(OnPolicyOptions)},
}


@dataclass(frozen=True)
class _Base:
    """Options that several trainings share.

    Attributes:
      data: Texts to train on: .csv, .tsv, .jsonl, .txt, or a dataset of TensorFlow Datasets.
      validation: Other texts, to choose the best parameters by; gcn, which keeps the last ones, is
        measured on them.
      out: Where everything goes; a run that stopped there goes on.
      text: The column of the texts.
      model: The language model to begin with: a name, a folder, a GGUF file, or a hub name.
      dtype: Number format of the network's products, auto for bfloat16 where the machine multiplies
        it faster; trained parameters are always float32.
      micro_batches: Equal parts that the texts of a step are read in, one after another, to save
        memory (gradient accumulation).
      rank: Rank of LoRA's additions to a frozen network; 0 trains all of the network.
      learning_rate: The highest learning rate; a pretrained network that is trained in full wants a
        tenth.
      validate_every: Steps between validations, and between checkpoints.
      validation_rows: Validation texts that are read, at most.
      budget_minutes: Minutes after which this run saves and stops; start it again to go on.
      seed: Seed of everything random.
      devices: Devices among which the texts of a step are split.
      coordinator: Several machines: where the first can be reached; auto asks a TPU pod, Slurm or
        Open MPI. Run the same command on each, with --out in a folder that all of them see: their
        devices train as one, for every training but that of shared-trunk and bidirectional
        discriminators. Ctrl-C or the loss of a machine ends all of them behind their last
        checkpoint; start them again to go on.
      hosts: Several machines: how many processes there are.
      host: Several machines: which process this one is; 0 is the first, which reports.
      mapper: How a step is mapped over devices.
      shard_optimiser: Every device keeps and updates its share of the optimiser's state only
        (ZeRO): of n devices each has an n-th of AdamW's state, two numbers for every trainable
        parameter. The parameters stay complete on every device, and the result is the same.
      shard_parameters: Every device keeps its share of the trainable parameters too (ZeRO-3): they
        are gathered in front of every step, in the number format of the network's products, and
        given up behind it. It saves memory of --rank 0, not of LoRA, whose additions are small. It
        contains --shard-optimiser. The result is the same, except that bfloat16 gradients are
        rounded before they are added up.
      remat: Which results of a layer are computed again for the gradient instead of kept, to save
        memory and, on an accelerator, time (rematerialisation): none keeps everything, dots keeps
        the products with weights, all keeps a layer's input alone and runs every layer twice; auto
        is dots on an accelerator and none on a processor. The trained parameters are the same.
      json: Print the card as JSON instead of a report.
      quiet: Show no progress.
    """

    data: Annotated[str, arg(metavar="FILE|tfds:NAME/SPLIT")]
    validation: Annotated[str, arg(metavar="FILE|tfds:NAME/SPLIT")]
    out: Annotated[Path, arg(metavar="FOLDER")]
    text: Annotated[str, arg(metavar="COLUMN")] = "text"
    model: Annotated[str, arg(metavar="NAME|PATH")] = "smollm2-135m"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    micro_batches: Annotated[int, arg(metavar="N")] = 1
    rank: Annotated[int | None, _unset("R", "8")] = None
    learning_rate: Annotated[float | None, _unset("X", "5e-4; full: 5e-5")] = None
    validate_every: Annotated[int, arg(metavar="N")] = 100
    validation_rows: Annotated[int, arg(metavar="N")] = 1000
    budget_minutes: Annotated[float | None, _unset("MIN", "none")] = None
    seed: Annotated[int, arg(metavar="N")] = 0
    devices: Annotated[int, arg(metavar="N")] = 1
    coordinator: Annotated[str | None, _unset("HOST:PORT", "none, one process")] = None
    hosts: Annotated[int | None, _unset("N", "none")] = None
    host: Annotated[int | None, _unset("K", "none")] = None
    mapper: Literal["shard_map", "pmap"] = "shard_map"
    shard_optimiser: bool = False
    shard_parameters: bool = False
    remat: Literal["auto", "none", "dots", "all"] = "auto"
    json: bool = False
    quiet: bool = False


@dataclass(frozen=True)
class _Common(_Base):
    """Options that several trainings share.

    Attributes:
      epochs: Times that every text is trained on.
      rows: Texts of a step.
      longest: Tokens read of a text, the first ones.
      patience: Validations without a better loss after which training stops.
    """

    epochs: Annotated[float | None, _unset("N", "1; shared-trunk: 12")] = None
    rows: Annotated[int, arg(metavar="B")] = 32
    longest: Annotated[int, arg(metavar="T")] = 64
    patience: Annotated[int | None, _unset("N", "none")] = None


@dataclass(frozen=True)
class DiscriminatorOptions(OnPolicyOptions, _Common):
    """Train a discriminator on labelled texts; `coopgen generate --discriminator` takes it.

    Attributes:
      kind: Small layers on the states of the frozen language model; a class head on a copy of it
        that is trained; an encoder that reads every text anew; or a language model per class
        (GeDi's loss).
      label: The column of the classes.
      classes: The classes in their order; those of the data where none are given.
      rename: New names for classes of the data.
      neutral: Files of texts that have none of the classes more than others (news, code, lists,
        other languages). They are learned with the prior of the classes as target, so that the
        discriminator is not sure where a text says nothing.
      teacher: What labels the texts instead of a column: any discriminator or judge. The trained
        one learns its probabilities for a whole text from every prefix of it (distillation). With
        --on-policy it labels what is written.
      shortest: Every step cuts its texts to prefixes of a random length, this one or longer; 0 for
        full texts.
      balanced: Draw every class as often as any other.
      class_weight: Generative: weight of the class loss against the language loss.
      encoder: Bidirectional: the encoder to begin with.
      frozen: Bidirectional: freeze the encoder and train the head alone.
      taps: Shared-trunk: the layers whose states are read, 0 for the embedding; four of them,
        spread evenly, where none are given.
      layers: Shared-trunk: small causal layers on these states; 0 for their last and their mean
        alone.
      width: Shared-trunk: width of the small layers, a multiple of 32.
      look_ahead: Shared-trunk: width of the keys by which tokens are scored before they are read; 0
        for no look-ahead head. It is for decoders that score candidates (`evaluate_children`).
      hidden: Widths of the hidden layers of the class head, none for a linear one.
      dropout: Share of a head's inputs that a step leaves out.
      states: Shared-trunk: where the states are kept for another training on the same texts.
      from_search: Shared-trunk: prompts that are searched from (.txt or .jsonl). The look-ahead
        head learns from what the search finds out about next tokens, too, so that fudge with
        --look-ahead comes near the search at the price of sampling.
      guide: From-search: what guides the search. One of small layers on this model's states is kept
        as it is, and its look-ahead head learns from the searches alone; where it is of another
        kind, or none is named, a new head learns from the labels too.
    """

    kind: Literal["shared-trunk", "causal", "bidirectional", "generative"] = "shared-trunk"
    label: Annotated[str, arg(metavar="COLUMN")] = "label"
    classes: Annotated[tuple[str, ...], arg(metavar="[CLASS ...]")] = ()
    rename: Annotated[tuple[str, ...], arg(metavar="[OLD=NEW ...]")] = ()
    neutral: Annotated[tuple[str, ...], arg(metavar="[FILE ...]")] = ()
    teacher: Annotated[
        str | None, _unset("NAME|FOLDER|python:FILE.py:FUNCTION", "none: labels are read")
    ] = None
    shortest: Annotated[int | None, _unset("N", "1; generative: 2")] = None
    balanced: bool = False
    class_weight: Annotated[float, arg(metavar="X")] = 0.4
    encoder: Annotated[str, arg(metavar="NAME|PATH")] = "minilm-l6"
    frozen: bool = False
    taps: Annotated[tuple[int, ...], arg(metavar="[LAYER ...]")] = ()
    layers: Annotated[int, arg(metavar="N")] = 1
    width: Annotated[int, arg(metavar="E")] = 128
    look_ahead: Annotated[int, arg(metavar="K")] = 0
    hidden: Annotated[tuple[int, ...], arg(metavar="[N ...]")] = ()
    dropout: Annotated[float | None, _unset("X", "0.1; shared-trunk: 0.4")] = None
    states: Annotated[Path | None, _unset("FOLDER", "none")] = None
    from_search: Annotated[Path | None, _unset("FILE", "none")] = None
    guide: Annotated[str | None, _unset("NAME|FOLDER", "trained on the labels")] = None


@dataclass(frozen=True)
class LanguageModelOptions(_Common):
    """Train a language model by maximum likelihood; `coopgen generate --model` takes it.

    Attributes:
      label: A column of classes, whose names are put in front of the texts (CC-LM).
      pack: Read texts one behind the other in windows of --longest tokens, without padding.
      from_scratch: Begin with random weights instead of the model's; its tokenizer is taken.
      vocabulary: From scratch: train a tokenizer of so many tokens on the texts too.
      layers: From scratch: layers of the network.
      width: From scratch: width of the network, a multiple of 64.
      context: From scratch: the longest text that the network can read.
    """

    label: Annotated[str | None, _unset("COLUMN", "none")] = None
    pack: bool = False
    from_scratch: bool = False
    vocabulary: Annotated[int | None, _unset("N", "the model's tokenizer")] = None
    layers: Annotated[int, arg(metavar="N")] = 6
    width: Annotated[int, arg(metavar="E")] = 256
    context: Annotated[int, arg(metavar="T")] = 512


@dataclass(frozen=True)
class GcnOptions(_Base):
    r"""Train a generator with its discriminator (Generative Cooperative Networks, SelfGAN, GANs).

    The discriminator tells its texts from human ones. `coopgen generate --model` takes the folder,
    and `--discriminator` the folder judge in it, with the target human.

    Attributes:
      objective: How texts are weighed: gcn, importance weights towards p D; selfgan, all alike
        (imitation of a cooperative decoder); gan, the reward D; gdc, importance weights towards the
        first p times D; mle, no sampled texts but human ones (maximum likelihood).
      dtype: Number format of the networks' products, auto for bfloat16 where the machine multiplies
        it faster; trained parameters are always float32, and the weights of texts are differences
        of likelihoods, which bfloat16 blurs.
      proposal: What samples the texts: generator for the generator by itself, or a --method with
        options of its own as name:key=value:key=value. For gcn it has to know its probabilities,
        such as mcts:preset=values, or weigh its texts, as smc does.
      source: The column of sources that texts are written for, beside --text.
      template: What a source is put into, at {}; \\n is a line break. The text follows it at once.
      source_tokens: Tokens of a source at most, the template included.
      new_tokens: Tokens of a text at most, human and sampled ones.
      rounds: Rounds: sample, train the discriminator, weigh, train the generator. A finished
        training goes on where more are asked for.
      sources: Sources of a round.
      samples: Texts sampled for each source, which are compared with each other; without sources
        all texts of a round are.
      generator_steps: Steps of the generator on a round's texts.
      discriminator_steps: Steps of the discriminator in a round.
      first_discriminator_steps: Its steps in the first round, where that is more: those in front
        are on fresh texts.
      discriminator_rows: Texts of such a step, half of them human ones for the same sources.
      replay_rows: Texts of earlier rounds that are remembered.
      replay_share: Their share of such a step.
      negatives: The texts that the discriminator is trained on beside human ones: the generator's
        own, which are sampled for it, or the proposal's, which saves one sampling pass, but then
        the fixed point of p is not the human distribution.
      discriminator_reads: What the discriminator is trained on: every prefix of a text, which a
        decoder needs that asks it on the way, or full texts; auto for what the proposal needs. A
        discriminator trained on full texts is no guide for a search, which asks for prefixes.
      discriminator_model: The language model that the discriminator begins as, with the same
        tokens. If the generator was already fine-tuned on these texts it may have memorised them,
        and a discriminator that begins as it could recognise human texts by that alone: in that
        case give the generator's parent.
      discriminator_dropout: Share of the inputs of the discriminator's head that a step leaves out.
      clip: Cut weights at so many times their mean.
      kl: Penalty for diverging from the first generator, per nat of KL divergence.
      baseline: gan: what is taken off a reward.
      scheduler: gan: rewards as they are, halved every --half-life rounds, or divided by their sum.
      half_life: Rounds in which the manual scheduler halves the rewards.
      learning_rate: The generator's learning rate.
      validate_every: Rounds between examinations (likelihood, BLEU, accuracy, ...), and between
        checkpoints.
      validation_rows: Validation texts that are read, at most.
      optimiser: The generator's. AdamW cancels the overall size of the weights; plain gradient
        descent (sgd) shows it.
      discriminator_learning_rate: The discriminator's learning rate.
      warmup: Steps in which either learning rate rises.
      gradient_clip: Largest norm of a gradient; 0 for no cut.
      sample_texts: Texts sampled and measured between rounds, every --validate-every of them.
    """

    dtype: Literal["auto", "float32", "bfloat16"] = "float32"
    objective: Literal["gcn", "selfgan", "gan", "gdc", "mle"] = "gcn"
    proposal: Annotated[
        str | None,
        _unset(
            "METHOD",
            "sample:top_p=0.9:mix_base=0.1; selfgan: mcts:preset=puct:simulations=16; "
            "gan: generator",
        ),
    ] = None
    source: Annotated[str | None, _unset("COLUMN", "none: texts without a source")] = None
    template: Annotated[str, arg(metavar="TEXT")] = "{}\\n"
    source_tokens: Annotated[int, arg(metavar="P")] = 64
    new_tokens: Annotated[int, arg(metavar="T")] = 32
    rounds: Annotated[int, arg(metavar="N")] = 100
    sources: Annotated[int, arg(metavar="B")] = 8
    samples: Annotated[int, arg(metavar="R")] = 4
    generator_steps: Annotated[int, arg(metavar="N")] = 1
    discriminator_steps: Annotated[int, arg(metavar="N")] = 4
    first_discriminator_steps: Annotated[int, arg(metavar="N")] = 50
    discriminator_rows: Annotated[int, arg(metavar="N")] = 32
    replay_rows: Annotated[int, arg(metavar="N")] = 512
    replay_share: Annotated[float, arg(metavar="X")] = 0.25
    negatives: Literal["proposal", "generator"] = "generator"
    discriminator_reads: Literal["auto", "prefixes", "texts"] = "auto"
    discriminator_model: Annotated[str | None, _unset("NAME|PATH", "--model")] = None
    discriminator_dropout: Annotated[float, arg(metavar="X")] = 0.1
    clip: Annotated[float | None, _unset("X", "none")] = None
    kl: Annotated[float, arg(metavar="X")] = 0.0
    baseline: Literal["none", "mean", "leave-one-out", "greedy"] = "none"
    scheduler: Literal["none", "manual", "z"] = "none"
    half_life: Annotated[float, arg(metavar="N")] = 100.0
    learning_rate: Annotated[float | None, _unset("X", "1e-4; full: 1e-5")] = None
    validate_every: Annotated[int, arg(metavar="N")] = 10
    validation_rows: Annotated[int, arg(metavar="N")] = 256
    optimiser: Literal["adamw", "sgd"] = "adamw"
    discriminator_learning_rate: Annotated[float | None, _unset("X", "5e-4; full: 5e-5")] = None
    warmup: Annotated[int, arg(metavar="N")] = 0
    gradient_clip: Annotated[float, arg(metavar="X")] = 1.0
    sample_texts: Annotated[int, arg(metavar="N")] = 64


@dataclass(frozen=True)
class TrainOptions:
    """Train a discriminator, a language model, both together, a small CLIP, or a captioner."""

    what: DiscriminatorOptions | LanguageModelOptions | GcnOptions | ClipOptions | CaptionerOptions
