"""What `coopgen compare --methods` and `coopgen train gcn --proposal` ask for."""

import re
import typing
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from coopgen_jax.cli.compare_options import CompareOptions
from coopgen_jax.cli.methods import TAKES
from coopgen_jax.cli.model_options import names_target, steering_options
from coopgen_jax.cli.options import GenerateOptions
from coopgen_jax.cli.settings import decoder_config
from coopgen_jax.cli.token_options import with_words
from coopgen_jax.comparison.method_run import MethodRun
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


def runs_of(options: CompareOptions) -> list[MethodRun]:
    """Returns what --methods asks for.

    Raises:
      UserError: a method is unknown or named twice, or an option does not belong to it.
    """
    shared = {name: getattr(options, name) for name in SHARED}
    # One target stands for all of them: how a method is set does not depend on it.
    common = GenerateOptions(target=options.target[0], **shared)
    runs: list[MethodRun] = []
    for text in map(str.strip, _split(options.methods, ",")):
        if any(run.name == text for run in runs):
            raise UserError(f"--methods names {text} twice: name it once")
        own = method_options(text, common)
        config = decoder_config(own)
        runs.append(
            MethodRun(
                text,
                config,
                model=own.model,
                discriminator=None if own.discriminator == "none" else own.discriminator,
                steering=steering_options(own),
                reference=own.reference,
                method=own.method,
                preset=own.preset,
                with_tokens=partial(with_words, config, own),
            )
        )
    return runs


def method_config(
    text: str, *, new_tokens: int, samples: int, source: str = "--methods"
) -> DecoderSettings:
    """Returns the settings of the decoder that `name:key=value:key=value` stands for.

    Args:
      text: the method.
      new_tokens: `T`, the most tokens to write.
      samples: texts of a prompt, unless the method has its own.
      source: the option that the method is the value of.

    Raises:
      UserError: there is no such method, or it takes no such option or value.
    """
    # Only that there is a target counts: settings do not depend on which.
    common = GenerateOptions(target="human", new_tokens=new_tokens, samples=samples)
    return decoder_config(method_options(text, common, source=source))


def _split(text: str, separator: str) -> list[str]:
    """Returns the parts of a text between separators that no backslash stands in front of."""
    return re.split(rf"(?<!\\){separator}", text)


def method_options(
    text: str, common: GenerateOptions, *, source: str = "--methods"
) -> GenerateOptions:
    """Returns what `name:key=value:key=value` stands for, as options of `generate`.

    Args:
      text: the method.
      common: what it shares with others, and what it has where it says nothing.
      source: the option that it is the value of.

    Raises:
      UserError: there is no such method, or it takes no such option or value.
    """
    name, *pairs = _split(text, ":")
    if name not in TAKES:
        raise UserError(f"{source} has {name!r}: known are {', '.join(TAKES)}")
    own: dict[str, Any] = {"method": name}
    allowed = (*TAKES[name], *OWN)
    for part in pairs:
        key, separator, value = re.sub(r"\\([:,])", r"\1", part).partition("=")
        key = key.replace("-", "_")
        if not separator or key not in allowed:
            raise UserError(
                f"{source} {text}: {part!r} is no option of {name} as key=value; it takes "
                f"{', '.join(allowed)}"
            )
        own[key] = _value(f"{source} {text}", key, value)
    found = replace(common, **own)
    unguided = found.discriminator == "none" and not names_target(found)
    return replace(found, target=None) if unguided else found


def _value(place: str, key: str, value: str) -> Any:
    """Returns the value of an option from its word."""
    kind = typing.get_type_hints(GenerateOptions)[key]
    if typing.get_origin(kind) is tuple:
        return tuple(value.split("+"))
    if kind is bool:
        if value not in ("true", "false"):
            raise UserError(f"{place}: {key} is {value!r}: give true or false")
        return value == "true"
    for one in (kind, *typing.get_args(kind)):
        if typing.get_origin(one) is Literal:
            if value in typing.get_args(one):
                return value
            known = ", ".join(map(str, typing.get_args(one)))
            raise UserError(f"{place}: {key} is {value!r}: known are {known}")
        if one in (int, float):
            try:
                return one(value)
            except ValueError as error:
                raise UserError(f"{place}: {key} is {value!r}: give a number") from error
    return value
