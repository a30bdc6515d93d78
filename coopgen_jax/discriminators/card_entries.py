"""What the entries of a discriminator's card look like, so that a damaged card is named."""

from collections.abc import Callable
from functools import partial
from typing import Any


def _whole(value: Any, least: int = 0) -> bool:
    return type(value) is int and value >= least


def _list_of(kind: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(kind, value))


def _text(value: Any) -> bool:
    return isinstance(value, str)


# What an entry of a card looks like, where the card has it.
ENTRIES: dict[str, Callable[[Any], bool]] = {
    "backbone": _text,
    "backbone_sha256": _text,
    "classes": _list_of(_text),
    "context": partial(_whole, least=1),
    "encoder": _text,
    "encoder_sha256": _text,
    "hidden": _list_of(partial(_whole, least=1)),
    "layers": _whole,
    "longest": partial(_whole, least=1),
    "look_ahead": _whole,
    "lora": lambda value: (
        isinstance(value, dict)
        and set(value) == {"rank", "targets"}
        and _whole(value["rank"], least=1)
        and _list_of(_text)(value["targets"])
    ),
    "model": _text,
    "model_sha256": _text,
    "prefixes": _list_of(_list_of(_whole)),
    "reads_prompt": lambda value: isinstance(value, bool),
    "start_token": lambda value: value is None or _whole(value),
    "taps": _list_of(_whole),
    "temperature": lambda value: type(value) in (int, float) and 0 < value < float("inf"),
    "width": partial(_whole, least=1),
}
