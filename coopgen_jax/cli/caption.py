"""The command `coopgen caption`."""

import csv
import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console

from coopgen_jax.cli.caption_options import OTHERS, WRITTEN, CaptionOptions
from coopgen_jax.cli.captioned_images import see
from coopgen_jax.cli.machines import keep_compilations
from coopgen_jax.cli.method_flags import method_of
from coopgen_jax.cli.printing import CONTROL, note
from coopgen_jax.cli.progress import ProgressBar
from coopgen_jax.cli.settings import with_given
from coopgen_jax.cli.token_options import with_words
from coopgen_jax.cli.train_progress import check_numbers
from coopgen_jax.comparison.header import about_model, settings_of
from coopgen_jax.data.image_states import pixels_in
from coopgen_jax.data.sources import left_out
from coopgen_jax.decoding.decoder_settings import DecoderSettings
from coopgen_jax.decoding.mcts.mcts_config import MCTSConfig
from coopgen_jax.decoding.methods.gedi import GediConfig
from coopgen_jax.decoding.methods.pplm_config import PPLMConfig
from coopgen_jax.decoding.text import Text
from coopgen_jax.discriminators.image_guide import ImageContext, clip_guide, image_context
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.discriminators.loading import load_discriminator
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.clip_vectors import ClipVectors, clip_vectors, load_clip_vectors
from coopgen_jax.files import check_writable, to_json, write_whole
from coopgen_jax.models.pretrained.captioner import LoadedCaptioner
from coopgen_jax.models.pretrained.image_networks import (
    LoadedBackbone,
    LoadedClip,
    load_backbone,
    load_clip,
)
from coopgen_jax.models.pretrained.packaged import cache_folder
from coopgen_jax.models.pretrained.vision_language import (
    PREPARED,
    VisionLanguageCaptioner,
    open_captioner,
)
from coopgen_jax.text_generation import generate
from coopgen_jax.training.captioning.neighbours import mine_neighbours

SEEDS = 1 << 32
ALONE = "a picture stands alone: give others to tell it from by --among"
Captioner = LoadedCaptioner | VisionLanguageCaptioner


@dataclass(frozen=True, eq=False)
class _Scorer:
    """What tells images from one another.

    vectors, backbone: what makes vectors of images, and what describes them for it.
    guide: makes the guide of a captioner.
    """

    vectors: ClipVectors
    backbone: LoadedBackbone
    guide: Callable[[Captioner], LoadedDiscriminator]


def run_caption(options: CaptionOptions) -> None:
    """Captions pictures and reports; raises UserError where options or pictures are of no use."""
    config = _checked(options)
    photos, among = pictures_of(options.photos), pictures_of(options.among, named=False)
    if options.clip is not None and len({path.resolve() for path in (*photos, *among)}) < 2:
        raise UserError(ALONE)
    keep_compilations(cache_folder() / "compilation")
    # What is wrong with a network is said before a picture is read.
    scorer = None if options.clip is None else _scorer(options.clip)
    captioner = open_captioner(options.model or "", question=options.question, dtype=options.dtype)
    config = with_words(config, options.words, captioner.model.tokenizer)
    guide = None if scorer is None else scorer.guide(captioner)
    vectors, photos = _vectors(options, captioner, photos)
    context = None if scorer is None else _context(options, scorer, photos, among)
    progress = ProgressBar(
        prompts=len(photos),
        samples=config.samples,
        new_tokens=config.new_tokens,
        label="search" if isinstance(config, MCTSConfig) else "captions",
        quiet=options.quiet,
    )
    with progress:
        texts = generate(
            captioner.model,
            captioner.fronts(len(photos)),
            vectors=vectors,
            context=context,
            config=config,
            discriminator=guide,
            target="image" if guide else None,
            seed=options.seed,
            batch_size=min(options.batch_size, len(photos)),
            listener=progress,
        )
    _deliver(options, config, captioner, guide, photos, texts)


