"""What a compiled program is estimated to take, operation by operation, by part and by loop.

An estimate is the compiler's own, of one run of an operation; how often it runs is the product of
the trips of the loops around it. Loops and parts are known by the names that the traced functions
give them (`jax.named_scope`), which stay in the program's metadata.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import jax

from benchmarks.hlo import (
    FREE,
    NO_WORK,
    Instruction,
    Program,
    is_product,
    kernel_in,
    kind,
    nbytes,
    scopes,
    sizes,
)
from benchmarks.hlo import touched as bytes_touched

# By scope: the loops that a Pallas kernel there runs inside itself, but for those around it.
INSIDE_KERNEL = {"select": ("lanes", "walk"), "backup": ("lanes",)}
# What a kernel's step is taken to cost that waits for the step before it: reading a row of memory
# close to the core, a few reductions across its lanes, and a scalar that decides what is next. It
# is stated, not measured.
CYCLES_A_STEP = 1000

# The part that an operation belongs to, by its `op_name`.
Part = Callable[[str], str]


@dataclass(frozen=True)
class Loop:
    """A loop: the name that its function gave it, and its trips where the compiler knows them."""

    name: str
    known: int | None = None


@dataclass(frozen=True)
class Operation:
    """One operation of the device.

    Attributes:
      part: of the program.
      kind: what it does, `hlo.kind`.
      where: the end of its `op_name`, and its shape.
      cycles: the compiler's estimate of one run, 0 without one.
      bytes: of the large memory, of one run.
      loops: those around it, outermost first.
      kernel: whether it is a custom call that the compiler does not look into.
      steps: names of the loops that such a kernel runs inside itself.
      grid: steps of a kernel's own grid, which a core takes one after another.
    """

    part: str
    kind: str
    where: str
    cycles: int
    bytes: int
    loops: tuple[Loop, ...]
    kernel: bool = False
    steps: tuple[str, ...] = ()
    grid: int = 1

    def times(self, trips: Mapping[str, int]) -> int:
        """Returns how often it runs; a loop without a name counts once."""
        return _product(self.loops, trips)

    def dependent_steps(self, trips: Mapping[str, int]) -> int:
        """Returns how many steps of a kernel wait for one another, all its runs together."""
        return self.times(trips) * self.grid * _product(map(Loop, self.steps), trips)


def _product(loops: Iterable[Loop], trips: Mapping[str, int]) -> int:
    total = 1
    for loop in loops:
        total *= loop.known or trips.get(loop.name, 1)
    return total


def operations(
    program: Program,
    part: Part,
    loops: Iterable[str],
    grids: Mapping[str, int] = MappingProxyType({}),
) -> list[Operation]:
    """Returns the operations that a program runs, once each, whatever the loops around them.

    Args:
      program: the compiled program.
      part: the part that an operation belongs to, by its `op_name`.
      loops: names that a loop may have: that of the scope right around it, if it is among them.
      grids: by a kernel's name the steps of its grid, see `grids_of`; 1 where it is not there.
    """
    known = _Known(part, frozenset(loops), grids)
    return list(_run(program, program.entry, (), "", known))


@dataclass(frozen=True)
class _Known:
    """What a program's text does not say."""

    part: Part
    loops: frozenset[str]
    grids: Mapping[str, int]


def grids_of(jaxpr: Any) -> dict[str, int]:
    """Returns by name the steps of the grid of every Pallas kernel in a traced function."""
    found: dict[str, int] = {}
    for equation in jaxpr.eqns:
        if equation.primitive.name == "pallas_call":
            name = scopes(str(equation.source_info.name_stack))[-1:]
            steps = [size for size in equation.params["grid_mapping"].grid if isinstance(size, int)]
            found |= dict.fromkeys(name, math.prod(steps))
            continue
        for inner in jax.tree.leaves(tuple(equation.params.values())):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                found |= grids_of(inner)
    return found


def _run(
    program: Program,
    name: str,
    around: tuple[Loop, ...],
    inherited: str,
    known: _Known,
) -> Iterator[Operation]:
    computation = program.computations[name]
    for instruction in computation:
        # What the compiler adds, such as a copy, belongs to the loop that it stands in.
        found = instruction.op_name or inherited
        if instruction.opcode == "while":
            within = (*around, _loop(instruction, found, known.loops))
            for called in instruction.called("condition") + instruction.called("body"):
                yield from _run(program, called, within, found, known)
        elif instruction.opcode in ("call", "conditional"):
            roles = ("to_apply", "branch_computations", "true_computation", "false_computation")
            for called in (name for role in roles for name in instruction.called(role)):
                yield from _run(program, called, around, found, known)
        elif not _is_free(instruction):
            yield _operation(program, computation, instruction, around, found, known)


def _loop(instruction: Instruction, op_name: str, names: frozenset[str]) -> Loop:
    # The loop's own name is the scope right around it.
    around = scopes(op_name)[-2:-1]
    own = around[0] if around and around[0] in names else "unnamed"
    return Loop(own, instruction.trips)


def _is_free(instruction: Instruction) -> bool:
    if instruction.opcode in FREE or instruction.target in NO_WORK:
        return True
    if instruction.cycles or instruction.opcode in ("fusion", "custom-call"):
        return False
    # A new name for the same bytes, or a number of the scalar unit beside everything else.
    scalar = all(not dimensions for _, dimensions in sizes(instruction.shape))
    return instruction.opcode == "reshape" or (scalar and nbytes(instruction.shape) <= 8)


