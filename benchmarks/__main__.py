"""Runs the benchmarks: `python -m benchmarks --help`."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import jax
import tyro
from tyro.conf import Positional

from benchmarks.accelerators import ACCELERATORS, Accelerators, run_accelerators
from benchmarks.decoders import DECODERS
from benchmarks.extend import EXTEND
from benchmarks.features import FEATURES
from benchmarks.gcn_round import GCN_ROUND
from benchmarks.guidance import GUIDANCE
from benchmarks.instead import INSTEAD
from benchmarks.length import LENGTH
from benchmarks.pytorch import FAIR, PUBLISHED
from benchmarks.samples import SAMPLES
from benchmarks.search import SEARCH
from benchmarks.settings import Settings
from benchmarks.suite import markdown, run
from benchmarks.train_devices import TRAIN_DEVICES
from benchmarks.train_step import TRAIN_STEP
from coopgen_jax.errors import UserError

BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        SEARCH,
        EXTEND,
        LENGTH,
        SAMPLES,
        FEATURES,
        GUIDANCE,
        DECODERS,
        PUBLISHED,
        FAIR,
        INSTEAD,
        TRAIN_STEP,
        TRAIN_DEVICES,
        GCN_ROUND,
    )
}
# What `report` knows the columns of.
REPORTED = {**BENCHMARKS, ACCELERATORS.name: ACCELERATORS}
ABOUT = "\n".join(
    ["benchmarks:", *(f"  {name:13} {entry.about}" for name, entry in BENCHMARKS.items())]
)

OTHERS = f"""
on their own, with options of their own (`--help`):
  {ACCELERATORS.name:13} {ACCELERATORS.about}
  {"report":13} JSON files as Markdown tables"""


@dataclass(frozen=True)
class Run:
    """Times what is named, prints a table, and writes JSON and a picture per benchmark.

    names: benchmarks to run; none for all of them.
    settings: what to time.
    """

    names: Positional[tuple[str, ...]] = ()
    settings: Annotated[Settings, tyro.conf.arg(name="")] = field(default_factory=Settings)


@dataclass(frozen=True)
class Report:
    """Prints the JSON files of one or several machines as Markdown tables.

    files: what the runs wrote.
    """

    files: Positional[tuple[Path, ...]]


def _unknown(kind: str, name: object) -> UserError:
    return UserError(f"there is no {kind} {str(name)!r}: choose from {', '.join(BENCHMARKS)}")


def run_all(chosen: Run) -> None:
    """Runs the benchmarks one after another.

    Raises:
      UserError: a name is not that of a benchmark, or there is no such device.
    """
    for name in chosen.names:
        if name == ACCELERATORS.name:
            raise UserError(f"{name} has options of its own: name it first and alone")
        if name not in BENCHMARKS:
            raise _unknown("benchmark", name)
    device = chosen.settings.device
    if device:
        jax.config.update("jax_platforms", "cuda" if device == "gpu" else device)
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"there is no {device} here: {error}") from error
    for name in chosen.names or BENCHMARKS:
        run(BENCHMARKS[name], chosen.settings)


def report(chosen: Report) -> None:
    """Prints the tables.

    Raises:
      UserError: a file is missing or is not one that a benchmark wrote.
    """
    if not chosen.files:
        raise UserError("report needs the JSON files that the benchmarks wrote: name at least one")
    for path in chosen.files:
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            benchmark = REPORTED[found["benchmark"]]
            print(markdown(benchmark, found))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is not a benchmark's JSON file ({error!r})") from error


def main(arguments: list[str]) -> int:
    """Runs or reports; returns the exit status."""
    try:
        if arguments[:1] == ["report"]:
            report(tyro.cli(Report, prog="python -m benchmarks report", args=arguments[1:]))
        elif arguments[:1] == [ACCELERATORS.name]:
            prog = f"python -m benchmarks {ACCELERATORS.name}"
            run_accelerators(tyro.cli(Accelerators, prog=prog, args=arguments[1:]))
        else:
            description = f"{Run.__doc__}\n\n{ABOUT}\n{OTHERS}"
            run_all(
                tyro.cli(Run, prog="python -m benchmarks", description=description, args=arguments)
            )
    except (UserError, ValueError, OSError) as error:
        print(f"benchmarks: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("benchmarks: interrupted; rows measured so far are kept", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
