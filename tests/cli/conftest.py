"""Every command runs on the stand-ins for the real models."""

import pytest

import coopgen_jax.cli.generate as command
from tests.cli.tiny import load_tiny, load_toy_discriminator

pytest.register_assert_rewrite("tests.cli.running")


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch, tmp_path):
    monkeypatch.setattr(command, "load", load_tiny)
    monkeypatch.setattr(command, "load_discriminator", load_toy_discriminator)
    monkeypatch.setattr(command, "keep_compilations", lambda folder: None)
    # The card of the real sentiment head has other classes than the toy that stands in for it.
    monkeypatch.setattr(command, "check_class", lambda options: None)
    monkeypatch.setenv("COOPGEN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def no_work(monkeypatch):
    """Fails a test in which the mistake was found only after the long work had begun."""

    def load(*_: object, **__: object) -> None:
        pytest.fail("the model was loaded")

    monkeypatch.setattr(command, "load", load)