def _operation(
    program: Program,
    computation: list[Instruction],
    instruction: Instruction,
    around: tuple[Loop, ...],
    op_name: str,
    known: _Known,
) -> Operation:
    what = kind(program, instruction)
    kernel = bool(kernel_in(program, instruction)) and not instruction.cycles
    outside, found = {loop.name for loop in around}, scopes(op_name)
    # JAX names a kernel right in front of the call that makes it one.
    name = found[-2] if kernel and found[-1:] == ["pallas_call"] and len(found) > 1 else ""
    steps = [
        loop
        for scope, loops in INSIDE_KERNEL.items()
        if name and scope in found
        for loop in loops
        if loop not in outside
    ]
    shape = instruction.shape.split("{")[0].lstrip("(")
    return Operation(
        part=known.part(op_name),
        kind=what,
        where=f"{'/'.join(found[-3:])} {shape}".strip(),
        cycles=instruction.cycles,
        bytes=bytes_touched(program, computation, instruction),
        loops=around,
        kernel=kernel,
        steps=tuple(steps),
        grid=known.grids.get(name, 1),
    )


@dataclass(frozen=True)
class Speed:
    """What a device's seconds are made of: cycles a second and bytes a second."""

    hertz: float
    bandwidth: float


def seconds_of(operation: Operation, trips: Mapping[str, int], speed: Speed) -> float:
    """Returns the seconds of all runs; of a kernel the larger of its bytes' and its steps'."""
    times = operation.times(trips)
    if not operation.kernel:
        return operation.cycles * times / speed.hertz
    steps = operation.dependent_steps(trips) * CYCLES_A_STEP / speed.hertz
    return max(operation.bytes * times / speed.bandwidth, steps)


def by_part(
    found: Sequence[Operation],
    parts: Sequence[str],
    walks: Sequence[Mapping[str, int]],
    speed: Speed | None,
) -> list[dict[str, Any]]:
    """Returns a row per part: operations run, bytes and milliseconds, the last per walk depth.

    `walks` are the trips by loop at every depth of a walk; operations and bytes are those at the
    middle one. Kernels are reported apart from what is outside of them. Without a speed, that is
    where a compiler estimates no cycles, there are no milliseconds.
    """

    def milliseconds(own: Sequence[Operation], *, kernel: bool) -> list[float]:
        if speed is None:
            return []
        of_kind = [operation for operation in own if operation.kernel == kernel]
        return [1e3 * sum(seconds_of(o, trips, speed) for o in of_kind) for trips in walks]

    rows, middle = [], walks[len(walks) // 2]
    for part in parts:
        own = [operation for operation in found if operation.part == part]
        rows.append(
            {
                "part": part,
                "operations": sum(o.times(middle) for o in own),
                "bytes": sum(o.bytes * o.times(middle) for o in own),
                "milliseconds": milliseconds(own, kernel=False),
                "kernel_milliseconds": milliseconds(own, kernel=True),
            }
        )
    return rows


def unestimated(found: Sequence[Operation], trips: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Returns by kind how many runs and bytes have no estimate, kernels aside."""
    totals: dict[str, Counter[str]] = defaultdict(Counter)
    for operation in found:
        if not operation.cycles and not operation.kernel:
            times = operation.times(trips)
            totals[operation.kind].update(runs=times, bytes=operation.bytes * times)
    ranked = sorted(totals, key=lambda what: -totals[what]["runs"])
    return {what: dict(totals[what]) for what in ranked}


def kernels(
    found: Sequence[Operation], trips: Mapping[str, int], speed: Speed | None
) -> list[dict[str, Any]]:
    """Returns the kernels: runs, steps that wait for one another, bytes and milliseconds."""
    return [
        {
            "kind": operation.kind,
            "part": operation.part,
            "where": operation.where,
            "runs": operation.times(trips),
            "steps": operation.dependent_steps(trips),
            "bytes": operation.bytes * operation.times(trips),
            "milliseconds": 1e3 * seconds_of(operation, trips, speed) if speed else None,
        }
        for operation in found
        if operation.kernel
    ]


def largest(
    found: Sequence[Operation], trips: Mapping[str, int], speed: Speed | None, *, count: int = 10
) -> list[dict[str, Any]]:
    """Returns the operations that are no products and take longest, by cycles or else by bytes."""

    def weight(operation: Operation) -> tuple[float, int]:
        seconds = seconds_of(operation, trips, speed) if speed else 0.0
        return seconds, operation.bytes * operation.times(trips)

    others = [operation for operation in found if not is_product(operation.kind)]
    return [
        {
            "part": operation.part,
            "kind": operation.kind,
            "where": operation.where,
            "runs": operation.times(trips),
            "milliseconds": 1e3 * weight(operation)[0] if speed else None,
            "bytes": weight(operation)[1],
        }
        for operation in sorted(others, key=weight, reverse=True)[:count]
    ]


def unnamed_loops(found: Sequence[Operation]) -> int:
    """Returns how many operations stand in a loop of unknown length, which counts once."""
    return sum(any(loop == Loop("unnamed") for loop in operation.loops) for operation in found)
