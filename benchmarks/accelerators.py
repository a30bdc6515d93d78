"""Programs compiled for accelerators that are not there: memory, estimates by part, what is large.

Every target (a chip, a model, a program, a number of chips) is compiled in a process of its own, so
that one that a compiler gives up on, or that needs too much memory, leaves the others.
"""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from benchmarks.chips import CHIPS, chip_of, environment
from benchmarks.compiled_programs import PROGRAMS, SPLIT, Target
from benchmarks.hlo_costs import CYCLES_A_STEP
from benchmarks.parts import SHAPES
from benchmarks.suite import Benchmark, Row
from coopgen_jax.errors import UserError

NOTE = (
    "Nothing ran on a device. Milliseconds are the compiler's own estimates, one operation after "
    "another, by the trips that are stated; a walk's depth is assumed. Operations without an "
    f"estimate come on top; a kernel counts the larger of its bytes over the bandwidth and "
    f"{CYCLES_A_STEP} cycles for every step that waits for another."
)

# Of the tables: a terminal's own width would break their lines.
WIDTH = 140


@dataclass(frozen=True)
class Accelerators:
    """Compiles programs for accelerators that are not here, and reads what the compilers say.

    Nothing runs on a device: memory is exact, milliseconds are the compiler's cost model. One
    program takes one to four minutes. Of several values of one option every one is compiled for,
    with all those of the others.

    Attributes:
      chip: v5e and v6e (Cloud TPUs, by libtpu), h100 (by JAX's CUDA plugin, which estimates no
        time: operations, bytes and memory alone).
      model: shapes with random weights: gpt2-small, gpt2-large, llama-1b, default-6, tiny.
      program: search (one token of every text), generation (all tokens in one program), sampling
        (one token without a search), likelihood and gcn (a training step of all parameters by
        maximum likelihood, and of a GCN's generator).
      devices: chips that share a training step; the other programs are compiled for one.
      batch: texts that are written together.
      texts: texts that every chip is trained on in a step.
      prompt_length: tokens of a prompt.
      text_length: tokens of a text that is trained on.
      new_tokens: tokens written behind a prompt.
      walk: nodes that a walk of the search passes below the root; its length is not known before a
        program runs, so the search's time is given for each of them.
      dtype: of weights and activations; trained parameters are float32.
      shard: what several chips have a share of each in training: nothing, the optimiser's state
        (`--shard-optimiser`), or the parameters too (`--shard-parameters`).
      hlo: keeps every compiled program's text beside the JSON file.
      out: folder for the JSON file.
    """

    chip: tuple[str, ...] = tuple(CHIPS)
    model: tuple[str, ...] = ("gpt2-small", "llama-1b")
    program: tuple[str, ...] = tuple(PROGRAMS)
    devices: tuple[int, ...] = (1, 4, 8)
    batch: tuple[int, ...] = (8,)
    texts: tuple[int, ...] = (8,)
    prompt_length: int = 64
    text_length: int = 256
    new_tokens: int = 64
    walk: tuple[int, ...] = (2, 4, 8)
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    shard: Literal["nothing", "optimiser", "parameters"] = "parameters"
    hlo: bool = False
    out: Path = field(default=Path("benchmarks/results"))

    def check(self) -> None:
        """Raises UserError where a value is not one that there is."""
        for name in ("devices", "batch", "texts", "walk"):
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                raise UserError(f"--{name} takes whole numbers from 1")
        for name in ("prompt_length", "text_length", "new_tokens"):
            if getattr(self, name) < 1:
                flag = name.replace("_", "-")
                raise UserError(f"--{flag} is {getattr(self, name)}: it must be 1 or more")
        for name, known in (("model", SHAPES), ("program", PROGRAMS)):
            for value in getattr(self, name):
                if value not in known:
                    raise UserError(f"there is no {name} {value!r}: choose from {', '.join(known)}")
        for value in self.chip:
            chip = chip_of(value)
            for count in self.devices:
                if count not in chip.topologies:
                    counts = ", ".join(map(str, chip.topologies))
                    raise UserError(f"--devices is {count}: choose from {counts}")


