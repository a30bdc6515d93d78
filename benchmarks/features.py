"""What each of the search's speed features is worth: a decode without it and with it, in turn.

A decode is a prompt read and `new_tokens` written by the default preset. The default model
continues real text under its own head, other models random tokens under a random one, which matters
where a search may end early. A pair whose two sides would be the same program is left out.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax

from benchmarks.parts import Parts, described, make_job, make_parts
from benchmarks.settings import Settings, combinations
from benchmarks.suite import Benchmark, Row, draw_ratios
from benchmarks.timing import Compiled, compiled, in_turn, milliseconds, ratio
from coopgen_jax.decoding.job import Job, write_all
from coopgen_jax.decoding.mcts import ppl_mcts as mcts
from coopgen_jax.models.decoder import language_model
from coopgen_jax.models.layer_layout import separate_layers
from coopgen_jax.models.prompt import make_prompt

REAL_TEXT = "The restaurant opened in the spring, and the first guests said that the food was"
# Samples of one prompt; tokens of that prompt, of a long one, and of the pieces it is read in.
SAMPLES, SHARED, LONG, CHUNK = 16, 256, 1024, 256


@dataclass(frozen=True)
class Run:
    """A decode that is ready to be timed.

    job: what is decoded.
    call: decodes, waiting for every compiled call, and returns the simulations spent `[B, R]`.
    peak: most bytes that it needs at once besides weights and prompt, None where the backend does
      not tell.
    searches: whether it writes anything.
    """

    job: Job
    call: Callable[[], jax.Array]
    peak: int | None
    searches: bool = True


def _peak(state: int, begin: Compiled, advance: Compiled) -> int | None:
    if begin.working is None or advance.working is None:
        return None
    return max(begin.working, state + advance.working)


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
            state, _ = jax.block_until_ready(advance.call(key, job, state))
        return state.generation.simulations

    return Run(job, call, _peak(size, begin, advance))


def in_one_call(job: Job) -> Run:
    """Returns a decode that is one compiled loop."""
    key = jax.random.key(0)
    whole = compiled(partial(write_all, mcts.begin, mcts.advance), key, job)
    return Run(job, lambda: whole.call(key, job).simulations, whole.working)


def prefill(job: Job, chunk: int) -> Run:
    """Returns the reading of the prompts alone, the language model's `chunk` tokens at a time."""
    decoder = job.language_model.prefill.config
    network = language_model(decoder.config, decoder.taps, chunk=chunk)
    job = job.replace(language_model=network)
    begin = compiled(mcts.begin, job)
    return Run(job, lambda: begin.call(job).generation.simulations, begin.working, searches=False)


def searching(job: Job, **settings: Any) -> Job:
    """Returns the job with other settings of its search."""
    return job.replace(config=job.config.with_settings(**settings))


def in_bfloat16(job: Job, settings: Settings) -> Job:
    """Returns the job with both networks in bfloat16."""
    half = make_parts(replace(settings, dtype="bfloat16"))
    return job.replace(
        params=half.params,
        language_model=half.language_model,
        discriminator=half.guide,
        discriminator_params=half.guide_params,
    )


