"""Written texts read back from files: those of `coopgen generate` and `compare`, or others.

A .json file is the document of `coopgen generate`. A .jsonl file has a text a line, with "prompt",
"text" and, where they are known, "method", "target", "tokens", "seconds" and "model_tokens"; a line
with "settings" in place of a text says how the texts below it were written. A broken row is left
out, counted and named.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from coopgen_jax.data.sources import split_lines
from coopgen_jax.discriminators.composition import ALL
from coopgen_jax.errors import UserError
from coopgen_jax.files import read_text
from coopgen_jax.tokenizer import has_half_character


@dataclass(frozen=True)
class Written:
    """One text.

    Attributes:
      prompt: what it continues.
      text: the continuation.
      target: the class asked for, or None.
      tokens: its ids in the model that wrote it.
      seconds: its share of the time that its batch took.
      batch: the batch's number.
      model_tokens: tokens that the language model read for it.
      width: the tokens that its batch's prompts were padded to.
      guide_probability: what its guide gave its target, None where nobody says, and of the class
        of a composition.
    """

    prompt: str
    text: str
    target: str | None = None
    tokens: tuple[int, ...] | None = None
    seconds: float | None = None
    batch: int | None = None
    model_tokens: int | None = None
    width: int | None = None
    guide_probability: float | None = None


@dataclass(frozen=True)
class Method:
    """The texts of one method.

    Attributes:
      name: what the method is called.
      texts: its texts.
      guide: the discriminator that they were written with, None where there was none.
      told: whether the file says so.
      model: the language model that wrote them, the base of several, None where it is unknown.
      hashes: of the files of all language models that wrote them.
      steering: names of language models that steered the texts: experts, and one behind a control
        code.
      guide_weights: the hash of the guide's weights as they were then, None where it is unknown.
      broken: what is wrong with the rows of its file that were left out, a sentence each.
    """

    name: str
    texts: tuple[Written, ...]
    guide: str | None = None
    told: bool = False
    model: str | None = None
    hashes: tuple[str, ...] = ()
    steering: tuple[str, ...] = ()
    guide_weights: str | None = None
    broken: tuple[str, ...] = ()


def steering_of(settings: Any, model: str | None) -> tuple[str, ...]:
    """Returns the language models that steer by the settings of a run, each once.

    In the experts' names {target} stands for each target; behind a control code is the base.
    """
    if not isinstance(settings, dict):
        return ()
    said = settings.get("target")
    targets = said if isinstance(said, list) else [said]
    names = [settings.get("expert"), settings.get("anti_expert")]
    names += [model] if settings.get("control_code") else []
    return tuple(
        dict.fromkeys(
            name.replace("{target}", str(target))
            for name in names
            if isinstance(name, str)
            for target in targets
        )
    )


def read_methods(path: Path, name: str | None = None) -> list[Method]:
    """Reads the methods of a file, the first of them called `name` if that is given.

    The first has what is wrong with the rows that were left out in `broken`.

    Raises:
      UserError: it cannot be read, is not such a file, or holds no sound text.
    """
    if path.suffix not in (".json", ".jsonl"):
        raise UserError(f"{path} is neither a .json nor a .jsonl file of texts")
    read = _lines if path.suffix == ".jsonl" else _document
    whole, broken = read(path, read_text(path))
    found = [method for method in whole if method.texts]
    if not found and broken:
        raise UserError(f"{path} holds no sound text among {len(broken)}: {broken[0]}")
    if not found:
        raise UserError(f"{path} holds no texts")
    # What was written for comparison keeps its name.
    first = replace(found[0], broken=tuple(broken))
    return [first if name is None else replace(first, name=name), *found[1:]]


def _document(path: Path, content: str) -> tuple[list[Method], list[str]]:
    value = _parsed(content, str(path))
    if not isinstance(value, dict) or not isinstance(value.get("texts"), list):
        raise UserError(f'{path} has no list of "texts": give what `coopgen generate --out` wrote')
    main = _header(value, str(path), path.stem)
    broken: list[str] = []
    texts = list(_rows(value["texts"], f"of {path}", broken))
    seconds: Any = value.get("seconds")
    if _is_number(seconds) and texts and all(text.seconds is None for text in texts):
        texts = [replace(text, seconds=seconds / len(texts)) for text in texts]
    compared = value.get("compare")
    compared = compared if isinstance(compared, list) else []
    others = list(_rows(compared, f"compared of {path}", broken))
    plain = replace(main, name="compare", texts=tuple(others), guide=None)
    return [replace(main, texts=tuple(texts)), plain], broken


def _lines(path: Path, content: str) -> tuple[list[Method], list[str]]:
    headers: dict[str, Method] = {}
    texts: dict[str, list[Written]] = {}
    broken: list[str] = []
    latest = Method(path.stem, ())
    for number, line in enumerate(split_lines(content), start=1):
        if not line.strip():
            continue
        place = f"line {number} of {path}"
        try:
            value = _parsed(line, place)
            is_header = isinstance(value, dict) and "settings" in value and "text" not in value
            text = None if is_header else _row(value, place)
        except UserError as fault:
            broken.append(str(fault))
            continue
        if text is None:
            latest = _header(value, place, path.stem)
            if headers.get(latest.name, latest) != latest:
                raise UserError(
                    f"{place} begins another run of {latest.name}: keep every run in a file of its "
                    "own"
                )
            continue
        name = _word(value.get("method"), latest.name)
        headers.setdefault(name, replace(latest, name=name))
        texts.setdefault(name, []).append(text)
    return [replace(headers[name], texts=tuple(rows)) for name, rows in texts.items()], broken


def _parsed(content: str, place: str) -> Any:
    try:
        return json.loads(content)
    except ValueError as error:
        raise UserError(f"{place} is not JSON: {error}") from error


def _word(value: Any, otherwise: str) -> str:
    return value if isinstance(value, str) and value else otherwise


def _header(value: dict[str, Any], place: str, name: str) -> Method:
    """Returns a method with what its file says of name, guide and model, and no texts."""
    guide, model, settings = (value.get(n) for n in ("discriminator", "model", "settings"))
    if not isinstance(guide, dict | None) or not isinstance(model, dict | None):
        raise UserError(f"{place}: model and discriminator must be objects or null")
    told = "discriminator" in value and (guide is None or isinstance(guide.get("name"), str))
    about, weights = model or {}, value.get("weights")
    networks = [about, *_objects(about.get("networks")), *_objects(value.get("models"))]
    networks += [part for one in networks for part in _objects(one.get("networks"))]
    hashes = [one["sha256"] for one in networks if isinstance(one.get("sha256"), str)]
    return Method(
        _word(settings.get("method") if isinstance(settings, dict) else None, name),
        (),
        guide["name"] if guide and told else None,
        told,
        about.get("name"),
        tuple(dict.fromkeys(hashes)),
        steering_of(settings, about.get("name")),
        weights.get("discriminator") if isinstance(weights, dict) else None,
    )


def _objects(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _rows(values: list[Any], place: str, broken: list[str]) -> Iterator[Written]:
    """Yields the sound rows, and fills `broken` meanwhile."""
    for number, value in enumerate(values, start=1):
        try:
            yield _row(value, f"text {number} {place}")
        except UserError as fault:
            broken.append(str(fault))


def _row(value: Any, place: str) -> Written:
    if not isinstance(value, dict):
        raise UserError(f"{place} is not an object")
    for name in ("prompt", "text"):
        if not isinstance(value.get(name), str):
            raise UserError(f'{place} has no "{name}" that is a string')
        if has_half_character(value[name]):
            raise UserError(f'{place} holds half a character in its "{name}"')
    target, tokens = value.get("target"), value.get("tokens")
    if not isinstance(target, str | None) or has_half_character(target or ""):
        raise UserError(f'{place}: its "target" is no name of a class')
    if tokens is not None and not (
        isinstance(tokens, list) and all(type(token) is int for token in tokens)
    ):
        raise UserError(f'{place}: its "tokens" are no list of numbers')
    numbers = {name: value.get(name) for name in ("seconds", "batch", "width", "model_tokens")}
    for name, number in numbers.items():
        if number is not None and not _is_number(number):
            raise UserError(f'{place}: its "{name}" is no number of 0 or more')
    return Written(
        value["prompt"],
        value["text"],
        target,
        None if tokens is None else tuple(tokens),
        **numbers,
        guide_probability=_guide_probability(value.get("class_probabilities"), target),
    )


def _guide_probability(said: Any, target: str | None) -> float | None:
    # What a composition gives its class is a product with weights, and no probability.
    found: Any = said.get(target) if isinstance(said, dict) and target != ALL else None
    return found if _is_number(found) and found <= 1 else None


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value >= 0
