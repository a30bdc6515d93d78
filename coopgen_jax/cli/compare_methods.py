"""What `coopgen compare --methods` and `coopgen train gcn --proposal` ask for."""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, get_type_hints

from coopgen_jax.cli.ask import ask, box, flag, grouped, ungrouped
from coopgen_jax.cli.compare_options import CompareOptions
from coopgen_jax.cli.guides import check_single
from coopgen_jax.cli.method_flags import (
    flag_names,
    given_settings,
    groups_of,
    method_of,
    methods,
    switch_names,
)
from coopgen_jax.cli.model_options import names_target, steering_options
from coopgen_jax.cli.old_flags import METHODS
from coopgen_jax.cli.options import GenerateOptions
from coopgen_jax.cli.settings import decoder_config
from coopgen_jax.cli.token_options import WORDS, with_words
from coopgen_jax.comparison.method_run import MethodRun
from coopgen_jax.comparison.tuning import Tunable
from coopgen_jax.comparison.tuning_grid import grid_of
from coopgen_jax.decoding.decoder_settings import DecoderSettings
from coopgen_jax.errors import UserError

# What every method shares.
SHARED = (
    "discriminator", "model", "dtype", "new_tokens", "samples", "seed", "batch_size", "devices",
    "tensor", "chat", "control_strings", "quiet",
)  # fmt: skip


# What a method of `coopgen compare` may have for itself beside its settings.
_OWN = (
    "discriminator", "samples", "model", "reference", "expert", "anti_expert", "expert_weight",
    "negative_prompt", "guidance", "control_code",
)  # fmt: skip
_KINDS = get_type_hints(GenerateOptions)
OwnOptions: Any = box(
    "Own", [(name, _KINDS[name], getattr(GenerateOptions, name)) for name in _OWN]
)


def runs_of(options: CompareOptions) -> list[MethodRun]:
    """Returns what --methods asks for.

    Raises:
      UserError: a method is unknown or named twice, or an option does not belong to it.
    """
    common = _common(options)
    return [_run_of(text, method_options(text, common)) for text in _names(options)]


def tunables_of(options: CompareOptions) -> list[Tunable]:
    """Returns what --methods asks for, to be tuned: what is given behind a name stays as it is.

    Raises:
      UserError: a method is unknown or named twice.
    """
    common = _common(options)
    return [_tunable(text, common) for text in _names(options)]


def _tunable(text: str, common: GenerateOptions) -> Tunable:
    own = method_options(text, common)
    name, *pairs = _split(text, ":")
    given = dict(_entry(part, name, f"--methods {text}") for part in pairs)

    def run_with(values: Mapping[str, Any]) -> MethodRun:
        words = [text, *(f"{key}={value}" for key, value in values.items())]
        changes = {key: values[key] for key in ("preset", "samples") if key in values}
        settings = {key: value for key, value in values.items() if key not in changes}
        changed = replace(own, settings={**own.settings, **settings}, **changes)
        return _run_of(":".join(words), changed)

    grid = grid_of(name, {_option(key): value for key, value in given.items()})
    return Tunable(text, grid, run_with)


def _common(options: CompareOptions) -> GenerateOptions:
    """Returns what all methods have alike."""
    shared = {name: getattr(options, name) for name in SHARED}
    # One target stands for all of them: how a method is set does not depend on it.
    return GenerateOptions(target=options.target[0], **shared)


def _names(options: CompareOptions) -> list[str]:
    """Returns the methods of --methods in words; raises UserError where one stands twice."""
    texts = [text.strip() for text in _split(options.methods, ",")]
    for text in texts:
        if texts.count(text) > 1:
            raise UserError(f"--methods names {text} twice: name it once")
    return texts


def _run_of(text: str, own: GenerateOptions) -> MethodRun:
    """Returns the method that `name:key=value:key=value` and its options stand for."""
    config = decoder_config(own)
    return MethodRun(
        text,
        config,
        model=own.model,
        discriminator=None if own.discriminator == "none" else own.discriminator,
        steering=steering_options(own),
        reference=own.reference,
        method=own.method,
        preset=own.preset,
        with_tokens=partial(with_words, config, own.words),
    )


def method_config(
    text: str, *, new_tokens: int, samples: int, source: str = "--methods"
) -> DecoderSettings:
    """Returns the settings of the decoder that `name:key=value:key=value` stands for.

    The method may set other `samples`; `source` is the option that it is the value of.

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

    The rest it has in `common` with others; see `method_config`.

    Raises:
      UserError: there is no such method, or it takes no such option or value.
    """
    name, *pairs = _split(text, ":")
    if name not in methods():
        raise UserError(f"{source} has {name!r}: known are {', '.join(methods())}")
    place = f"{source} {text}"
    entries = dict(_entry(part, name, place) for part in pairs)
    method = method_of(name, entries.get("preset"))
    own = set(_OWN)
    known, switches = flag_names(method), switch_names(method)
    arguments: list[str] = []
    for key, value in entries.items():
        option = _option(key)
        if option not in own | known.keys():
            raise UserError(
                f"{place}: '{key}={value}' is no option of {name} as key=value; it takes "
                f"{', '.join([*known, *sorted(own)])}"
            )
        word = WORDS.get(known.get(option, ""))
        several = word is not None and word.kind is not str
        if option in switches and value not in ("true", "false"):
            raise UserError(f"{place}: {key} is {value!r}: give true or false")
        arguments += _words(flag(option), value, several=several, switch=option in switches)
    kind = grouped("Own", groups_of(method) | {"own": OwnOptions})
    try:
        read = ungrouped(ask(kind, prog=source, arguments=arguments, description=""))
    except UserError as error:
        raise UserError(f"{place}: {str(error).partition('; see')[0]}") from error
    settings, words = given_settings(method, read, arguments)
    changes = {name: read[name] for name in own & entries.keys()}
    found = replace(
        common, method=name, preset=entries.get("preset", "default"), settings=settings,
        words=words, **changes,
    )  # fmt: skip
    check_single(found.discriminator, place)
    unguided = found.discriminator == "none" and not names_target(found)
    return replace(found, target=None) if unguided else found


def _entry(part: str, name: str, place: str) -> tuple[str, str]:
    key, separator, value = re.sub(r"\\([:,])", r"\1", part).partition("=")
    if not separator:
        raise UserError(f"{place}: {part!r} is no option of {name} as key=value")
    return key.replace("-", "_"), value


def _option(key: str) -> str:
    """Returns the present name of an option behind a method's name."""
    return METHODS.get(flag(key), flag(key)).removeprefix("--").replace("-", "_")


def _words(name: str, value: str, *, several: bool, switch: bool) -> list[str]:
    if switch:
        return [name] if value == "true" else []
    # A value in the same word may look like a flag.
    return [f"{name}={one}" for one in (value.split("+") if several else [value])]
