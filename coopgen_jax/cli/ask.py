"""Options from words: what every command shares, on top of tyro."""

import contextlib
import dataclasses
import inspect
import io
import re
import typing
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import dropwhile, takewhile
from typing import Annotated, Any

from coopgen_jax.errors import UserError


def ask(
    kind: Any,
    *,
    prog: str,
    arguments: Sequence[str],
    description: str,
    examples: str = "",
) -> Any:
    """Returns the options that arguments stand for.

    `kind` is a dataclass, or a union of annotated ones for subcommands; see tyro. `prog` is how the
    command is called, and help ends with the examples.

    Raises:
      UserError: the arguments cannot be read; the sentence says which.
      SystemExit: they ask for help.
    """
    import tyro

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                kind,
                prog=prog,
                description=inspect.cleandoc(description),
                args=list(arguments),
                config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes),
            )
    except SystemExit as stop:
        if stop.code:
            raise UserError(f"{_sentence(said.getvalue())}; see {prog} --help") from None
        print(examples, end="")
        raise


def _sentence(box: str) -> str:
    """Returns the first paragraph of what tyro says in a box."""
    # The frame is of hyphens alone where the output's encoding has no lines.
    lines = [line.strip("│ ").rstrip() for line in box.splitlines()]
    told = dropwhile(_is_rule, lines[1:])
    words = list(takewhile(lambda line: line and not _is_rule(line), told))
    if words[:1] and words[0].startswith("Missing from "):
        # Their help follows each of them.
        missing = [line.partition(" ")[0] for line in words if line.startswith("--")]
        return f"{', '.join(missing)} must be given"
    sentence = " ".join(words)
    value = re.match(r"Error parsing (--[\w-]+): .*?(?:from \['|: ')([^']*)'", sentence)
    if value:
        return f"{value[1]} is {value[2]!r}, which is no value of it"
    meant = re.search(r"Perhaps you meant:\s+(--[\w-]+)", " ".join(lines))
    hint = f" (perhaps {meant[1]})" if meant else ""
    return sentence[:1].lower() + sentence[1:].rstrip(".") + hint


def _is_rule(line: str) -> bool:
    return bool(line) and set(line) <= set("─╯╰-")


def subcommand(name: str, kind: type, hidden: tuple[str, ...] = ()) -> Any:
    """Returns a dataclass as a subcommand of this name, described by its docstring."""
    import tyro

    text = _doc(kind).partition("Attributes:")[0].strip()
    return Annotated[described(kind, hidden), tyro.conf.subcommand(name, description=text)]


@cache
def described(kind: type, hidden: tuple[str, ...] = ()) -> type:
    """Returns a dataclass whose flags have their help from its docstring's `Attributes:`.

    What is made of it is an instance of `kind` too. Fields that are `hidden` are read and not
    shown.
    """
    import tyro
    from tyro.conf import arg

    texts, hints = attributes(kind), typing.get_type_hints(kind, include_extras=True)
    entries = []
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if field.name in texts:
            text = texts[field.name].replace("`", "")
            hint = Annotated[hint, arg(help=text[:1].upper() + text[1:])]
        if field.name in hidden:
            hint = Annotated[hint, tyro.conf.Suppress]
        copy = dataclasses.field(default=field.default, default_factory=field.default_factory)
        entries.append((field.name, hint, copy))
    made = dataclasses.make_dataclass(kind.__name__, entries, bases=(kind,), frozen=True)
    made.__doc__ = _doc(kind).partition("Attributes:")[0].strip()
    return made


def grouped(name: str, groups: Mapping[str, type]) -> type:
    """Returns a dataclass of several, whose flags stand in boxes of their own in a help."""
    shown = {title.replace("-", "_"): described(kind) for title, kind in groups.items()}
    return box(name, [(title, kind, kind()) for title, kind in shown.items()])


def ungrouped(options: Any) -> dict[str, Any]:
    """Returns the values of all groups by name."""
    groups = [getattr(options, field.name) for field in dataclasses.fields(options)]
    return {
        field.name: getattr(group, field.name)
        for group in groups
        for field in dataclasses.fields(group)
    }


def attributes(kind: type) -> dict[str, str]:
    """Returns the texts of a dataclass's fields, as its docstring's `Attributes:` have them."""
    found: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        section = re.search(r"^Attributes:\n((?:  .*\n?|\n)+)", _doc(owner), re.M)
        if not section:
            continue
        for name, text in re.findall(r"^  (\w+): ((?:.*\n?)(?:    .*\n?)*)", section[1], re.M):
            found[name] = " ".join(text.split())
    return found


def first_sentence(kind: type) -> str:
    """Returns the first line of a class's docstring."""
    return _doc(kind).partition("\n")[0]


def _doc(kind: type) -> str:
    return inspect.cleandoc(kind.__dict__.get("__doc__") or "")


def flag(name: str) -> str:
    """Returns how an option is spelt on the command line."""
    return "--" + name.replace("_", "-")


def spelt(sentence: str, names: Iterable[str]) -> str:
    """Returns a sentence about settings in which options' names are spelt as flags.

    A name of one word is one at the beginning of a sentence alone: "rows" is a word as well. What
    stands in a path or in quotes is the user's.
    """
    for name in sorted(names, key=len, reverse=True):
        if "_" in name:
            sentence = re.sub(rf"(?<![-\w/.'\"]){name}(?![-\w/]|\.\w)", flag(name), sentence)
        else:
            sentence = re.sub(rf"^{name}(?= (is|says|and \w+ say) )", flag(name), sentence)
    return sentence


def value_of(name: str, arguments: Sequence[str]) -> str | None:
    """Returns the last value that arguments give a flag, None where they give none."""
    found = None
    for place, word in enumerate(arguments):
        if word == name:
            found = next(iter(arguments[place + 1 :]), None)
        elif word.startswith(f"{name}="):
            found = word.partition("=")[2]
    return found


def box(name: str, flags: Iterable[tuple[str, Any, Any]]) -> type:
    """Returns a dataclass of flags, each given by its name, its kind and its default."""
    entries = [(flag, kind, dataclasses.field(default=default)) for flag, kind, default in flags]
    made = dataclasses.make_dataclass(name, entries, frozen=True)
    made.__doc__ = ""
    return made


def one_flag(name: str, kind: Any, default: Any, text: str) -> type:
    """Returns a dataclass of one flag."""
    from tyro.conf import arg

    return box(name, [(name, Annotated[kind, arg(help=text)], default)])
