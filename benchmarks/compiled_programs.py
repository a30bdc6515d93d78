"""The programs that are compiled for accelerators, from shapes alone, and what they come to.

`python -m benchmarks.compiled_programs TARGET`, TARGET in JSON, compiles one in a process of its
own and prints its row in JSON; `python -m benchmarks accelerators` starts these processes.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, SingleDeviceSharding

from benchmarks.chips import Chip, chip_of, devices_of
from benchmarks.hlo import parse, scopes
from benchmarks.hlo_costs import (
    Speed,
    by_part,
    grids_of,
    kernels,
    largest,
    operations,
    unestimated,
    unnamed_loops,
)
from benchmarks.parts import SHAPES
from coopgen_jax.decoding.decoder_settings import DecoderSettings
from coopgen_jax.decoding.job import Job, write_all
from coopgen_jax.decoding.mcts.ppl_mcts import MCTS
from coopgen_jax.decoding.methods.sampling import SAMPLING, SamplingConfig
from coopgen_jax.decoding.presets import PRESETS
from coopgen_jax.models.layer_layout import for_training
from coopgen_jax.models.transformer import DecoderConfig, init_decoder
from coopgen_jax.parallel.mesh import BATCH, P, make_mesh
from coopgen_jax.parallel.platform import made_for
from coopgen_jax.tools.decode_plan import matrix_parameters
from coopgen_jax.tools.job_shapes import job_of_shapes
from coopgen_jax.training.gcn.imitation import weighted_likelihood_loss
from coopgen_jax.training.objectives import language_model_loss
from coopgen_jax.training.optimiser_shards import divided, lying
from coopgen_jax.training.step import begin, make_step

SEARCH_PARTS = ("prompts", "selection", "network", "backup", "rest of a wave", "once per token")
TOKEN_PARTS = ("network", "once per token")
STEP_PARTS = ("forwards", "backwards", "the rest of a step")
OF_SCOPE = {
    "select": "selection",
    "backup": "backup",
    "network": "network",
    "discriminator": "network",
}


@dataclass(frozen=True)
class Target:
    """One program for one slice of chips.

    Attributes:
      chip, model, program: by name; devices: how many chips.
      batch: texts that are written together; texts: that one chip is trained on in a step.
      prompt_length: tokens of a prompt; text_length: of a text that is trained on.
      new_tokens: written behind a prompt.
      walk: nodes that a walk of the search passes below the root, every number by itself.
      dtype: of weights and activations; parameters that are trained are float32.
      shard: what several chips have a share of each: "nothing", the "optimiser"'s state, or the
        "parameters" too.
      hlo: file for the compiled program's text, "" for none.
    """

    chip: str
    model: str
    program: str
    devices: int
    batch: int
    texts: int
    prompt_length: int
    text_length: int
    new_tokens: int
    walk: tuple[int, ...]
    dtype: str
    shard: str
    hlo: str = ""


@dataclass(frozen=True)
class Lowered:
    """A traced program, and what must be known to read it.

    Attributes:
      lowered: what is compiled; grids: of the kernels in it, `hlo_costs.grids_of`.
      part: the part of an operation by its `op_name`; parts: all of them, in order.
      trips: of the loops by name, walks aside.
      calls: of the network, by kind: how many, the bytes that each must move, and the operations
        that it must calculate.
    """

    lowered: Any
    grids: Mapping[str, int]
    part: Callable[[str], str]
    parts: tuple[str, ...]
    trips: dict[str, int]
    calls: tuple[tuple[int, float, float], ...]

    def roofline(self, chip: Chip) -> dict[str, float]:
        """Returns the least milliseconds: of reading, calculating, and the larger per call."""
        reads = [(runs, moved / chip.bandwidth) for runs, moved, _ in self.calls]
        counts = [(runs, calculated / chip.peak) for runs, _, calculated in self.calls]
        both = zip(reads, counts, strict=True)
        return {
            "weights_milliseconds": 1e3 * sum(runs * seconds for runs, seconds in reads),
            "operations_milliseconds": 1e3 * sum(runs * seconds for runs, seconds in counts),
            "milliseconds": 1e3 * sum(runs * max(read, count) for (runs, read), (_, count) in both),
        }


def part_of_search(op_name: str) -> str:
    """Returns the part of a search that an operation belongs to."""
    found = scopes(op_name)
    if "prompts" in found:
        return "prompts"
    if "waves" not in found:
        return "once per token"
    return next((OF_SCOPE[scope] for scope in found if scope in OF_SCOPE), "rest of a wave")


def part_of_token(op_name: str) -> str:
    """Returns the part of a sampled token that an operation belongs to."""
    return "network" if {"network", "discriminator"} & set(scopes(op_name)) else "once per token"


def part_of_step(op_name: str) -> str:
    """Returns the part of a training step: JAX names both directions of a derivative."""
    if "transpose(" in op_name:
        return "backwards"
    return "forwards" if "jvp(" in op_name else "the rest of a step"


def decoding_program(
    target: Target, config: DecoderConfig, decoder: Any, settings: DecoderSettings, devices: list
) -> tuple[Job, Any, tuple]:
    """Returns a job of shapes, the token's function and its arguments, all on one device."""
    job = job_of_shapes(config, settings, batch=target.batch, prompt_length=target.prompt_length)
    state = jax.eval_shape(decoder.begin, job)
    key = jax.eval_shape(lambda: jax.random.key(0))
    placed = _placed((key, job, state), SingleDeviceSharding(devices[0]))
    return job, jax.jit(decoder.advance, donate_argnames="state"), placed


