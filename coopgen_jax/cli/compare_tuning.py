"""`coopgen compare --seconds-per-text`: every method is tuned to the same seconds first."""

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from jax.sharding import Mesh

from coopgen_jax.cli.compare_options import CompareOptions
from coopgen_jax.cli.printing import note
from coopgen_jax.cli.prompts import read_prompts
from coopgen_jax.comparison.method_run import MethodRun
from coopgen_jax.comparison.tuning import Trial, Tunable, Tuned, check_apart, spread, tune
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.tables import Format, render

FOLDER = "tuning"


def tuning_prompts(options: CompareOptions, prompts: Sequence[str | None]) -> list[str]:
    """Returns the prompts to tune on.

    Raises:
      UserError: tuning is asked for in part or with a wrong value, or its prompts cannot be read or
        are among the others.
    """
    seconds, file = options.seconds_per_text, options.tuning_prompts
    if seconds is None or file is None:
        given, missing = "--seconds-per-text", "--tuning-prompts"
        if seconds is None:
            given, missing = missing, given
        raise UserError(f"{given} is there without {missing}: give both or neither")
    if not 0 < seconds < float("inf"):
        raise UserError(f"--seconds-per-text is {seconds}: give seconds above 0")
    if options.tuning_rows < 1:
        raise UserError(f"--tuning-rows is {options.tuning_rows}: give 1 or more")
    found = read_prompts((), file, partial(note, options.quiet))
    rows = spread([text for text in found if text is not None], options.tuning_rows)
    check_apart(rows, prompts)
    return rows


def tuned_methods(
    options: CompareOptions,
    methods: Sequence[Tunable],
    rows: Sequence[str],
    count: int,
    dtype: str,
    mesh: Mesh | None,
) -> list[Tuned]:
    """Tunes methods; `count` is how many texts each is going to write.

    Raises:
      UserError: see `tune`.
    """
    assert options.seconds_per_text is not None
    return tune(
        methods,
        rows,
        options.target,
        seconds_per_text=options.seconds_per_text,
        folder=options.out / FOLDER,
        seed=options.seed,
        batch_size=min(options.batch_size, count),
        chat=options.chat,
        control_strings=options.control_strings,
        dtype=dtype,
        mesh=mesh,
        on_trial=lambda method, trial: _show(method, trial, options.quiet),
    )


def chosen_runs(tuned: Sequence[Tuned]) -> list[MethodRun]:
    """Returns the runs that were chosen, one that several methods came to once."""
    return list({one.run.name: one.run for one in tuned}.values())


def chosen_name(asked: str | None, tuned: Sequence[Tuned]) -> str | None:
    """Returns what a method that was asked for is called now that it is tuned."""
    return next((one.run.name for one in tuned if one.asked == asked), asked)


def about_tuning(options: CompareOptions, tuned: Sequence[Tuned]) -> dict[str, Any]:
    """Returns what a report says of the tuning."""
    return {
        "seconds_per_text": options.seconds_per_text,
        "prompts": str(options.tuning_prompts),
        "methods": [one.about() for one in tuned],
    }


def notes_on(options: CompareOptions, tuned: Sequence[Tuned]) -> list[str]:
    """Returns the sentences under the table of a comparison that was tuned."""
    budget = options.seconds_per_text
    notes = [f"tuned to {budget:g} s a text on other prompts; s/text is what it came to"]
    for one in tuned:
        if not one.fits:
            notes.append(
                f"over the budget: {one.asked} takes {one.seconds:.2f} s a text at its smallest, "
                f"{one.run.name}"
            )
    names = [one.run.name for one in tuned]
    for number, one in enumerate(tuned):
        if one.run.name in names[:number]:
            first = tuned[names.index(one.run.name)].asked
            notes.append(f"{one.asked} came to what {first} came to: {one.run.name}")
    return notes


def trial_table(tuned: Sequence[Tuned], form: Format) -> str:
    """Returns all that was tried as a table; what was chosen is marked."""
    table = [["tried", "s/text", "log p(target)", "perplexity", ""]]
    for one in tuned:
        for trial in one.trials:
            fate = "refused: " + trial.refused if trial.refused else ""
            if trial.name == one.run.name:
                fate = "chosen" if one.fits else "over the budget"
            numbers = ((trial.seconds, 2), (trial.score, 3), (trial.perplexity, 2))
            words = ["-" if value is None else f"{value:.{d}f}" for value, d in numbers]
            words[1] += "" if trial.error is None else f" ± {trial.error:.3f}"
            table.append([trial.name, *words, fate])
    return render(table, form)


def _show(method: str, trial: Trial, quiet: bool) -> None:
    if not quiet:
        score = "" if trial.score is None else f", log p(target) {trial.score:.3f}"
        line = f"tuning {method}: {trial.name}: {trial.seconds:.2f} s a text{score}"
        print(f"coopgen: {line}", file=sys.stderr, flush=True)
