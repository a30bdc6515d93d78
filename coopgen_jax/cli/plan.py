"""The command `coopgen plan`."""

import json
from dataclasses import asdict, replace
from typing import Any

from rich.console import Console
from rich.table import Table

from coopgen_jax.cli.ask import flag
from coopgen_jax.cli.method_flags import method_of
from coopgen_jax.cli.options import PlannedOptions
from coopgen_jax.cli.settings import with_given
from coopgen_jax.decoding.mcts.mcts_config import MCTSConfig
from coopgen_jax.errors import UserError
from coopgen_jax.models.pretrained.loaded_model import load
from coopgen_jax.models.published_shapes import SHAPES
from coopgen_jax.models.transformer import DecoderConfig
from coopgen_jax.parallel.platform import fastest_dtype
from coopgen_jax.tools import probe as machine
from coopgen_jax.tools.decode_plan import Plan, plan

MOST = 1_000_000


def run_plan(options: PlannedOptions) -> None:
    """Prints what a decode would cost.

    Raises:
      UserError: an option is out of its range, or the text does not fit the model's context.
    """
    for name in ("batch_size", "prompt_length", "samples", "new_tokens", "simulations"):
        value = options.settings.get(name, getattr(options, name, None))
        if value is not None and not 1 <= value <= MOST:
            raise UserError(f"{flag(name)} is {value}: give 1 to {MOST}")
    if (options.bandwidth is None) != (options.rate is None):
        raise UserError("another machine has a --bandwidth and a --rate: give both or none")
    for name in ("bandwidth", "rate"):
        value = getattr(options, name)
        if value is not None and not 0 < value < float("inf"):
            raise UserError(f"--{name} is {value}: give a number above 0")
    size = {"new_tokens": options.new_tokens, "samples": options.samples}
    decoding = with_given(method_of("mcts", options.preset), size | dict(options.settings))
    assert isinstance(decoding, MCTSConfig)
    # A machine that is described is an accelerator.
    auto = fastest_dtype() if options.rate is None else "bfloat16"
    options = replace(options, dtype=auto if options.dtype == "auto" else options.dtype)
    config = _config(options)
    speed = _speed(options)
    found = plan(
        config,
        decoding,
        speed,
        batch=options.batch_size,
        prompt_length=options.prompt_length,
        guide=options.guide,
    )
    if options.json:
        document: dict[str, Any] = {"machine": asdict(speed), "plan": asdict(found)}
        document |= {"bytes": found.bytes, "dtype": options.dtype}
        print(json.dumps(document, indent=1))
    else:
        _print(found, speed, options.dtype)


def _speed(options: PlannedOptions) -> machine.Machine:
    """Returns this machine's speed, or that of the accelerator that the options describe.

    Of the latter nothing more is known: picking the likeliest out of a row's logits is taken to
    read them eight times, and what a layer costs however small it is, to be nothing.
    """
    if options.bandwidth is None or options.rate is None:
        return machine.measure(options.dtype)
    bandwidth = options.bandwidth * 1e9
    return machine.Machine(bandwidth, options.rate * 1e12, ranking=bandwidth / 32, step=0.0)


def _config(options: PlannedOptions) -> DecoderConfig:
    if options.model in SHAPES:
        return replace(SHAPES[options.model], dtype=options.dtype)
    return load(options.model, dtype=options.dtype).config


def _print(found: Plan, speed: machine.Machine, dtype: str) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in {
        "read bandwidth": f"{speed.bandwidth / 1e9:.1f} GB/s",
        "matrix rate": f"{speed.rate / 1e12:.3f} TFLOP/s",
        f"weights, {dtype}": f"{found.weights / 1e6:.1f} MB",
        "prompts": f"{found.prompt / 1e6:.1f} MB",
        "trunks": f"{found.trunk / 1e6:.1f} MB",
        "nodes": f"{found.nodes / 1e6:.1f} MB",
        "trees": f"{found.tree / 1e6:.1f} MB",
        "logits of a call": f"{found.logits / 1e6:.1f} MB",
        "all of it": f"{found.bytes / 1e6:.1f} MB",
        "network calls of a token's search": f"{found.calls}",
        "one call": f"{1e3 * found.call_seconds:.1f} ms",
        "one token of every text": f"{found.token_seconds:.3f} s",
        "reading the prompts": f"{found.prefill_seconds:.3f} s",
        "the whole decode": f"{found.seconds:.1f} s",
        "simulations per second": f"{found.simulations_per_second:.0f}",
    }.items():
        table.add_row(name, value)
    Console(highlight=False).print(table)
