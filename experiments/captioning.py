"""Distinctive captioning: what rewards do to captions, and what guided decoding does without them.

    python -m experiments.captioning --data FLICKR8K --work FOLDER

The folder of data has `train.csv` and `validation.csv` (`image`, `caption`) and `images`. The
images that are trained on are halved by the hash of their name. Small CLIPs, heads on frozen
networks, are trained on half A (the scorer, which rewards and guides), on half B (the judge, which
measures), and on all. Stages follow one another, and each goes on where it was interrupted: `clip`
trains the heads, `forced` a captioner by teacher forcing, `rewarded` others from it, `captions`
writes those of the gallery, and `figures` measures them. Another `--seed` adds its captions to
those that the work folder has; the heads are shared.
"""

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro

import coopgen_jax as cg
from coopgen_jax.bulk.growing_file import append, make_folder, resume
from coopgen_jax.data.batches import BatchConfig
from coopgen_jax.decoding.names_on_disc import settings_on_disc
from coopgen_jax.discriminators.clip_heads import LoadedClipHeads, heads_guide
from coopgen_jax.files import read_json, write_json
from coopgen_jax.models.pretrained.captioner import LoadedCaptioner
from coopgen_jax.models.pretrained.image_networks import LoadedBackbone
from coopgen_jax.models.pretrained.loaded_model import LoadedEncoder, load_encoder, resolve_dtype
from coopgen_jax.training.captioning.caption_round import Scorer
from coopgen_jax.training.captioning.captioner_recipe import train_captioner
from coopgen_jax.training.captioning.neighbours import RANKS
from coopgen_jax.training.captioning.regularisers import (
    train_grammar,
)
from coopgen_jax.training.captioning.reward_recipe import train_rewarded_captioner
from coopgen_jax.training.gcn.gcn_training import GcnTraining
from coopgen_jax.training.loop import LoopConfig
from coopgen_jax.training.recipes.clip_recipe import train_clip
from coopgen_jax.training.recipes.scratch import ScratchConfig, fresh_model, train_tokenizer
from coopgen_jax.training.run import RecipeConfig
from experiments.caption_discriminator import first_discriminator
from experiments.caption_methods import (
    FORCED,
    GUIDED,
    METHODS,
    REWARDED,
    decoder_of,
    reward_of,
)
from experiments.caption_scene import (
    LONGEST,
    Heads,
    Scene,
    load_heads,
    read_scene,
)
from experiments.captioning_figures import report

STAGES = ("clip", "forced", "rewarded", "captions", "figures")
HEADS = {"scorer": ("a",), "judge": ("b", "tuning"), "all": ("a", "b", "tuning")}
# Images whose captions are written, and kept, at a time.
CHUNK = 150


