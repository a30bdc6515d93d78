"""The command `coopgen compare`."""

import hashlib
import json
import sys
import time
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from jax.sharding import Mesh
from scipy.special import softmax

from coopgen_jax.cli.compare_methods import Job, jobs_of
from coopgen_jax.cli.compare_options import CompareOptions
from coopgen_jax.cli.evaluate_options import TextsOptions
from coopgen_jax.cli.evaluate_texts import prepare, report_on
from coopgen_jax.cli.machines import keep_compilations, mesh_of
from coopgen_jax.cli.model_options import (
    about_model,
    combine_models,
    load_reference,
    names_target,
)
from coopgen_jax.cli.printing import entry
from coopgen_jax.cli.prompts import read_prompts
from coopgen_jax.cli.provenance import about_guide, run_settings
from coopgen_jax.cli.token_options import with_words
from coopgen_jax.comparison.growing_file import append, resume
from coopgen_jax.decoding.decoder_settings import DecoderSettings
from coopgen_jax.decoding.methods.smc import SMCConfig
from coopgen_jax.decoding.methods.stochastic_beam import StochasticBeamConfig
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.discriminators.loading import folder_of, load_discriminator
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.independence import learnt
from coopgen_jax.evaluation.written_texts import Method, Written, read_methods, steering_of
from coopgen_jax.models.pretrained.combined_model import network_of
from coopgen_jax.models.pretrained.loaded_model import LoadedModel, load
from coopgen_jax.models.pretrained.packaged import cache_folder
from coopgen_jax.models.prompt import bucket, make_prompt
from coopgen_jax.text_generation import generate


def run_compare(options: CompareOptions) -> None:
    """Writes what is missing of each method's texts, then measures them all.

    Raises:
      UserError: an option, a prompt or a file is not as it should be, or the judge is not
        independent.
    """
    if not options.target:
        raise UserError("there is no --target: name the class to write towards, or several")
    if len(set(options.target)) < len(options.target):
        raise UserError("a --target is named twice: name each once")
    jobs = jobs_of(options)
    prompts = read_prompts(options.texts, options.prompts)
    measured = {field.name for field in fields(TextsOptions)} & set(vars(options))
    what = TextsOptions((), **{n: getattr(options, n) for n in measured - {"model", "target"}})
    what = replace(what, out=options.out / "figures")
    # What can be refused is, before anything is written.
    prepare([_announced(job, options) for job in jobs], what)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {options.out} cannot be made: {error.strerror or error}") from error
    mesh = mesh_of(jobs[0].options)
    keep_compilations(cache_folder() / "compilation")
    # What several methods take is loaded once.
    models: dict[str, LoadedModel] = {}
    guides: dict[tuple[str, str], LoadedDiscriminator] = {}

    def loaded(name: str, *, dtype: str = options.dtype) -> LoadedModel:
        if name not in models:
            models[name] = load(name, dtype=dtype)
        return models[name]

    parts = []
    for job in jobs:
        base, guide = loaded(job.options.model), (job.options.model, job.options.discriminator)
        if guide[1] != "none" and guide not in guides:
            guides[guide] = load_discriminator(guide[1], language_model=base)
        writers = {
            target: combine_models(replace(job.options, target=target), base, loaded)
            for target in (options.target if names_target(job.options) else options.target[:1])
        }
        reference = load_reference(job.options, base, base, loaded)
        for reader in (*writers.values(), *filter(None, [reference])):
            _check_prompts(job, options, prompts, reader)
        parts.append((job, writers, reference, guides.get(guide)))
    ready = [
        _begin(job, options, prompts, writers, reference, guide)
        for job, writers, reference, guide in parts
    ]
    for work in ready:
        _write(work, options, mesh)
    methods = [method for job in jobs for method in read_methods(job.path, job.name)]
    report_on(methods, what)


def _check_prompts(
    job: Job, options: CompareOptions, prompts: list[str], writer: LoadedModel
) -> None:
    """Raises UserError where a method cannot go on from a prompt."""
    make_prompt(
        writer.tokenizer,
        _wrapped(prompts, options, writer),
        context=network_of(writer).context,
        reserve=job.config.ahead,
    )


def _wrapped(prompts: list[str], options: CompareOptions, writer: LoadedModel) -> list[str]:
    """Returns what a model reads of each prompt."""
    return [writer.tokenizer.chat(text) for text in prompts] if options.chat else prompts


def _announced(job: Job, options: CompareOptions) -> Method:
    """Returns a method as far as it is known before it has written anything."""
    guide = job.options.discriminator
    texts = tuple(Written("", "", target) for target in options.target)
    if guide != "none":
        _check_targets(guide, options.target)
    settings = vars(job.options) | {"target": list(options.target)}
    steering = steering_of(settings, job.options.model)
    guide_name = None if guide == "none" else guide
    return Method(job.name, texts, guide_name, True, job.options.model, (), steering)


def _check_targets(guide: str, targets: tuple[str, ...]) -> None:
    """Raises UserError where a target is no class of a guide, by its card."""
    path = folder_of(guide) / "card.json"
    try:
        classes = json.loads(path.read_text(encoding="utf-8"))["classes"]
    except (OSError, ValueError, TypeError, KeyError):
        return  # loading it will say what is wrong
    for target in targets:
        if target not in classes:
            raise UserError(
                f"--target {target} is unknown to {guide}: its classes are {', '.join(classes)}"
            )


