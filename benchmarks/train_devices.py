"""One training step split over devices, with the optimiser's state whole on each and shared.

A processor poses as eight devices in a process of its own: its cores are the same whatever their
number, so that rows of a processor show what splitting costs, never what it gains.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from benchmarks.settings import Settings, combinations
from benchmarks.suite import Benchmark, Row, draw_ratios
from benchmarks.timing import compiled, in_turn, milliseconds, ratio
from benchmarks.training import make_batch, network, optimiser
from coopgen_jax.models.transformer import DecoderConfig, Params, init_decoder
from coopgen_jax.parallel.mesh import make_mesh, share
from coopgen_jax.testing import TINY_LLAMA
from coopgen_jax.training.objectives import language_model_loss
from coopgen_jax.training.step import begin_on, make_step

COUNTS = (1, 2, 4, 8)
# What eight virtual devices hold eight times over in one machine's memory.
SMALL = replace(
    TINY_LLAMA, vocab_size=4000, layers=6, width=256, heads=4, kv_heads=4, head_width=64,
    ffn_width=704, tied=True,
)  # fmt: skip


class Split:
    """A step over so many devices."""

    def __init__(
        self, config: DecoderConfig, params: Params, batch: Any, devices: int, *, sharded: bool
    ):
        mesh, adamw = make_mesh(devices), optimiser()
        trainable = jax.tree.map(np.asarray, params)
        self.state = begin_on(mesh, trainable, adamw, sharded=sharded)
        self.batch, self.key = share(batch, mesh), jax.random.key(0)
        moments = jax.tree.leaves(self.state.optimiser_state)
        self.moments = sum(leaf.addressable_shards[0].data.nbytes for leaf in moments)
        step = make_step(language_model_loss(config), adamw, mesh=mesh, sharded=sharded)
        self.compiled = compiled(step, self.state, None, self.batch, self.key)

    def __call__(self) -> jax.Array:
        """Takes a step; returns the loss in front of it."""
        self.state, means = self.compiled.call(self.state, None, self.batch, self.key)
        return means["loss"]


def rows_of(
    config: DecoderConfig, params: Params, axes: dict[str, int], repeats: int
) -> Iterator[Row]:
    """Times the step over as many devices as there are and divide the texts."""
    rows, length = axes["batch"], axes["prompt_length"]
    batch = make_batch(config, rows, length)
    batch = {name: batch[name] for name in ("tokens", "mask")}
    counts = [n for n in COUNTS if n <= jax.device_count() and rows % n == 0]
    cases = [(n, sharded) for n in counts for sharded in (False, True) if n > 1 or not sharded]
    steps: dict[tuple[int, bool], Split] = {}
    for devices, sharded in cases:
        steps[devices, sharded] = Split(config, params, batch, devices, sharded=sharded)
    losses = [[float(step()) for _ in range(2)] for step in steps.values()]
    if not np.allclose(losses, losses[0], rtol=1e-2):
        raise ValueError(f"the losses over several devices are {losses}: they must be the same")
    functions: dict[str, Callable[[], Any]] = {str(case): step for case, step in steps.items()}
    seconds = in_turn(functions, repeats)
    for case, step in steps.items():
        devices, sharded = case
        taken = milliseconds(seconds[str(case)])
        yield {
            "devices": devices,
            "virtual": jax.devices()[0].platform == "cpu",
            "state": "shared" if sharded else "whole",
            "network": f"{config.layers} x {config.width}",
            "batch": rows,
            "prompt_length": length,
            "step_ms": taken,
            "tokens_per_second": 1e3 * rows * length / taken,
            **ratio(seconds[str(case)], seconds[str(cases[0])]),
            "moment_megabytes": step.moments / 1e6,
            "compile_seconds": step.compiled.seconds,
        }


def _virtually(settings: Settings) -> list[Row]:
    """Returns the rows of a process in which this processor poses as eight devices."""
    told = json.dumps(
        {name: getattr(settings, name) for name in ("model", "dtype", "repeats")}
        | {"axes": list(combinations(settings))}
    )
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.train_devices", told],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise ValueError("the process of eight virtual devices failed: its errors stand above")
    found: list[Row] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(settings: Settings) -> Iterator[Row]:
    """Times the devices that there are, or those that the processor poses as."""
    if jax.devices()[0].platform == "cpu":
        yield from _virtually(settings)
        return
    config, params = network(settings)
    for axes in combinations(settings):
        yield from rows_of(config, params, axes, settings.repeats or 1)


def draw(rows: list[Row], axes: Any) -> None:
    """Draws every step's time over that of one device."""
    draw_ratios(rows, [f"{row['devices']} devices, {row['state']}" for row in rows], axes)
    axes.set_xlabel("a step / a step on one device")


TRAIN_DEVICES = Benchmark(
    name="train_devices",
    about="a training step over several devices (virtual ones show what splitting costs, no more)",
    measure=measure,
    columns=(
        ("devices", "devices", "d"),
        ("state", "optimiser's state", ""),
        ("network", "network", ""),
        ("batch", "texts", "d"),
        ("prompt_length", "tokens", "d"),
        ("step_ms", "step ms", ".1f"),
        ("tokens_per_second", "tokens / s", ".0f"),
        ("ratio", "/ 1 device", ".2f"),
        ("moment_megabytes", "moments MB each", ".2f"),
    ),
    own={"batch": (8,), "prompt_length": (64,), "repeats": 7},
    quick={"prompt_length": (6,)},
    draw=draw,
)


def main(told: dict[str, Any]) -> None:
    """Prints the rows of a network that a processor holds eight times over."""
    config = replace(TINY_LLAMA if told["model"] == "tiny" else SMALL, dtype=told["dtype"])
    params = jax.jit(lambda key: init_decoder(key, config))(jax.random.key(0))
    axes = told["axes"]
    rows = [row for one in axes for row in rows_of(config, params, one, told["repeats"])]
    print(json.dumps(rows))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
