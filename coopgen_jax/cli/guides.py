"""What --discriminator names: one discriminator, or several that guide together."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from coopgen_jax.comparison.method_run import check_targets
from coopgen_jax.discriminators.composition import ALL, Term, compose
from coopgen_jax.discriminators.host.python_file import file_of, is_python
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.discriminators.loading import folder_of, packaged_heads
from coopgen_jax.errors import UserError

DEFAULT = "sentiment"


@dataclass(frozen=True)
class Wish:
    """One of several classes that texts are to have.

    Attributes:
      name: The discriminator.
      target: The class.
      weight: The exponent of its probability.
    """

    name: str
    target: str
    weight: float = 1.0

    @property
    def spelt(self) -> str:
        """How it is spelt on the command line."""
        weight = "" if self.weight == 1 else f":{self.weight:g}"
        return f"{self.name}={self.target}{weight}"

    @property
    def identity(self) -> tuple[str, ...]:
        """What names of the same discriminator share."""
        if is_python(self.name):
            path, function = file_of(self.name)
            return str(path.resolve()), function
        return (str(folder_of(self.name).resolve()),)


def guide_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the `discriminator`, the `wishes` and the `target` that the flags ask for.

    Raises:
      UserError: several are named without classes, a value cannot be read, or there is a --target
        beside classes.
    """
    given: Sequence[str] = values["discriminator"]
    wishes = [wish_of(value) for value in given]
    found = [wish for wish in wishes if wish is not None]
    if not found and len(given) < 2:
        return {"discriminator": given[0] if given else DEFAULT}
    for value, wish in zip(given, wishes, strict=True):
        if wish is None:
            raise UserError(
                f"--discriminator {value} names no class: of several each names its own, as "
                f"{value}=CLASS"
            )
    if values["target"] is not None:
        raise UserError(
            f"--discriminator {found[0].spelt} names its class itself: leave --target out"
        )
    seen = set()
    for wish in found:
        if (wish.identity, wish.target) in seen:
            raise UserError(
                f"--discriminator names {wish.name}={wish.target} twice: name it once, with a "
                "larger weight"
            )
        seen.add((wish.identity, wish.target))
    names = ", ".join(wish.spelt for wish in found)
    return {"discriminator": names, "wishes": tuple(found), "target": ALL}


def wish_of(value: str) -> Wish | None:
    """Returns what NAME=CLASS:WEIGHT stands for, None where it is a name alone.

    A name may hold = and : too: the longest that names something there is counts.

    Raises:
      UserError: there is no such discriminator, no class, or no weight of 0 or more.
    """
    places = [place for place, sign in enumerate(value) if sign == "="]
    if not places or _is_there(value):
        return None
    known = [place for place in places if _is_there(value[:place])]
    name = value[: known[-1] if known else places[0]]
    if not known:
        # These say what is missing.
        file_of(name) if is_python(name) else folder_of(name)
    target, colon, number = value[len(name) + 1 :].rpartition(":")
    if not colon:
        target, number = number, "1"
    if not target:
        raise UserError(f"--discriminator {value} names no class: give {name}=CLASS")
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not (math.isfinite(weight) and weight >= 0):
        raise UserError(
            f"--discriminator {value}: the weight is {number!r}, and it must be a number of 0 or "
            "more"
        )
    return Wish(name, target, weight)


def _is_there(name: str) -> bool:
    """Tells whether a name names a file, a folder or a head, whether or not it can be loaded."""
    try:
        if is_python(name):
            return bool(file_of(name))
        return bool(name) and (name in packaged_heads() or Path(name).expanduser().exists())
    except (UserError, OSError):
        return False


def check_wishes(wishes: Sequence[Wish]) -> None:
    """Raises UserError where a class is none of its discriminator's, by its card."""
    for wish in wishes:
        check_targets(wish.name, (wish.target,), source="the class")


def check_single(name: str, what: str) -> None:
    """Raises UserError where a --discriminator names its class, of which `what` has no use."""
    wish = wish_of(name)
    if wish is not None:
        raise UserError(
            f"{what} is guided by one discriminator towards --target: give --discriminator "
            f"{wish.name} without ={name[len(wish.name) + 1 :]}"
        )


def load_wishes(
    wishes: Sequence[Wish], load: Callable[[str], LoadedDiscriminator]
) -> LoadedDiscriminator:
    """Returns the wishes as one discriminator of the class "all"; each part is loaded once.

    Each wish is a class too, with its own probability. The card names them, with the cards of
    their discriminators.

    Raises:
      UserError: a discriminator cannot be loaded, or it has no such class.
    """
    parts = {wish.identity: wish.name for wish in wishes}
    loaded = {identity: load(name) for identity, name in parts.items()}
    terms = [Term(loaded[wish.identity], wish.target, wish.weight) for wish in wishes]
    card = {
        "kind": "composition",
        "terms": [
            {
                "discriminator": wish.name,
                "target": wish.target,
                "weight": wish.weight,
                "card": loaded[wish.identity].card,
            }
            for wish in wishes
        ],
    }
    names = [f"{wish.name}={wish.target}" for wish in wishes]
    return replace(compose(terms, names=names), card=card)