@dataclass(frozen=True)
class Config:
    """What to train, to write and to measure.

    Attributes:
      data: Folder with train.csv, validation.csv and images.
      work: Folder for everything that is made; an interrupted run goes on with what it holds.
      out: Folder for the figures and the picture.
      stages: Which to run.
      methods: Which methods.
      backbone: What sees the images.
      encoder: What reads captions.
      tuning: Images of half B that no captioner is trained on; the scorer measures on them.
      clip_epochs: Times that the heads' captions are trained on.
      clip_width: Numbers of a vector of theirs.
      vocabulary: Tokens of the captioner.
      layers: Of the captioner.
      width: Of the captioner.
      prefix: Vectors of an image's prefix.
      longest: Tokens that a caption has at most to be trained on, what surrounds it included.
      rows: Captions of a step of teacher forcing.
      epochs: Times that the captions are trained on.
      learning_rate: The highest of teacher forcing.
      rounds: Of rewards.
      round_images: Images of a round.
      samples: Captions of an image in a round.
      temperature: At which they are drawn.
      reward_rate: Learning rate of rounds.
      discriminator_rate: That of the discriminator.
      discriminator_steps: Of its training in front of the rounds.
      offset: What is added to rewards where they weigh references.
      grammar_steps: Of the grammar head's training.
      beams: By which captions are written.
      new_tokens: That a caption has at most.
      guided: Images of the gallery for which guided methods write.
      others: Training images that an image of a guided method competes with, the most similar.
      candidates: Texts, or tokens, that a guided method chooses among.
      strength: Weight of the guide in FUDGE.
      simulations: Of the search.
      alpha: Weight of the guide against likelihood in the search.
      batch_size: Captions written at once.
      dtype: Of networks, float32, bfloat16, or auto for the faster one here.
      seed: Of everything random but the heads.
    """

    data: Path
    work: Path
    out: Path = Path("experiments/results")
    stages: tuple[str, ...] = STAGES
    methods: tuple[str, ...] = METHODS
    backbone: str = "efficientnet-lite0"
    encoder: str = "minilm-l6"
    tuning: int = 240
    clip_epochs: float = 12.0
    clip_width: int = 512
    vocabulary: int = 4000
    layers: int = 4
    width: int = 256
    prefix: int = 4
    longest: int = 16
    rows: int = 64
    epochs: float = 5.0
    learning_rate: float = 1e-3
    rounds: int = 400
    round_images: int = 16
    samples: int = 4
    temperature: float = 0.7
    reward_rate: float = 2e-4
    discriminator_rate: float = 1e-4
    discriminator_steps: int = 100
    offset: float = 0.3
    grammar_steps: int = 600
    beams: int = 3
    new_tokens: int = 15
    guided: int = 300
    others: int = 100
    candidates: int = 10
    strength: float = 1.0
    simulations: int = 16
    alpha: float = 0.5
    batch_size: int = 50
    dtype: str = "auto"
    seed: int = 0

    @property
    def folder(self) -> Path:
        """Where this seed's captioners and captions are."""
        return self.work / f"seed-{self.seed}"


@dataclass(frozen=True)
class World:
    """What all stages share."""

    config: Config
    backbone: LoadedBackbone
    encoder: LoadedEncoder
    scene: Scene

    def heads(self, name: str) -> Heads:
        """Returns trained heads."""
        return load_heads(self.config.work / "clip" / name, self.encoder)

    def captioner(self, name: str) -> LoadedCaptioner:
        """Returns a trained captioner; guided methods write with the teacher-forced one."""
        trained = FORCED if name in GUIDED else name
        return cg.load_captioner(self.config.folder / trained, dtype=self.config.dtype)


def timed(folder: Path, name: str, work: Callable[[], Any]) -> Any:
    """Returns what work returns; notes its seconds, those of interrupted runs added, in a file."""
    path = folder / "seconds.json"
    begun = time.monotonic()
    try:
        return work()
    finally:
        known = read_json(path) if path.exists() else {}
        spent = time.monotonic() - begun
        make_folder(folder)
        write_json(path, known | {name: round(known.get(name, 0.0) + spent, 1)})
        print(f"{name}: {spent:.0f} s", flush=True)


def show(name: str, every: int) -> Callable[[int, int, Mapping[str, Any]], None]:
    """Returns a listener that prints the means of a training now and then."""

    def listener(done: int, total: int, means: Mapping[str, Any]) -> None:
        if done % every == 0 or done == total:
            words = ", ".join(f"{key} {float(mean):.3f}" for key, mean in sorted(means.items()))
            print(f"{name} {done}/{total}: {words}", flush=True)

    return listener


def train_heads(world: World, name: str) -> None:
    """Trains heads; the measures on their card are those of the gallery."""
    config, training = world.config, world.scene.captioned(*HEADS[name])
    rows = min(256, len(training.captions))
    steps = max(1, round(config.clip_epochs * len(training.captions) / rows))
    how = RecipeConfig(
        # The last heads are kept: none are chosen by the gallery.
        LoopConfig(steps=steps, validate_every=steps, save_every=200, keep="last"),
        BatchConfig(rows=rows, longest=LONGEST, shortest=None),
        lora=None, learning_rate=1e-3, weight_decay=0.1, dropout=0.4,
    )  # fmt: skip
    train_clip(
        world.backbone, world.encoder, training, world.scene.captioned("gallery"), how,
        width=config.clip_width, folder=config.work / "clip" / name, mesh=cg.make_mesh(1),
        listener=show(name, 200),
    )  # fmt: skip


