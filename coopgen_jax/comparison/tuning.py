"""Every method with the size and the settings that serve it best in the seconds of a text.

Methods are tuned on other prompts: each candidate's seconds are those of one warm batch, and
its score is the mean log-probability that its guide gives to the targets of all its texts. Where
scores are as good as equal, perplexity decides. What was measured is kept in a file a method, so
that an interrupted tuning measures nothing twice.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh
from scipy.stats import sem

from coopgen_jax.bulk.growing_file import append, make_folder, resume, rows_in
from coopgen_jax.comparison.choosing import Score, chosen
from coopgen_jax.comparison.header import header_of
from coopgen_jax.comparison.loaded_run import LoadedRun, Reading, load_runs
from coopgen_jax.comparison.method_run import MethodRun, text_files
from coopgen_jax.comparison.tuning_grid import Grid
from coopgen_jax.comparison.writing import Job, job_of, lines_of
from coopgen_jax.data.fingerprint import fingerprint
from coopgen_jax.decoding.methods.sampling import SamplingConfig
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.metrics import perplexity

# A guide that rules a text out must not outweigh all the others.
LEAST_PROBABILITY = 1e-9


@dataclass(frozen=True)
class Tunable:
    """A method that is to be tuned.

    Attributes:
      name: What it is called before it is tuned.
      grid: What is tried.
      run_with: Returns the method with values of settings; raises UserError where it refuses them.
    """

    name: str
    grid: Grid
    run_with: Callable[[Mapping[str, Any]], MethodRun]


@dataclass
class Trial:
    """A candidate, and what was measured of it.

    Attributes:
      name: What the candidate is called.
      seconds: Of a text in a warm batch; None where it was not timed.
      score: Mean log p(target | text) under the guide; None where it was not asked.
      error: The standard error of that mean.
      perplexity: Of the same texts under the model that wrote them.
      refused: Why the method cannot be set so; empty where it can.
    """

    name: str
    seconds: float | None = None
    score: float | None = None
    error: float | None = None
    perplexity: float | None = None
    refused: str = ""


@dataclass(frozen=True)
class Tuned:
    """A method that has been tuned.

    Attributes:
      asked: What it was called before.
      run: The method as it was chosen.
      seconds: Of a text, as measured on the tuning prompts; None where nothing limited them.
      fits: Whether these are within the budget; else it is the smallest size.
      trials: All that was tried.
    """

    asked: str
    run: MethodRun
    seconds: float | None
    fits: bool
    trials: tuple[Trial, ...]

    def about(self) -> dict[str, Any]:
        """Returns what reports say of it."""
        told = {"method": self.asked, "chosen": self.run.name, "seconds_per_text": self.seconds}
        trials = [asdict(trial) for trial in self.trials]
        return told | {"within_budget": self.fits, "trials": trials}


def tune(
    methods: Sequence[Tunable],
    prompts: Sequence[str],
    targets: Sequence[str],
    *,
    seconds_per_text: float,
    folder: Path,
    seed: int = 0,
    batch_size: int = 8,
    chat: bool = False,
    control_strings: bool = False,
    dtype: str = "float32",
    mesh: Mesh | None = None,
    on_trial: Callable[[str, Trial], None] = lambda method, trial: None,
) -> list[Tuned]:
    """Finds for every method the size and the settings that serve it best in the seconds of a text.

    The folder is made, and what is there of an earlier tuning with the same settings is kept.
    Arguments that `compare` has too are as there. Without a limit, `seconds_per_text` is infinity:
    then the largest size is taken and nothing is timed. `on_trial` gets a method's name and a trial
    after each measurement.

    Raises:
      UserError: a method cannot be set in any of the ways that are tried, the prompts do not fill a
        batch or are not as they should be, or a file is of another tuning.
    """
    found = [candidates_of(method) for method in methods]
    paths = text_files([MethodRun(method.name, SamplingConfig()) for method in methods], folder)
    if len(prompts) * len(targets) < batch_size:
        raise UserError(
            f"{len(prompts)} tuning prompts towards {len(targets)} targets do not fill a batch of "
            f"{batch_size}, whose seconds are measured: give more tuning prompts, or a smaller "
            "batch size"
        )
    every = [run for rows, _ in found for row in rows for run in row]
    loaded = iter(load_runs(every, targets, dtype=dtype))
    own = [{run.name: next(loaded) for row in rows for run in row} for rows, _ in found]
    reading = Reading(prompts, chat, control_strings)
    firsts = [next(iter(runs.values())) for runs in own]
    for first in firsts:
        first.check_prompts(reading)
    make_folder(folder)
    tuned = []
    for method, path, (rows, refused), runs, first in zip(
        methods, paths, found, own, firsts, strict=True
    ):
        job = job_of(first, reading, targets, batch_size)
        header = header_of(first, job.asked, reading, seed=seed, batch_size=batch_size)
        names = [[run.name for run in row] for row in rows]
        header["settings"] |= {"seconds_per_text": seconds_per_text, "tried": names}
        resume(path, header, [1] * 2 * len(runs), what="trials")
        heard = partial(on_trial, method.name)
        measuring = _Measuring(path, runs, reading, targets, seed, batch_size, mesh, heard)
        seconds_of, score_of = measuring.seconds_of, measuring.score_of
        choice = chosen(rows, seconds_of, score_of, seconds_per_text, refit=method.grid.refit)
        trials = (*measuring.trials.values(), *refused)
        seconds = measuring.trials[choice.candidate.name].seconds
        tuned.append(Tuned(method.name, choice.candidate, seconds, choice.fits, trials))
    return tuned


def first_run(method: Tunable) -> MethodRun:
    """Returns a method under the name that was asked for, to be checked before it is tuned."""
    return replace(candidates_of(method)[0][0][0], name=method.name)


def check_apart(tuning: Sequence[str], prompts: Sequence[str | None]) -> None:
    """Raises UserError where a prompt is to be tuned on and written from, whatever its case."""
    asked = set(fingerprint(text for text in prompts if text is not None).tolist())
    shared = [text for text in tuning if asked.intersection(fingerprint([text]).tolist())]
    if shared:
        raise UserError(
            f"--tuning-prompts and the prompts share {len(shared)}, such as {shared[0]!r}: tune on "
            "other prompts"
        )


def spread(rows: Sequence[str], count: int) -> list[str]:
    """Returns at most so many rows, evenly spread."""
    count = min(count, len(rows))
    return [rows[number * len(rows) // count] for number in range(count)]


def candidates_of(method: Tunable) -> tuple[list[list[MethodRun]], list[Trial]]:
    """Returns the runs to try, for every setting those of all sizes, and what the method refuses.

    Raises:
      UserError: it refuses them all, or settings are to be chosen and no guide is there to ask.
    """
    rows: list[list[MethodRun]] = []
    refused: list[Trial] = []
    for values in method.grid.values():
        row = []
        for own in values:
            try:
                row.append(method.run_with(own))
            except ValueError as error:
                words = (f"{name}={value}" for name, value in own.items())
                refused.append(Trial(":".join([method.name, *words]), refused=str(error)))
        # Presets that differ in their size alone are the same at equal sizes.
        alike = [[run.config for run in other] for other in rows]
        if row and [run.config for run in row] not in alike:
            rows.append(row)
    if not rows:
        raise UserError(refused[0].refused)
    if len(rows) > 1 and rows[0][0].discriminator is None:
        raise UserError(
            f"{method.name} has no discriminator, by which its settings are to be chosen: give it "
            "one, or leave it out"
        )
    return rows, refused


@dataclass(eq=False)
class _Measuring:
    """What was measured of a method's candidates, and what measures the rest.

    Attributes:
      path: The file of what was measured.
      runs: The candidates by name.
      on_trial: Gets every trial after a measurement.
      trials: What is known by now, by name.
    """

    path: Path
    runs: Mapping[str, LoadedRun]
    reading: Reading
    targets: Sequence[str]
    seed: int
    batch_size: int
    mesh: Mesh | None
    on_trial: Callable[[Trial], None]
    trials: dict[str, Trial] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for row in rows_in(self.path):
            self._learn(row)

    def seconds_of(self, candidate: MethodRun) -> float:
        """Returns the seconds of a text: its share of those of one warm batch."""
        seconds = self._trial(candidate).seconds
        if seconds is None:
            job = job_of(self.runs[candidate.name], self.reading, self.targets, self.batch_size)
            # That of the middle width; the first time it waits for the compilation.
            for _ in range(2):
                lines = self._lines(job, len(job.batches) // 2)
            seconds = sum(line["seconds"] for line in lines) / len(lines)
            self._keep({"trial": candidate.name, "seconds": seconds})
        return seconds

    def score_of(self, candidate: MethodRun) -> Score:
        """Returns what the guide and the language model say of all texts; 0 without a guide."""
        trial = self._trial(candidate)
        if trial.score is None and candidate.discriminator is not None:
            job = job_of(self.runs[candidate.name], self.reading, self.targets, self.batch_size)
            lines = [line for batch in range(len(job.batches)) for line in self._lines(job, batch)]
            said = [line["class_probabilities"][line["target"]] for line in lines]
            logs = np.log(np.maximum(said, LEAST_PROBABILITY))
            found = perplexity(
                [line["log_prob"] for line in lines], [len(line["tokens"]) for line in lines]
            )
            error = float(sem(logs)) if len(logs) > 1 else 0.0
            told = {"score": float(logs.mean()), "error": error, "perplexity": found}
            self._keep({"trial": candidate.name, **told})
        return Score(trial.score or 0.0, trial.error or 0.0, trial.perplexity or 0.0)

    def _lines(self, job: Job, batch: int) -> list[dict[str, Any]]:
        return lines_of(job, batch, seed=self.seed, batch_size=self.batch_size, mesh=self.mesh)

    def _trial(self, candidate: MethodRun) -> Trial:
        return self.trials.setdefault(candidate.name, Trial(candidate.name))

    def _keep(self, row: dict[str, Any]) -> None:
        append(self.path, [row])
        self.on_trial(self._learn(row))

    def _learn(self, row: dict[str, Any]) -> Trial:
        trial = self.trials.setdefault(row["trial"], Trial(row["trial"]))
        for name in ("seconds", "score", "error", "perplexity"):
            setattr(trial, name, row.get(name, getattr(trial, name)))
        return trial
