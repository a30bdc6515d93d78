"""The readers of compiled programs, on a small one that was written by hand."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl

from benchmarks import hlo
from benchmarks.compiled_programs import part_of_search, part_of_step, part_of_token
from benchmarks.hlo_costs import (
    CYCLES_A_STEP,
    Loop,
    Speed,
    by_part,
    grids_of,
    kernels,
    largest,
    operations,
    unestimated,
    unnamed_loops,
)

PARTS = ("selection", "network", "backup", "rest of a wave", "once per token")
# Two waves of four lanes: a walk is inside the kernel, for no loop of that name stands around it.
TRIPS = {"waves": 2, "lanes": 4}
WALKS = [TRIPS | {"walk": steps} for steps in (3, 5)]
ROW, ARRAY = 8 * 4, 4 * 8 * 4


@pytest.fixture(scope="module")
def program() -> hlo.Program:
    return hlo.parse(Path(__file__).with_name("small_program.txt").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def run(program):
    return operations(program, part_of_search, ("waves", "lanes", "walk"))


@pytest.mark.parametrize(
    ("shape", "everywhere", "large"),
    [
        ("f32[4,8]{1,0:T(8,128)}", 128, 128),
        ("bf16[3,5]{1,0:T(8,128)(2,1)S(1)}", 30, 0),
        ("(s32[], f32[2]{0}, /*index=2*/pred[7]{0:T(512)S(1)})", 19, 12),
        ("s4[5]{0}", 3, 3),
        ("token[]", 0, 0),
    ],
)
def test_bytes_of_a_shape_are_counted_by_its_layout(shape, everywhere, large):
    assert hlo.nbytes(shape) == everywhere
    assert hlo.nbytes(shape, large_memory=True) == large


def test_scopes_are_names_without_what_transformed_them():
    name = "jit(f)/waves/while/body/vmap(vmap(lanes))/transpose(jvp(layers))/while"
    assert hlo.scopes(name) == ["f", "waves", "while", "body", "lanes", "layers", "while"]
    assert hlo.scopes("") == []


def test_a_program_is_read_as_it_stands(program):
    assert program.entry == "main.1" and len(program.computations) == 8
    (loop,) = [i for i in program.computations["main.1"] if i.opcode == "while"]
    assert loop.called("body") == ["wave_body"] and loop.called("condition") == ["wave_condition"]
    assert loop.operands == ("begun.1",) and loop.trips is None
    assert [i.name for i in program.everything() if i.root and i.opcode == "tuple"] == [
        "lane.2", "wave.2",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="it has no ENTRY"):
        hlo.parse("HloModule nothing\n")


def test_trips_are_read_where_the_compiler_knows_them():
    text = (
        "HloModule m\n\nENTRY %e (p: s32[]) -> s32[] {\n  ROOT %w = s32[] while(%p), body=%b, "
        'condition=%c, backend_config={"known_trip_count":{"n":"12"},"known_init_step":{}}\n}\n'
    )
    (loop,) = hlo.parse(text).everything()
    assert loop.trips == 12


def test_a_kernel_touches_what_its_author_says():
    """One that reads a layer of a stack has the whole stack for an operand."""
    header = "HloModule m\n\nENTRY %e (p: f32[8,8]) -> f32[8] {"
    call = 'ROOT %k = f32[8]{0} custom-call(%p), custom_call_target="tpu_custom_call"'
    config = ', backend_config={"cost_estimate":{"flops":"9","bytes_accessed":"96","more":"1"}}'
    for said, touched in ((config, 96), ("", (64 + 8) * 4)):
        program = hlo.parse(f"{header}\n  %p = f32[8,8]{{1,0}} parameter(0)\n  {call}{said}\n}}\n")
        *_, kernel = program.everything()
        assert hlo.touched(program, program.computations["e"], kernel) == touched


def test_an_operation_is_called_after_the_heaviest_in_it(program):
    found = {i.name: hlo.kind(program, i) for i in program.everything()}
    assert found["row.1"] == "fusion dynamic-slice"
    assert found["product.1"] == "fusion convolution"
    assert found["kernel.1"] == "custom-call tpu_custom_call"
    assert found["gather.1"] == "gather"
    assert hlo.is_product("fusion convolution") and not hlo.is_product("fusion dynamic-slice")


def test_what_is_sliced_is_read_and_what_is_updated_is_written(program):
    body = program.computations["wave_body"]
    touched = {i.name: hlo.touched(program, body, i) for i in body}
    assert touched["row.1"] == 2 * ROW  # one row of the array, and itself
    assert touched["new.1"] == 2 * ROW  # the row that comes in and its place in the array
    assert touched["copy.1"] == 2 * ROW
    assert touched["wave.1"] == 0
    entry = program.computations["main.1"]
    touched = {i.name: hlo.touched(program, entry, i) for i in entry}
    assert touched["copy.2"] == 2 * ARRAY and touched["memory.1"] == 0


def test_operations_count_by_the_loops_around_them(run):
    times = {f"{o.part}, {o.kind}": (o.cycles, o.times(TRIPS)) for o in run}
    assert times == {
        "once per token, copy": (1000, 1),
        "network, fusion dynamic-slice": (20, 2),
        "selection, negate": (30, 8),
        "selection, gather": (0, 8),
        # What the compiler has added stands in a loop and belongs to it.
        "rest of a wave, copy": (7, 2),
        "rest of a wave, custom-call PrepareAsyncCallStart": (0, 2),
        "network, fusion convolution": (100, 2),
        "selection, custom-call tpu_custom_call": (0, 2),
        "backup, fusion dynamic-update-slice": (5, 2),
    }
    assert run[0].loops == () and unnamed_loops(run) == 0


def test_milliseconds_are_cycles_by_trips_and_kernels_stand_apart(run):
    speed = Speed(hertz=1e6, bandwidth=1e9)
    rows = {row["part"]: row for row in by_part(run, PARTS, WALKS, speed)}
    assert rows["selection"]["milliseconds"] == pytest.approx([0.24, 0.24])
    # Two calls, in each of which four lanes take so many steps, one after another.
    steps = [2 * 4 * 3, 2 * 4 * 5]
    assert rows["selection"]["kernel_milliseconds"] == pytest.approx(
        [1e-3 * CYCLES_A_STEP * step for step in steps]
    )
    assert rows["network"]["milliseconds"] == pytest.approx([0.24, 0.24])
    assert rows["once per token"]["bytes"] == 2 * ARRAY
    assert rows["backup"]["operations"] == 2
    (found,) = kernels(run, WALKS[1], speed)
    assert found | {"where": ""} == {
        "kind": "custom-call tpu_custom_call", "part": "selection", "where": "", "runs": 2,
        "steps": steps[1], "bytes": 2 * 2 * ROW, "milliseconds": 1e-3 * CYCLES_A_STEP * steps[1],
    }  # fmt: skip
    # A grid's steps follow one another too.
    (kernel,) = [o for o in run if o.kernel]
    assert replace(kernel, grid=8).dependent_steps(WALKS[0]) == 8 * steps[0]
    # A kernel of few steps takes as long as its bytes.
    slow = Speed(hertz=1e15, bandwidth=1e3)
    (row,) = by_part([kernel], ("selection",), WALKS, slow)
    assert row["kernel_milliseconds"] == pytest.approx([2 * 2 * ROW, 2 * 2 * ROW])


def test_without_cycles_there_are_operations_and_bytes(run):
    rows = by_part(run, PARTS, WALKS, None)
    assert all(row["milliseconds"] == [] and row["operations"] for row in rows)
    assert [o["milliseconds"] for o in largest(run, TRIPS, None)] == [None] * 8


def test_what_has_no_estimate_is_named_and_products_are_not_among_the_largest(run):
    assert unestimated(run, TRIPS) == {
        "gather": {"runs": 8, "bytes": 8 * ROW},
        # Another unit of the chip works meanwhile: no kernel, and no estimate.
        "custom-call PrepareAsyncCallStart": {"runs": 2, "bytes": 2 * ROW},
    }
    found = largest(run, WALKS[0], Speed(1e6, 1e9), count=3)
    assert [o["kind"] for o in found] == ["custom-call tpu_custom_call", "copy", "negate"]
    assert found[1] | {"where": ""} == {
        "part": "once per token", "kind": "copy", "where": "", "runs": 1, "milliseconds": 1.0,
        "bytes": 2 * ARRAY,
    }  # fmt: skip


def test_parts_are_known_by_the_names_of_scopes():
    wave = "jit(advance)/waves/while/body"
    assert part_of_search(f"{wave}/select/vmap(vmap(lanes))/while") == "selection"
    assert part_of_search(f"{wave}/expand/network/layers/while/body/add") == "network"
    assert part_of_search(f"{wave}/expand/discriminator/dot") == "network"
    assert part_of_search(f"{wave}/backup/add") == "backup"
    assert part_of_search(f"{wave}/expand/top_k") == "rest of a wave"
    # A selection between two arrays is no selection of leaves.
    assert part_of_search(f"{wave}/expand/select_n") == "rest of a wave"
    assert part_of_search("jit(write_all)/tokens/while/body/gather") == "once per token"
    assert part_of_search("jit(write_all)/prompts/layers/while") == "prompts"
    assert part_of_token("jit(advance)/network/layers/while") == "network"
    assert part_of_token("jit(advance)/sort") == "once per token"
    assert part_of_step("jit(step)/jvp(layers)/while") == "forwards"
    assert part_of_step("jit(step)/transpose(jvp(layers))/while/body/transpose") == "backwards"
    assert part_of_step("jit(step)/transpose") == "the rest of a step"


def test_a_program_of_this_processor_is_read_too():
    """Loops are known by their own scope, and otherwise count as often as the compiler says."""

    def function(x: jax.Array) -> jax.Array:
        with jax.named_scope("layers"):
            x = jax.lax.fori_loop(0, x[0, 0].astype(int), lambda _, x: jnp.sin(x @ x), x)
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ x), None), x, length=7)[0]

    text = jax.jit(function).lower(jnp.ones((64, 64))).compile().as_text()
    run = operations(hlo.parse(text), lambda _: "all", ("layers",))
    loops = {loop.name: loop for operation in run for loop in operation.loops}
    assert loops == {"layers": Loop("layers"), "unnamed": Loop("unnamed", 7)}
    assert {o.times({"layers": 3}) for o in run if o.loops} == {3, 7}


def test_the_grid_of_a_kernel_is_known_by_the_kernels_name():
    def double(x_ref, y_ref):
        y_ref[...] = 2 * x_ref[...]

    def function(x: jax.Array) -> jax.Array:
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        kernel = pl.pallas_call(double, grid=(4, 2), out_shape=shape, name="doubled")
        return jax.lax.scan(lambda x, _: (kernel(x), None), x, length=3)[0]

    assert grids_of(jax.make_jaxpr(jax.jit(function))(jnp.ones((8, 128))).jaxpr) == {"doubled": 8}
