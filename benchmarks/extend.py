"""The floor explained: `extend` against what the machine can read and multiply.

A call of few rows cannot be faster than reading the weights; a call of many rows cannot be faster
than multiplying by them. What a call costs does not depend on how many slots the cache has.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.parts import described, make_job, make_parts
from benchmarks.search import bare_calls
from benchmarks.settings import Settings, combinations
from benchmarks.suite import Benchmark, Row
from benchmarks.timing import compiled, in_turn, milliseconds, ratio
from coopgen_jax.decoding.mcts import ppl_mcts as mcts
from coopgen_jax.tools import probe as machine
from coopgen_jax.tools.decode_plan import matrix_parameters

# Slots of the two caches, and network calls timed together.
FEW, MANY, CALLS = 64, 4096, 2


def measure(settings: Settings) -> Iterator[Row]:
    """Times calls of so many rows, with few slots and with many."""
    parts = make_parts(settings)
    if max(settings.wave) * CALLS >= FEW:
        raise ValueError(f"extend takes --wave up to {FEW // CALLS - 1}: use --batch for more rows")
    weights = matrix_parameters(parts.config)
    item = jnp.dtype(settings.dtype).itemsize
    speed = machine.measure(settings.dtype)
    read_ms = 1e3 * weights * item / speed.bandwidth
    for axes in combinations(settings):
        rows, written = axes["batch"] * axes["wave"], axes["wave"] * CALLS
        multiply_ms = 1e3 * 2 * weights * rows / speed.rate
        functions = {}
        for slots in (FEW, MANY):
            job = make_job(
                parts, new_tokens=2, simulations=written, reused_nodes=slots - 1 - written, **axes
            )
            assert job.config.nodes == slots, job.config.nodes
            functions[str(slots)] = _repeated(job, (jax.jit(mcts.begin)(job).states[0], None, None))
        seconds = in_turn(functions, settings.repeats)
        few = milliseconds(seconds[str(FEW)]) / CALLS
        yield described(job) | {
            "rows": rows,
            "weight_megabytes": weights * item / 1e6,
            "extend_ms": few,
            "read_ms": read_ms,
            "multiply_ms": multiply_ms,
            "over_read": few / read_ms,
            "of_rate": multiply_ms / few,
            "many_over_few": ratio(seconds[str(MANY)], seconds[str(FEW)])["ratio"],
        }


def _repeated(job: Any, states: Any) -> Any:
    """Returns a function that makes the job's bare calls, going on from where it stood."""
    floor = compiled(
        lambda job, states: bare_calls(job, states, both=False),
        job,
        states,
        donate_argnums=1,
    )

    def call() -> Any:
        nonlocal states
        states, total = floor.call(job, states)
        return total

    return call


def draw(rows: list[Row], axes: Any) -> None:
    """Draws the time of a call against its two bounds."""
    rows = sorted(rows, key=lambda row: row["rows"])
    x = [row["rows"] for row in rows]
    axes.loglog(x, [row["extend_ms"] for row in rows], "o-", label="extend")
    axes.loglog(x, [row["read_ms"] for row in rows], "--", label="reading the weights")
    axes.loglog(x, [row["multiply_ms"] for row in rows], ":", label="multiplying by them")
    axes.set_xlabel("rows of one call")
    axes.set_ylabel("milliseconds")
    axes.legend()


EXTEND = Benchmark(
    name="extend",
    about="one network call against the machine's read bandwidth and matrix rate",
    measure=measure,
    columns=(
        ("batch", "prompts", "d"),
        ("wave", "wave", "d"),
        ("rows", "rows", "d"),
        ("prompt_length", "prompt", "d"),
        ("depth", "D", "d"),
        ("extend_ms", "extend ms", ".2f"),
        ("weight_megabytes", "weights MB", ".0f"),
        ("read_ms", "bytes / bandwidth ms", ".2f"),
        ("multiply_ms", "operations / rate ms", ".2f"),
        ("over_read", "extend / read", ".2f"),
        ("of_rate", "share of the rate", ".2f"),
        ("many_over_few", "4,096 slots / 64", ".3f"),
    ),
    own={"batch": (1, 8), "wave": (1, 2, 4, 8, 16), "prompt_length": (16,), "depth": (16,)},
    quick={"batch": (2,), "wave": (4,)},
    draw=draw,
)