def pairs(parts: Parts, settings: Settings, axes: dict[str, int]) -> Iterator[tuple]:
    """Yields a feature's name, a decode without it and one with it."""
    job = make_job(parts, batch=1, prompt_length=16, **axes)
    if parts.tokenizer:
        job = job.replace(prompt=make_prompt(parts.tokenizer, [REAL_TEXT]))
    search, plain = job.config.search, token_by_token(job)
    if search.wave > 1:
        yield "waves", token_by_token(searching(job, wave=1)), plain
    # Halving spends its whole budget: a search that may end early goes by PUCT at the root too.
    puct = searching(job, considered=0)
    whole = token_by_token(puct)
    yield "halving at the root", whole, plain
    yield "early stop", whole, token_by_token(searching(puct, early_stop=True))
    limited = searching(puct, visit_limit=max(2, search.simulations))
    yield "budget by need (visit limit)", whole, token_by_token(limited)
    yield "donated buffers", token_by_token(job, donate=False), plain
    yield "one call per text", plain, in_one_call(job)
    if settings.dtype != "bfloat16":
        yield "bfloat16", plain, token_by_token(in_bfloat16(job, settings))
    if not isinstance(parts.params["layers"], tuple):
        separate = job.replace(params=separate_layers(parts.params))
        yield "separate layers", plain, token_by_token(separate)
    room = parts.config.context - job.config.ahead
    shared = {"prompt_length": min(SHARED, room), **axes}
    copies = token_by_token(make_job(parts, batch=SAMPLES, **shared))
    samples = token_by_token(make_job(parts, batch=1, samples=SAMPLES, **shared))
    yield f"{SAMPLES} samples share a prompt", copies, samples
    if room > CHUNK:
        long = make_job(parts, batch=1, prompt_length=min(LONG, room), **axes)
        yield "prefill in chunks", prefill(long, LONG), prefill(long, CHUNK)


def _megabytes(count: int | None) -> float | None:
    return None if count is None else count / 1e6


def compare(without: Run, used: Run, repeats: int) -> Row:
    """Times one pair."""
    spent: dict[str, jax.Array] = {}

    def noting(name: str, run: Run) -> Callable[[], jax.Array]:
        def call() -> jax.Array:
            spent[name] = run.call()
            return spent[name]

        return call

    sides = {"without": without, "with": used}
    seconds = in_turn({name: noting(name, run) for name, run in sides.items()}, repeats)
    row = described(used.job) | {"new_tokens": used.job.config.new_tokens}
    row |= {
        "without_ms": milliseconds(seconds["without"]),
        "with_ms": milliseconds(seconds["with"]),
        **ratio(seconds["without"], seconds["with"]),
        "without_spent": int(spent["without"].sum()),
        "with_spent": int(spent["with"].sum()),
        "without_megabytes": _megabytes(without.peak),
        "with_megabytes": _megabytes(used.peak),
    }
    if not used.searches:
        idle = ("simulations", "wave", "new_tokens", "without_spent", "with_spent")
        row |= dict.fromkeys(idle)
    return row


def measure(settings: Settings) -> Iterator[Row]:
    """Times every feature."""
    if min(settings.new_tokens) < 2:
        raise ValueError("--new-tokens must be 2 or more: the first token has no subtree to keep")
    parts = make_parts(settings)
    for axes in combinations(settings):
        for name, without, used in pairs(parts, settings, axes):
            yield {"feature": name} | compare(without, used, settings.repeats)


def draw(rows: list[Row], axes: Any) -> None:
    """Draws how many times faster each feature is."""
    draw_ratios(rows, [f"{number}. {row['feature']}" for number, row in enumerate(rows, 1)], axes)
    axes.set_xlabel("times as fast")


FEATURES = Benchmark(
    name="features",
    about="a decode without and with each speed feature",
    measure=measure,
    columns=(
        ("feature", "feature", ""),
        ("batch", "prompts", "d"),
        ("samples", "samples", "d"),
        ("prompt_length", "prompt", "d"),
        ("simulations", "simulations", "d"),
        ("wave", "wave", "d"),
        ("new_tokens", "tokens", "d"),
        ("without_ms", "without ms", ".0f"),
        ("with_ms", "with ms", ".0f"),
        ("ratio", "times as fast", ".2f"),
        ("without_spent", "spent without", "d"),
        ("with_spent", "spent with", "d"),
        ("without_megabytes", "peak MB without", ".1f"),
        ("with_megabytes", "peak MB with", ".1f"),
    ),
    own={
        "simulations": (64,),
        "wave": (4,),
        "new_tokens": (8,),
        "repeats": 3,
    },
    quick={"simulations": (4,), "wave": (2,), "new_tokens": (2,)},
    draw=draw,
)
