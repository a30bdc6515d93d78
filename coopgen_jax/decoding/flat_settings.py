"""Settings by flat names: one level of names for records that hold records.

The command line, the headers of files and the cards of trainings know a decoder's settings by one
name each, `top_p` or `considered`, whichever record they stand in. A field whose type is a union of
records holds one of them: an alternative names the setting that selects it by `selected_by`, and
the one that names none, or None, stands where no other is selected.
"""

import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from itertools import chain
from typing import Any


@dataclass(frozen=True)
class Setting:
    """One setting of a decoder, by its flat name; its kind is the annotation in its owner."""

    name: str
    kind: Any
    owner: type
    default: Any


def settings_of(kind: type) -> list[Setting]:
    """Returns the settings of a record type, those of records in it and of all alternatives.

    Where records in it have a setting of the same name, it stands once.
    """
    found: dict[str, Setting] = {}
    hints = typing.get_type_hints(kind)
    for field in fields(kind):
        records = _records(hints[field.name])
        own = [Setting(field.name, hints[field.name], kind, _default(field))]
        for setting in chain(*map(settings_of, records)) if records else own:
            found.setdefault(setting.name, setting)
    return list(found.values())


def flat(config: Any) -> dict[str, Any]:
    """Returns the values of all settings by flat name, of alternatives those that are selected."""
    found: dict[str, Any] = {}
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value) and _records(type(value)):
            found |= flat(value)
        elif not _records(typing.get_type_hints(type(config))[field.name]):
            found[field.name] = value
    return found


def changed(config: Any, values: Mapping[str, Any]) -> Any:
    """Returns a record with other values of its settings, given by flat name.

    Raises:
      ValueError: a record refuses a value, or an alternative that is not selected has the setting.
      TypeError: there is no such setting.
    """
    known = {setting.name for setting in settings_of(type(config))}
    if unknown := set(values) - known:
        raise TypeError(f"{type(config).__name__} has no {', '.join(sorted(unknown))}")
    return _changed(config, values)


def _changed(config: Any, values: Mapping[str, Any]) -> Any:
    hints = typing.get_type_hints(type(config))
    new: dict[str, Any] = {}
    for field in fields(config):
        value, records = getattr(config, field.name), _records(hints[field.name])
        if records:
            own = {s.name for record in records for s in settings_of(record)} & set(values)
            if own:
                given = {name: values[name] for name in own}
                optional = type(None) in typing.get_args(hints[field.name])
                new[field.name] = _selected(value, records, given, optional=optional)
        elif field.name in values:
            new[field.name] = values[field.name]
    return replace(config, **new) if new else config


def _selected(value: Any, records: list[type], given: dict[str, Any], *, optional: bool) -> Any:
    """Returns a field's record, one of several alternatives, with what is given."""
    if len(records) == 1 and not optional:
        return _changed(value, given)
    selectors = {_selector(record): record for record in records if _selector(record)}
    asked = [name for name in selectors if given.get(name)]
    if len(asked) > 1:
        raise ValueError(
            " and ".join(f"{name} is {given[name]}" for name in asked)
            + ": they exclude each other, give 0 for one"
        )
    # A zero deselects, and is no value of the alternative.
    chosen = selectors[asked[0]] if asked else type(value)
    if not given.get(_selector(chosen), True):
        chosen = type(None) if optional else next(r for r in records if not _selector(r))
    given = {n: v for n, v in given.items() if n not in selectors or n == _selector(chosen)}
    own = {s.name for s in settings_of(chosen)} if chosen is not type(None) else set()
    for name in given.keys() - own:
        owner = next(r for r in records if name in {s.name for s in settings_of(r)})
        wanted = _selector(owner)
        way_out = f"{wanted} with it" if wanted else f"{_selector(chosen)} 0, or leave it out"
        raise ValueError(f"{name} says nothing here: give {way_out}")
    if chosen is type(None):
        return None
    if chosen is type(value):
        return _changed(value, given)
    # What both alternatives know stays as it was.
    known = {} if value is None else {f.name: getattr(value, f.name) for f in fields(value)}
    known |= given
    made = chosen(**{f.name: known[f.name] for f in fields(chosen) if f.name in known})
    return _changed(made, {n: v for n, v in given.items() if not hasattr(made, n)})


def _selector(record: type) -> str:
    return getattr(record, "selected_by", "")


def _records(kind: Any) -> list[type]:
    union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    parts = typing.get_args(kind) if union else (kind,)
    records = [part for part in parts if isinstance(part, type) and is_dataclass(part)]
    # The fields of an opaque record are no settings.
    return [record for record in records if not getattr(record, "opaque", False)]


def _default(field: Field) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()
