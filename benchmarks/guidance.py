"""What a discriminator that reads the tree adds to a search's time, beside one that says nothing.

The silent guide judges every text uniformly and reads nothing, so its search makes the language
model's calls alone. All searches are timed in turn.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.parts import CLASSES, STATED, Parts, described, make_job, make_parts
from benchmarks.settings import Settings, combinations
from benchmarks.suite import Benchmark, Row, draw_ratios
from benchmarks.timing import compiled, in_turn, milliseconds, ratio
from coopgen_jax.decoding.job import Job
from coopgen_jax.decoding.mcts import ppl_mcts as mcts
from coopgen_jax.discriminators.causal import CausalConfig, causal, init_causal
from coopgen_jax.discriminators.discriminator import Discriminator, uniform
from coopgen_jax.discriminators.head import Head, HeadConfig
from coopgen_jax.discriminators.shared_trunk import SharedTrunkConfig, shared_trunk
from coopgen_jax.discriminators.trunk_layers import (
    TrunkLayersConfig,
    init_trunk_layers,
    small_network,
    trunk_layers,
)
from coopgen_jax.models.decoder import language_model
from coopgen_jax.models.layer_layout import for_this_device, stored

SILENT = "none"


def _silent() -> Discriminator:
    def init(params: Any, prompt: Any, hidden: Any, *, capacity: Any) -> Any:
        return uniform(len(prompt.tokens), len(CLASSES)), None

    def evaluate(params: Any, state: Any, nodes: Any) -> Any:
        log_class = uniform(1, len(CLASSES))[0]
        return jnp.broadcast_to(log_class, (*nodes.token.shape, len(CLASSES))), None

    return Discriminator(init=init, evaluate=evaluate, classes=CLASSES)


def guides(parts: Parts) -> dict[str, tuple[Discriminator, Any]]:
    """Returns discriminators with random weights, by what they are."""
    config, key = parts.config, jax.random.key(1)
    taps = tuple(sorted({0, config.layers // 3, 2 * config.layers // 3, config.layers}))
    mlp = HeadConfig(CLASSES, 2 * len(taps) * config.width, (256,))
    network = small_network(layers=1, width=128, context=config.context)
    layered = TrunkLayersConfig(taps, config.width, network, HeadConfig(CLASSES, 128))
    judge = CausalConfig(config, HeadConfig(CLASSES, config.width), start_token=0)
    own = jax.jit(lambda key: init_causal(key, judge))(key)
    own["network"] = for_this_device(stored(own["network"], config.dtype))
    perceptron = Head(mlp).init(key, jnp.zeros((1, mlp.inputs)))["params"]
    return {
        SILENT: (_silent(), None),
        "shared trunk, perceptron": (shared_trunk(SharedTrunkConfig(taps, False, mlp)), perceptron),
        "shared trunk, one layer": (trunk_layers(layered), init_trunk_layers(key, layered)),
        "causal, of the same size": (causal(judge), own),
    }


def _search(job: Job) -> Callable[[], Any]:
    """Returns one token's search, compiled, as a function to time."""
    key = jax.random.key(0)
    state = jax.tree.map(jnp.copy, jax.jit(mcts.begin)(job))
    advance = compiled(mcts.advance, key, job, state, donate_argnames="state")

    def run() -> Any:
        nonlocal state
        state, tree = advance.call(key, job, state)
        return tree.visits

    return run


def measure(settings: Settings) -> Iterator[Row]:
    """Times every guide in every shape."""
    parts = make_parts(settings)
    known = guides(parts)
    for axes in combinations(settings):
        job = make_job(parts, new_tokens=settings.repeats + 2, **axes)
        jobs = {
            name: job.replace(
                discriminator=guide,
                discriminator_params=params,
                language_model=language_model(parts.config, guide.taps),
            )
            for name, (guide, params) in known.items()
        }
        searches = {name: _search(own) for name, own in jobs.items()}
        seconds = in_turn(searches, settings.repeats)
        for name in searches:
            yield {
                "guide": name,
                **described(job),
                "search_ms": milliseconds(seconds[name]),
                **ratio(seconds[name], seconds[SILENT]),
            }


def draw(rows: list[Row], axes: Any) -> None:
    """Draws every guide's ratio."""
    names = [f"{row['guide']} ({row['batch']} prompts, wave {row['wave']})" for row in rows]
    draw_ratios(rows, names, axes)
    axes.set_xlabel("search / search with a guide that says nothing")


GUIDANCE = Benchmark(
    name="guidance",
    about="what discriminators that read the tree add to a search's time",
    measure=measure,
    columns=(
        ("guide", "guide", ""),
        *STATED,
        ("search_ms", "search ms", ".1f"),
        ("ratio", "times as long", ".3f"),
    ),
    own={
        "batch": (1, 8),
        "prompt_length": (16,),
        "simulations": (64,),
        "wave": (1, 16),
        "repeats": 9,
    },
    quick={"batch": (2,), "simulations": (8,), "wave": (4,)},
    draw=draw,
)
