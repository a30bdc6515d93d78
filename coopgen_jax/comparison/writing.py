"""Several methods continue the same prompts; what an interrupted run has written is kept.

Every method has a file of its own, which grows by whole batches. What is in a batch depends on the
prompts and the batch size alone, so that a run that goes on writes what it would have written.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh
from scipy.special import softmax

from coopgen_jax.bulk.growing_file import append, make_folder, resume
from coopgen_jax.comparison.header import header_of
from coopgen_jax.comparison.loaded_run import LoadedRun, Reading, load_runs
from coopgen_jax.comparison.method_run import MethodRun, announced, text_files
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.written_texts import Method, read_methods
from coopgen_jax.models.prompt import bucket, ids_of
from coopgen_jax.text_generation import generate


@dataclass(frozen=True)
class Progress:
    """How far a method is.

    Attributes:
      method: Its name.
      batch: How many batches its file has.
      batches: How many it is going to have.
    """

    method: str
    batch: int
    batches: int


def compare(
    runs: Sequence[MethodRun],
    prompts: Sequence[str | None],
    targets: Sequence[str],
    *,
    folder: Path,
    seed: int = 0,
    batch_size: int = 8,
    chat: bool = False,
    control_strings: bool = False,
    dtype: str = "float32",
    mesh: Mesh | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> list[Method]:
    """Has every method continue every prompt towards every target, and returns their texts.

    What is there of an earlier run with the same settings is kept, and the rest is written. All
    models are loaded and all prompts checked before a file is made. `report_on` of
    `evaluation.report` measures what this returns.

    A prompt of None is left out, and the others keep their numbers. Methods without a discriminator
    write for each target too. Every method has its file in `folder`, which is made, and a batch is
    written to it at once. A text depends on the seed, its prompt and its target alone. With `chat`
    prompts are put into the chat template, and with `control_strings` the model's control strings
    in them are control tokens there too.

    Raises:
      UserError: a method, a prompt or a target is not as it should be, or a file holds texts of
        other settings.
    """
    if not targets:
        raise UserError("there is no target: name the class to write towards, or several")
    if len(set(targets)) < len(targets):
        raise UserError("a target is named twice: name each once")
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}: give 1 or more")
    paths = text_files(runs, folder)
    announced(runs, targets)  # refuses targets before anything is loaded
    make_folder(folder)
    loaded = load_runs(runs, targets, dtype=dtype)
    reading = Reading(prompts, chat, control_strings)
    for run in loaded:
        run.check_prompts(reading)
    jobs = [job_of(run, reading, targets, batch_size) for run in loaded]
    done = []
    for job, path in zip(jobs, paths, strict=True):
        header = header_of(job.run, job.asked, reading, seed=seed, batch_size=batch_size)
        share = 1 if job.run.config.weighted else job.run.config.samples
        done.append(resume(path, header, [len(new) * share for _, new in job.batches]))
    for job, path, first in zip(jobs, paths, done, strict=True):
        for batch in range(first, len(job.batches)):
            append(path, lines_of(job, batch, seed=seed, batch_size=batch_size, mesh=mesh))
            on_progress(Progress(job.run.method.name, batch + 1, len(job.batches)))
    pairs = zip(runs, paths, strict=True)
    return [method for run, path in pairs for method in read_methods(path, run.name)]


def batches_of(lengths: Sequence[int], size: int) -> list[tuple[list[int], list[int]]]:
    """Returns the batches of a job: the rows that each reads, and those of them that are new.

    Rows of like length are read together; the last batch is filled up with rows of the one in front
    of it, so that all have a size and nothing more is compiled. A length of 0 leaves a row out.
    """
    order = sorted(filter(lengths.__getitem__, range(len(lengths))), key=lengths.__getitem__)
    found = []
    for at in range(0, len(order), size):
        new = order[at : at + size]
        found.append((order[max(0, at + len(new) - size) : at + len(new)], new))
    return found


def drawn(lines: Sequence[dict[str, Any]], seed: tuple[int, int]) -> dict[str, Any]:
    """Returns one of a prompt's weighted texts, drawn by the weights, at the price of them all."""
    logs = np.asarray([line["log_weight"] for line in lines])
    # Where all are impossible none is more so than the others.
    weights = softmax(logs if np.isfinite(logs.max()) else np.zeros(len(lines)))
    chosen = lines[np.random.default_rng(seed).choice(len(lines), p=weights)]
    spent = {name: sum(line[name] for line in lines) for name in ("seconds", "model_tokens")}
    return chosen | spent


@dataclass(frozen=True, eq=False)
class Job:
    """What a method writes.

    Attributes:
      run: What it writes with.
      asked: Every prompt with a target.
      texts: What the model reads of each.
      batches: See `batches_of`.
      widths: Tokens that the prompts of every batch are padded to.
    """

    run: LoadedRun
    asked: list[tuple[str | None, str]]
    texts: list[str | list[int] | None]
    batches: list[tuple[list[int], list[int]]]
    widths: list[int]


def job_of(run: LoadedRun, reading: Reading, targets: Sequence[str], batch_size: int) -> Job:
    """Returns what a method is to write: every prompt towards every target, in batches."""
    model = run.models[0]
    asked = [(prompt, target) for target in targets for prompt in reading.prompts]
    texts = reading.by(model) * len(targets)
    coded = iter(ids_of(model.tokenizer, [text for text in texts if text is not None]))
    lengths = [0 if text is None else bucket(len(next(coded))) for text in texts]
    # A batch is of one model.
    size = len(asked) // len(run.models)
    batches = [
        ([first + row for row in rows], [first + row for row in new])
        for first in range(0, len(asked), size)
        for rows, new in batches_of(lengths[first : first + size], batch_size)
    ]
    widths = [max(lengths[row] for row in rows) for rows, _ in batches]
    return Job(run, asked, texts, batches, widths)


def lines_of(
    job: Job, batch: int, *, seed: int, batch_size: int, mesh: Mesh | None = None
) -> list[dict[str, Any]]:
    """Writes a batch, and returns the lines of its new rows, each with its share of the seconds."""
    run, (rows, new) = job.run, job.batches[batch]
    start = time.perf_counter()
    texts = generate(
        run.writers.get(job.asked[new[0]][1], run.models[0]),
        job.texts,
        config=run.config,
        discriminator=run.guide,
        target=[target for _, target in job.asked] if run.guide else None,
        reference=run.reference,
        seed=seed,
        batch_size=batch_size,
        numbers=rows,
        mesh=mesh,
    )
    seconds = time.perf_counter() - start
    found: dict[int, list[dict[str, Any]]] = {}
    for text in texts:
        prompt, target = job.asked[text.number]
        line = asdict(text) | {"prompt": prompt, "target": target, "seconds": seconds / len(texts)}
        line |= {"batch": batch, "width": job.widths[batch]}
        found.setdefault(text.number, []).append(line)
    if run.config.weighted:
        found = {row: [drawn(lines, (seed, row))] for row, lines in found.items()}
    return [line for row in new for line in found[row]]