def train_forced(world: World) -> None:
    """Trains the captioner by teacher forcing, on captions that are not too long."""
    config, scene = world.config, world.scene
    training = scene.pairs("a", "b")
    tokenizer = train_tokenizer([text for _, text in training], config.vocabulary)

    def short(pairs: list[tuple[int, str]]) -> list[tuple[int, str]]:
        ids = tokenizer.encode_batch([text.strip() for _, text in pairs])
        there = zip(pairs, ids, strict=True)
        return [pair for pair, row in there if len(row) + 2 <= config.longest]

    kept = short(training)
    print(f"{len(kept)} of {len(training)} captions are short enough", flush=True)
    steps = max(1, round(config.epochs * len(kept) / config.rows))
    model = fresh_model(
        tokenizer, ScratchConfig(config.layers, config.width, context=64), seed=config.seed,
        dtype=config.dtype,
    )  # fmt: skip
    how = RecipeConfig(
        LoopConfig(steps=steps, validate_every=max(1, steps // 4), save_every=100),
        BatchConfig(rows=config.rows, longest=config.longest, seed=config.seed),
        lora=None, learning_rate=config.learning_rate, saved_dtype="float32",
    )  # fmt: skip
    train_captioner(
        model, scene.states, kept, short(scene.pairs("tuning")), how, backbone=world.backbone,
        tokens=config.prefix, folder=config.folder / FORCED, mesh=cg.make_mesh(1),
        listener=show(FORCED, 50),
    )  # fmt: skip


def scorer_of(world: World, heads: Heads) -> Scorer:
    """Returns what rewards: neighbours are images of captions that are near an image."""
    scene = world.scene
    images = heads.images(scene.states)
    own = scene.captioned("b")
    keys = np.asarray(scene.of("b"))[own.image_of]
    most = len(scene.groups["b"]) - 1
    ranks = tuple(rank for rank in RANKS if rank <= most) or (1,)
    near = cg.mine_neighbours(
        images, np.arange(len(images)), heads.texts(own.features), keys, ranks=ranks
    )
    count = world.config.round_images * (world.config.samples + 2)
    batch = next(size for size in (32, 16, 8, 1) if count % size == 0)
    return Scorer(images, near, heads.reader(batch), heads.identity)


def train_rewarded(world: World, name: str) -> None:
    """Trains a captioner by rewards for images of half B, which the scorer has not seen."""
    config, scene = world.config, world.scene
    heads = world.heads("scorer")
    captioner = cg.load_captioner(config.folder / FORCED, dtype=config.dtype, stacked=True)
    reward = reward_of(config, name, heads.temperature)
    short = [
        pair for pair in scene.pairs("b")
        if len(captioner.model.tokenizer.encode(pair[1].strip())) + 2 <= config.longest
    ]  # fmt: skip
    how = GcnTraining(
        LoopConfig(steps=config.rounds, validate_every=max(1, config.rounds // 2), save_every=50),
        lora=None, learning_rate=config.reward_rate, warmup=min(10, config.rounds),
        discriminator_learning_rate=config.discriminator_rate, seed=config.seed,
        saved_dtype="float32",
    )  # fmt: skip
    if reward.regulariser == "grammar":
        texts = [text for _, text in scene.pairs("b")]
        regulariser = train_grammar(
            texts, heads.reader(64), steps=config.grammar_steps, rows=min(256, len(texts)),
            seed=config.seed, mesh=cg.make_mesh(1),
        )  # fmt: skip
    else:
        regulariser = first_discriminator(world, heads, captioner, short)
    train_rewarded_captioner(
        captioner, scene.states, short, scene.of("tuning"), scorer_of(world, heads), reward, how,
        images=config.round_images, longest=config.longest, regulariser=regulariser,
        folder=config.folder / name, mesh=cg.make_mesh(1), listener=show(name, 10),
    )  # fmt: skip


def write_captions(world: World, name: str) -> None:
    """Writes captions of the gallery, of its first images where a guide has its say."""
    config, scene = world.config, world.scene
    images = scene.of("gallery")
    if name in GUIDED:
        images = images[: config.guided]
    chunks = [images[at : at + CHUNK] for at in range(0, len(images), CHUNK)]
    settings = decoder_of(config, name)
    path = config.folder / "captions" / f"{name}.jsonl"
    make_folder(path.parent)
    about = {"method": name, "seed": config.seed, "decoder": settings_on_disc(settings)}
    if name in GUIDED:
        about["others"] = config.others
    done = resume(path, {"settings": about}, [len(part) for part in chunks], what="captions")
    if done == len(chunks):
        return
    captioner = world.captioner(name)
    given: dict[str, Any] = {"config": settings, "seed": config.seed}
    for part in chunks[done:]:
        if name in GUIDED:
            given |= guide_of(world, captioner, part)
        texts = cg.generate(
            captioner.model, captioner.fronts(len(part)),
            vectors=captioner.vectors(scene.states[part]), batch_size=config.batch_size, **given,
        )  # fmt: skip
        append(path, [
            {"image": scene.names[image], "caption": text.text.strip()}
            for image, text in zip(part, texts, strict=True)
        ])  # fmt: skip
        print(f"{name}: captions of {part[-1] - images[0] + 1} images", flush=True)


def guide_of(world: World, captioner: LoadedCaptioner, images: list[int]) -> dict[str, Any]:
    """Returns the scorer as a guide, and what each image competes with: similar training images."""
    heads, scene = world.heads("scorer"), world.scene
    card = read_json(world.config.work / "clip" / "scorer" / "card.json")
    scorer = LoadedClipHeads(heads.params, world.encoder, LONGEST, card)
    guide = heads_guide(scorer, tokenizer=captioner.model.tokenizer)
    own = heads.images(scene.states[images])
    training = heads.images(scene.states[scene.of("a", "b")])
    nearest = np.argsort(-own @ training.T, axis=-1, kind="stable")[:, : world.config.others]
    return {
        "discriminator": guide,
        "target": "image",
        "context": cg.image_context(own, training[nearest]),
    }


def main(config: Config) -> None:
    """Runs the stages that are asked for."""
    for what, asked, known in (
        ("stages", config.stages, STAGES), ("methods", config.methods, METHODS)
    ):  # fmt: skip
        for name in asked:
            if name not in known:
                sys.exit(f"--{what} {name} is unknown: choose from {', '.join(known)}")
    config = replace(config, dtype=resolve_dtype(config.dtype))
    encoder = load_encoder(config.encoder, dtype=config.dtype)
    backbone = cg.load_backbone(config.backbone)

    def read() -> Scene:
        return read_scene(config.data, config.work, backbone, encoder, tuning=config.tuning)

    world = World(config, backbone, encoder, timed(config.work, "reading", read))
    folder = config.folder
    if "clip" in config.stages:
        for name in HEADS:
            if not (config.work / "clip" / name / "card.json").exists():
                timed(config.work, f"heads {name}", lambda name=name: train_heads(world, name))
    if "forced" in config.stages and not (folder / FORCED / "card.json").exists():
        timed(folder, FORCED, lambda: train_forced(world))
    for name in config.methods:
        asked = name in REWARDED and "rewarded" in config.stages
        if asked and not (folder / name / "card.json").exists():
            timed(folder, name, lambda name=name: train_rewarded(world, name))
        if "captions" in config.stages:
            timed(folder, f"captions {name}", lambda name=name: write_captions(world, name))
    if "figures" in config.stages:
        report(world)


if __name__ == "__main__":
    main(tyro.cli(Config))
