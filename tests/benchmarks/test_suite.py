"""The benchmarks run, keep what they measured, and say in a sentence what they cannot do."""

import json
from dataclasses import replace

import pytest

from benchmarks import suite, timing
from benchmarks.__main__ import BENCHMARKS, main
from benchmarks.parts import make_job, make_parts
from benchmarks.search import SEARCH, measure_shape
from benchmarks.settings import Settings, combinations, resolve
from benchmarks.train_step import agree, operations
from coopgen_jax.testing import TINY_LLAMA


def run(tmp_path, *arguments):
    return main([*arguments, "--quick", "--out", str(tmp_path)])


# Those that compile little.
QUICKLY = {"published", "fair"}
EVERY = [
    name if name in QUICKLY else pytest.param(name, marks=pytest.mark.slow) for name in BENCHMARKS
]


@pytest.mark.parametrize("name", EVERY)
def test_every_benchmark_writes_a_table_json_and_a_picture(name, tmp_path, capsys):
    assert run(tmp_path, name) == 0
    path = tmp_path / f"{name}-tiny-float32-cpu-quick.json"
    found = json.loads(path.read_text())
    assert found["benchmark"] == name and found["rows"]
    assert {"device", "cores", "jax", "python"} <= set(found["machine"])
    assert path.with_suffix(".png").stat().st_size > 1000
    printed = capsys.readouterr().out
    titles = [title for _, title, _ in BENCHMARKS[name].columns]
    assert all(title in printed for title in titles)
    assert main(["report", str(path)]) == 0
    table = capsys.readouterr().out
    assert table.count("\n|") == 2 + len(found["rows"])


def test_the_causal_discriminators_calls_belong_to_the_floor():
    settings = Settings(model="tiny", guide="causal")
    job = make_job(
        make_parts(settings), batch=1, prompt_length=4, new_tokens=4, simulations=4, wave=2
    )
    row = measure_shape(make_parts(settings), job, 1)
    assert row["search_ms"] > 0 and row["floor_ms"] > 0
    assert (row["depth"], row["candidates"], row["kept"]) == (16, 50, 128)


def test_losses_that_are_not_those_of_pytorch_stop_the_benchmark():
    agree("float32", [2.0, 1.5], [2.0001, 1.501])
    for ours in ([2.01, 1.5], [2.0, 1.6], [float("nan"), 1.5]):
        with pytest.raises(ValueError, match=r"PyTorch's \[2.0, 1.5\]: they must be the same"):
            agree("float32", ours, [2.0, 1.5])


def test_operations_are_counted_by_hand():
    """One layer of width 32: matrices of 3,072 and 4,608, and 1,952 of the output."""
    one = replace(TINY_LLAMA, layers=1)
    attention = 12 * 4 * 8 * 5
    for whole, output, weights in ((True, True, 6 * 9632), (False, False, 4 * 7680)):
        found = operations(one, 2, 5, output=output, whole=whole)
        assert found == 2 * 5 * (weights + attention)


def test_rows_measured_before_an_interruption_are_kept(tmp_path, monkeypatch, capsys):
    def measure(settings):
        yield {"batch": 1}
        raise KeyboardInterrupt

    stopped = suite.Benchmark("stopped", "stops", measure, (("batch", "prompts", "d"),))
    monkeypatch.setitem(BENCHMARKS, "stopped", stopped)
    assert run(tmp_path, "stopped") == 130
    (path,) = tmp_path.glob("stopped-*.json")
    assert json.loads(path.read_text())["rows"] == [{"batch": 1}]
    assert "are kept" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nonsense"], "there is no benchmark 'nonsense': choose from search"),
        (["search", "--batch", "0"], "--batch takes whole numbers from 1"),
        (["search", "--repeats", "0"], "--repeats is 0"),
        (["fair", "--threads", "-1"], "--threads is -1"),
        (["published", "--wave", "4"], "the benchmark published has no --wave"),
        (["fair", "--quick", "--guide", "trunk"], "leave --guide out"),
        (["samples", "--quick", "--new-tokens", "1"], "--new-tokens must be 2 or more"),
        (["features", "--quick", "--new-tokens", "1"], "--new-tokens must be 2 or more"),
        (["extend", "--quick", "--wave", "32"], "use --batch for more rows"),
        (["search", "--quick", "--out", "/dev/null"], "/dev/null"),
        (["train_step", "--quick", "--model", "gpt2-small"], "transformers' Llama"),
        (["gcn_round", "--quick", "--wave", "32"], "a node has only 20 candidates"),
        (["report"], "report needs the JSON files"),
        (["report", "nowhere.json"], "nowhere.json is not a benchmark's JSON file"),
    ],
)
def test_wrong_input_is_one_sentence(arguments, sentence, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1


def test_a_damaged_report_is_one_sentence(tmp_path, capsys):
    path = tmp_path / "search.json"
    path.write_text('{"benchmark": "search", "machine": {}, "settings": {}, "rows": [3]}')
    assert main(["report", str(path)]) == 2
    assert "is not a benchmark's JSON file" in capsys.readouterr().err


def test_what_the_user_says_goes_before_a_benchmarks_own_choice():
    given = Settings(wave=(2,), repeats=7, quick=True)
    settings = resolve(given, "search", SEARCH.own, SEARCH.quick)
    assert settings.wave == (2,) and settings.repeats == 7
    assert settings.batch == (2,) and settings.model == "tiny"
    fair = BENCHMARKS["fair"]
    left_open = resolve(Settings(), "fair", fair.own, fair.quick)
    assert (left_open.model, left_open.guide, left_open.repeats) == ("gpt2-small", "causal", 5)
    asked = resolve(Settings(model="default", guide="trunk"), "fair", fair.own, fair.quick)
    assert (asked.model, asked.guide) == ("default", "trunk")


def test_every_combination_is_timed():
    settings = Settings(batch=(1, 2), wave=(4, 8))
    assert list(combinations(settings)) == [
        {"batch": batch, "wave": wave} for batch in (1, 2) for wave in (4, 8)
    ]


def test_ratios_are_those_of_neighbours():
    found = timing.ratio([2.0, 30.0, 4.0], [1.0, 10.0, 4.0])
    assert found == {"ratio": 2.0, "ratio_spread": [1.0, 3.0]}
    calls = []
    seconds = timing.in_turn({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2)
    assert calls == ["a", "b"] * 3 and [len(s) for s in seconds.values()] == [2, 2]