def targets(chosen: Accelerators) -> Iterator[Target]:
    """Yields what is compiled: of what does not go with a program one value only."""
    axes = product(chosen.chip, chosen.model, chosen.program, chosen.devices)
    for chip, model, program, devices in axes:
        split = program in SPLIT
        if not split and devices != chosen.devices[0]:
            continue
        for rows in chosen.texts if split else chosen.batch:
            yield Target(
                chip=chip,
                model=model,
                program=program,
                devices=devices if split else 1,
                batch=chosen.batch[0] if split else rows,
                texts=rows if split else chosen.texts[0],
                prompt_length=chosen.prompt_length,
                text_length=chosen.text_length,
                new_tokens=chosen.new_tokens,
                walk=chosen.walk,
                dtype=chosen.dtype,
                shard=chosen.shard,
                hlo=str(chosen.out / f"{_name(chip, model, program, devices, rows)}.hlo")
                if chosen.hlo
                else "",
            )


def _name(*parts: object) -> str:
    return "-".join(map(str, parts))


def compile_for(target: Target) -> Row:
    """Compiles a target in a process of its own and returns its row.

    A compiler that fails leaves a row with `refused`, the sentence that it gave.
    """
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.compiled_programs", json.dumps(asdict(target))],
        env=os.environ | environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        reason = said[-1] if said else f"the compiler ended with status {done.returncode}"
        return asdict(target) | {"refused": reason}
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return _flat(row)


