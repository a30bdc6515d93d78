"""The floor explained: `extend` against what the machine can read and multiply.

A call of few rows cannot be faster than reading the weights; a call of many rows cannot be faster
than multiplying by them. What a call costs does not depend on how many slots the cache has.
"""

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.parts import make_job, make_parts
from benchmarks.search import bare_calls
from benchmarks.settings import Settings
from benchmarks.suite import Benchmark, Row
from benchmarks.timing import compiled, in_turn, milliseconds, ratio
from coopgen_jax import machine
from coopgen_jax.decoding import mcts
from coopgen_jax.plan import matrix_parameters

FEW, MANY = 64, 4096


def measure(settings: Settings) -> Iterator[Row]:
    """Times calls of so many rows, with few slots and with many."""
    parts = make_parts(settings)
    weights = matrix_parameters(parts.config)
    item = jnp.dtype(settings.dtype).itemsize
    speed = machine.measure(settings.dtype)
    read_ms = 1e3 * weights * item / speed.bandwidth
    calls = 4 if settings.quick else 8
    for rows in settings.wave:
        multiply_ms = 1e3 * 2 * weights * rows / speed.rate
        functions, slots = {}, {}
        for nodes in (FEW, MANY):
            # A wave of more leaves than a node has candidates is spread over several prompts.
            batch = math.ceil(rows / 16)
            job = make_job(
                parts,
                batch=batch,
                prompt_length=settings.prompt_length[0],
                new_tokens=2,
                simulations=rows // batch * calls,
                wave=rows // batch,
                depth=settings.depth[0],
                kept=max(0, nodes - 1 - rows // batch * calls),
            )
            states = jax.jit(mcts.begin)(job).states[0], None
            slots[nodes] = job.config.nodes
            functions[str(nodes)] = _repeated(job, states)
        seconds = in_turn(functions, settings.repeats)
        few = milliseconds(seconds[str(FEW)]) / calls
        yield {
            "rows": rows,
            "weight_megabytes": weights * item / 1e6,
            "extend_ms": few,
            "read_ms": read_ms,
            "multiply_ms": multiply_ms,
            "over_read": few / read_ms,
            "of_rate": multiply_ms / few,
            "slots": [slots[FEW], slots[MANY]],
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
        ("rows", "rows", "d"),
        ("extend_ms", "extend ms", ".2f"),
        ("weight_megabytes", "weights MB", ".0f"),
        ("read_ms", "bytes / bandwidth ms", ".2f"),
        ("multiply_ms", "operations / rate ms", ".2f"),
        ("over_read", "extend / read", ".2f"),
        ("of_rate", "share of the rate", ".2f"),
        ("many_over_few", "4,096 slots / 64", ".3f"),
    ),
    own={"wave": (1, 2, 4, 8, 16, 32, 64, 128), "prompt_length": (16,), "depth": (16,)},
    quick={"wave": (4,)},
    draw=draw,
)
