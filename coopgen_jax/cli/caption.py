"""The command `coopgen caption`."""

import csv
import io
import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console

from coopgen_jax.cli.caption_options import CaptionOptions
from coopgen_jax.cli.captioned_images import see
from coopgen_jax.cli.machines import keep_compilations
from coopgen_jax.cli.method_flags import method_of
from coopgen_jax.cli.printing import CONTROL, note
from coopgen_jax.cli.progress import ProgressBar
from coopgen_jax.cli.settings import with_given
from coopgen_jax.cli.token_options import with_words
from coopgen_jax.cli.train_progress import check_numbers
from coopgen_jax.comparison.header import about_model, settings_of
from coopgen_jax.data.image_states import open_image
from coopgen_jax.data.sources import left_out
from coopgen_jax.decoding.decoder_settings import DecoderSettings
from coopgen_jax.decoding.mcts.mcts_config import MCTSConfig
from coopgen_jax.decoding.text import Text
from coopgen_jax.discriminators.image_guide import ImageContext, clip_guide, image_context
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.discriminators.loading import load_discriminator
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.clip_vectors import load_clip_vectors
from coopgen_jax.files import check_writable, to_json, write_whole
from coopgen_jax.models.pretrained.captioner import LoadedCaptioner
from coopgen_jax.models.pretrained.image_networks import load_backbone, load_clip
from coopgen_jax.models.pretrained.packaged import cache_folder
from coopgen_jax.models.pretrained.vision_language import VisionLanguageCaptioner, open_captioner
from coopgen_jax.text_generation import generate

SEEDS = 1 << 32
Captioner = LoadedCaptioner | VisionLanguageCaptioner


def run_caption(options: CaptionOptions) -> None:
    """Captions pictures and reports; raises UserError where options or pictures are of no use."""
    config = _checked(options)
    photos = pictures_of(options.photos)
    keep_compilations(cache_folder() / "compilation")
    captioner = open_captioner(options.model or "", question=options.question, dtype=options.dtype)
    config = with_words(config, options.words, captioner.model.tokenizer)
    vectors, photos = _vectors(options, captioner, photos)
    guide, context = _guide(options, captioner, photos)
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
    if options.model is None:
        raise UserError("--model is missing: give the folder of a captioner")
    check_numbers(options, "new_tokens", "samples", "batch_size")
    if not 0 <= options.seed < SEEDS:
        raise UserError(f"--seed is {options.seed}: give a number from 0 to {SEEDS - 1}")
    if options.among and options.clip is None:
        raise UserError("--among means nothing without a guide: give --clip, or leave it out")
    if options.out:
        check_writable(options.out, "--out")
    method = method_of(options.method, options.preset)
    size = {"new_tokens": options.new_tokens, "samples": options.samples}
    config = with_given(method, size | dict(options.settings))
    if config.guided and options.clip is None:
        raise UserError(
            f"--method {options.method} is guided by images: give --clip, or another method"
        )
    return config


def pictures_of(named: Sequence[str]) -> list[Path]:
    """Returns the pictures that are named, and those in the folders that are, by name.

    Raises:
      UserError: a file is missing, a folder has no pictures, or two pictures have one file name.
    """
    suffixes = Image.registered_extensions()
    found: list[Path] = []
    for name in named:
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
    by_name: dict[str, Path] = {}
    for path in found:
        other = by_name.setdefault(path.name, path)
        if other != path:
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

    def opened() -> Iterator[Image.Image]:
        for path in photos:
            try:
                picture = open_image(path)
            except UserError as error:
                broken.append(str(error))
                continue
            there.append(path)
            yield picture

    pictures = opened()
    first = next(pictures, None)
    if first is None:
        raise UserError(f"none of the pictures can be read ({broken[0]}): give others")
    vectors = captioner.see(chain([first], pictures))
    for sentence in left_out(tuple(broken), what="image"):
        note(options.quiet, sentence)
    return vectors, there


def _guide(
    options: CaptionOptions, captioner: Captioner, photos: list[Path]
) -> tuple[LoadedDiscriminator | None, ImageContext | None]:
    """Returns what guides and the images that captions choose among; None where nothing guides."""
    if options.clip is None:
        return None, None
    scorer = load_clip_vectors(options.clip)
    seen = see(options, scorer.backbone(), [*photos, *pictures_of(options.among)])
    for sentence in seen.notes:
        note(options.quiet, sentence)
    own = np.array(seen.keys[: len(photos)])
    # An image is known by what its file holds, and competes with others alone.
    different, first = np.unique(seen.keys, return_index=True)
    if len(different) < 2:
        raise UserError("a picture stands alone: give others that it is told from by --among")
    vectors = scorer.images(seen.states)
    context = image_context(
        vectors[: len(photos)],
        np.broadcast_to(vectors[first], (len(photos), *vectors[first].shape)),
        own[:, None] != different[None],
    )
    if (Path(options.clip).expanduser() / "card.json").is_file():
        return load_discriminator(options.clip, language_model=captioner.model), context
    return clip_guide(load_clip(options.clip), tokenizer=captioner.model.tokenizer), context


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
        "clip": {"name": options.clip, "card": guide.card} if guide else None,
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
    if path.suffix == ".jsonl":
        return "".join(to_json(entry) + "\n" for entry in captions)
    if path.suffix == ".csv":
        file = io.StringIO(newline="")
        writer = csv.DictWriter(file, list(captions[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(captions)
        return file.getvalue()
    return to_json(found, indent=1) + "\n"
