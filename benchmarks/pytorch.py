"""One token's search against PyTorch: as it was published, and as well as PyTorch can do it.

Both read the same random weights with the same number of threads. `published` compares like with
like, one leaf at a time from an empty tree, at growing positions in the text. `fair` compares the
whole search, waves and reuse included, with a baseline that prints its own search / floor ratio.
"""

import os
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import torch

from benchmarks.baselines.fair import Fair
from benchmarks.baselines.network import Judge, Network, judge_of
from benchmarks.baselines.reference import Reference
from benchmarks.parts import STATED, Parts, described, make_job, make_parts
from benchmarks.settings import Settings, combinations
from benchmarks.suite import Benchmark, Row, draw_ratios
from benchmarks.timing import compiled, in_turn, milliseconds, ratio
from coopgen_jax.decoding.job import Job
from coopgen_jax.decoding.mcts import ppl_mcts as mcts

DEFAULTS = {"model": "gpt2-small", "guide": "causal"}


def torch_parts(parts: Parts, threads: int | None) -> tuple[Network, Judge]:
    """Returns both networks in PyTorch, on the device that JAX has.

    Raises:
      ValueError: the guide is not what the baselines know.
    """
    if parts.judge is None:
        raise ValueError("the PyTorch baselines know a causal discriminator: leave --guide out")
    set_threads(threads)
    device = torch_device()
    network = Network(parts.config, parts.params, device=device)
    return network, judge_of(parts.judge, parts.guide_params, device=device)


def set_threads(threads: int | None) -> None:
    """Has PyTorch use so many threads, None for as many as there are cores."""
    torch.set_num_threads(threads or os.cpu_count() or 1)


def _prompt(job: Job) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    prompt = job.prompt
    return np.asarray(prompt.tokens), np.asarray(prompt.mask), np.asarray(job.target)


def torch_device() -> str:
    """Returns the device of PyTorch that JAX has; the host's processor beside a TPU."""
    return "cuda" if jax.devices()[0].platform == "gpu" else "cpu"


def waited(function: Callable[[], Any]) -> Callable[[], None]:
    """Returns a PyTorch function that returns when its work is done."""

    def call() -> None:
        function()
        if torch_device() == "cuda":
            torch.cuda.synchronize()

    return call


def versions() -> dict[str, Any]:
    """Returns what a row states of PyTorch."""
    return {"torch": torch.__version__, "threads": torch.get_num_threads()}


class Ours:
    """Our search, advanced token by token."""

    def __init__(self, job: Job):
        self.job, self.key = job, jax.random.key(0)
        self.state = jax.jit(mcts.begin)(job)
        self.compiled = compiled(mcts.advance, self.key, job, self.state, donate_argnames="state")

    def advance(self) -> Any:
        """Searches for and writes one token."""
        self.state, tree = self.compiled.call(self.key, self.job, self.state)
        return tree.visits


def without_rules(job: Job) -> Job:
    """Returns the job without what the baselines do not have: n-gram rule, likelihood in values."""
    return job.replace(config=job.config.with_settings(no_repeat_ngram=0, alpha=1.0))


def measure_published(settings: Settings) -> Iterator[Row]:
    """Times the token at each position; `new_tokens` are the positions."""
    parts = make_parts(settings)
    network, judge = torch_parts(parts, settings.threads)
    for axes in combinations(settings):
        # The published search forgets its tree: a token costs what it would behind a longer prompt.
        position = axes.pop("new_tokens")
        axes["prompt_length"] += position - 1
        job = make_job(parts, preset="paper", new_tokens=settings.repeats + 2, **axes)
        ours = Ours(job)
        reference = Reference(network, judge, job.config)

        def one_token(reference: Reference = reference, job: Job = job) -> None:
            reference.begin(*_prompt(job))
            reference.advance()

        functions = {"published": waited(one_token), "ours": ours.advance}
        seconds = in_turn(functions, settings.repeats)
        yield (
            described(job)
            | versions()
            | {
                "token": position,
                "ours_ms": milliseconds(seconds["ours"]),
                "published_ms": milliseconds(seconds["published"]),
                **ratio(seconds["published"], seconds["ours"]),
                "compile_seconds": ours.compiled.seconds,
            }
        )


def measure_fair(settings: Settings) -> Iterator[Row]:
    """Times every batch and wave with the preset puct: the baselines do not halve."""
    parts = make_parts(settings)
    network, judge = torch_parts(parts, settings.threads)
    for axes in combinations(settings):
        job = make_job(parts, preset="puct", new_tokens=settings.repeats + 2, **axes)
        job = without_rules(job)
        compiles = torch_device() == "cuda"
        fair = Fair(network, judge, job.config, margins=False, compile=compiles)
        fair.begin(*_prompt(job))
        ours = Ours(job)
        functions = {
            "ours": ours.advance,
            "fair": waited(fair.advance),
            "floor": waited(fair.floor),
        }
        seconds = in_turn(functions, settings.repeats)
        over_floor = [a / b for a, b in zip(seconds["fair"], seconds["floor"], strict=True)]
        yield (
            described(job)
            | versions()
            | {
                "rows": axes["batch"] * axes["wave"],
                "ours_ms": milliseconds(seconds["ours"]),
                "fair_ms": milliseconds(seconds["fair"]),
                "fair_over_floor": statistics.median(over_floor),
                **ratio(seconds["fair"], seconds["ours"]),
                "compile_seconds": ours.compiled.seconds,
            }
        )


def draw(rows: list[Row], axes: Any) -> None:
    """Draws how many times faster our search is."""
    names = [
        f"token {row['token']}" if "token" in row else f"{row['batch']} prompts, wave {row['wave']}"
        for row in rows
    ]
    draw_ratios(rows, names, axes)
    axes.set_xlabel("times as fast as PyTorch")


OURS = (*STATED, ("ours_ms", "ours ms", ".1f"))
TIMES = ("ratio", "times as fast", ".2f")

PUBLISHED = Benchmark(
    name="published",
    about="one token in lock step against PyTorch as PPL-MCTS was published",
    measure=measure_published,
    columns=(("token", "token", "d"), *OURS, ("published_ms", "published ms", ".0f"), TIMES),
    own=DEFAULTS
    | {
        "batch": (5,),
        "prompt_length": (16,),
        "new_tokens": (1, 8, 16, 24),
        "simulations": (50,),
        "depth": (50,),
        "repeats": 3,
    },
    quick={"new_tokens": (2,), "simulations": (4,), "depth": (4,)},
    draw=draw,
)
FAIR = Benchmark(
    name="fair",
    about="one token's search against a well-written search in PyTorch",
    measure=measure_fair,
    columns=(
        *OURS,
        ("fair_ms", "PyTorch ms", ".1f"),
        ("fair_over_floor", "its search / floor", ".2f"),
        TIMES,
    ),
    own=DEFAULTS
    | {
        "batch": (1, 5, 16),
        "prompt_length": (16,),
        "simulations": (48,),
        "wave": (1, 4, 8),
        "depth": (16,),
        "repeats": 5,
    },
    quick={"batch": (2,), "simulations": (4,), "wave": (2,)},
    draw=draw,
)
