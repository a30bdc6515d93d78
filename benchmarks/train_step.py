"""A training step: maximum likelihood, a causal discriminator, a generative cooperative network.

Ours, PyTorch's (eager and, where it works, through `torch.compile`) and the floor are timed in
turn. The floor calls the network forwards and backwards and does nothing else. Before anything is
timed the losses of two steps are compared with PyTorch's, so that network, gradient and optimiser
are the same.
"""

import gc
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import torch

from benchmarks.baselines.training import TorchStep, add_lora, llama
from benchmarks.pytorch import set_threads, torch_device, versions, waited
from benchmarks.settings import Settings, combinations
from benchmarks.suite import Benchmark, Row, draw_ratios
from benchmarks.timing import compiled, in_turn, milliseconds, ratio
from benchmarks.training import (
    DECAY,
    LORA,
    OBJECTIVES,
    RATE,
    Ours,
    Task,
    make_batch,
    make_task,
    network,
    weighted,
)
from coopgen_jax.models.transformer import DecoderConfig, Params
from coopgen_jax.tools.decode_plan import matrix_parameters

# Published bfloat16 operations per second without sparsity, by JAX's name of the device.
PEAK = {
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
}
# How far losses may lie apart, as a share: in front of the first step, and behind it. AdamW's
# first step goes by the signs of gradients, of which the smallest differ.
SLACK = {"float32": (1e-4, 1e-2), "bfloat16": (2e-2, 5e-2)}


def bare(task: Task, trainable: Any, batch: dict[str, jax.Array]) -> Callable[[Any], Any]:
    """Returns the network's call forwards and backwards, compiled, of what is trainable."""
    shape = jax.eval_shape(task.forward, trainable, task.frozen, batch)
    pulled = jnp.full(shape.shape, 1e-3, shape.dtype)

    def call(trainable: Any, frozen: Any, batch: Any, pulled: jax.Array) -> Any:
        found, pull = jax.vjp(lambda trainable: task.forward(trainable, frozen, batch), trainable)
        return found.max(axis=-1), pull(pulled)[0]

    program = compiled(call, trainable, task.frozen, batch, pulled).call
    return lambda trainable: program(trainable, task.frozen, batch, pulled)


def operations(config: DecoderConfig, batch: int, length: int, *, output: bool, whole: bool) -> int:
    """Returns the floating-point operations that a step's network calls cannot do without.

    Two per weight and token forwards, two backwards to what the weight was multiplied by, and two
    to the weight itself where it is trainable; attention as in PaLM (Chowdhery et al. 2022, arXiv
    2204.02311, appendix B), 12 L H Eh T per token. What little LoRA adds is left out.
    """
    weights = (6 if whole else 4) * matrix_parameters(config, output=output)
    attention = 12 * config.layers * config.heads * config.head_width * length
    return batch * length * (weights + attention)


def agree(dtype: str, ours: list[float], theirs: list[float]) -> None:
    """Raises ValueError where the losses of two steps are not those of PyTorch."""
    for slack, one, other in zip(SLACK[dtype], ours, theirs, strict=True):
        if not abs(one - other) <= slack * abs(other):
            raise ValueError(f"the losses are {ours} and PyTorch's {theirs}: they must be the same")


def torch_step(
    objective: str, config: DecoderConfig, params: Params, task: Task, batch: Any, *, whole: bool
) -> TorchStep:
    """Returns PyTorch's step from the same weights."""
    model = llama(config, params)
    if not whole:
        trainable = task.trainable["network"] if objective == "judges" else task.trainable
        add_lora(model, trainable, LORA.alpha / LORA.rank)
    return TorchStep(
        objective, model, batch, head=task.head, start_token=0, learning_rate=RATE,
        weight_decay=DECAY, dtype=config.dtype, device=torch_device(),
    )  # fmt: skip


def through_compiler(theirs: TorchStep, quick: bool) -> str | None:
    """Compiles PyTorch's step; returns why it cannot be, None where it could."""
    if quick:
        return "torch.compile: not under --quick"
    # Of one function it compiles only so many versions, and then runs the rest as they are.
    torch.compiler.reset()
    try:
        theirs.compile()
        theirs()
    except Exception as error:  # whatever a compiler of another library raises
        theirs.loss = theirs._loss
        return f"torch.compile: {type(error).__name__}: {str(error).splitlines()[0]}"
    return None


