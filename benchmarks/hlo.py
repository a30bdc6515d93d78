"""Reads the text of a compiled program: its computations, its instructions and what they touch.

The text is what `compiled.as_text()` gives after the compiler has scheduled and fused: every
instruction of a computation that is no fusion is one operation of the device.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

BITS = {
    "pred": 8, "s2": 2, "u2": 2, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16,
    "s32": 32, "u32": 32, "s64": 64, "u64": 64, "bf16": 16, "f16": 16, "f32": 32, "f64": 64,
    "f8e4m3fn": 8, "f8e5m2": 8, "c64": 64, "c128": 128,
}  # fmt: skip
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r"\s*([\w\-]+)\(")
_NAME = re.compile(r"%([\w.\-]+)")
# A memory other than the device's large one: on a TPU the vector unit's and the scalar unit's.
_ELSEWHERE = re.compile(r"S\(\d+\)")
_SCOPE = re.compile(r"(?:[\w.\-]+\()*([\w.\-]+)\)*$")

# What takes no time: names, constants, and the end of what was begun before.
FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id",
    "replica-id", "copy-done", "slice-done", "async-done", "async-update", "all-reduce-done",
    "all-gather-done", "call-done", "collective-permute-done", "opt-barrier", "add-dependency",
}  # fmt: skip
# Custom calls that only name memory or tell the compiler something.
NO_WORK = {
    "AllocateBuffer", "AssumeGatherIndicesInBound", "ConcatBitcast",
    "GatherScatterIndicesBitpacked", "Sharding", "SPMDFullToShardShape", "SPMDShardToFullShape",
}  # fmt: skip
# Custom calls that hand work to another unit of the chip and wait for it: no kernels of their own.
HANDED_OVER = {"PrepareAsyncCallDone", "PrepareAsyncCallStart"}
# What a fusion is called after, the heaviest first.
_HEAVY = (
    "convolution", "dot", "sort", "scatter", "gather", "dynamic-update-slice", "dynamic-slice",
    "reduce-window", "reduce", "transpose", "copy",
)  # fmt: skip
PRODUCTS = {"convolution", "dot", "gemm"}


def nbytes(shape: str, *, large_memory: bool = False) -> int:
    """Returns the bytes of a shape, arrays of tuples together.

    With `large_memory` only of arrays that lie in the device's large memory, by their layout.
    """
    total = 0
    for kind, sizes, layout in _ARRAY.findall(shape):
        if kind in BITS and not (large_memory and _ELSEWHERE.search(layout)):
            count = math.prod(int(size) for size in sizes.split(",") if size)
            total += math.ceil(count * BITS[kind] / 8)
    return total


def sizes(shape: str) -> list[tuple[str, tuple[int, ...]]]:
    """Returns the element type and the sizes of every array of a shape."""
    return [
        (kind, tuple(int(size) for size in found.split(",") if size))
        for kind, found, _ in _ARRAY.findall(shape)
        if kind in BITS
    ]


def scopes(op_name: str) -> list[str]:
    """Returns the parts of an `op_name`, outermost first, without what transformed them.

    `jit(f)/vmap(vmap(select))/transpose(jvp(layers))/while` are `f`, `select`, `layers`, `while`.
    """
    found = (_SCOPE.search(part) for part in op_name.split("/"))
    return [match[1] for match in found if match]


@dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name: unique in the program.
      shape: of its result, with layout.
      opcode: "fusion", "while", "custom-call" and so on.
      operands: names of instructions of the same computation; of a parameter, its number.
      rest: attributes and metadata as they stand there.
      root: whether it is the computation's result.
    """

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    rest: str
    root: bool = False

    def _attribute(self, pattern: str) -> str:
        found = re.search(pattern, self.rest)
        return found[1] if found else ""

    @cached_property
    def op_name(self) -> str:
        """Where in the traced function it comes from, "" where the compiler made it."""
        return self._attribute(r'op_name="([^"]*)"')

    @cached_property
    def cycles(self) -> int:
        """The compiler's own estimate, 0 without one."""
        return int(self._attribute(r'"estimated_cycles":"?(\d+)') or 0)

    @cached_property
    def told(self) -> int | None:
        """The bytes that a kernel touches, where its author says so: a part of its operands."""
        found = self._attribute(r'"cost_estimate":\{[^}]*"bytes_accessed":"?(\d+)')
        return int(found) if found else None

    @cached_property
    def trips(self) -> int | None:
        """How often a loop runs, where the compiler says so."""
        found = self._attribute(r'"known_trip_count":\{"n":"?(\d+)')
        return int(found) if found else None

    @cached_property
    def target(self) -> str:
        """What a custom call calls."""
        return self._attribute(r'custom_call_target="([^"]*)"')

    def called(self, role: str) -> list[str]:
        """Returns computations by their role: "calls", "body", "condition", "to_apply", ..."""
        found = self._attribute(rf"\b{role}=(\{{[^}}]*\}}|%?[\w.\-]+)")
        return re.findall(r"[\w.\-]+", found)


