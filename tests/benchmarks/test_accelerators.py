"""Compiling for accelerators: what the command says, and what a TPU's compiler must not find."""

import json
import subprocess
from dataclasses import asdict, replace

import jax
import pytest

from benchmarks import accelerators, chips, compiled_programs
from benchmarks.__main__ import main
from benchmarks.accelerators import Accelerators, targets
from benchmarks.compiled_programs import Lowered, Target, measure
from tests.tpu import last_line_of, needs_libtpu


def absent(monkeypatch) -> None:
    monkeypatch.setattr(chips, "_there", lambda module: False)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--chip", "v7"], "there is no chip 'v7': choose from v5e, v6e, h100"),
        (["--model", "gpt5"], "there is no model 'gpt5': choose from gpt2-small"),
        (["--program", "beam"], "there is no program 'beam': choose from search, generation"),
        (["--devices", "3"], "--devices is 3: choose from 1, 4, 8"),
        (["--walk", "0"], "--walk takes whole numbers from 1"),
        (["--batch"], "--batch takes whole numbers from 1"),
        (["--new-tokens", "0"], "--new-tokens is 0: it must be 1 or more"),
        (
            ["--chip", "v5e"],
            "v5e is compiled for by libtpu, not installed here: pip install '.[acc",
        ),
        (["--chip", "h100"], "h100 is compiled for by JAX's CUDA plugin, not installed here: pip"),
        ([], "v5e is compiled for by libtpu"),
    ],
)
def test_wrong_input_and_absent_plugins_are_one_sentence(
    arguments, sentence, capsys, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    absent(monkeypatch)
    assert main(["accelerators", *arguments]) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1


def test_a_name_among_others_says_where_it_belongs(capsys):
    assert main(["search", "accelerators"]) == 2
    assert "accelerators has options of its own: name it first and alone" in capsys.readouterr().err


def test_help_says_that_nothing_runs(capsys):
    with pytest.raises(SystemExit):
        main(["accelerators", "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "Nothing runs on a device" in printed
    assert all(flag in printed for flag in ("--chip", "--model", "--program", "--walk", "--hlo"))


def test_what_is_never_split_is_compiled_for_one_chip():
    chosen = Accelerators(chip=("v5e",), model=("tiny",), batch=(1, 8), texts=(2,))
    found = [(t.program, t.devices, t.batch, t.texts) for t in targets(chosen)]
    assert found == [
        ("search", 1, 1, 2), ("search", 1, 8, 2),
        ("generation", 1, 1, 2), ("generation", 1, 8, 2),
        ("sampling", 1, 1, 2), ("sampling", 1, 8, 2),
        *((program, count, 1, 2) for program in ("likelihood", "gcn") for count in (1, 4, 8)),
    ]  # fmt: skip
    assert len({target.hlo for target in targets(Accelerators(hlo=True))}) == 3 * 2 * (3 + 2 * 3)


def row_of(target, **others):
    part = {"part": "network", "operations": 3, "bytes": 2_000_000}
    return accelerators._flat(
        asdict(target)
        | {
            "compile_seconds": 1.0,
            "argument_bytes": 5_000_000,
            "temporary_bytes": 1_000_000,
            "peak_bytes": 6_000_000,
            "parts": [part | {"milliseconds": [1.0, 2.0], "kernel_milliseconds": [0.0, 0.5]}],
            "trips": {"waves": 8, "walk": 5},
            "unnamed_loops": 0,
            "roofline": {
                "milliseconds": 0.5,
                "weights_milliseconds": 0.5,
                "operations_milliseconds": 0.1,
            },
            "kernels": [
                {
                    "kind": "custom-call walks",
                    "part": "selection",
                    "where": "here",
                    "runs": 8,
                    "steps": 640,
                    "bytes": 1_500_000,
                    "milliseconds": 0.25,
                }
            ],
            "unestimated": {"fusion gather": {"runs": 7, "bytes": 1_000_000}},
            "largest": [
                {
                    "part": "network",
                    "kind": "copy",
                    "where": "",
                    "runs": 1,
                    "milliseconds": None,
                    "bytes": 0,
                }
            ],
        }
        | others
    )


def test_rows_are_printed_kept_and_reported(tmp_path, monkeypatch, capsys):
    """One that a compiler refuses leaves the others; a chip whose plugin is absent is left out."""

    def compile_for(target):
        if target.program == "sampling":
            return asdict(target) | {"refused": "RESOURCE_EXHAUSTED: 20 G of 16 G"}
        return row_of(target)

    monkeypatch.setattr(chips, "_there", lambda module: module == "libtpu")
    monkeypatch.setattr(accelerators, "compile_for", compile_for)
    arguments = ["accelerators", "--chip", "v5e", "h100", "--model", "tiny", "--walk", "2", "4"]
    arguments += ["--program", "search", "sampling", "--out", str(tmp_path)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    for said in (
        "left out: h100 is compiled for by JAX's CUDA plugin",
        "Nothing ran on a device",
        "search, tiny, v5e x 1, 8 texts: compiled in 1 s; arguments 5 MB, temporaries 1 MB, peak 6",
        "ms, walk 2",
        "kernels, walk 4",
        "kernel: custom-call walks in selection, here: 8 runs, 640 steps, 1.5 MB, 0.25 ms",
        "without an estimate: 7 fusion gather (1 MB)",
        "not compiled: RESOURCE_EXHAUSTED: 20 G of 16 G",
    ):
        assert said in printed, said
    path = tmp_path / "accelerators-v5e-tiny-search-sampling-bfloat16.json"
    search, sampling = json.loads(path.read_text())["rows"]
    assert search["estimated_ms"] == [1.0, 2.5] and search["middle_ms"] == 2.5
    assert sampling["refused"]
    assert main(["report", str(path)]) == 0
    table = capsys.readouterr().out
    assert "| search | tiny | v5e | 1 | 1 | 5 | 1 | 6 | 3 | 2 | 2.5 | 0.5 | - |" in table


def test_a_process_that_fails_leaves_its_last_sentence(monkeypatch):
    target = next(targets(Accelerators(chip=("v5e",), model=("tiny",))))

    def failed(*_, **__):
        return subprocess.CompletedProcess(
            [], 1, "", "a trace\nUserError: there is no such slice\n"
        )

    monkeypatch.setattr(accelerators.subprocess, "run", failed)
    assert accelerators.compile_for(target)["refused"] == "UserError: there is no such slice"


@pytest.mark.parametrize(
    ("program", "parts", "loops"),
    [
        ("search", 5, {"waves": 8, "lanes": 16, "layers": 2, "walk": 5}),
        pytest.param(
            "generation",
            6,
            {"tokens": 3, "waves": 8, "lanes": 16, "layers": 2, "walk": 5},
            marks=pytest.mark.slow,
        ),
        ("sampling", 2, {"layers": 2}),
        pytest.param("likelihood", 3, {"layers": 2}, marks=pytest.mark.slow),
        ("gcn", 3, {"layers": 2}),
    ],
)
def test_every_program_is_described_by_its_parts(program, parts, loops, monkeypatch):
    """This processor stands in for the chip: what it compiles is read in the same way."""
    here = replace(chips.CHIPS["h100"], name="here", platform="cpu")
    monkeypatch.setitem(chips.CHIPS, "here", here)
    monkeypatch.setattr(compiled_programs, "devices_of", lambda chip, count: jax.devices()[:count])
    target = Target(
        chip="here", model="tiny", program=program, devices=1, batch=2, texts=2, prompt_length=4,
        text_length=6, new_tokens=3, walk=(2, 4, 8), dtype="float32", shard="parameters",
    )  # fmt: skip
    row = measure(target)
    assert row["trips"] == loops and row["compile_seconds"] > 0
    assert row["peak_bytes"] >= row["temporary_bytes"] > 0 and row["argument_bytes"] > 0
    assert len(row["parts"]) == parts
    for part in row["parts"]:
        assert part["operations"] > 0 and part["milliseconds"] == [], part
    # The network is read in every wave; in a step it stands in every part.
    assert len(row["largest"]) == 10 and all(found["runs"] >= 1 for found in row["largest"])
    assert 0 < row["roofline"]["milliseconds"] < 1


def test_a_programs_roofline_takes_the_larger_of_every_call():
    chip = replace(chips.CHIPS["v5e"], bandwidth=1e3, peak=1e6)
    lowered = Lowered(None, {}, str, (), {}, ((2, 3e3, 1e6), (1, 1e3, 5e6)))
    assert lowered.roofline(chip) == {
        "weights_milliseconds": 7e3, "operations_milliseconds": 7e3, "milliseconds": 11e3,
    }  # fmt: skip


@pytest.mark.slow
@needs_libtpu
def test_a_tpus_search_sorts_no_vocabulary_and_copies_no_cache_in_its_waves():
    found = json.loads(last_line_of("tests.benchmarks.search_on_tpu"))
    # Indices of forbidden n-grams and of nodes are sorted; 128 rows of 50,257 logits are ranked.
    assert found["sorted"] < 50257 and found["ranked"] == 1
    # One layer's keys of all nodes, in bytes.
    assert found["copied"] < 8 * 257 * 256 * 2
    assert len(found["parts"]) == 5 and found["estimated"] > 100
