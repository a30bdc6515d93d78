"""Devices that are not there, and errors that nobody expects."""

import subprocess
import sys

import jax
import pytest

from coopgen_jax.models.pretrained import loaded_model
from coopgen_jax.models.pretrained.loaded_model import load
from tests.models.model_files import hf_model, save

# Where there is a GPU of one maker there is none of the other.
MISSING = "rocm" if jax.default_backend() == "gpu" else "cuda"


@pytest.mark.parametrize("platform", [MISSING, "nowhere"])
def test_devices_that_are_not_there_are_one_sentence(tmp_path, monkeypatch, platform):
    folder = save(hf_model("llama"), tmp_path / "llama")
    monkeypatch.setenv("JAX_PLATFORMS", platform)
    command = [sys.executable, "-m", "coopgen_jax.cli", "generate", "film", "--method", "sample"]
    command += ["--discriminator", "none", "--model", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == ""
    told = done.stderr.splitlines()[-1]
    assert told.startswith(
        f"coopgen: error: JAX cannot start its devices (JAX_PLATFORMS is {platform}: "
    )
    assert told.endswith("or set JAX_PLATFORMS=cpu")
    assert "Traceback" not in done.stderr and "damaged" not in done.stderr


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), TypeError("a mistake of ours")])
def test_an_unexpected_error_is_not_called_a_damaged_file(tmp_path, monkeypatch, error):
    folder = save(hf_model("llama"), tmp_path / "llama")

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(loaded_model, "init_network", fail)
    with pytest.raises(type(error), match=str(error)) as caught:
        load(folder)
    assert caught.value is error