@dataclass(frozen=True)
class Program:
    """The computations of a program by name, and the name of the one that is run."""

    computations: dict[str, list[Instruction]]
    entry: str

    def within(self, instruction: Instruction) -> Iterator[Instruction]:
        """Yields the instructions of a fusion or an asynchronous call, nested ones included."""
        for name in instruction.called("calls") + instruction.called("called_computation"):
            for inner in self.computations.get(name, []):
                yield inner
                yield from self.within(inner)

    def everything(self) -> Iterator[Instruction]:
        """Yields every instruction of every computation once."""
        for computation in self.computations.values():
            yield from computation


def parse(text: str) -> Program:
    """Reads a program.

    Raises:
      ValueError: the text has no entry computation.
    """
    computations: dict[str, list[Instruction]] = {}
    current: list[Instruction] = []
    entry = ""
    for line in text.splitlines():
        if header := _HEADER.match(line):
            current = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif found := _INSTRUCTION.match(line):
            instruction = _instruction(found[2], found[3], root=bool(found[1]))
            if instruction:
                current.append(instruction)
    if not entry:
        raise ValueError("the text is not that of a compiled program: it has no ENTRY")
    return Program(computations, entry)


def _instruction(name: str, text: str, *, root: bool) -> Instruction | None:
    shape = _balanced(text, " ")
    opcode = _OPCODE.match(text, len(shape))
    if not opcode:
        return None
    inside = _balanced(text[opcode.end() :], ")")
    operands = tuple(_NAME.findall(inside))
    if opcode[1] in ("parameter", "constant"):
        operands = (inside.strip(),)
    elif not operands:
        operands = tuple(part.split()[-1] for part in inside.split(",") if part.strip())
    return Instruction(name, shape, opcode[1], operands, text[opcode.end() + len(inside) :], root)


def _balanced(text: str, stop: str) -> str:
    """Returns the text up to the first `stop` that no bracket of its own surrounds."""
    depth = 0
    for place, letter in enumerate(text):
        if depth == 0 and letter == stop:
            return text[:place]
        depth += (letter in "([{") - (letter in ")]}")
    return text


def kernel_in(program: Program, instruction: Instruction) -> str:
    """Returns the kernel that an operation, or one that is fused into it, calls; "" without one."""
    targets = (one.target for one in (instruction, *program.within(instruction)))
    return next((one for one in targets if one and one not in NO_WORK | HANDED_OVER), "")


def kind(program: Program, instruction: Instruction) -> str:
    """Returns what an operation does: its opcode and the heaviest that is in it.

    That is a custom call before anything else.
    """
    if kernel := kernel_in(program, instruction):
        return f"{instruction.opcode} {kernel}"
    if instruction.target:
        return f"{instruction.opcode} {instruction.target}"
    inside = {inner.opcode for inner in program.within(instruction)}
    if not inside:
        return instruction.opcode
    heaviest = next((opcode for opcode in _HEAVY if opcode in inside), "elementwise")
    return f"{instruction.opcode} {heaviest}"


def is_product(what: str) -> bool:
    """Tells whether a kind is a product of matrices."""
    return what.split()[-1] in PRODUCTS or "gemm" in what or "matmul" in what.lower()