def measure_one(
    objective: str,
    config: DecoderConfig,
    params: Params,
    settings: Settings,
    axes: dict[str, int],
    *,
    whole: bool,
) -> Row:
    """Times one objective's step in all its forms."""
    rows, length = axes["batch"], axes["prompt_length"]
    batch = make_batch(config, rows, length)
    task = make_task(objective, config, params, whole=whole)
    theirs = torch_step(objective, config, params, task, batch, whole=whole)
    ours = Ours(task, batch)
    losses = [float(ours()) for _ in range(2)], [float(theirs()) for _ in range(2)]
    agree(config.dtype, *losses)
    floor = bare(task, ours.state.trainable, weighted(ours.batch))
    functions: dict[str, Callable[[], Any]] = {
        "ours": ours,
        "floor": lambda: floor(ours.state.trainable),
        "torch": waited(theirs),
    }
    eager = theirs.loss
    absent = through_compiler(theirs, settings.quick)
    fast = theirs.loss
    if absent is None:

        def with_loss(loss: Any) -> Callable[[], Any]:
            def call() -> None:
                theirs.loss = loss
                theirs()

            return waited(call)

        functions |= {"torch": with_loss(eager), "compiled": with_loss(fast)}
    if torch_device() == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = in_turn(functions, settings.repeats or 1)
    step = ours.compiled
    done = operations(config, rows, length, output=objective != "judges", whole=whole)
    peak = PEAK.get(jax.devices()[0].device_kind) if config.dtype == "bfloat16" else None
    ours_ms = milliseconds(seconds["ours"])
    other = seconds.get("compiled")
    return versions() | {
        "objective": objective,
        "trained": "whole" if whole else f"LoRA {LORA.rank}",
        "batch": rows,
        "prompt_length": length,
        "ours_ms": ours_ms,
        "tokens_per_second": 1e3 * rows * length / ours_ms,
        "torch_ms": milliseconds(seconds["torch"]),
        **ratio(seconds["ours"], seconds["torch"]),
        "compiled_ms": milliseconds(other) if other else None,
        "over_compiled": ratio(seconds["ours"], other)["ratio"] if other else None,
        "floor_ms": milliseconds(seconds["floor"]),
        "over_floor": ratio(seconds["ours"], seconds["floor"])["ratio"],
        "state_megabytes": ours.state_bytes / 1e6,
        "working_megabytes": None if step.working is None else step.working / 1e6,
        "torch_megabytes": (
            torch.cuda.max_memory_allocated() / 1e6 if torch_device() == "cuda" else None
        ),
        "utilisation": peak and done / peak / (ours_ms / 1e3),
        "losses": losses,
        "compile_seconds": step.seconds,
        "absent": absent,
    }


def measure(settings: Settings) -> Iterator[Row]:
    """Times every objective, training all of the network and LoRA's additions to it."""
    set_threads(settings.threads)
    config, params = network(settings)
    for axes in combinations(settings):
        for whole in (True, False):
            for objective in OBJECTIVES:
                yield measure_one(objective, config, params, settings, axes, whole=whole)
                # Two networks and their moments are large: the next pair waits for these to go.
                gc.collect()


def draw(rows: list[Row], axes: Any) -> None:
    """Draws every step's time over that of PyTorch."""
    draw_ratios(rows, [f"{row['objective']}, {row['trained']}" for row in rows], axes)
    axes.set_xlabel("our step / PyTorch's")


TRAIN_STEP = Benchmark(
    name="train_step",
    about="a training step against PyTorch and against its bare network calls",
    measure=measure,
    columns=(
        ("objective", "objective", ""),
        ("trained", "trained", ""),
        ("batch", "texts", "d"),
        ("prompt_length", "tokens", "d"),
        ("ours_ms", "ours ms", ".1f"),
        ("tokens_per_second", "tokens / s", ".0f"),
        ("torch_ms", "PyTorch ms", ".1f"),
        ("ratio", "/ PyTorch", ".2f"),
        ("over_compiled", "/ torch.compile", ".2f"),
        ("floor_ms", "floor ms", ".1f"),
        ("over_floor", "/ floor", ".2f"),
        ("state_megabytes", "state MB", ".0f"),
        ("working_megabytes", "working MB", ".0f"),
        ("torch_megabytes", "PyTorch MB", ".0f"),
        ("utilisation", "utilisation", ".2f"),
        ("absent", "absent", ""),
    ),
    own={"batch": (8,), "prompt_length": (64,), "repeats": 7},
    quick={"batch": (2,), "prompt_length": (6,)},
    draw=draw,
)