def _checked(options: CaptionOptions) -> DecoderSettings:
    """Returns the method's settings; raises UserError where an option cannot be."""
    if not options.photos:
        raise UserError("there are no pictures: give files or folders of them")
    if not options.model:
        raise UserError("--model is missing: give the folder of a captioner")
    if options.clip == "":
        raise UserError("--clip is empty: give the folder or the name of a CLIP, or leave it out")
    check_numbers(options, "new_tokens", "samples", "batch_size")
    if not 0 <= options.seed < SEEDS:
        raise UserError(f"--seed is {options.seed}: give a number from 0 to {SEEDS - 1}")
    for name, value in (("--among", options.among or None), ("--others", options.others)):
        if value is not None and options.clip is None:
            raise UserError(f"{name} means nothing without a guide: give --clip, or leave it out")
    if options.others is not None and options.others < 1:
        raise UserError(f"--others is {options.others}: give 1 or more")
    if options.out:
        if options.out.suffix.lower() not in WRITTEN:
            raise UserError(f"--out {options.out} is of an unknown kind: give a file that ends in "
                            f"{', '.join(WRITTEN)}")  # fmt: skip
        check_writable(options.out, "--out")
    method = method_of(options.method, options.preset)
    size = {"new_tokens": options.new_tokens, "samples": options.samples}
    config = with_given(method, size | dict(options.settings))
    bags = isinstance(config, PPLMConfig) and options.words.get("bag")
    if isinstance(config, GediConfig | PPLMConfig) and (options.clip is not None or not bags):
        raise UserError(
            f"a CLIP cannot guide --method {options.method}, for it reads texts and not the "
            "captioner's states: take fudge, mcts or rerank"
        )
    if config.guided and options.clip is None and not bags:
        raise UserError(
            f"--method {options.method} is guided by images: give --clip, or another method"
        )
    return config


def pictures_of(given: Sequence[str], *, named: bool = True) -> list[Path]:
    """Returns the pictures that are given, and those in the folders that are, each once.

    Args:
      given: files and folders.
      named: whether the pictures are known by the names of their files.

    Raises:
      UserError: a file is missing, a folder has no pictures, or two pictures have one name by which
        they are known.
    """
    suffixes = Image.registered_extensions()
    found: list[Path] = []
    for name in given:
        if not name:
            raise UserError("a picture has an empty name: give files or folders of pictures")
        path = Path(name).expanduser()
        if not path.is_dir():
            if not path.is_file():
                raise UserError(f"{path} is neither a picture nor a folder here")
            found.append(path)
            continue
        inside = sorted(one for one in path.iterdir() if one.suffix.lower() in suffixes)
        if not inside:
            raise UserError(f"{path} has no pictures: give another folder")
        found += inside
    if not named:
        return list({path.resolve(): path for path in found}.values())
    by_name: dict[str, Path] = {}
    for path in found:
        other = by_name.setdefault(path.name, path)
        if other.resolve() != path.resolve():
            raise UserError(
                f"{other} and {path} have one name, by which captions are known: rename one"
            )
    return list(by_name.values())


def _vectors(
    options: CaptionOptions, captioner: Captioner, photos: list[Path]
) -> tuple[np.ndarray, list[Path]]:
    """Returns what stands in front of captions, and of which pictures: those that can be read."""
    if isinstance(captioner, VisionLanguageCaptioner):
        return _opened(options, captioner, photos)
    if "backbone" not in captioner.vision:
        raise UserError(
            f"{options.model} was trained on features of elsewhere, which pictures do not have: "
            "use it in Python"
        )
    backbone = load_backbone(captioner.vision["backbone"])
    captioner.check_backbone(backbone)
    seen = see(options, backbone, photos)
    if not len(seen.places):
        raise UserError(f"none of the pictures can be read ({seen.broken[0]}): give others")
    for sentence in seen.notes:
        note(options.quiet, sentence)
    return captioner.vectors(seen.states), [photos[place] for place in seen.places]


def _opened(
    options: CaptionOptions, captioner: VisionLanguageCaptioner, photos: list[Path]
) -> tuple[np.ndarray, list[Path]]:
    """Returns the same of a captioner that sees pixels."""
    broken: list[str] = []
    there: list[Path] = []
    vectors: list[np.ndarray] = []
    part: list[np.ndarray] = []
    for path in photos:
        try:
            part.append(pixels_in(captioner.pixels, path, longest=captioner.longest))
            there.append(path)
        except UserError as error:
            broken.append(f"{path.name}: {error}")
        if len(part) == PREPARED or (part and path is photos[-1]):
            vectors.append(captioner.vectors(np.stack(part)))
            part = []
    if not there:
        raise UserError(f"none of the pictures can be read ({broken[0]}): give others")
    for sentence in left_out(tuple(broken), what="image"):
        note(options.quiet, sentence)
    return np.concatenate(vectors), there


