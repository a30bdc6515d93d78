"""Timing that a noisy machine does not mislead: synchronised, in turn, ratios of neighbours."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax


@dataclass(frozen=True)
class Compiled:
    """A compiled function, how long compiling took, and the bytes it needs besides its arguments.

    call: the function.
    seconds: of lowering and compiling.
    temporaries: bytes of temporary memory, None where the backend does not tell.
    results: bytes of what it returns, what lies in donated arguments left out; None likewise.
    """

    call: Callable
    seconds: float
    temporaries: int | None
    results: int | None

    @property
    def working(self) -> int | None:
        """Returns temporaries and results together."""
        if self.temporaries is None or self.results is None:
            return None
        return self.temporaries + self.results


def compiled(function: Callable, *arguments: Any, **options: Any) -> Compiled:
    """Compiles `jax.jit(function, **options)`, or what is jitted already, for these arguments."""
    start = time.perf_counter()
    jitted: Any = function if hasattr(function, "lower") else jax.jit(function, **options)
    program = jitted.lower(*arguments).compile()
    seconds = time.perf_counter() - start
    analysis = program.memory_analysis()
    return Compiled(
        program,
        seconds,
        getattr(analysis, "temp_size_in_bytes", None),
        analysis and analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
    )


def in_turn(functions: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Times functions in turn, each waited for, after one round that is not counted.

    Returns:
      Seconds per function; entry `i` of each was taken next to entry `i` of the others.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for round_ in range(repeats + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(function())
            if round_:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def spread(values: list[float]) -> list[float]:
    """Returns the lowest and the highest value."""
    return [min(values), max(values)]


def ratio(upper: list[float], lower: list[float]) -> dict[str, Any]:
    """Returns the median of the ratios of neighbours, and their spread."""
    ratios = [a / b for a, b in zip(upper, lower, strict=True)]
    return {"ratio": statistics.median(ratios), "ratio_spread": spread(ratios)}


def milliseconds(values: list[float]) -> float:
    """Returns the median in milliseconds."""
    return 1e3 * statistics.median(values)
