"""Several samples of one prompt: the prompt is read once, and its keys and values stand once.

Memory is compared with one prompt plus `R` trunks and trees. Weights are left out.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax

from benchmarks.parts import STATED, Parts, described, make_job, make_parts
from benchmarks.settings import Settings, combinations
from benchmarks.suite import Benchmark, Row
from benchmarks.timing import compiled, in_turn, milliseconds
from coopgen_jax.decoding.job import Job
from coopgen_jax.decoding.mcts import ppl_mcts as mcts
from coopgen_jax.tools.decode_plan import region_bytes


def _bytes(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def measure_samples(parts: Parts, job: Job, repeats: int) -> dict[str, Any]:
    """Times one token and counts bytes."""
    key = jax.random.key(0)
    prefill = compiled(mcts.begin, job)
    state = prefill.call(job)
    advance = compiled(mcts.advance, key, job, state, donate_argnames="state")
    state_bytes, prompt = _bytes(state), region_bytes(state.states)["prompt"]

    def search() -> Any:
        nonlocal state
        state, tree = advance.call(key, job, state)
        return tree.visits

    seconds = in_turn({"prefill": lambda: prefill.call(job), "search": search}, repeats)
    return {
        "prefill_ms": milliseconds(seconds["prefill"]),
        "search_ms": milliseconds(seconds["search"]),
        "state_bytes": state_bytes,
        "prompt_bytes": prompt,
        "temporary_bytes": advance.temporaries,
    }


def measure(settings: Settings) -> Iterator[Row]:
    """Yields a row for one sample of every shape, then one per number of samples."""
    parts = make_parts(settings)
    if min(settings.new_tokens) < 2:
        raise ValueError("--new-tokens must be 2 or more: one is timed after another")
    ones: dict[tuple, dict[str, Any]] = {}
    for axes in combinations(replace(settings, samples=tuple(sorted({1, *settings.samples})))):
        job = make_job(parts, **axes)
        samples = axes["samples"]
        found = measure_samples(parts, job, min(settings.repeats, axes["new_tokens"] - 1))
        others = tuple(value for name, value in axes.items() if name != "samples")
        one = ones.setdefault(others, found)
        ideal = one["prompt_bytes"] + samples * (one["state_bytes"] - one["prompt_bytes"])
        temporaries = found["temporary_bytes"]
        figures = {
            "ideal_bytes": ideal,
            "bytes_over_ideal": found["state_bytes"] / ideal,
            "megabytes": found["state_bytes"] / 1e6,
            "prompt_megabytes": found["prompt_bytes"] / 1e6,
            "ms_per_sample": found["search_ms"] / samples,
        }
        if temporaries:
            figures["temporaries_over_ideal"] = temporaries / samples / one["temporary_bytes"]
        yield described(job) | found | figures


def draw(rows: list[Row], axes: Any) -> None:
    """Draws the bytes by part."""
    names = [str(row["samples"]) for row in rows]
    prompt = [row["prompt_megabytes"] for row in rows]
    rest = [row["megabytes"] - row["prompt_megabytes"] for row in rows]
    axes.bar(names, prompt, label="prompt")
    axes.bar(names, rest, bottom=prompt, label="trunks and trees")
    axes.set_xlabel("samples of one prompt")
    axes.set_ylabel("megabytes besides the weights")
    axes.legend()


SAMPLES = Benchmark(
    name="samples",
    about="several samples of one prompt share what is kept of it",
    measure=measure,
    columns=(
        *STATED,
        ("prefill_ms", "prefill ms", ".1f"),
        ("search_ms", "search ms", ".1f"),
        ("ms_per_sample", "ms / sample", ".1f"),
        ("megabytes", "state MB", ".1f"),
        ("prompt_megabytes", "of it prompt MB", ".1f"),
        ("bytes_over_ideal", "state / ideal", ".3f"),
        ("temporaries_over_ideal", "temporaries / (R x one's)", ".3f"),
    ),
    own={
        "batch": (1,),
        "samples": (4, 16),
        "prompt_length": (256,),
        "new_tokens": (24,),
        "simulations": (32,),
        "wave": (4,),
        "depth": (16,),
    },
    quick={"samples": (4,), "prompt_length": (32,), "new_tokens": (4,), "simulations": (8,)},
    draw=draw,
)
