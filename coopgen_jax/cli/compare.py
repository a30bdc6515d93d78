"""The command `coopgen compare`."""

import hashlib
import json
import re
import sys
import time
import typing
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from jax.sharding import Mesh

from coopgen_jax.cli.combining import about_model, combine_models, names_target
from coopgen_jax.cli.compare_options import CompareOptions
from coopgen_jax.cli.evaluate_options import TextsOptions
from coopgen_jax.cli.evaluate_texts import prepare, report_on
from coopgen_jax.cli.generate import _about, _keep_compilations, _settings
from coopgen_jax.cli.machines import mesh_of
from coopgen_jax.cli.methods import TAKES
from coopgen_jax.cli.options import GenerateOptions
from coopgen_jax.cli.prompts import read_prompts
from coopgen_jax.cli.report import entry
from coopgen_jax.cli.resume import append, resume
from coopgen_jax.cli.settings import decoder_config
from coopgen_jax.cli.words import with_words
from coopgen_jax.decoding.presets import Decoding
from coopgen_jax.discriminators.heads import load_discriminator
from coopgen_jax.discriminators.loaded import LoadedDiscriminator
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.documents import Method, Written, read_methods
from coopgen_jax.evaluation.independence import learnt
from coopgen_jax.models.pretrained.loading import LoadedModel, load
from coopgen_jax.models.pretrained.packaged import cache_folder
from coopgen_jax.shell import generate
from coopgen_jax.text import bucket

# What every method shares, and what it may also have for itself.
SHARED = (
    "discriminator", "model", "dtype", "new_tokens", "samples", "seed", "batch_size", "devices",
    "tensor", "chat", "quiet",
)  # fmt: skip
OWN = (
    "preset", "discriminator", "samples", "model", "expert", "anti_expert", "expert_weight",
    "negative_prompt", "guidance", "control_code",
)  # fmt: skip


@dataclass(frozen=True)
class _Job:
    """One method's work.

    name: as the user wrote it; options, config: what it stands for; path: its file.
    """

    name: str
    options: GenerateOptions
    config: Decoding
    path: Path


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
    jobs = _jobs(options)
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
    _keep_compilations(cache_folder() / "compilation")
    # What several methods take is loaded once.
    models: dict[str, LoadedModel] = {}
    guides: dict[tuple[str, str], LoadedDiscriminator] = {}

    def loaded(name: str, *, dtype: str = options.dtype) -> LoadedModel:
        if name not in models:
            models[name] = load(name, dtype=dtype)
        return models[name]

    for job in jobs:
        base, guide = loaded(job.options.model), (job.options.model, job.options.discriminator)
        if guide[1] != "none" and guide not in guides:
            guides[guide] = load_discriminator(guide[1], language_model=base)
        writers = {
            target: combine_models(replace(job.options, target=target), base, loaded)
            for target in (options.target if names_target(job.options) else options.target[:1])
        }
        _write(job, options, prompts, writers, guides.get(guide), mesh)
    methods = [method for job in jobs for method in read_methods(job.path, job.name)]
    report_on(methods, what)


def _announced(job: _Job, options: CompareOptions) -> Method:
    """Returns a method as far as it is known before it has written anything."""
    guide = job.options.discriminator
    texts = tuple(Written("", "", target) for target in options.target)
    return Method(job.name, texts, None if guide == "none" else guide, True, job.options.model)


def _jobs(options: CompareOptions) -> list[_Job]:
    """Returns what --methods asks for.

    Raises:
      UserError: a method is unknown or named twice, or an option does not belong to it.
    """
    jobs: list[_Job] = []
    for name in _split(options.methods, ","):
        chosen = method_options(name.strip(), options)
        stem = re.sub(r"[^\w.-]+", "-", name.strip())
        path = options.out / f"{stem}.jsonl"
        if any(job.path == path for job in jobs):
            raise UserError(f"--methods names {name.strip()} twice: name it once")
        jobs.append(_Job(name.strip(), chosen, decoder_config(chosen), path))
    return jobs


def _split(text: str, separator: str) -> list[str]:
    """Returns the parts of a text between separators that no backslash stands in front of."""
    return re.split(rf"(?<!\\){separator}", text)


