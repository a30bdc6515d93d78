"""What each of the search's speed features is worth: a decode without it and with it, in turn.

A decode is a prompt read and `new_tokens` written by the default preset. The default model
continues real text and other models random tokens, which matters where a search may end early.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax

from benchmarks.parts import Parts, make_job, make_parts
from benchmarks.settings import Settings, combinations
from benchmarks.suite import Benchmark, Row, draw_ratios
from benchmarks.timing import compiled, in_turn, milliseconds, ratio
from coopgen_jax.decoding import mcts
from coopgen_jax.decoding.job import Job, write_all
from coopgen_jax.models.decoder import language_model
from coopgen_jax.models.layout import separate_layers
from coopgen_jax.models.pretrained.loading import load
from coopgen_jax.text import make_prompt

REAL_TEXT = "The restaurant opened in the spring, and the first guests said that the food was"
SAMPLES, SHARED, LONG, CHUNK = 16, 256, 1024, 256


@dataclass(frozen=True)
class Run:
    """A decode that is ready to be timed.

    call: makes it and returns an array of simulations spent, or of anything where it searches not.
    temporaries: bytes of temporary memory of the largest program in it.
    state: bytes of the state that it carries from token to token, None where it is inside.
    """

    call: Callable[[], jax.Array]
    temporaries: int | None
    state: int | None = None


def token_by_token(job: Job, *, donate: bool = True) -> Run:
    """Returns a decode of one compiled call per token."""
    key = jax.random.key(0)
    begin = compiled(mcts.begin, job)
    state = begin.call(job)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    options = {"donate_argnames": "state"} if donate else {}
    advance = compiled(mcts.advance, key, job, state, **options)

    def call() -> jax.Array:
        state = begin.call(job)
        for _ in range(job.config.new_tokens):
            state, _ = advance.call(key, job, state)
        return state.generation.simulations

    return Run(call, advance.temporaries, size)


def in_one_call(job: Job) -> Run:
    """Returns a decode that is one compiled loop."""
    key = jax.random.key(0)
    whole = compiled(partial(write_all, mcts.begin, mcts.advance), key, job)
    return Run(lambda: whole.call(key, job).simulations, whole.temporaries)


def prefill(job: Job, parts: Parts, chunk: int) -> Run:
    """Returns the reading of the prompts alone, `chunk` tokens at a time."""
    network = language_model(parts.config, parts.guide.taps, chunk=chunk)
    job = job.replace(language_model=network)
    begin = compiled(mcts.begin, job)
    return Run(lambda: begin.call(job).tree.visits, begin.temporaries)


def searching(job: Job, **fields: Any) -> Job:
    """Returns the job with other fields of its `SearchConfig`."""
    return job.replace(config=replace(job.config, search=replace(job.config.search, **fields)))


def pairs(settings: Settings, axes: dict[str, int]) -> Iterator[tuple[str, Run, Run]]:
    """Yields a feature's name, a decode without it and one with it."""
    parts = make_parts(settings)
    make = partial(make_job, parts, batch=1, **axes)
    job = make(prompt_length=16)
    if settings.model == "default":
        prompt = make_prompt(load(dtype=settings.dtype).tokenizer, [REAL_TEXT])
        job = job.replace(prompt=prompt)
    plain = token_by_token(job)
    search = job.config.search
    yield "waves", token_by_token(searching(job, wave=1)), plain
    yield "early stop", plain, token_by_token(searching(job, early_stop=True))
    enough = max(2, search.simulations)
    yield "budget by need (enough)", plain, token_by_token(searching(job, enough=enough))
    yield "donated buffers", token_by_token(job, donate=False), plain
    yield "one call per text", plain, in_one_call(job)
    half = make_parts(replace(settings, dtype="bfloat16"))
    halved = job.replace(params=half.params, language_model=half.language_model)
    yield "bfloat16", plain, token_by_token(halved)
    separate = job.replace(params=separate_layers(job.params))
    yield "separate layers", plain, token_by_token(separate)
    room = parts.config.context - job.config.ahead
    shared = {"prompt_length": min(SHARED, room), **axes}
    copies = token_by_token(make_job(parts, batch=SAMPLES, **shared))
    samples = token_by_token(make_job(parts, batch=1, samples=SAMPLES, **shared))
    yield f"{SAMPLES} samples share a prompt", copies, samples
    long = make(prompt_length=min(LONG, room))
    yield "prefill in chunks", prefill(long, parts, LONG), prefill(long, parts, CHUNK)


def _megabytes(count: int | None) -> float | None:
    return None if count is None else count / 1e6


def measure(settings: Settings) -> Iterator[Row]:
    """Times every feature."""
    for axes in combinations(settings):
        for name, without, used in pairs(settings, axes):
            seconds = in_turn({"without": without.call, "with": used.call}, settings.repeats)
            yield axes | {
                "feature": name,
                "without_ms": milliseconds(seconds["without"]),
                "with_ms": milliseconds(seconds["with"]),
                **ratio(seconds["without"], seconds["with"]),
                "without_simulations": int(without.call().sum()),
                "with_simulations": int(used.call().sum()),
                "without_temporary_megabytes": _megabytes(without.temporaries),
                "with_temporary_megabytes": _megabytes(used.temporaries),
                "without_state_megabytes": _megabytes(without.state),
                "with_state_megabytes": _megabytes(used.state),
            }


def draw(rows: list[Row], axes: Any) -> None:
    """Draws how many times faster each feature is."""
    draw_ratios(rows, [row["feature"] for row in rows], axes)
    axes.set_xlabel("times as fast")


FEATURES = Benchmark(
    name="features",
    about="a decode without and with each speed feature",
    measure=measure,
    columns=(
        ("feature", "feature", ""),
        ("simulations", "simulations", "d"),
        ("wave", "wave", "d"),
        ("new_tokens", "tokens", "d"),
        ("without_ms", "without ms", ".0f"),
        ("with_ms", "with ms", ".0f"),
        ("ratio", "times as fast", ".2f"),
        ("without_temporary_megabytes", "temporaries MB without", ".1f"),
        ("with_temporary_megabytes", "with", ".1f"),
        ("without_state_megabytes", "state MB without", ".1f"),
        ("with_state_megabytes", "with", ".1f"),
    ),
    own={
        "simulations": (64,),
        "wave": (4,),
        "new_tokens": (8,),
        "repeats": 3,
    },
    quick={"simulations": (8,), "wave": (2,), "new_tokens": (2,)},
    draw=draw,
)
