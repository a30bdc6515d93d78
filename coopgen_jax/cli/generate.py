"""The command `coopgen generate`."""

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from coopgen_jax.bulk.hosts import Hosts, generate_on_hosts
from coopgen_jax.cli.checks import check_class
from coopgen_jax.cli.guides import load_wishes
from coopgen_jax.cli.machines import (
    in_one_dtype,
    join_hosts,
    keep_compilations,
    mesh_of,
    whole_parts,
)
from coopgen_jax.cli.method_flags import in_flags, method_of
from coopgen_jax.cli.model_options import combine_models, load_reference
from coopgen_jax.cli.options import GenerateOptions
from coopgen_jax.cli.printing import for_people, note, to_json_lines
from coopgen_jax.cli.progress import ProgressBar
from coopgen_jax.cli.prompts import as_read, read_messages, read_prompts
from coopgen_jax.cli.provenance import run_settings
from coopgen_jax.cli.settings import compared_config, decoder_config
from coopgen_jax.cli.token_options import left_out, with_words
from coopgen_jax.comparison.header import about_guide, about_model
from coopgen_jax.decoding.decoder_settings import DecoderSettings
from coopgen_jax.decoding.mcts.mcts_config import MCTSConfig
from coopgen_jax.decoding.rules.watermark_key import WatermarkKey, load_key
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.discriminators.loading import load_discriminator
from coopgen_jax.errors import UserError
from coopgen_jax.files import check_apart, check_writable, strict, to_json, write_whole
from coopgen_jax.models.pretrained.combined_model import CombinedModel
from coopgen_jax.models.pretrained.loaded_model import LoadedModel, load
from coopgen_jax.models.pretrained.packaged import cache_folder
from coopgen_jax.text_generation import Step, Text, generate, messages_of, with_watermark
from coopgen_jax.tools.trace import Recorder, document, render_html


@dataclass(frozen=True)
class _Job:
    """What a run works with.

    prompts: as the user gave them, None for a broken one; wrapped: as the model reads them.
    hosts, mesh: None on one host, on one device.
    key, messages: what texts are marked with, and what the marks say; None for no mark.
    """

    options: GenerateOptions
    prompts: list[str | None]
    wrapped: list[str | list[int] | None]
    model: LoadedModel
    reference: LoadedModel | None
    discriminator: LoadedDiscriminator | None
    hosts: Hosts | None
    mesh: Mesh | None
    key: WatermarkKey | None
    messages: list[int]


def run_generate(options: GenerateOptions) -> None:
    """Writes texts and reports them.

    Raises:
      UserError: an option, a prompt or a file is not as it should be.
    """
    config = decoder_config(options)
    check_class(options)
    key = load_key(options.watermark) if options.watermark else None
    try:
        config = with_watermark(config, key)
    except UserError as error:
        method = method_of(options.method, options.preset)
        raise UserError(in_flags(str(error), method)) from error
    if options.watermark_message and not key:
        raise UserError("--watermark-message is what a mark says: give its key by --watermark")
    if options.watermark_message < 0:
        raise UserError(f"--watermark-message is {options.watermark_message}: give 0 or more")
    prompts = read_prompts(options.texts, options.prompts, partial(note, options.quiet))
    hosts = join_hosts(options)
    with hosts or nullcontext():
        _run(options, config, prompts, hosts, key)