def method_options(text: str, options: CompareOptions) -> GenerateOptions:
    """Returns what `name:key=value:key=value` stands for, as if it were said to `generate`.

    Raises:
      UserError: there is no such method, or it takes no such option or value.
    """
    name, *pairs = _split(text, ":")
    if name not in TAKES:
        raise UserError(f"--methods has {name!r}: known are {', '.join(TAKES)}")
    shared: dict[str, Any] = {"method": name, **{key: getattr(options, key) for key in SHARED}}
    allowed = (*TAKES[name], *OWN)
    for part in pairs:
        key, separator, value = re.sub(r"\\([:,])", r"\1", part).partition("=")
        key = key.replace("-", "_")
        if not separator or key not in allowed:
            raise UserError(
                f"--methods {text}: {part!r} is no option of {name} as key=value; it takes "
                f"{', '.join(allowed)}"
            )
        shared[key] = _value(text, key, value)
    # One target stands for all of them: how a method is set does not depend on it.
    found = GenerateOptions(target=options.target[0], **shared)
    unguided = found.discriminator == "none" and not names_target(found)
    return replace(found, target=None) if unguided else found


def _value(text: str, key: str, value: str) -> Any:
    """Returns the value of an option from its word."""
    kind = typing.get_type_hints(GenerateOptions)[key]
    if typing.get_origin(kind) is tuple:
        return tuple(value.split("+"))
    for one in (kind, *typing.get_args(kind)):
        if typing.get_origin(one) is Literal:
            if value in typing.get_args(one):
                return value
            known = ", ".join(map(str, typing.get_args(one)))
            raise UserError(f"--methods {text}: {key} is {value!r}: known are {known}")
        if one in (int, float):
            try:
                return one(value)
            except ValueError as error:
                raise UserError(f"--methods {text}: {key} is {value!r}: give a number") from error
    return value


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


def _write(
    job: _Job,
    options: CompareOptions,
    prompts: list[str],
    writers: dict[str, LoadedModel],
    guide: LoadedDiscriminator | None,
    mesh: Mesh | None,
) -> None:
    """Writes the batches that a method's file lacks; one writer serves all targets, or one each."""
    model = next(iter(writers.values()))
    asked = [(prompt, target) for target in options.target for prompt in prompts]
    wrapped = [model.tokenizer.chat(p) if options.chat else p for p, _ in asked]
    config = with_words(job.config, job.options, model.tokenizer)
    lengths = [bucket(len(row)) for row in model.tokenizer.encode_batch(wrapped)]
    size = len(asked) // len(writers)
    batches = [
        ([first + row for row in rows], [first + row for row in new])
        for first in range(0, len(asked), size)
        for rows, new in batches_of(lengths[first : first + size], options.batch_size)
    ]
    sizes = [len(new) * config.samples for _, new in batches]
    done = resume(job.path, _header(job, options, config, asked, model, guide), sizes)
    for number, (rows, new) in enumerate(batches):
        if number < done:
            continue
        start = time.perf_counter()
        texts = generate(
            writers.get(asked[new[0]][1], model),
            wrapped,
            config=config,
            discriminator=guide,
            target=[target for _, target in asked] if guide else None,
            seed=options.seed,
            batch_size=options.batch_size,
            numbers=rows,
            mesh=mesh,
        )
        share = (time.perf_counter() - start) / len(texts)
        found: dict[int, list[dict[str, Any]]] = {}
        for text in texts:
            prompt, target = asked[text.number]
            line = entry(text) | {"prompt": prompt, "target": target}
            found.setdefault(text.number, []).append(line | {"seconds": share, "batch": number})
        append(job.path, [line for row in new for line in found[row]])
        if not options.quiet:
            said = f"coopgen: {job.name}: batch {number + 1} of {len(batches)}"
            print(said, file=sys.stderr, flush=True)


def _header(
    job: _Job,
    options: CompareOptions,
    config: Decoding,
    asked: list[tuple[str, str]],
    model: LoadedModel,
    guide: LoadedDiscriminator | None,
) -> dict[str, Any]:
    """Returns what a method's texts depend on, the first line of its file."""
    settings = _settings(job.options, config) | {"target": list(options.target)}
    # Where the work is done does not change the texts.
    for name in ("devices", "tensor", "hosts", "compare"):
        settings.pop(name)
    header = {
        "settings": settings,
        "model": about_model(model),
        "discriminator": _about(job.options, guide),
        "prompts": {"sha256": hashlib.sha256(json.dumps(asked).encode()).hexdigest()},
        "weights": {"discriminator": learnt(job.options.discriminator).weights if guide else None},
    }
    parsed: dict[str, Any] = json.loads(json.dumps(header, default=str))
    return parsed
