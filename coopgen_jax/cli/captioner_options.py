"""The options of `coopgen train captioner`; imports nothing that takes long."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from coopgen_jax.cli.options import _unset

# What only the training by references takes, and what only the training by rewards does.
FORCED = ("model", "vocabulary", "layers", "width", "vectors", "epochs", "rows", "patience")
REWARDED = (
    "captioner", "reward", "similarity", "baseline", "regulariser", "alpha", "offset", "proposal",
    "new_tokens", "rounds", "round_images", "discriminator_learning_rate",
)  # fmt: skip


@dataclass(frozen=True)
class CaptionerOptions:
    """Train a captioner; `coopgen caption --model` takes the folder.

    A captioner is a language model behind vectors that a small network makes of an image. Train it
    by references first (mle), then, with --captioner, by rewards for captions that tell their image
    from others.

    Attributes:
      data: Images and captions: a .csv, .tsv or .jsonl file with the columns image and caption, a
        .json file in COCO's form, or a folder with train.csv and validation.csv.
      validation: Other images and captions, to choose the best captioner by.
      out: Where everything goes; a run that stopped there goes on.
      images: The folder of the images.
      vision: What sees the images: efficientnet-lite0, or a folder or a hub name of a CLIP or a
        SigLIP. Trained by rewards, a captioner keeps the one that it has.
      objective: How it is trained: mle, by the likelihood of references (teacher forcing); rl, by
        rewards of what it writes; wtf, by references that are weighed by their rewards (weighted
        teacher forcing); wtf-rl, by both; scst, by CLIP-S of what it writes less that of the greedy
        caption (self-critical).
      model: The language model that captions are written by; a new small one, with tokens of these
        captions, where none is named.
      vocabulary: Of a new language model: tokens.
      layers: Of a new language model: layers.
      width: Of a new language model: its width, a multiple of 64.
      vectors: How many vectors an image becomes.
      rank: Train low-rank additions (LoRA) to the language model; 0 trains all of it.
      epochs: Times that every caption is trained on.
      captioner: What rewards begin with: a captioner that references have trained.
      reward: The CLIP that rewards: a folder that `coopgen train clip` wrote, or one of a CLIP or a
        SigLIP. Measure with another one, of other images, what it has brought.
      similarity: The similarity in the reward: contrastive in both directions, one-way from image
        to text, or CLIP-S.
      baseline: What is taken off the reward of a written caption: that of the greedy one, the mean
        of the others or of all of an image, the mean of similar images, or the stronger one of
        greedy and similar images.
      regulariser: What keeps the language human: a discriminator that is trained on the way, or a
        grammar head that is trained on corrupted captions beforehand.
      alpha: Share of the similarity in the reward; without a regulariser it is all of it.
      offset: What is added to every reward: more than 0 where references would be unlearned.
      proposal: What writes captions in training: a --method with its options as
        name:key=value.
      new_tokens: Tokens that it writes at most.
      rounds: Rounds: write, reward, step. A finished training goes on where more are asked for.
      round_images: Human captions of a round, with their images.
      rows: Captions of a step.
      longest: Tokens read of a caption, what begins and ends it included.
      learning_rate: The highest learning rate.
      discriminator_learning_rate: That of the discriminator which keeps the language human.
      validate_every: Steps, or rounds, between validations, and between checkpoints.
      validation_rows: Validation captions that are read, or images that are captioned, at most.
      patience: Validations without a better loss after which training stops.
      budget_minutes: Minutes of training after which this run saves and stops; start it again to go
        on.
      states: Where what the backbone makes of the images is kept, for any other training too.
      dtype: Number format of the products, auto for bfloat16 where the machine multiplies it
        faster; trained parameters are float32.
      seed: Seed of everything random.
      devices: Devices among which the rows of a step are split.
      json: Print the card as JSON instead of a report.
      quiet: Show no progress.
    """

    data: Annotated[str, arg(metavar="FILE|FOLDER")]
    out: Annotated[Path, arg(metavar="FOLDER")]
    validation: Annotated[str | None, _unset("FILE", "validation.csv in the folder")] = None
    images: Annotated[Path | None, _unset("FOLDER", "images beside the file, or there")] = None
    vision: Annotated[
        str | None, _unset("NAME|PATH", "efficientnet-lite0; by rewards: the captioner's")
    ] = None
    objective: Literal["mle", "rl", "wtf", "wtf-rl", "scst"] = "mle"
    model: Annotated[str | None, _unset("NAME|PATH", "a new one")] = None
    vocabulary: Annotated[int, arg(metavar="N")] = 4000
    layers: Annotated[int, arg(metavar="N")] = 6
    width: Annotated[int, arg(metavar="E")] = 320
    vectors: Annotated[int, arg(metavar="K")] = 8
    rank: Annotated[int | None, _unset("R", "8 with --model, else 0")] = None
    epochs: Annotated[float, arg(metavar="N")] = 6.0
    captioner: Annotated[Path | None, _unset("FOLDER", "none")] = None
    reward: Annotated[str | None, _unset("CLIP", "none")] = None
    similarity: Annotated[
        Literal["contrastive", "one-way", "clip-s"] | None,
        _unset("{contrastive,one-way,clip-s}", "contrastive; scst: clip-s"),
    ] = None
    baseline: Annotated[
        Literal["none", "mean", "leave-one-out", "greedy", "group", "strongest"] | None,
        _unset("{none,mean,leave-one-out,greedy,group,strongest}", "none; scst: greedy"),
    ] = None
    regulariser: Literal["discriminator", "grammar", "none"] = "discriminator"
    alpha: Annotated[float, arg(metavar="X")] = 0.94
    offset: Annotated[float, arg(metavar="X")] = 0.0
    proposal: Annotated[str, arg(metavar="METHOD")] = "beam:beams=5:no_repeat_ngram=3"
    new_tokens: Annotated[int, arg(metavar="T")] = 24
    rounds: Annotated[int, arg(metavar="N")] = 200
    round_images: Annotated[int, arg(metavar="B")] = 32
    rows: Annotated[int, arg(metavar="B")] = 64
    longest: Annotated[int, arg(metavar="T")] = 40
    learning_rate: Annotated[
        float | None, _unset("X", "1e-3; --model: 5e-4, in full 5e-5; by rewards: 5e-5")
    ] = None
    discriminator_learning_rate: Annotated[float, arg(metavar="X")] = 1e-4
    validate_every: Annotated[int, arg(metavar="N")] = 100
    validation_rows: Annotated[int, arg(metavar="N")] = 1000
    patience: Annotated[int | None, _unset("N", "none")] = None
    budget_minutes: Annotated[float | None, _unset("MIN", "none")] = None
    states: Annotated[Path | None, _unset("FOLDER", "the cache of models")] = None
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    seed: Annotated[int, arg(metavar="N")] = 0
    devices: Annotated[int, arg(metavar="N")] = 1
    json: bool = False
    quiet: bool = False