def _flat(row: Row) -> Row:
    """Returns a row with what its line of a table shows."""
    if "refused" in row:
        return row
    parts = row["parts"]
    both = [[*zip(p["milliseconds"], p["kernel_milliseconds"], strict=True)] for p in parts]
    sums = [sum(map(sum, at)) for at in zip(*both, strict=True)]
    return row | {
        "operations": sum(part["operations"] for part in parts),
        "megabytes": sum(part["bytes"] for part in parts) / 1e6,
        "estimated_ms": sums,
        "middle_ms": sums[len(sums) // 2] if sums else None,
        "roofline_ms": row["roofline"]["milliseconds"],
        **{f"{name}_mb": row[f"{name}_bytes"] / 1e6 for name in ("argument", "temporary", "peak")},
    }


def run_accelerators(chosen: Accelerators) -> Path:
    """Compiles what is chosen, printing every target as it comes.

    The file is rewritten after every target. What a chip's plugin lacks is printed, and the others
    are compiled.

    Returns:
      The JSON file.

    Raises:
      UserError: a value is not one that there is, or no chosen chip can be compiled for.
    """
    chosen.check()
    console = Console(highlight=False, soft_wrap=True, width=WIDTH)
    absent = {name: chip_of(name).absent for name in chosen.chip}
    there = tuple(name for name in chosen.chip if not absent[name])
    sentences = [sentence for sentence in absent.values() if sentence]
    if not there:
        raise UserError("; ".join(sentences))
    for sentence in sentences:
        console.print(f"left out: {sentence}")
    chosen.out.mkdir(parents=True, exist_ok=True)
    some = () if chosen.program == tuple(PROGRAMS) else chosen.program
    name = _name(ACCELERATORS.name, *there, *chosen.model, *some, chosen.dtype)
    path = chosen.out / f"{name}.json"
    console.print(NOTE)
    rows: list[Row] = []
    for target in targets(chosen):
        if target.chip in there:
            rows.append(compile_for(target))
            show(rows[-1], console)
            partial = path.with_suffix(".partial")
            report = {
                "benchmark": ACCELERATORS.name,
                "note": NOTE,
                "machine": _machine(),
                "settings": asdict(chosen)
                | {"out": str(chosen.out), "model": ", ".join(chosen.model)},
                "rows": rows,
            }
            partial.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
            partial.replace(path)
    console.print(f"written to {path}")
    return path


def _machine() -> dict[str, Any]:
    """Returns the versions of what compiled; no device is asked for."""
    found = {
        "device": "compiled for, not run",
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    for package in ("jax", "jaxlib", "libtpu", "jax-cuda12-plugin", "coopgen_jax"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def show(row: Row, console: Console) -> None:
    """Prints what is known of a target."""
    rows = f"{row['texts']} texts each" if row["program"] in SPLIT else f"{row['batch']} texts"
    title = f"{row['program']}, {row['model']}, {row['chip']} x {row['devices']}, {rows}"
    if "refused" in row:
        console.print(f"\n[bold]{title}[/bold]: not compiled: {row['refused']}", markup=True)
        return
    console.print(
        f"\n[bold]{title}[/bold]: compiled in {row['compile_seconds']:.0f} s; arguments "
        f"{row['argument_mb']:.0f} MB, temporaries {row['temporary_mb']:.0f} MB, peak "
        f"{row['peak_mb']:.0f} MB"
    )
    console.print(_parts(row))
    trips = ", ".join(f"{loop} {count}" for loop, count in row["trips"].items())
    roofline = row["roofline"]
    console.print(
        f"trips: {trips}; operations in loops of unknown length, counted once: "
        f"{row['unnamed_loops']}\n"
        f"roofline: {roofline['milliseconds']:.2f} ms (weights over the bandwidth "
        f"{roofline['weights_milliseconds']:.2f}, operations over the peak "
        f"{roofline['operations_milliseconds']:.2f})"
    )
    for kernel in row["kernels"]:
        taken = kernel["milliseconds"]
        console.print(
            f"kernel: {kernel['kind']} in {kernel['part']}, {kernel['where']}: {kernel['runs']} "
            f"runs, {kernel['steps']} steps, {kernel['bytes'] / 1e6:.1f} MB"
            + ("" if taken is None else f", {taken:.2f} ms")
        )
    if row["estimated_ms"]:
        missing = ", ".join(
            f"{found['runs']} {what} ({found['bytes'] / 1e6:.0f} MB)"
            for what, found in row["unestimated"].items()
        )
        console.print(f"without an estimate: {missing or 'none'}")
    console.print(_largest(row))


def _table(*titles: str, left: int = 1) -> Table:
    table = Table(box=None, pad_edge=False)
    for number, title in enumerate(titles):
        table.add_column(title, justify="left" if number < left else "right")
    return table


def _parts(row: Row) -> Table:
    """Returns the parts of a program; their milliseconds by depth where that matters."""
    times = {f"ms, walk {walk}": [] for walk in row["walk"]} if row["estimated_ms"] else {}
    kernels = {title.replace("ms,", "kernels,"): [] for title in times}
    for part in row["parts"]:
        for column, milliseconds in zip(times.values(), part["milliseconds"], strict=True):
            column.append(milliseconds)
        for column, milliseconds in zip(kernels.values(), part["kernel_milliseconds"], strict=True):
            column.append(milliseconds)
    columns = _told_once(times, "ms") | _told_once(kernels, "kernels, ms")
    table = _table("part", "operations", "MB", *columns)
    for number, part in enumerate(row["parts"]):
        cells = [f"{column[number]:.2f}" for column in columns.values()]
        table.add_row(part["part"], str(part["operations"]), f"{part['bytes'] / 1e6:.1f}", *cells)
    sums = [f"{sum(column):.2f}" for column in columns.values()]
    table.add_row("sum", str(row["operations"]), f"{row['megabytes']:.1f}", *sums)
    return table


def _told_once(columns: dict[str, list[float]], title: str) -> dict[str, list[float]]:
    """Returns columns by title, one of several that are equal, none where all are nothing."""
    different = list(columns.values())
    if not any(map(any, different)):
        return {}
    if all(column == different[0] for column in different):
        return {title: different[0]}
    return columns


def _largest(row: Row) -> Table:
    table = _table("largest that are no products", "part", "runs", "ms", "MB", "where", left=2)
    table.columns[-1].justify = "left"
    for found in row["largest"]:
        taken = found["milliseconds"]
        table.add_row(
            found["kind"],
            found["part"],
            str(found["runs"]),
            "-" if taken is None else f"{taken:.2f}",
            f"{found['bytes'] / 1e6:.1f}",
            found["where"],
        )
    return table


def _compiled(_: Any) -> Iterator[Row]:
    return map(compile_for, targets(Accelerators()))


# Its columns are those that `report` shows; a walk is taken at the middle one of its depths.
ACCELERATORS = Benchmark(
    name="accelerators",
    about="programs compiled for accelerators; nothing ran on a device",
    measure=_compiled,
    columns=(
        ("program", "program", ""),
        ("model", "model", ""),
        ("chip", "chip", ""),
        ("devices", "chips", "d"),
        ("compile_seconds", "compile s", ".0f"),
        ("argument_mb", "arguments MB", ".0f"),
        ("temporary_mb", "temporaries MB", ".0f"),
        ("peak_mb", "peak MB", ".0f"),
        ("operations", "operations", "d"),
        ("megabytes", "moved MB", ".0f"),
        ("middle_ms", "estimated ms", ".1f"),
        ("roofline_ms", "roofline ms", ".1f"),
        ("refused", "not compiled", ""),
    ),
)
