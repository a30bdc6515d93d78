"""What a token costs far into a text, and what it would cost with just the live tokens."""

from collections.abc import Iterator
from typing import Any

from benchmarks.parts import make_job, make_parts
from benchmarks.search import SEARCH, measure_shape
from benchmarks.settings import Settings, combinations
from benchmarks.suite import Benchmark, Row


def measure(settings: Settings) -> Iterator[Row]:
    """Times one token's search behind short and long prompts."""
    parts = make_parts(settings)
    first: dict[tuple, float] = {}
    for axes in combinations(settings):
        job = make_job(parts, new_tokens=settings.repeats + 2, **axes)
        row = measure_shape(parts, job, settings.repeats)
        others = tuple(value for name, value in axes.items() if name != "prompt_length")
        first.setdefault(others, row["search_ms"])
        yield row | {"over_first": row["search_ms"] / first[others]}


def draw(rows: list[Row], axes: Any) -> None:
    """Draws search and floor against the position."""
    x = [row["prompt_length"] for row in rows]
    axes.plot(x, [row["search_ms"] for row in rows], "o-", label="search")
    axes.plot(x, [row["floor_ms"] for row in rows], "--", label="floor with as many live tokens")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("position in the text")
    axes.set_ylabel("milliseconds per token")
    axes.legend()


UNUSED = ("compile_seconds", "predicted_over_measured")
LENGTH = Benchmark(
    name="length",
    about="one token's search at growing positions in the text",
    measure=measure,
    columns=(
        *[column for column in SEARCH.columns if column[0] not in UNUSED],
        ("over_first", "of the first length", ".2f"),
    ),
    own={
        "batch": (1,),
        "prompt_length": (32, 128, 512),
        "simulations": (32,),
        "wave": (4,),
        "depth": (16,),
    },
    quick={"prompt_length": (8,), "simulations": (8,), "wave": (4,)},
    draw=draw,
)
