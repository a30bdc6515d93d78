"""A method's flags, made from its decoder's own settings.

Names, defaults and help texts are those of the settings: a new decoder has its flags as soon as it
stands in `DECODERS`. What needs the tokenizer is said in words and stands in `token_options`.
"""

import re
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from tyro.conf import arg

from coopgen_jax.cli.ask import attributes, box, first_sentence, flag
from coopgen_jax.cli.token_options import WORDS
from coopgen_jax.decoding.decode import DECODERS
from coopgen_jax.decoding.decoder_settings import DecoderSettings
from coopgen_jax.decoding.flat_settings import Setting, flat, settings_of
from coopgen_jax.decoding.mcts.mcts_config import MCTSConfig
from coopgen_jax.decoding.methods.sampling import SamplingConfig
from coopgen_jax.decoding.presets import PRESETS
from coopgen_jax.decoding.rules.shaping import TRUNCATION, Rules
from coopgen_jax.errors import UserError

# Settings that are options of every method, and those that only Python sets.
COMMON = ("new_tokens", "samples")
PYTHON_ONLY = ("watermark", "penalise_prompt")
# Boxes of their own in a help; everything else stands under the method's name.
BOXES = ("rules", "search")


@dataclass(frozen=True)
class Method:
    """A decoder under the name that `--method` has for it.

    base: its settings where nothing is said; line: what it does.
    fixed: settings that make it what it is and have no flag.
    """

    name: str
    base: DecoderSettings
    line: str
    fixed: tuple[str, ...] = ()


GREEDY = Method(
    "greedy",
    SamplingConfig(rules=Rules(temperature=0.0)),
    "Takes the likeliest token each time.",
    fixed=("temperature", *TRUNCATION, "mirostat", "mirostat_rate", "mix_base"),
)


def methods() -> dict[str, Method]:
    """Returns all methods by name."""
    named = {method_name(kind): kind for kind in DECODERS}
    found = {name: Method(name, kind(), first_sentence(kind)) for name, kind in named.items()}
    return found | {"greedy": GREEDY}


def method_name(kind: type[DecoderSettings]) -> str:
    """Returns the name of a decoder's method: what it says, or its settings' class in words."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", kind.__name__.removesuffix("Config")).lower()
    return kind.method or words


def method_of(name: str, preset: str | None = None) -> Method:
    """Returns a method, with the settings of a preset where it is a search.

    Raises:
      UserError: there is no such method or preset.
    """
    known = methods()
    if name not in known:
        raise UserError(f"--method is {name!r}: known are {', '.join(known)}")
    found = known[name]
    if not isinstance(found.base, MCTSConfig):
        return found
    preset = preset or "default"
    if preset not in PRESETS:
        raise UserError(f"--preset is {preset!r}: known are {', '.join(PRESETS)}")
    return replace(found, base=PRESETS[preset])


def settings_with_flags(method: Method) -> list[Setting]:
    """Returns the settings of a method that have flags of their own."""
    left_out = {*COMMON, *PYTHON_ONLY, *method.base.refuses, *method.fixed}
    return [s for s in settings_of(type(method.base)) if s.name not in left_out]


def flag_names(method: Method) -> dict[str, str]:
    """Returns the settings of a method by their flags' names, with underscores."""
    names = {}
    for setting in settings_with_flags(method):
        word = WORDS.get(setting.name)
        names[word.option if word else _option(setting)] = setting.name
    return names | ({"preset": ""} if isinstance(method.base, MCTSConfig) else {})


def _option(setting: Setting) -> str:
    """Returns an option's name: one that is on by default is switched off."""
    return f"no_{setting.name}" if setting.kind is bool and setting.default else setting.name


def switch_names(method: Method) -> set[str]:
    """Returns which of a method's flags have no value."""
    return {_option(setting) for setting in settings_with_flags(method) if setting.kind is bool}


