"""What tuning tries of every method: one size that is fitted to the seconds, and other settings.

This is the whole table. A method that it does not name is tried with its own settings alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from coopgen_jax.decoding.presets import PRESETS


@dataclass(frozen=True)
class Grid:
    """What is tried of one method.

    Attributes:
      size: The setting that seconds buy more of; empty where there is none.
      sizes: Its values, the smallest first.
      settings: What is tried at the size that fits: values of settings by name.
      refit: Whether these settings cost so differently that each has a size fitted for itself.
    """

    size: str = ""
    sizes: tuple[int, ...] = ()
    settings: tuple[Mapping[str, Any], ...] = ({},)
    refit: bool = False

    def without(self, given: Mapping[str, Any]) -> "Grid":
        """Returns the grid of a method of which some settings are given and stay as they are."""
        kept: list[Mapping[str, Any]] = []
        for setting in self.settings:
            free = {name: value for name, value in setting.items() if name not in given}
            if free not in kept:
                kept.append(free)
        fixed = replace(self, size="", sizes=()) if self.size in given else self
        return replace(fixed, settings=tuple(kept))

    def values(self) -> list[list[dict[str, Any]]]:
        """Returns the values to try: for every setting those of all sizes, the smallest first."""
        sizes = [{self.size: size} for size in self.sizes] or [{}]
        return [[{**size, **setting} for size in sizes] for setting in self.settings]


SIZES = (2, 4, 8, 16, 32, 64, 128)
NUCLEI = tuple(
    {"temperature": temperature, "top_p": top_p}
    for temperature in (0.7, 1.0, 1.3)
    for top_p in (0.9, 0.95, 1.0)
)

GRIDS: dict[str, Grid] = {
    "sample": Grid(settings=NUCLEI),
    "rerank": Grid("of", SIZES, NUCLEI),
    "rerank:beams": Grid(),
    "blockwise": Grid("of", SIZES, NUCLEI),
    "beam": Grid("beams", SIZES),
    "das": Grid("beams", SIZES),
    "mcts": Grid(
        "simulations",
        (4, 8, 16, 32, 64, 128, 256),
        tuple({"preset": name} for name in PRESETS),
        refit=True,
    ),
    # FUDGE adds strength times log p(c|x) to a logit, RAD strength times p(c|x).
    "fudge": Grid("candidates", (5, 10, 20, 40, 80), tuple({"strength": s} for s in (1, 2, 4, 8))),
    "fudge:score=value": Grid(
        "candidates", (5, 10, 20, 40, 80), tuple({"strength": s} for s in (5, 10, 20, 40))
    ),
    "smc": Grid("samples", SIZES, tuple({"power": power} for power in (1, 2, 4, 8))),
    "gedi": Grid(settings=tuple({"strength": s} for s in (10, 20, 30, 60))),
    "pplm": Grid("iterations", (1, 2, 4, 8, 16), tuple({"step_size": s} for s in (0.02, 0.05))),
}


def grid_of(method: str, given: Mapping[str, Any]) -> Grid:
    """Returns what is tried of a method some of whose settings are given.

    Where the table has a line for one of these settings, alone or with its value, that line counts.
    """
    names = [f"{method}:{name}={value}" for name, value in given.items()]
    names += [f"{method}:{name}" for name in given]
    grid = next((GRIDS[name] for name in (*names, method) if name in GRIDS), Grid())
    return grid.without(given)
