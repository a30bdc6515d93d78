"""The command line as the tests run it, with little to do."""

import json

import pytest

from coopgen_jax.cli import main

SHORT = ["--new-tokens", "3", "--simulations", "4", "--wave", "2", "--candidates", "4"]
SHORT += ["--batch-size", "1"]
SMALL_CAPTIONER = (
    "--vocabulary", "280", "--layers", "1", "--width", "64", "--vectors", "2", "--epochs", "2",
    "--rows", "4", "--longest", "24",
)  # fmt: skip
GUIDED = ["--target", "one", *SHORT]


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    status = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return status, out, err


def generate_json(capsys, *arguments: object) -> dict:
    status, out, err = run(capsys, "generate", *arguments, "--json", "--quiet")
    assert (status, err) == (0, "")
    return json.loads(out, parse_constant=pytest.fail)


def sentence(capsys, *arguments: object) -> str:
    """Runs a command that has a mistake in it and returns the one sentence about it."""
    status, out, err = run(capsys, *arguments)
    assert status == 2
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("coopgen: error: ")
    assert "Traceback" not in err
    return err.removeprefix("coopgen: error: ").strip()