def groups_of(method: Method) -> dict[str, type]:
    """Returns the boxes of a method's flags: dataclasses for tyro."""
    boxes: dict[str, list[tuple[str, Any, Any]]] = {method.name: []}
    if isinstance(method.base, MCTSConfig):
        text = "Settings that the others change."
        choices = typing.Literal[tuple(PRESETS)]  # type: ignore[valid-type]
        boxes[method.name].append(("preset", Annotated[choices, arg(help=text)], "default"))
    values, hints = flat(method.base), typing.get_type_hints(type(method.base))
    titles = {s.name: title for title in BOXES if title in hints for s in settings_of(hints[title])}
    for setting in settings_with_flags(method):
        title = titles.get(setting.name, method.name)
        boxes.setdefault(title, []).append(_entry(setting, values))
    return {title: box(title.replace("-", "_"), flags) for title, flags in boxes.items() if flags}


def _entry(setting: Setting, values: dict[str, Any]) -> tuple[str, Any, Any]:
    if word := WORDS.get(setting.name):
        described = arg(metavar=word.metavar, help=word.help, help_behavior_hint="")
        return word.option, Annotated[word.kind, described], word.default
    text, metavar = _help(setting)
    if setting.kind is bool:
        return _option(setting), Annotated[bool, arg(help=text, help_behavior_hint="")], False
    selected = setting.name in values
    default = values.get(setting.name, setting.default)
    kind = setting.kind if default is None else _bare(setting.kind)
    described = arg(
        help=text,
        help_behavior_hint=f"(default: {default if selected and default is not None else 'none'})",
        metavar=None if typing.get_origin(kind) is typing.Literal else metavar,
    )
    return setting.name, Annotated[kind, described], default


def _help(setting: Setting) -> tuple[str, str]:
    """Returns a setting's help text and the name of its value."""
    text = attributes(setting.owner).get(setting.name, "")
    letter = re.match(r"`(\w+)`[,:;.]? ?", text)
    metavar = {int: "N", float: "X"}.get(_bare(setting.kind), "X")
    if letter:
        text, metavar = text[letter.end() :], letter[1]
    # The first sentence is enough here; pages of the documentation have all of them.
    text = re.split(r"(?<=[a-z0-9)\"])\. (?=[A-Z0-9`])", text)[0].rstrip(".")
    text = re.sub(r" ?\(`[\w.]+`\)", "", text).replace("`", "") + "."
    if _option(setting) != setting.name:
        return f"Switches off what {text}", metavar
    return text[:1].upper() + text[1:], metavar


def _bare(kind: Any) -> Any:
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        parts = [part for part in typing.get_args(kind) if part is not type(None)]
        return parts[0] if len(parts) == 1 else kind
    return kind


def given_settings(
    method: Method, options: dict[str, Any], arguments: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns which settings arguments give, and which words.

    `options` are the values of all of the method's flags by name, read from the arguments.
    """
    said = {word.partition("=")[0] for word in arguments if word.startswith("--")}
    settings, words = {}, {}
    for option, setting in flag_names(method).items():
        if flag(option) not in said or not setting:
            continue
        value = options[option]
        if setting in WORDS:
            words[option] = value
        else:
            # A switch that is on by default has another name, which switches it off.
            settings[setting] = value if option == setting else not value
    return settings, words


def check_foreign(method: Method, arguments: Sequence[str]) -> None:
    """Raises UserError where an argument is a flag of other methods alone."""
    own = {flag(name) for name in flag_names(method)}
    others = {flag(name) for other in methods().values() for name in flag_names(other)}
    for word in arguments:
        name = word.partition("=")[0]
        if name in others - own:
            raise UserError(
                f"{name} means nothing to --method {method.name}: leave one of them out"
            )


def in_flags(sentence: str, method: Method) -> str:
    """Returns a sentence about settings with their flags in place of their names."""
    names = flag_names(method) | {name: name for name in COMMON}
    for option, setting in sorted(names.items(), key=lambda pair: -len(pair[0])):
        for name in {option, setting} - {""}:
            spelt = flag(option)
            if "_" in name:
                sentence = re.sub(rf"(?<![-\w]){name}(?![-\w])", spelt, sentence)
            else:
                sentence = re.sub(rf"(?<![-\w]){name}(?= is (?!no\b))", spelt, sentence)
                sentence = re.sub(rf"(?<=give ){name}(?=( [\d]| with|,|$))", spelt, sentence)
                sentence = re.sub(rf"(?<= or ){name}(?= \d)", spelt, sentence)
                sentence = re.sub(rf"^{name}(?= says)", spelt, sentence)
    return sentence