def _scorer(name: str) -> _Scorer:
    """Returns what a folder or a name of a CLIP, or of its heads, is."""

    def trained(captioner: Captioner) -> LoadedDiscriminator:
        return load_discriminator(name, language_model=captioner.model)

    def as_it_is(captioner: Captioner, clip: LoadedClip) -> LoadedDiscriminator:
        return clip_guide(clip, tokenizer=captioner.model.tokenizer)

    if (Path(name).expanduser() / "card.json").is_file():
        vectors, guide = load_clip_vectors(name), trained
    else:
        clip = load_clip(name)
        vectors, guide = clip_vectors(clip), partial(as_it_is, clip=clip)
    return _Scorer(vectors, vectors.backbone(), guide)


def _context(
    options: CaptionOptions, scorer: _Scorer, photos: list[Path], among: list[Path]
) -> Callable[[np.ndarray], ImageContext]:
    """Returns what gives the images that captions choose among, by the numbers of the pictures.

    A picture competes with those that are most like it. Only a batch's are in one array: of all
    pictures they would be as many as the square of the pictures.
    """
    seen = see(options, scorer.backbone, [*photos, *among])
    for sentence in seen.notes:
        note(options.quiet, sentence)
    # An image is known by what its file holds, and competes with others alone.
    different, first, which = np.unique(seen.keys, return_index=True, return_inverse=True)
    if len(different) < 2:
        raise UserError(ALONE)
    images = scorer.vectors.images(seen.states)[first]
    own = which[: len(photos)]
    count = min(options.others or OTHERS, len(different) - 1)
    ranks = range(1, count + 1)
    numbers = np.arange(len(different))
    near = mine_neighbours(images[own], own, images, numbers, ranks=ranks)

    def rows(pictures: np.ndarray) -> ImageContext:
        return image_context(images[own[pictures]], images[near[pictures]])

    return rows


def _deliver(
    options: CaptionOptions,
    config: DecoderSettings,
    captioner: Captioner,
    guide: LoadedDiscriminator | None,
    photos: list[Path],
    texts: list[Text],
) -> None:
    captions = [_entry(photos[text.number], text, guided=guide is not None) for text in texts]
    found = {
        "settings": settings_of(
            config, target="image" if guide else None, chat=False, method=options.method,
            preset=options.preset, seed=options.seed, batch_size=options.batch_size,
            dtype=captioner.model.config.dtype,
        ),
        "captioner": about_model(captioner.model)
        | (captioner.vision if isinstance(captioner, LoadedCaptioner) else {}),
        "clip": {"name": options.clip, "card": guide.card, "others": options.others or OTHERS}
        if guide else None,
        "captions": captions,
    }  # fmt: skip
    if options.out:
        write_whole(options.out, _document(options.out, found))
    if options.json:
        print(to_json(found, indent=1))
        return
    console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False, file=sys.stdout)
    for entry in captions:
        console.print(f"{entry['image']}: {entry['caption']}".translate(CONTROL))
        figures = [f"p(image) {entry['p_image']:.3f}"] if guide else []
        figures += [f"log-likelihood {entry['log_prob']:.2f}"]
        console.print("  " + " · ".join(figures), style="cyan")


def _entry(photo: Path, text: Text, *, guided: bool) -> dict[str, Any]:
    return {
        "image": photo.name,
        "caption": text.text.strip(),
        "sample": text.sample,
        "log_prob": text.log_prob,
        "tokens": len(text.tokens),
        "finished": text.finished,
        **({"p_image": text.class_probabilities["image"]} if guided else {}),
    }


def _document(path: Path, found: dict[str, Any]) -> str:
    """Returns what a file of captions holds, by its suffix."""
    captions = found["captions"]
    if path.suffix.lower() == ".jsonl":
        return "".join(to_json(entry) + "\n" for entry in captions)
    if path.suffix.lower() == ".csv":
        file = io.StringIO(newline="")
        # A caption may hold a "\r" alone, which would else be written without quotes.
        writer = csv.DictWriter(
            file, list(captions[0]), lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC
        )
        writer.writeheader()
        writer.writerows(captions)
        return file.getvalue()
    return to_json(found, indent=1) + "\n"
