"""The command `coopgen mismatch`.

Pairs take seconds once the images are read, whose states are kept: an interrupted command starts
anew, and its file is there whole or not at all.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from coopgen_jax.augmentation.image_pairs import (
    NAMING,
    CaptionedVectors,
    PairSettings,
    make_image_pairs,
)
from coopgen_jax.augmentation.mismatch_detector import detect_mismatches, detector_report
from coopgen_jax.augmentation.named_entities import load_namer
from coopgen_jax.augmentation.pair_records import balance_of, pair_records, records_document
from coopgen_jax.cli.captioned_images import see
from coopgen_jax.cli.mismatch_options import MismatchOptions
from coopgen_jax.cli.train_progress import check_numbers, tell
from coopgen_jax.data.fingerprint import fingerprint
from coopgen_jax.data.image_captions import read_image_captions
from coopgen_jax.data.sources import left_out
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.caption_retrieval import counted
from coopgen_jax.evaluation.clip_vectors import ClipVectors, load_clip_vectors
from coopgen_jax.evaluation.tables import figure_cell, render
from coopgen_jax.files import check_apart, check_writable, to_json, write_whole

SUFFIXES = (".jsonl", ".json")


def run_mismatch(options: MismatchOptions) -> None:
    """Makes, writes and reports pairs; raises UserError where options or data are of no use."""
    settings = _checked(options)
    folder = _folder(options)
    captions, notes = _captions(options, folder)
    kinds = None
    if set(settings.by) & set(NAMING):
        # Before the images, which take minutes: the extra may be missing.
        texts = [text for own in captions.values() for text in own.values()]
        namer = load_namer(options.language)
        kinds = [frozenset(name.kind for name in found) for found in namer(texts)]
    clip = load_clip_vectors(options.clip)
    names, texts, ids, known, seen_notes = _vectors(options, clip, folder, captions, kinds)
    notes += seen_notes
    pairs = make_image_pairs(known, settings)
    records = pair_records(pairs, settings, texts, ids, names)
    report: dict[str, Any] = {
        "settings": asdict(settings),
        "clip": {"name": clip.name, "sha256": clip.sha256},
        "images": len(names),
        "captions": len(texts),
        "pairs": len(pairs.caption),
        "records": len(records),
        "parts": balance_of(records, settings.by),
    }
    if settings.bands_alike(len(names)):
        notes.append(
            f"{len(names)} images in so many parts leave few to choose from, and bands of hardness "
            "are alike: give fewer --folds, measures or --candidates"
        )
        tell(options, notes[-1])
    # Pairs are kept, whatever their detectors say.
    write_whole(options.out, records_document(records, settings.by, options.out.suffix))
    if options.evaluate:
        logits = detect_mismatches(pairs, known.texts, known.images)
        report["detectors"] = detector_report(pairs, logits, settings.by, settings.hardness)
    report["notes"] = notes
    _deliver(options, report)


def _checked(options: MismatchOptions) -> PairSettings:
    check_numbers(options, "candidates", "folds")
    for name in ("by", "hardness"):
        given = getattr(options, name)
        if not given or len(set(given)) < len(given):
            raise UserError(f"--{name} is {' '.join(given) or 'empty'}: name each once")
    for name in ("image_ceiling", "text_ceiling"):
        ceiling = getattr(options, name)
        if not -1 < ceiling <= 1:
            flag = f"--{name.replace('_', '-')}"
            raise UserError(f"{flag} is {ceiling}: give a cosine above -1 and at most 1")
    if options.evaluate and options.folds < 2:
        raise UserError("--evaluate trains on other folds than it tests: give --folds 2 or more")
    if options.seed < 0:
        raise UserError(f"--seed is {options.seed}: give 0 or more")
    if options.out.suffix not in SUFFIXES:
        raise UserError(f"--out {options.out}: give a file that ends in {' or '.join(SUFFIXES)}")
    check_apart(options.out, {"--data": options.data})
    check_writable(options.out, "--out")
    return PairSettings(
        by=options.by,
        hardness=options.hardness,
        candidates=options.candidates,
        folds=options.folds,
        image_ceiling=options.image_ceiling,
        text_ceiling=options.text_ceiling,
        seed=options.seed,
    )


def _folder(options: MismatchOptions) -> Path:
    beside = options.data.parent / "images"
    folder = options.images or (beside if beside.is_dir() else options.data.parent)
    if not folder.is_dir():
        raise UserError(f"--images {folder} is no folder here")
    return folder


def _captions(
    options: MismatchOptions, folder: Path
) -> tuple[dict[str, dict[int, str]], list[str]]:
    """Returns the captions of each image by their number in it, and what is left out.

    A caption of several images would be true where it is called false: it is left out. Of one that
    an image has twice the first use counts.
    """
    found = read_image_captions(
        options.data, image=options.image, caption=options.caption, folder=folder
    )
    notes = [f"{options.data}: {line}" for line in left_out(found.broken)]
    uses: dict[str, list[tuple[str, int, str]]] = {}
    for image, own in found.captions.items():
        for number, text in enumerate(own):
            use = (image, number, text)
            uses.setdefault(" ".join(text.casefold().split()), []).append(use)
    captions: dict[str, dict[int, str]] = {}
    twice = []
    for own_uses in uses.values():
        (image, number, text), *others = own_uses
        if any(other != image for other, *_ in others):
            twice += [f"{other}#{at}: of several images" for other, at, _ in own_uses]
            continue
        captions.setdefault(image, {})[number] = text
        twice += [f"{other}#{at}: used by {image}#{number}" for other, at, _ in others]
    captions = {
        image: dict(sorted(captions[image].items()))
        for image in found.captions
        if image in captions
    }
    notes += [f"{options.data}: {line}" for line in left_out(twice, what="repeated caption")]
    if twice and len(captions) < 2:
        raise UserError(
            f"{options.data} has one caption for several images ({twice[0]}): give captions of each"
        )
    for note in notes:
        tell(options, note)
    return captions, notes


def _vectors(
    options: MismatchOptions,
    clip: ClipVectors,
    folder: Path,
    captions: dict[str, dict[int, str]],
    kinds: Sequence[frozenset[str]] | None,
) -> tuple[list[str], list[str], list[str], CaptionedVectors, list[str]]:
    """Returns names of images, captions, their ids, the vectors of all, and notes."""
    seen = see(options, clip.backbone(), [folder / name for name in captions])
    notes = [f"{folder}: {line}" for line in seen.notes]
    if len(seen.places) < 2:
        raise UserError(
            f"{options.data} has fewer than 2 images in {folder} that can be read"
            f"{''.join(f' ({note})' for note in seen.notes)}: give others"
        )
    rows_of, number = _distinct([list(captions)[place] for place in seen.places], seen.keys)
    named = list(number)
    names = [named[row] for row in rows_of]
    states = seen.states[rows_of]
    if copies := [name for name in named if names[number[name]] != name]:
        what = "taken for another of the same content"
        notes.append(f"{folder}: {counted(copies, what)}")
    rows = [
        (number[name], text, f"{name}#{at}", row)
        for row, (name, at, text) in enumerate(
            (name, at, text) for name, own in captions.items() for at, text in own.items()
        )
        if name in number
    ]
    texts = [text for _, text, _, _ in rows]
    trained = 0 if clip.rows is None else int(np.isin(fingerprint(texts), clip.rows).sum())
    if trained:
        notes.append(
            f"{clip.name} was trained on {trained} of the {len(texts)} captions: it compares them "
            "better than others, and so do detectors on its vectors"
        )
    for note in notes:
        tell(options, note)
    lengths = np.linalg.norm(states, axis=1, keepdims=True)
    known = CaptionedVectors(
        clip.texts(texts),
        clip.images(states),
        np.array([image for image, *_ in rows]),
        states / np.maximum(lengths, np.finfo(np.float32).tiny),
        None if kinds is None else [kinds[row] for *_, row in rows],
    )
    return names, texts, [name for _, _, name, _ in rows], known, notes


def _distinct(names: Sequence[str], keys: Sequence[str]) -> tuple[list[int], dict[str, int]]:
    """Returns the first row of every different key, and the number of each name's key.

    Copies of a file are one image: the captions of one are true of the other.
    """
    first: dict[str, int] = {}
    for row, key in enumerate(keys):
        first.setdefault(key, row)
    numbers = {key: number for number, key in enumerate(first)}
    return list(first.values()), {name: numbers[key] for name, key in zip(names, keys, strict=True)}


def _deliver(options: MismatchOptions, report: dict[str, Any]) -> None:
    if options.json:
        print(to_json(report, indent=1))
        return
    unused = report["captions"] - report["pairs"]
    print(f"{options.out}: {report['records']} records of {report['pairs']} captions; {unused} "
          f"captions of {report['captions']} fit no other image in balance")  # fmt: skip
    table = [["measure", "hardness", "captions", "images", "similarity", "uneven"]]
    for row in report["parts"]:
        uneven = row["images_uneven"] + row["captions_uneven"]
        table.append([row["by"], row["hardness"], str(row["captions"]), str(row["images"]),
                      f"{row['similarity']:.3f}", str(uneven)])  # fmt: skip
    print(render(table, "text"), end="")
    if "detectors" not in report:
        return
    names = list(report["detectors"][0]["detectors"])
    table = [["AUC by measure", "hardness", "captions", *names]]
    for row in report["detectors"]:
        figures = (row["detectors"][name] for name in names)
        cells = (
            figure_cell({"value": one["auc"], "interval": one["interval"]}, "{:.3f}")
            for one in figures
        )
        table.append([row["by"] or "all", row["hardness"] or "all", str(row["captions"]), *cells])
    print()
    print(render(table, "text"), end="")
