"""Times one token's search against the bare network calls that it must make.

    python -m benchmarks.search --prompts 1 8 --waves 1 8

The floor is `extend` alone, as often and in the same shapes, compiled into one loop. Search and
floor are timed in turn; the ratio is the median of the ratios of neighbours, so that a machine
whose speed drifts does not matter.
"""

import json
import platform
import statistics
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from coopgen_jax.decoding import mcts
from coopgen_jax.decoding.job import Job
from coopgen_jax.decoding.presets import PRESETS
from coopgen_jax.discriminators.heads import load_discriminator
from coopgen_jax.models.decoder import language_model
from coopgen_jax.models.language_model import Nodes, Prompt
from coopgen_jax.models.pretrained.loading import load


@dataclass(frozen=True)
class Config:
    """What to time.

    model: the language model; discriminator: a shared-trunk head for it.
    prompts: batch sizes; waves: leaves per network call; simulations: evaluations per token.
    prompt_length: tokens of every prompt.
    repeats: timed pairs of search and floor.
    dtype: of the language model.
    out: JSON file for the figures, or None.
    """

    model: str = "smollm2-135m"
    discriminator: str = "sentiment"
    prompts: tuple[int, ...] = (1, 8)
    waves: tuple[int, ...] = (1, 8)
    simulations: tuple[int, ...] = (32,)
    prompt_length: int = 16
    repeats: int = 7
    dtype: str = "float32"
    out: Path | None = None


def bare_extends(job: Job, cache: Any) -> Any:
    """Calls `extend` once per wave, on paths as long as a search's usually are."""
    config = job.config
    rows = (job.prompt.tokens.shape[0], config.samples, config.search.wave)
    half = config.search.depth // 2
    below = jnp.arange(config.search.depth)
    path = jnp.where(below < half, 1 + below, -1)
    first = 1 + config.search.kept

    def call(wave: jax.Array, carry: tuple) -> tuple:
        cache, total = carry
        nodes = Nodes(
            start=first + wave * config.search.wave,
            token=jnp.broadcast_to(wave, rows),
            parent=jnp.full(rows, half),
            path=jnp.broadcast_to(path, (*rows, config.search.depth)),
            depth=jnp.full(rows, half + 1),
            committed=jnp.zeros(rows[:2], jnp.int32),
            terminal=jnp.zeros(rows, bool),
        )
        logits, _, cache = job.language_model.extend(job.params, cache, nodes)
        return cache, total + logits.max()

    waves = config.search.simulations // config.search.wave
    return jax.lax.fori_loop(0, waves, call, (cache, jnp.float32(0)))


def random_prompts(batch: int, length: int) -> Prompt:
    """Returns prompts of random tokens: what is timed does not depend on them."""
    tokens = np.random.default_rng(0).integers(100, 10_000, (batch, length))
    return Prompt(
        tokens=jnp.asarray(tokens, jnp.int32),
        mask=jnp.ones(tokens.shape, bool),
        index=jnp.arange(batch),
    )


def measure(config: Config, batch: int, wave: int, simulations: int, parts: dict) -> dict[str, Any]:
    """Times one shape."""
    preset = PRESETS["default"]
    search = replace(preset.search, simulations=simulations, wave=wave, early_stop=False)
    decoding = replace(preset, search=search, new_tokens=config.repeats + 2)
    job = Job(
        prompt=random_prompts(batch, config.prompt_length),
        target=jnp.ones(batch, jnp.int32),
        config=decoding,
        **parts,
    )
    state = jax.jit(mcts.begin)(job)
    # Both loops donate what they change, and it may share buffers with the job.
    cache = jax.tree.map(jnp.copy, state.states[0])
    advance = jax.jit(mcts.advance, donate_argnames="state")
    floor = jax.jit(bare_extends, donate_argnames="cache")
    key = jax.random.key(0)
    start = time.perf_counter()
    state, _ = jax.block_until_ready(advance(key, job, state))
    compile_seconds = time.perf_counter() - start
    cache, _ = floor(job, cache)
    searches, floors = [], []
    for _ in range(config.repeats):
        start = time.perf_counter()
        state, _ = jax.block_until_ready(advance(key, job, state))
        middle = time.perf_counter()
        cache, _ = jax.block_until_ready(floor(job, cache))
        searches.append(middle - start)
        floors.append(time.perf_counter() - middle)
    ratios = [search / floor for search, floor in zip(searches, floors, strict=True)]
    milliseconds = 1e3 * statistics.median(searches)
    return {
        "prompts": batch,
        "simulations": simulations,
        "wave": wave,
        "candidates": search.candidates,
        "depth": search.depth,
        "search_ms": milliseconds,
        "floor_ms": 1e3 * statistics.median(floors),
        "ratio": statistics.median(ratios),
        "ratio_spread": [min(ratios), max(ratios)],
        "simulations_per_second": batch * simulations / milliseconds * 1e3,
        "compile_seconds": compile_seconds,
    }


def main(config: Config) -> None:
    """Prints a table and writes JSON."""
    model = load(config.model, dtype=config.dtype)
    guide = load_discriminator(config.discriminator, language_model=model)
    parts = {
        # No text may end while it is timed, or its search would cost nothing.
        "language_model": replace(
            language_model(model.config, guide.discriminator.taps), end_tokens=()
        ),
        "params": model.params,
        "discriminator": guide.discriminator,
        "discriminator_params": guide.params,
    }
    device = jax.devices()[0]
    print(f"{config.model}, {config.dtype}, {device.device_kind}, jax {jax.__version__}")
    head = ("prompts", "simulations", "wave", "search ms", "floor ms", "ratio", "simulations / s")
    print(" | ".join(head))
    rows = []
    for batch in config.prompts:
        for simulations in config.simulations:
            for wave in config.waves:
                row = measure(config, batch, wave, simulations, parts)
                rows.append(row)
                print(
                    f"{batch:7} | {simulations:11} | {wave:4} | {row['search_ms']:9.1f} | "
                    f"{row['floor_ms']:8.1f} | {row['ratio']:5.3f} | "
                    f"{row['simulations_per_second']:15.0f}",
                    flush=True,
                )
    if config.out:
        report = {
            "settings": asdict(config) | {"out": str(config.out)},
            "device": device.device_kind,
            "machine": platform.processor() or platform.machine(),
            "jax": jax.__version__,
            "python": sys.version.split()[0],
            "rows": rows,
        }
        config.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(tyro.cli(Config))
