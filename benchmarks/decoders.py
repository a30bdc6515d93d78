"""Every decoder's token, beside plain sampling of one text and beside the calls it must make.

The floor of a decoder is one `extend` per token of as many rows as it reads, of the language model
alone. A method is timed over tokens that follow each other; all methods are timed in turn.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.parts import CLASSES, Parts, make_parts, random_prompts
from benchmarks.settings import Settings, combinations
from benchmarks.suite import Benchmark, Row, draw_ratios
from benchmarks.timing import compiled, in_turn, milliseconds, ratio
from coopgen_jax.decoding.job import Job
from coopgen_jax.decoding.mcts import ppl_mcts as mcts
from coopgen_jax.decoding.methods import (
    beam,
    blockwise,
    das,
    fudge,
    gedi,
    pplm,
    pplm_config,
    sampling,
    smc,
    stochastic_beam,
)
from coopgen_jax.decoding.presets import PRESETS
from coopgen_jax.discriminators.discriminator import Discriminator
from coopgen_jax.discriminators.generative import GenerativeConfig, generative, generative_params
from coopgen_jax.discriminators.head import HeadConfig
from coopgen_jax.discriminators.trunk_layers import (
    TrunkLayersConfig,
    init_trunk_layers,
    small_network,
    trunk_layers,
)
from coopgen_jax.models.combination import Member, combine_logits, combined_params
from coopgen_jax.models.decoder import language_model
from coopgen_jax.models.language_model import LanguageModel, Nodes
from coopgen_jax.models.slots import Capacity

ONE = "sample"


@dataclass(frozen=True, eq=False)
class Method:
    """One decoder to time.

    decoder: its module, with `begin` and `advance`.
    config: its settings, with new_tokens to be replaced.
    rows: rows of its one call per token, None where a token takes several.
    guide, guide_params: what judges, None for nothing.
    beside: the method that its time is also compared with.
    language_model, params: what writes, None for the network that is timed.
    """

    decoder: Any
    config: Any
    rows: int | None = 1
    guide: Discriminator | None = None
    guide_params: Any = None
    beside: str = ONE
    language_model: LanguageModel | None = None
    params: Any = None


def _generative(parts: Parts) -> dict[str, Any]:
    """Returns a generative judge of the network's own size, untrained: time does not tell."""
    config = GenerativeConfig(parts.config, CLASSES, ((1, 2), (3, 4)))
    params = generative_params(parts.params, len(CLASSES))
    return {"guide": generative(config), "guide_params": params}


def _foreseeing(parts: Parts) -> dict[str, Any]:
    """Returns a small layer on the network's states with a look-ahead head, untrained."""
    config, middle = parts.config, parts.config.layers // 2
    network = small_network(layers=1, width=128, context=config.context)
    judge = TrunkLayersConfig((0, middle), config.width, network, HeadConfig(CLASSES, 128), 64)
    params = init_trunk_layers(jax.random.key(1), judge)
    embedding = jnp.asarray(parts.params["embedding"], jnp.float32)
    vocabulary = jax.jit(jnp.matmul)(embedding, params["keys"])
    return {"guide": trunk_layers(judge), "guide_params": {**params, "vocabulary": vocabulary}}


def _guided(parts: Parts) -> dict[str, Any]:
    """Returns the network guided away from a negative prompt."""
    network = language_model(parts.config)
    members = (Member(network), Member(network, prefix=(1,), reads_prompt=False))
    params = combined_params([parts.params], [1.5, -0.5])
    return {"language_model": combine_logits(members), "params": params}


def methods(parts: Parts) -> dict[str, Method]:
    """Returns what is timed, by name; sampling first."""
    plain = sampling.SamplingConfig()
    judged = {"guide": parts.guide, "guide_params": parts.guide_params}
    size = parts.config.vocab_size
    candidates, default = min(20, size), PRESETS["default"]
    search = default.with_settings(candidates=min(default.search.candidates, size))
    by_gradients = {
        "PPLM, 3 iterations": Method(pplm, pplm_config.PPLMConfig(), None, **judged),
    }
    return {
        ONE: Method(sampling, plain),
        "nucleus": Method(sampling, plain.with_settings(top_p=0.9)),
        "sample, 8 texts": Method(sampling, replace(plain, samples=8), 8),
        "beam, 5": Method(beam, beam.BeamConfig(beams=5), 5),
        "FUDGE, 20 candidates": Method(
            fudge, fudge.FudgeConfig(candidates=candidates), candidates, **judged
        ),
        "FUDGE, looking ahead": Method(
            fudge,
            fudge.FudgeConfig(candidates=candidates, look_ahead=True),
            1,
            **_foreseeing(parts),
        ),
        "GeDi, 2 classes": Method(gedi, gedi.GediConfig(), 1, **_generative(parts)),
        "sample, negative prompt": Method(sampling, plain, 1, **_guided(parts)),
        "SMC, 8 particles": Method(
            smc, smc.SMCConfig(samples=8), 8, **judged, beside="sample, 8 texts"
        ),
        "stochastic beam, 8 texts": Method(
            stochastic_beam,
            stochastic_beam.StochasticBeamConfig(samples=8),
            9,
            beside="sample, 8 texts",
        ),
        "blockwise, 8 blocks": Method(
            blockwise, blockwise.BlockwiseConfig(of=8), 8, **judged, beside="sample, 8 texts"
        ),
        "DAS, 5 beams of 20": Method(
            das, das.DASConfig(beams=5, candidates=20), 20, **judged, beside="beam, 5"
        ),
        **(by_gradients if parts.guide.differentiable else {}),
        f"MCTS, {search.search.simulations} simulations": Method(mcts, search, None, **judged),
    }


