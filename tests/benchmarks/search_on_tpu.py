"""Compiles a small search for a TPU and says in JSON what a test asks: run in a process of its own.

Libtpu stays in the process that loads it, and is not to see the flags of the tests' programs.
"""

import json

from benchmarks.chips import chip_of, devices_of
from benchmarks.compiled_programs import Target, lower_search
from benchmarks.hlo import parse, sizes
from benchmarks.hlo_costs import operations
from coopgen_jax.models.published_shapes import gpt2
from coopgen_jax.parallel.platform import made_for

CONFIG = gpt2(vocab_size=50257, layers=2, width=256, heads=4, context=256, dtype="bfloat16")
TARGET = Target(
    chip="v5e", model="", program="search", devices=1, batch=8, texts=1, prompt_length=16,
    text_length=1, new_tokens=16, walk=(4,), dtype="bfloat16", shard="nothing",
)  # fmt: skip


def main() -> None:
    """Prints the largest sorted axis, what is ranked, and what is copied in every wave."""
    with made_for("tpu"):
        found = lower_search(TARGET, CONFIG, devices_of(chip_of("v5e"), 1))
    program = parse(found.lowered.compile().as_text())
    run = operations(program, found.part, (*found.trips, "walk"))
    sorted_axes = [
        max(axes, default=0)
        for instruction in program.everything()
        if instruction.opcode == "sort"
        for _, axes in sizes(instruction.shape)
    ]
    copies = [
        operation.bytes
        for operation in run
        if any(loop.name == "waves" for loop in operation.loops)
        and operation.kind in ("copy", "fusion copy", "transpose", "fusion transpose")
    ]
    print(
        json.dumps(
            {
                "sorted": max(sorted_axes, default=0),
                "ranked": sum(operation.kind.endswith(" TopK") for operation in run),
                "copied": max(copies, default=0),
                "parts": sorted({operation.part for operation in run}),
                "estimated": sum(operation.cycles > 0 for operation in run),
            }
        )
    )


if __name__ == "__main__":
    main()
