"""The command `coopgen evaluate captions`."""

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from coopgen_jax.cli.ask import flag
from coopgen_jax.cli.captioned_images import see
from coopgen_jax.cli.evaluate_options import CaptionsOptions
from coopgen_jax.cli.evaluate_texts import named_file
from coopgen_jax.data.image_captions import read_image_captions
from coopgen_jax.data.sources import left_out
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.captions import (
    Metric,
    caption_cells,
    check_captions,
    evaluate_captions,
)
from coopgen_jax.evaluation.clip_vectors import ClipVectors, load_clip_vectors
from coopgen_jax.evaluation.meteor import java_and_jar, java_meteor, nltk_meteor, open_wordnet
from coopgen_jax.evaluation.scene_graphs import load_scene_parser, scene_graph_f1
from coopgen_jax.evaluation.tables import render
from coopgen_jax.files import check_apart, check_writable, to_json, write_whole

Captions = Mapping[str, tuple[str, ...]]
# Options of figures that compare with human captions.
METRICS = ("meteor_jar", "meteor_nltk", "scene_graphs")


def run_captions(what: CaptionsOptions) -> None:
    """Reports on the captions of files; raises UserError where they or references are of no use."""
    folder = _check(what)
    read = partial(read_image_captions, image=what.image, caption=what.caption)
    notes, references = [], None
    if what.references is not None:
        known = read(what.references)
        references = known.captions
        notes = [f"{what.references}: {line}" for line in left_out(known.broken)]
    methods: dict[str, Captions] = {}
    for entry in what.files:
        given, path = named_file(entry)
        name = given or path.stem
        if name in methods:
            raise UserError(f"two methods are called {name}: name one of them as NAME=FILE")
        found = read(path, empty=True)
        notes += [f"{path}: {line}" for line in left_out(found.broken)]
        methods[name] = found.captions
    # Images take minutes: what is wrong with the files is said before they are read.
    check_captions(methods, references, what.against)
    metrics = _metrics(what)
    clip: ClipVectors | None = None
    images: dict[str, np.ndarray] = {}
    if what.clip is not None and folder is not None:
        clip = load_clip_vectors(what.clip)
        images, lines = _images(what, clip, folder, methods)
        notes += [f"{folder}: {line}" for line in lines]
    report = evaluate_captions(
        methods,
        references,
        metrics=metrics,
        clip=clip,
        images=images,
        against=what.against,
        self_bleu_texts=what.self_bleu,
    )
    if clip is not None:
        report["clip"] = {"name": clip.name, "sha256": clip.sha256}
    report["notes"] = [*notes, *report["notes"]]
    _deliver(what, report)


def _check(what: CaptionsOptions) -> Path | None:
    """Returns the folder of the images, None where none are needed; raises UserError of options."""
    if not what.files:
        raise UserError("there are no captions: give files with an image and a caption a row")
    if what.self_bleu < 2:
        raise UserError(f"--self-bleu is {what.self_bleu}: give 2 or more")
    if what.out:
        files = {f"the file {entry}": named_file(entry)[1] for entry in what.files}
        check_apart(what.out, {"--references": what.references, **files})
        check_writable(what.out, "--out")
    for option in METRICS:
        if getattr(what, option) and what.references is None:
            raise UserError(f"{flag(option)} compares with human captions: give --references")
    if what.clip is None:
        for name in ("images", "states"):
            if getattr(what, name) is not None:
                raise UserError(f"--{name} is for retrieval: name what sees the images by --clip")
        return None
    beside = named_file(what.files[0])[1].parent
    folder = what.images or (beside / "images" if (beside / "images").is_dir() else beside)
    if not folder.is_dir():
        raise UserError(f"--images {folder} is no folder here")
    return folder


def _metrics(what: CaptionsOptions) -> dict[str, Metric]:
    """Returns the further figures that are asked for, by name; raises UserError of what lacks."""
    metrics: dict[str, Metric] = {}
    if what.meteor_jar is not None:
        java_and_jar(what.meteor_jar)
        metrics["meteor_java"] = partial(java_meteor, jar=what.meteor_jar)
    if what.meteor_nltk:
        with open_wordnet():
            metrics["meteor_nltk"] = nltk_meteor
    if what.scene_graphs:
        metrics["scene_graph_f1"] = partial(scene_graph_f1, parse=load_scene_parser())
    return metrics


def _images(
    what: CaptionsOptions, clip: ClipVectors, folder: Path, methods: Mapping[str, Captions]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns the vectors of the images that can be read, and sentences about the others."""
    names = list(dict.fromkeys(name for captions in methods.values() for name in captions))
    seen = see(what, clip.backbone(), [folder / name for name in names])
    if len(seen.places) < 2:
        raise UserError(
            f"--images {folder} has fewer than 2 images of the captions ({'; '.join(seen.notes)})"
        )
    vectors = clip.images(seen.states)
    places = map(int, seen.places)
    return {names[at]: own for at, own in zip(places, vectors, strict=True)}, seen.notes


def _deliver(what: CaptionsOptions, report: dict) -> None:
    text = to_json(report, indent=1)
    if what.out:
        write_whole(what.out, text + "\n")
    if what.json:
        print(text)
        return
    print(render(caption_cells(report), what.format), end="")
    notes = [f"{row['method']}: {line}" for row in report["methods"] for line in row["notes"]]
    for line in [*report["notes"], *notes]:
        print(f"coopgen: note: {line}", file=sys.stderr)