def _placed(tree: Any, sharding: Any) -> Any:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )


def _call(config: DecoderConfig, rows: int) -> tuple[float, float]:
    """Returns the bytes of the matrices that a call reads, and its operations."""
    weights = matrix_parameters(config)
    return float(weights * jnp.dtype(config.dtype).itemsize), 2.0 * weights * rows


def lower(function: Any, *arguments: Any) -> tuple[Any, dict[str, int]]:
    """Returns what a compiled function is lowered to, and the grids of its kernels."""
    traced = function.trace(*arguments)
    return traced.lower(), grids_of(traced.jaxpr.jaxpr)


def lower_search(target: Target, config: DecoderConfig, devices: list) -> Lowered:
    """Lowers one token's search of all texts under the default preset."""
    settings = PRESETS["default"].with_settings(new_tokens=target.new_tokens)
    search = settings.search
    _, advance, arguments = decoding_program(target, config, MCTS, settings, devices)
    waves = search.simulations // search.wave
    trips = {"waves": waves, "lanes": search.wave, "layers": config.layers}
    call = (waves, *_call(config, target.batch * search.wave))
    return Lowered(*lower(advance, *arguments), part_of_search, SEARCH_PARTS[1:], trips, (call,))


def lower_generation(target: Target, config: DecoderConfig, devices: list) -> Lowered:
    """Lowers a whole generation by search: prompts and all tokens in one program."""
    settings = PRESETS["default"].with_settings(new_tokens=target.new_tokens)
    search = settings.search
    _, _, (key, job, _) = decoding_program(target, config, MCTS, settings, devices)
    waves = search.simulations // search.wave
    trips = {
        "tokens": target.new_tokens,
        "waves": waves,
        "lanes": search.wave,
        "layers": config.layers,
    }
    calls = (
        (1, *_call(config, target.batch * target.prompt_length)),
        (waves * target.new_tokens, *_call(config, target.batch * search.wave)),
    )
    whole = jax.jit(partial(write_all, MCTS.begin, MCTS.advance))
    return Lowered(*lower(whole, key, job), part_of_search, SEARCH_PARTS, trips, calls)


def lower_sampling(target: Target, config: DecoderConfig, devices: list) -> Lowered:
    """Lowers one sampled token of all texts."""
    settings = SamplingConfig(new_tokens=target.new_tokens)
    _, advance, arguments = decoding_program(target, config, SAMPLING, settings, devices)
    call = (1, *_call(config, target.batch))
    return Lowered(
        *lower(advance, *arguments), part_of_token, TOKEN_PARTS, {"layers": config.layers}, (call,)
    )