def _job(parts: Parts, method: Method, batch: int, length: int, tokens: int) -> Job:
    taps = method.guide.taps if method.guide else ()
    return Job(
        prompt=random_prompts(parts, batch, length),
        target=jnp.ones(batch, jnp.int32) if method.guide else None,
        config=replace(method.config, new_tokens=tokens),
        language_model=method.language_model or language_model(parts.config, taps),
        params=parts.params if method.params is None else method.params,
        discriminator=method.guide,
        discriminator_params=method.guide_params,
    )


def _token(method: Method, job: Job) -> Callable[[], Any]:
    """Returns a decoder's next token, compiled, as a function to time."""
    key = jax.random.key(0)
    state = jax.tree.map(jnp.copy, jax.jit(method.decoder.begin)(job))
    advance = compiled(method.decoder.advance, key, job, state, donate_argnames="state")

    def run() -> Any:
        nonlocal state
        state, _ = advance.call(key, job, state)
        return state.generation.tokens

    return run


def _bare(job: Job, rows: int) -> Callable[[], Any]:
    """Returns one `extend` of `rows` rows per prompt, compiled, as a function to time."""
    batch = len(job.prompt.tokens)
    capacity = Capacity(1, job.config.new_tokens, 1 + rows)
    prefill = jax.jit(
        lambda job: job.language_model.prefill(job.params, job.prompt, capacity=capacity)
    )
    cache = jax.tree.map(jnp.copy, prefill(job)[2])
    shape = (batch, 1, rows)

    def call(job: Job, cache: Any) -> Any:
        nodes = Nodes(
            start=jnp.int32(1),
            token=jnp.broadcast_to(jnp.arange(rows, dtype=jnp.int32), shape),
            parent=jnp.zeros(shape, jnp.int32),
            path=jnp.full((*shape, 1), -1, jnp.int32),
            depth=jnp.ones(shape, jnp.int32),
            committed=jnp.zeros(shape[:2], jnp.int32),
            terminal=jnp.zeros(shape, bool),
        )
        logits, _, cache = job.language_model.extend(job.params, cache, nodes)
        return logits.max(), cache

    program = compiled(call, job, cache, donate_argnames="cache")

    def run() -> Any:
        nonlocal cache
        largest, cache = program.call(job, cache)
        return largest

    return run


def measure(settings: Settings) -> Iterator[Row]:
    """Times every decoder at every number of prompts."""
    parts = make_parts(settings)
    known = methods(parts)
    for axes in combinations(settings):
        batch, length = axes["batch"], axes["prompt_length"]
        jobs = {
            name: _job(parts, method, batch, length, settings.repeats + 2)
            for name, method in known.items()
        }
        timed = {name: _token(method, jobs[name]) for name, method in known.items()}
        widths = sorted({method.rows for method in known.values() if method.rows})
        floors = {rows: f"extend of {rows}" for rows in widths}
        timed |= {name: _bare(jobs[ONE], rows) for rows, name in floors.items()}
        seconds = in_turn(timed, settings.repeats)
        for name, method in known.items():
            row = {
                "method": name,
                "batch": batch,
                "prompt_length": length,
                "token_ms": milliseconds(seconds[name]),
                **ratio(seconds[name], seconds[ONE]),
                "beside": method.beside,
                "over_beside": ratio(seconds[name], seconds[method.beside])["ratio"],
            }
            if method.rows:
                row["over_floor"] = ratio(seconds[name], seconds[floors[method.rows]])["ratio"]
            yield row


def draw(rows: list[Row], axes: Any) -> None:
    """Draws every method's ratio to plain sampling."""
    draw_ratios(rows, [f"{row['method']} ({row['batch']} prompts)" for row in rows], axes)
    axes.set_xscale("log")
    axes.set_xlabel("a token / a token of one sampled text")


DECODERS = Benchmark(
    name="decoders",
    about="every decoder's token beside plain sampling and beside its one network call",
    measure=measure,
    columns=(
        ("method", "method", ""),
        ("batch", "prompts", "d"),
        ("token_ms", "ms / token", ".1f"),
        ("ratio", "/ sampling", ".2f"),
        ("over_floor", "/ its extend", ".2f"),
        ("over_beside", "/ its neighbour", ".2f"),
        ("beside", "neighbour", ""),
    ),
    own={"batch": (1, 8), "prompt_length": (16,), "repeats": 15},
    quick={"batch": (2,)},
    draw=draw,
)
