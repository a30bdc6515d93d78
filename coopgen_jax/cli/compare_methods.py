"""What `coopgen compare --methods` asks for."""

import hashlib
import re
import typing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from coopgen_jax.cli.compare_options import CompareOptions
from coopgen_jax.cli.methods import TAKES
from coopgen_jax.cli.model_options import names_target
from coopgen_jax.cli.options import GenerateOptions
from coopgen_jax.cli.settings import decoder_config
from coopgen_jax.decoding.decoder_settings import DecoderSettings
from coopgen_jax.errors import UserError

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
class Job:
    """One method's work.

    name: as the user wrote it; options, config: what it stands for; path: its file.
    """

    name: str
    options: GenerateOptions
    config: DecoderSettings
    path: Path


def jobs_of(options: CompareOptions) -> list[Job]:
    """Returns what --methods asks for.

    Raises:
      UserError: a method is unknown or named twice, or an option does not belong to it.
    """
    jobs: list[Job] = []
    for name in _split(options.methods, ","):
        chosen = method_options(name.strip(), options)
        if any(job.name == name.strip() for job in jobs):
            raise UserError(f"--methods names {name.strip()} twice: name it once")
        stem = re.sub(r"[^\w.-]+", "-", name.strip())
        path = options.out / f"{stem}.jsonl"
        if any(job.path == path for job in jobs):
            # Names that differ in signs alone.
            path = options.out / f"{stem}-{hashlib.sha256(name.encode()).hexdigest()[:6]}.jsonl"
        jobs.append(Job(name.strip(), chosen, decoder_config(chosen), path))
    return jobs


def _split(text: str, separator: str) -> list[str]:
    """Returns the parts of a text between separators that no backslash stands in front of."""
    return re.split(rf"(?<!\\){separator}", text)


def method_options(
    text: str, options: CompareOptions, *, said: str = "--methods"
) -> GenerateOptions:
    """Returns what `name:key=value:key=value` stands for, as if it were said to `generate`.

    Args:
      text: the method.
      options: what it shares with others.
      said: the option that it is the value of.

    Raises:
      UserError: there is no such method, or it takes no such option or value.
    """
    name, *pairs = _split(text, ":")
    if name not in TAKES:
        raise UserError(f"{said} has {name!r}: known are {', '.join(TAKES)}")
    shared: dict[str, Any] = {"method": name, **{key: getattr(options, key) for key in SHARED}}
    allowed = (*TAKES[name], *OWN)
    for part in pairs:
        key, separator, value = re.sub(r"\\([:,])", r"\1", part).partition("=")
        key = key.replace("-", "_")
        if not separator or key not in allowed:
            raise UserError(
                f"{said} {text}: {part!r} is no option of {name} as key=value; it takes "
                f"{', '.join(allowed)}"
            )
        shared[key] = _value(f"{said} {text}", key, value)
    # One target stands for all of them: how a method is set does not depend on it.
    found = GenerateOptions(target=options.target[0], **shared)
    unguided = found.discriminator == "none" and not names_target(found)
    return replace(found, target=None) if unguided else found


def _value(said: str, key: str, value: str) -> Any:
    """Returns the value of an option from its word."""
    kind = typing.get_type_hints(GenerateOptions)[key]
    if typing.get_origin(kind) is tuple:
        return tuple(value.split("+"))
    if kind is bool:
        if value not in ("true", "false"):
            raise UserError(f"{said}: {key} is {value!r}: give true or false")
        return value == "true"
    for one in (kind, *typing.get_args(kind)):
        if typing.get_origin(one) is Literal:
            if value in typing.get_args(one):
                return value
            known = ", ".join(map(str, typing.get_args(one)))
            raise UserError(f"{said}: {key} is {value!r}: known are {known}")
        if one in (int, float):
            try:
                return one(value)
            except ValueError as error:
                raise UserError(f"{said}: {key} is {value!r}: give a number") from error
    return value