def _run(
    options: GenerateOptions,
    config: DecoderSettings,
    prompts: list[str | None],
    hosts: Hosts | None,
    key: WatermarkKey | None,
) -> None:
    messages = [0] * len(prompts)
    own = key.identity if key else "none"
    if hosts and hosts.agree("watermark", own) != own:
        raise UserError("--watermark is another here than on the first machine: give the same key")
    if key:
        messages = read_messages(options.prompts, options.watermark_message, len(prompts))
        messages_of(key, messages, len(prompts))
    mesh = mesh_of(options)
    for path, option in ((options.out, "--out"), (options.trace, "--trace")):
        if path:
            check_apart(path, {"--prompts": options.prompts}, option)
            check_writable(path, option)
    if config.deterministic:
        note(
            options.quiet,
            "nothing is random in these settings, so that a prompt's samples will all be the same: "
            "set --preset values, --visit-temperature 1 (with --preset puct or paper), --draw (for "
            "gedi), or --method sample",
        )
    keep_compilations(cache_folder() / "compilation")
    options = in_one_dtype(options, hosts)
    model = load(options.model, dtype=options.dtype)
    config = with_words(with_watermark(config, key, model), options.words, model.tokenizer)
    for sentence in left_out(options.words.get("bag", ()), model.tokenizer):
        note(options.quiet, sentence)
    writer = combine_models(options, model, load)
    reference = load_reference(options, model, writer, load)
    networks = writer.networks if isinstance(writer, CombinedModel) else (model,)
    networks += (reference,) if reference else ()
    for whole in dict.fromkeys(whole_parts(options, network.config) for network in networks):
        if whole:
            note(options.quiet, whole)
    discriminator = None
    if options.discriminator != "none":
        load_one = partial(load_discriminator, language_model=model)
        wishes = options.wishes
        discriminator = load_wishes(wishes, load_one) if wishes else load_one(options.discriminator)
    wrapped = as_read(
        model.tokenizer,
        prompts,
        chat=options.chat,
        control_strings=options.control_strings,
        note=partial(note, options.quiet),
    )
    job = _Job(
        options, prompts, wrapped, writer, reference, discriminator, hosts, mesh, key, messages
    )

    classes = discriminator.discriminator.classes if discriminator else ()
    recorder = Recorder(model.tokenizer, classes) if options.trace else None
    started = time.perf_counter()
    texts = _write(job, config, recorder, marked=True)
    seconds = time.perf_counter() - started
    host_seconds = discriminator.host_seconds if discriminator else None
    compared = _write(job, compared_config(options), None) if options.compare else None
    if texts is None:
        return  # process 0 reports
    found = {
        "settings": run_settings(options, config),
        "model": about_model(writer),
        "reference": about_model(reference) if reference else None,
        "discriminator": about_guide(options.discriminator, discriminator),
        "seconds": round(seconds, 3),
        "host_seconds": None if host_seconds is None else round(host_seconds, 3),
        "watermark": {"key": key.identity} if key else None,
        "texts": [
            asdict(text) | ({"message": messages[text.number]} if key else {}) for text in texts
        ],
        "compare": None if compared is None else [asdict(text) for text in compared],
    }
    _deliver(options, found, texts, compared, recorder)


def _write(
    job: _Job, config: DecoderSettings, recorder: Recorder | None, *, marked: bool = False
) -> list[Text] | None:
    """Writes all texts by one method; None on a host that does not have them all."""
    hosts = job.hosts
    own = hosts.share(len(job.prompts)) if hosts else range(len(job.prompts))
    progress = ProgressBar(
        prompts=sum(job.prompts[number] is not None for number in own),
        samples=config.samples,
        new_tokens=config.new_tokens,
        label="search" if isinstance(config, MCTSConfig) else "sampling",
        quiet=job.options.quiet,
    )

    def heard(step: Step) -> None:
        if recorder:
            recorder(step)
        progress(step)

    write: Callable = partial(generate_on_hosts, hosts) if hosts else generate
    with progress:
        texts = write(
            job.model,
            job.wrapped,
            config=config,
            discriminator=job.discriminator,
            target=job.options.target if job.discriminator else None,
            reference=job.reference if isinstance(config, MCTSConfig) else None,
            watermark=job.key if marked else None,
            message=job.messages if marked else 0,
            seed=job.options.seed,
            batch_size=job.options.batch_size,
            mesh=job.mesh,
            listener=heard,
        )
    if texts is None:
        return None
    return [replace(text, prompt=job.prompts[text.number] or "") for text in texts]


def _deliver(
    options: GenerateOptions,
    found: dict[str, Any],
    texts: list[Text],
    compared: list[Text] | None,
    recorder: Recorder | None,
) -> None:
    """Writes the files and prints; a file that fails takes nothing else along."""
    failures: list[UserError] = []

    def put(path: Path, content: Callable[[], str]) -> None:
        try:
            write_whole(path, content())
        except UserError as error:
            failures.append(error)

    if options.out:
        lines = options.out.suffix == ".jsonl"
        put(options.out, lambda: to_json_lines(found) if lines else to_json(found, indent=1) + "\n")
    if options.trace and recorder:
        about = {name: strict(found[name]) for name in ("settings", "model", "discriminator")}
        trace = document(recorder, texts, **about)
        page = options.trace.suffix == ".html"
        put(options.trace, lambda: render_html(trace) if page else to_json(trace) + "\n")
    if options.json:
        unicode = _encoding().lower().replace("-", "") == "utf8"
        sys.stdout.write(to_json(found, indent=1, ascii_only=not unicode) + "\n")
    else:
        report = for_people(found, texts, compared, style=sys.stdout.isatty())
        # What the terminal's encoding lacks must not end the run.
        encoded = report.encode(_encoding(), errors="backslashreplace")
        sys.stdout.write(encoded.decode(_encoding()))
    if failures:
        raise UserError("; ".join(str(error) for error in failures))


def _encoding() -> str:
    return sys.stdout.encoding or "utf-8"
