"""`--dtype auto`: what it chooses, where that is said, and what was begun in another one."""

import json
from types import SimpleNamespace

import pytest

import coopgen_jax.cli.compare as compare_command
import coopgen_jax.cli.generate as generate_command
from coopgen_jax.cli import plan
from coopgen_jax.cli.machines import training_dtype
from coopgen_jax.models.pretrained import loaded_model
from coopgen_jax.models.pretrained.loaded_model import load
from coopgen_jax.tools import probe
from coopgen_jax.tools.probe import Machine
from tests.cli.judging import write_all
from tests.cli.running import run


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_all(tmp_path_factory.mktemp("world"))


@pytest.fixture(autouse=True)
def real_models(monkeypatch):
    monkeypatch.setattr(generate_command, "load", load)
    for command in (compare_command, generate_command):
        monkeypatch.setattr(command, "keep_compilations", lambda folder: None)


@pytest.fixture
def units(monkeypatch):
    """A machine that multiplies bfloat16 itself."""
    for module in (loaded_model, plan):
        monkeypatch.setattr(module, "fastest_dtype", lambda: "bfloat16")


def generated(capsys, world, *more) -> dict:
    job = ["so", "--model", world / "base", "--discriminator", "none", "--method", "greedy"]
    status, out, errors = run(capsys, "generate", *job, "--new-tokens", 2, "--json", *more)
    assert status == 0, errors
    return json.loads(out)["settings"]


def test_a_report_says_what_was_chosen(world, capsys, monkeypatch):
    assert generated(capsys, world)["dtype"] == "float32"
    monkeypatch.setattr(loaded_model, "fastest_dtype", lambda: "bfloat16")
    assert generated(capsys, world)["dtype"] == "bfloat16"
    assert generated(capsys, world, "--dtype", "float32")["dtype"] == "float32"


def test_python_loads_float32_unless_it_is_asked(world, units):
    assert load(world / "base").config.dtype == "float32"
    chosen = load(world / "base", dtype="auto")
    assert chosen.config.dtype == "bfloat16"
    assert chosen.params["embedding"].dtype == "bfloat16"


def test_texts_go_on_in_the_dtype_that_they_were_begun_in(world, capsys, tmp_path, units):
    def compared(*more) -> tuple[int, str, str]:
        job = ["compare", "so", "--methods", "greedy", "--out", tmp_path, "--target", "good"]
        job += ["--model", world / "base", "--discriminator", world / "guide", "--new-tokens", 2]
        return run(capsys, *job, "--quiet", *more)

    assert compared("--dtype", "float32")[0] == 0
    (path,) = tmp_path.glob("greedy*.jsonl")
    before = path.read_text()
    status, _, errors = compared("--dtype", "bfloat16")
    assert status == 2 and "dtype" in errors and errors.count("\n") == 1
    assert path.read_text() == before
    # Auto goes on with what is there, and what is no header is no dtype.
    (tmp_path / "a.jsonl").write_text("[]\n{")
    assert compared()[0] == 0 and path.read_text() == before
    path.unlink()
    assert compared()[0] == 0
    header = json.loads(path.read_text().splitlines()[0])
    assert header["settings"]["dtype"] == "bfloat16"


def test_a_training_goes_on_in_the_dtype_that_it_was_begun_in(world, tmp_path, units):
    what = SimpleNamespace(coordinator=None, hosts=None, host=None, dtype="auto", out=tmp_path)
    assert training_dtype(what) == "bfloat16"
    (tmp_path / "training.json").write_text('{"dtype": "float32"}')
    assert training_dtype(what) == "float32"
    what.dtype = "bfloat16"  # by name: the folder is refused when it is claimed
    assert training_dtype(what) == "bfloat16"


def test_a_plan_is_of_what_would_be_chosen(capsys, monkeypatch):
    monkeypatch.setattr(probe, "measure", lambda dtype: Machine(1e10, 1e11, ranking=1e9, step=0.0))

    def planned(*more) -> dict:
        status, out, errors = run(capsys, "plan", "--model", "gpt2-small", "--json", *more)
        assert status == 0, errors
        return json.loads(out)

    here = planned()
    assert here["dtype"] == "float32"
    # What is described by its rates is an accelerator.
    there = planned("--bandwidth", 3000, "--rate", 200)
    assert there["dtype"] == "bfloat16"
    assert there["plan"]["weights"] < 0.6 * here["plan"]["weights"]
    monkeypatch.setattr(plan, "fastest_dtype", lambda: "bfloat16")
    assert planned()["dtype"] == "bfloat16"
    assert planned("--dtype", "float32")["dtype"] == "float32"
