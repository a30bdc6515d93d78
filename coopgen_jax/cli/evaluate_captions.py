"""The command `coopgen evaluate captions`."""

import sys
from functools import partial

from coopgen_jax.cli.evaluate_options import CaptionsOptions
from coopgen_jax.cli.evaluate_texts import named_file
from coopgen_jax.data.image_captions import read_image_captions
from coopgen_jax.data.sources import left_out
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.captions import caption_cells, evaluate_captions
from coopgen_jax.evaluation.tables import render
from coopgen_jax.files import check_writable, to_json, write_whole


def run_captions(what: CaptionsOptions) -> None:
    """Reports on the captions of files; raises UserError where they or references are of no use."""
    if not what.files:
        raise UserError("there are no captions: give files with an image and a caption a row")
    if what.self_bleu < 2:
        raise UserError(f"--self-bleu is {what.self_bleu}: give 2 or more")
    if what.out:
        check_writable(what.out, "--out")
    read = partial(read_image_captions, image=what.image, caption=what.caption)
    references = read(what.references)
    notes = [f"{what.references}: {line}" for line in left_out(references.broken)]
    methods: dict[str, dict[str, tuple[str, ...]]] = {}
    for entry in what.files:
        given, path = named_file(entry)
        name = given or path.stem
        if name in methods:
            raise UserError(f"two methods are called {name}: name one of them as NAME=FILE")
        found = read(path, empty=True)
        notes += [f"{path}: {line}" for line in left_out(found.broken)]
        methods[name] = found.captions
    report = evaluate_captions(
        methods, references.captions, against=what.against, self_bleu_texts=what.self_bleu
    )
    report["notes"] = notes
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
