"""The command `coopgen compare`."""

import json
import sys
from contextlib import suppress
from dataclasses import replace
from functools import partial

from coopgen_jax.cli.compare_methods import runs_of, tunables_of
from coopgen_jax.cli.compare_options import CompareOptions
from coopgen_jax.cli.compare_tuning import (
    FOLDER,
    about_tuning,
    chosen_name,
    chosen_runs,
    notes_on,
    trial_table,
    tuned_methods,
    tuning_prompts,
)
from coopgen_jax.cli.evaluate_texts import deliver, measuring, report_settings
from coopgen_jax.cli.machines import keep_compilations, mesh_of
from coopgen_jax.cli.printing import note
from coopgen_jax.cli.prompts import read_prompts
from coopgen_jax.comparison.method_run import announced
from coopgen_jax.comparison.tuning import Tuned, first_run
from coopgen_jax.comparison.writing import Progress, compare
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.report import check_methods, report_files, report_on
from coopgen_jax.files import check_writable
from coopgen_jax.models.pretrained.loaded_model import DTYPES, load_tokenizer
from coopgen_jax.models.pretrained.packaged import cache_folder


def run_compare(options: CompareOptions) -> None:
    """Tunes the methods if that is asked for, writes what their texts lack, and measures them all.

    Raises:
      UserError: an option, a prompt or a file is not as it should be, or the judge is not
        independent.
    """
    if not options.target:
        raise UserError("there is no --target: name the class to write towards, or several")
    if len(set(options.target)) < len(options.target):
        raise UserError("a --target is named twice: name each once")
    is_tuned = (options.seconds_per_text, options.tuning_prompts) != (None, None)
    tunables = tunables_of(options) if is_tuned else []
    # Who guides and writes is known before a method is tuned.
    runs = [first_run(method) for method in tunables] if is_tuned else runs_of(options)
    prompts = read_prompts(options.texts, options.prompts, partial(note, options.quiet))
    rows = tuning_prompts(options, prompts) if is_tuned else []
    how = report_settings(options)
    # What can be refused is refused before anything is loaded, and it says who judges.
    for line in check_methods(announced(runs, options.target), how)[1]:
        note(options.quiet, line)
    if how.oracle:
        # One that cannot be had is refused before the texts are written that it is to read.
        load_tokenizer(how.oracle)
    mesh = mesh_of(options)
    keep_compilations(cache_folder() / "compilation")
    dtype = _dtype_of(options)
    tuned: list[Tuned] = []
    if is_tuned:
        count = len(options.target) * sum(text is not None for text in prompts)
        tuned = tuned_methods(options, tunables, rows, count, dtype, mesh)
        runs = chosen_runs(tuned)
        how = replace(how, against=chosen_name(how.against, tuned))
    methods = compare(
        runs,
        prompts,
        options.target,
        folder=options.out,
        seed=options.seed,
        batch_size=options.batch_size,
        chat=options.chat,
        control_strings=options.control_strings,
        dtype=dtype,
        mesh=mesh,
        on_progress=lambda progress: _show(progress, options.quiet),
    )
    stem = options.out / "figures"
    for path in report_files(stem, options.format).values():
        check_writable(path, "--out")
    report = report_on(methods, how, on_method=measuring(options.quiet))
    if is_tuned:
        report["tuning"] = about_tuning(options, tuned)
        report["notes"] += notes_on(options, tuned)
        if not options.json:
            print(trial_table(tuned, options.format))
    deliver(report, options, stem)


def _dtype_of(options: CompareOptions) -> str:
    """Returns the dtype that is asked for; auto goes on in that of texts that are there."""
    if options.dtype == "auto" and options.out.is_dir():
        for path in sorted([*options.out.glob("*.jsonl"), *options.out.glob(f"{FOLDER}/*.jsonl")]):
            # What is no header of texts is refused where its method is begun.
            with suppress(OSError, ValueError, KeyError, TypeError), path.open("rb") as lines:
                found = json.loads(lines.readline())["settings"]["dtype"]
                if found in DTYPES:
                    return str(found)
    return options.dtype


def _show(progress: Progress, quiet: bool) -> None:
    if not quiet:
        line = f"{progress.method}: batch {progress.batch} of {progress.batches}"
        print(f"coopgen: {line}", file=sys.stderr, flush=True)