def touched(program: Program, computation: list[Instruction], instruction: Instruction) -> int:
    """Returns the bytes of the device's large memory that an operation reads and writes.

    What is sliced or gathered out of an array counts, not the array; what is written into one in
    place counts, not the rest of it.
    """
    shapes = {other.name: other.shape for other in computation}
    opcode, operands = instruction.opcode, instruction.operands
    if opcode in FREE or instruction.target == "AllocateBuffer":
        return 0
    if instruction.told is not None:
        return instruction.told
    if opcode in ("copy-start", "slice-start"):
        # Its result names source and target, one of which lies close to the core.
        both = [
            nbytes(f"{kind}[{','.join(map(str, dims))}]") for kind, dims in sizes(instruction.shape)
        ]
        return min(both[:2], default=0)
    inner = instruction.called("calls") if opcode == "fusion" else []
    written = nbytes(instruction.shape, large_memory=True)
    if not inner:
        read = sum(
            _read(opcode, number, instruction.shape, shapes.get(name, ""), instruction, shapes)
            for number, name in enumerate(operands)
        )
        if opcode in ("dynamic-update-slice", "scatter"):
            update = shapes.get(operands[1 if opcode == "dynamic-update-slice" else -1], "")
            written = min(written, nbytes(update))
        return read + written
    body = program.computations[inner[0]]
    read = 0
    for number, name in enumerate(operands):
        full = nbytes(shapes.get(name, ""), large_memory=True)
        if full:
            read += min(full, _used(program, body, number, full))
    return read + min(written, _result(program, body, written))


def _read(
    opcode: str, number: int, result: str, operand: str, user: Instruction, shapes: dict[str, str]
) -> int:
    """Returns how much of its operand an operation that is no fusion reads."""
    full = nbytes(operand, large_memory=True)
    if number == 0 and opcode in ("dynamic-slice", "slice", "gather"):
        return min(full, nbytes(result))
    if number == 0 and opcode in ("dynamic-update-slice", "scatter"):
        return 0
    return full


def _used(program: Program, body: list[Instruction], number: int, full: int) -> int:
    """Returns how many bytes of its parameter `number` a fused computation reads."""
    parameters = [i for i in body if i.opcode == "parameter" and i.operands == (str(number),)]
    return _used_of(program, body, parameters[0], full) if parameters else full


def _used_of(program: Program, body: list[Instruction], source: Instruction, full: int) -> int:
    total = 0
    for user in body:
        for place, operand in enumerate(user.operands):
            if operand != source.name or user.opcode in ("parameter", "constant"):
                continue
            if user.root and user.opcode in ("bitcast", "tuple"):
                total += full
            elif user.opcode in ("bitcast", "reshape"):
                total += _used_of(program, body, user, full)
            elif user.opcode == "fusion":
                inner = program.computations[user.called("calls")[0]]
                total += _used(program, inner, place, full)
            elif place == 0 and user.opcode in ("dynamic-slice", "slice", "gather"):
                total += nbytes(user.shape)
            elif not (place == 0 and user.opcode in ("dynamic-update-slice", "scatter")):
                total += full
    return min(total, full)


def _result(program: Program, body: list[Instruction], written: int) -> int:
    """Returns how many bytes a fused computation writes: of an update in place, the update."""
    by_name = {instruction.name: instruction for instruction in body}
    root = next(instruction for instruction in body if instruction.root)
    results = [root]
    if root.opcode == "tuple":
        results = [by_name[name] for name in root.operands if name in by_name]
    total = 0
    for result in results:
        while result.opcode in ("bitcast", "copy") and result.operands[0] in by_name:
            result = by_name[result.operands[0]]
        if result.opcode == "dynamic-update-slice" and result.operands[1] in by_name:
            total += nbytes(by_name[result.operands[1]].shape)
        elif result.opcode == "fusion":
            inner = program.computations[result.called("calls")[0]]
            total += _result(program, inner, nbytes(result.shape))
        else:
            total += nbytes(result.shape)
    return min(total, written)
