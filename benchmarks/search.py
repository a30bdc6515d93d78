"""One token's search against the bare network calls that it must make.

The floor is `extend` alone, and where the discriminator has a network of its own that network's
call too, as often and in the same shapes, compiled into one loop. Search and floor are timed in
turn, and the ratio is the median of the ratios of neighbours. Beside them stands what
`coopgen plan` predicts from the machine's speed just before and just after.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.parts import STATED, Parts, described, make_job, make_parts
from benchmarks.settings import Settings, combinations
from benchmarks.suite import Benchmark, Row, draw_ratios
from benchmarks.timing import compiled, in_turn, milliseconds, ratio
from coopgen_jax.decoding.job import Job, read_nodes
from coopgen_jax.decoding.mcts import ppl_mcts as mcts
from coopgen_jax.models.language_model import Nodes
from coopgen_jax.tools import probe as machine
from coopgen_jax.tools.decode_plan import plan
from coopgen_jax.tools.probe import Machine


def nodes_of_wave(job: Job, wave: jax.Array) -> Nodes:
    """Returns nodes for one call, on paths as long as a search's usually are."""
    search = job.config.search
    rows = (job.prompt.tokens.shape[0], job.config.samples, search.wave)
    half = max(1, min(search.depth, search.simulations) // 2)
    below = jnp.arange(search.depth)
    path = jnp.where(below < half, 1 + below, -1)
    return Nodes(
        start=1 + search.reused_nodes + wave * search.wave,
        token=jnp.broadcast_to(wave, rows),
        parent=jnp.full(rows, half),
        path=jnp.broadcast_to(path, (*rows, search.depth)),
        depth=jnp.full(rows, half + 1),
        committed=jnp.zeros(rows[:2], jnp.int32),
        terminal=jnp.zeros(rows, bool),
    )


def bare_calls(job: Job, states: Any, *, both: bool) -> Any:
    """Makes one token's network calls and nothing else.

    Args:
      job: the job.
      states: of both networks, as `mcts.begin` leaves them.
      both: whether the discriminator's call belongs to them.
    """
    if not both:
        job = job.replace(discriminator=None)
        states = (states[0], None, None)
    config = job.config.search
    rows = (job.prompt.tokens.shape[0], job.config.samples, config.wave)
    classes = len(job.discriminator.classes) if job.discriminator else 0

    def call(wave: jax.Array, carry: tuple) -> tuple:
        states, total = carry
        above = jnp.zeros((*rows, classes))
        logits, log_class, states = read_nodes(job, states, nodes_of_wave(job, wave), above)
        # The sum of nothing is 0; of something it keeps the call from being left out.
        return states, total + logits.max() + log_class.sum()

    waves = config.simulations // config.wave
    return jax.lax.fori_loop(0, waves, call, (states, jnp.float32(0)))


def predicted(parts: Parts, job: Job, speed: Machine) -> float:
    """Returns the milliseconds that `coopgen plan` expects of one token."""
    batch, length = job.prompt.tokens.shape
    guide = "causal" if parts.own_network else "trunk"
    found = plan(parts.config, job.config, speed, batch=batch, prompt_length=length, guide=guide)
    return 1e3 * found.token_seconds


def measure_shape(parts: Parts, job: Job, repeats: int) -> Row:
    """Times one shape."""
    key = jax.random.key(0)
    state = jax.jit(mcts.begin)(job)
    # Both loops donate what they change, and it may share buffers with the job.
    states = jax.tree.map(
        jnp.copy, state.states if parts.own_network else (state.states[0], None, None)
    )
    advance = compiled(mcts.advance, key, job, state, donate_argnames="state")

    def floor_of(job: Job, states: Any) -> Any:
        return bare_calls(job, states, both=parts.own_network)

    floor = compiled(floor_of, job, states, donate_argnames="states")

    def run_search() -> Any:
        nonlocal state
        state, tree = advance.call(key, job, state)
        return tree.visits

    def run_floor() -> Any:
        nonlocal states
        states, total = floor.call(job, states)
        return total

    seconds = in_turn({"search": run_search, "floor": run_floor}, repeats)
    search_ms = milliseconds(seconds["search"])
    evaluations = job.prompt.tokens.shape[0] * job.config.samples * job.config.search.simulations
    return {
        **described(job),
        "search_ms": search_ms,
        "floor_ms": milliseconds(seconds["floor"]),
        **ratio(seconds["search"], seconds["floor"]),
        "simulations_per_second": 1e3 * evaluations / search_ms,
        "compile_seconds": advance.seconds,
        "temporary_bytes": advance.temporaries,
    }


def measure(settings: Settings) -> Iterator[Row]:
    """Times every combination of the axes."""
    parts = make_parts(settings)
    # A shared machine's speed drifts: it is measured on both sides of what it is to predict.
    after = machine.measure(settings.dtype)
    for axes in combinations(settings):
        job = make_job(parts, new_tokens=settings.repeats + 2, **axes)
        row = measure_shape(parts, job, settings.repeats)
        before, after = after, machine.measure(settings.dtype)
        expected = (predicted(parts, job, before) + predicted(parts, job, after)) / 2
        over = expected / row["search_ms"]
        yield row | {"predicted_ms": expected, "predicted_over_measured": over}


def draw(rows: list[Row], axes: Any) -> None:
    """Draws the ratio of every row."""
    names = [
        f"{row['batch']} x {row['samples']}, {row['simulations']} sims, wave {row['wave']}"
        for row in rows
    ]
    draw_ratios(rows, names, axes)
    axes.set_xlabel("search / floor")


SEARCH = Benchmark(
    name="search",
    about="one token's search against the bare network calls it must make",
    measure=measure,
    columns=(
        *STATED,
        ("search_ms", "search ms", ".1f"),
        ("floor_ms", "floor ms", ".1f"),
        ("ratio", "search / floor", ".3f"),
        ("simulations_per_second", "simulations / s", ".0f"),
        ("predicted_over_measured", "predicted / measured", ".2f"),
        ("compile_seconds", "compile s", ".1f"),
    ),
    own={
        "batch": (1, 8),
        "samples": (1,),
        "prompt_length": (16,),
        "simulations": (32, 128),
        "wave": (1, 8),
        "depth": (16,),
    },
    quick={"batch": (2,), "simulations": (8,), "wave": (4,)},
    draw=draw,
)