def lower_step(target: Target, config: DecoderConfig, devices: list, *, gcn: bool) -> Lowered:
    """Lowers a step of training all parameters, of maximum likelihood or of a GCN's generator."""
    mesh = make_mesh(target.devices, devices=devices)
    shard = target.shard if target.devices > 1 else "nothing"
    adamw = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-4, weight_decay=0.01))
    trainable = jax.eval_shape(lambda: for_training(init_decoder(jax.random.key(0), config)))
    state = jax.eval_shape(lambda params: begin(params, adamw), trainable)
    everywhere = NamedSharding(mesh, P())
    placed = _placed(state, everywhere)
    own = jax.tree.map(_placed, state, lying(divided(state, mesh), mesh))
    if shard == "optimiser":
        placed = replace(placed, optimiser_state=own.optimiser_state)
    elif shard == "parameters":
        placed = own
    rows, length = target.texts * target.devices, target.text_length

    def split(*shape: int, dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, P(BATCH)))

    batch = {
        "tokens": split(rows, length, dtype=jnp.int32),
        "mask": split(rows, length, dtype=jnp.bool_),
    }
    if gcn:
        batch |= {
            "written": split(rows, length, dtype=jnp.bool_),
            "weight": split(rows, dtype=jnp.float32),
            "index": split(rows, dtype=jnp.int32),
        }
    loss = (weighted_likelihood_loss if gcn else language_model_loss)(config)
    step = make_step(
        loss,
        adamw,
        mesh=mesh,
        sharded=shard == "optimiser",
        sharded_parameters=shard == "parameters",
        dtype=config.dtype,
    )
    key = _placed(jax.eval_shape(lambda: jax.random.key(0)), everywhere)
    # Forwards a weight is multiplied by once, backwards twice; what is kept is read and written.
    held = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(trainable))
    operations_needed = 6.0 * matrix_parameters(config) * target.texts * length
    call = (
        1,
        2.0 * held * (1 + 2 / (target.devices if shard != "nothing" else 1)),
        operations_needed,
    )
    arguments = (placed, None, batch, key)
    return Lowered(
        *lower(step, *arguments), part_of_step, STEP_PARTS, {"layers": config.layers}, (call,)
    )


PROGRAMS: dict[str, Callable[..., Lowered]] = {
    "search": lower_search,
    "generation": lower_generation,
    "sampling": lower_sampling,
    "likelihood": partial(lower_step, gcn=False),
    "gcn": partial(lower_step, gcn=True),
}
# Those that are split over several chips; the texts of the others never meet.
SPLIT = ("likelihood", "gcn")


def measure(target: Target) -> dict[str, Any]:
    """Compiles a target and returns its row: the target, and what the compiler says of it.

    Raises:
      UserError: the chip's plugin is not installed.
    """
    chip = chip_of(target.chip)
    devices = devices_of(chip, target.devices)
    config = replace(SHAPES[target.model], dtype=target.dtype)
    row = asdict(target)
    with made_for(chip.platform):
        found = PROGRAMS[target.program](target, config, devices)
        begun = time.perf_counter()
        try:
            compiled = found.lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            return row | {"refused": _sentence(error)}
    row["compile_seconds"] = time.perf_counter() - begun
    text = compiled.as_text()
    if target.hlo:
        Path(target.hlo).write_text(text, encoding="utf-8")
    return row | memory_of(compiled) | described(text, found, chip, target.walk)


def memory_of(compiled: Any) -> dict[str, int]:
    """Returns the bytes of a compiled program on one device."""
    stats = compiled.memory_analysis()
    arguments, temporaries = stats.argument_size_in_bytes, stats.temp_size_in_bytes
    results = stats.output_size_in_bytes - stats.alias_size_in_bytes
    peak = getattr(stats, "peak_memory_in_bytes", 0) or arguments + results + temporaries
    return {"argument_bytes": arguments, "temporary_bytes": temporaries, "peak_bytes": peak}


def described(text: str, found: Lowered, chip: Chip, walks: Sequence[int]) -> dict[str, Any]:
    """Returns what a compiled program's text says, as entries of a row."""
    # A walk takes a step in the root and one in every node that it passes.
    walking = "waves" in found.trips
    trips: list[Mapping[str, int]] = [
        found.trips | ({"walk": walk + 1} if walking else {}) for walk in walks
    ]
    run = operations(parse(text), found.part, (*found.trips, "walk"), found.grids)
    speed = Speed(chip.hertz, chip.bandwidth) if chip.hertz else None
    middle = trips[len(trips) // 2]
    return {
        "parts": by_part(run, found.parts, trips, speed),
        "trips": dict(middle),
        "unnamed_loops": unnamed_loops(run),
        "roofline": found.roofline(chip),
        "kernels": kernels(run, middle, speed),
        "unestimated": unestimated(run, middle),
        "largest": largest(run, middle, speed),
    }


def _sentence(error: Exception) -> str:
    """Returns the first line of a compiler's message, which says what it is about."""
    return str(error).strip().splitlines()[0]


if __name__ == "__main__":
    told = json.loads(sys.argv[1])
    print(json.dumps(measure(Target(**told | {"walk": tuple(told["walk"])}))))