def batches_of(lengths: list[int], size: int) -> list[tuple[list[int], list[int]]]:
    """Returns the batches of a job: the rows that each reads, and those of them that are new.

    Rows of like length are read together; the last batch is filled up with rows of the one in front
    of it, so that all have a size and nothing more is compiled.

    Args:
      lengths: the bucketed length of every prompt.
      size: rows of a batch.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    found = []
    for at in range(0, len(order), size):
        new = order[at : at + size]
        found.append((order[max(0, at + len(new) - size) : at + len(new)], new))
    return found


@dataclass(frozen=True)
class _Work:
    """What a method's file lacks.

    job: the method; config: its settings with the words that they name; guide: its discriminator.
    asked: every prompt with a target; wrapped: what the model reads of each.
    writers: the model of every target, or one for all of them.
    reference: the model that leaving is charged, or None.
    batches: see `batches_of`; done: how many are there.
    """

    job: Job
    config: DecoderSettings
    guide: LoadedDiscriminator | None
    asked: list[tuple[str, str]]
    wrapped: list[str]
    writers: dict[str, LoadedModel]
    reference: LoadedModel | None
    batches: list[tuple[list[int], list[int]]]
    widths: list[int]
    done: int


def _begin(
    job: Job,
    options: CompareOptions,
    prompts: list[str],
    writers: dict[str, LoadedModel],
    reference: LoadedModel | None,
    guide: LoadedDiscriminator | None,
) -> _Work:
    """Finds what a method's file lacks, and makes the file where there is none."""
    model = next(iter(writers.values()))
    asked = [(prompt, target) for target in options.target for prompt in prompts]
    wrapped = _wrapped(prompts, options, model) * len(options.target)
    config = with_words(job.config, job.options, model.tokenizer)
    lengths = [bucket(len(row)) for row in model.tokenizer.encode_batch(wrapped)]
    size = len(asked) // len(writers)
    batches = [
        ([first + row for row in rows], [first + row for row in new])
        for first in range(0, len(asked), size)
        for rows, new in batches_of(lengths[first : first + size], options.batch_size)
    ]
    share = 1 if weighted(config) else config.samples
    sizes = [len(new) * share for _, new in batches]
    header = _header(job, options, config, asked, writers, guide)
    if reference:
        header["reference"] = about_model(reference)
    done = resume(job.path, header, sizes)
    widths = [max(lengths[row] for row in rows) for rows, _ in batches]
    return _Work(job, config, guide, asked, wrapped, writers, reference, batches, widths, done)


def _write(work: _Work, options: CompareOptions, mesh: Mesh | None) -> None:
    """Writes the batches that a method's file lacks."""
    job, asked, model = work.job, work.asked, next(iter(work.writers.values()))
    for number, (rows, new) in enumerate(work.batches):
        if number < work.done:
            continue
        start = time.perf_counter()
        texts = generate(
            work.writers.get(asked[new[0]][1], model),
            work.wrapped,
            config=work.config,
            discriminator=work.guide,
            target=[target for _, target in asked] if work.guide else None,
            reference=work.reference,
            seed=options.seed,
            batch_size=options.batch_size,
            numbers=rows,
            mesh=mesh,
        )
        share = (time.perf_counter() - start) / len(texts)
        found: dict[int, list[dict[str, Any]]] = {}
        for text in texts:
            prompt, target = asked[text.number]
            line = entry(text) | {"prompt": prompt, "target": target, "seconds": share}
            line |= {"batch": number, "width": work.widths[number]}
            found.setdefault(text.number, []).append(line)
        if weighted(work.config):
            found = {row: [drawn(lines, (options.seed, row))] for row, lines in found.items()}
        append(job.path, [line for row in new for line in found[row]])
        if not options.quiet:
            said = f"coopgen: {job.name}: batch {number + 1} of {len(work.batches)}"
            print(said, file=sys.stderr, flush=True)


def weighted(config: DecoderSettings) -> bool:
    """Tells whether a prompt's texts stand for a distribution only together with their weights."""
    return isinstance(config, SMCConfig | StochasticBeamConfig)


def drawn(lines: list[dict[str, Any]], seed: tuple[int, int]) -> dict[str, Any]:
    """Returns one of a prompt's weighted texts, drawn by the weights, at the price of them all."""
    logs = np.asarray([line["log_weight"] for line in lines])
    # Where all are impossible none is more so than the others.
    weights = softmax(logs if np.isfinite(logs.max()) else np.zeros(len(lines)))
    chosen = lines[np.random.default_rng(seed).choice(len(lines), p=weights)]
    spent = {name: sum(line[name] for line in lines) for name in ("seconds", "model_tokens")}
    return chosen | spent


def _header(
    job: Job,
    options: CompareOptions,
    config: DecoderSettings,
    asked: list[tuple[str, str]],
    writers: dict[str, LoadedModel],
    guide: LoadedDiscriminator | None,
) -> dict[str, Any]:
    """Returns what a method's texts depend on, the first line of its file."""
    settings = run_settings(job.options, config) | {"target": list(options.target)}
    # Where the work is done does not change the texts.
    for name in ("devices", "tensor", "hosts", "compare"):
        settings.pop(name)
    # What is not asked for is not told, so that texts from before it could be still go on.
    if settings["reference"] is None:
        del settings["reference"]
    if weighted(config):
        settings["kept"] = "one by weight"
    about = [about_model(writer) for writer in writers.values()]
    header = {
        "settings": settings,
        "model": about[0],
        "models": about[1:],
        "discriminator": about_guide(job.options, guide),
        "prompts": {"sha256": hashlib.sha256(json.dumps(asked).encode()).hexdigest()},
        "weights": {"discriminator": learnt(job.options.discriminator).weights if guide else None},
    }
    parsed: dict[str, Any] = json.loads(json.dumps(header, default=str))
    return parsed
