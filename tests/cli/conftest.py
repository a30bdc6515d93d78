"""Every command runs on the stand-ins for the real models."""

import shutil

import pytest

import coopgen_jax.cli.generate as command
from coopgen_jax.models.pretrained import image_networks, loaded_model
from tests.cli.tiny import load_tiny, load_toy_discriminator
from tests.docs.tiny_world import TINY_LITE, write_backbone, write_encoder, write_pictures

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


@pytest.fixture(scope="module")
def seen_world(tmp_path_factory):
    """A folder with pictures, and with what sees them and what reads their captions."""
    folder = tmp_path_factory.mktemp("world")
    write_backbone(folder / "backbone")
    write_encoder(folder / "encoder")
    write_pictures(folder / "pictures")
    return folder


@pytest.fixture
def pictures(seen_world, tmp_path, monkeypatch):
    """A copy of the pictures, which the tiny networks see in place of the packaged ones."""
    kinds = {"image network": "backbone", "encoder": "encoder"}
    monkeypatch.setattr(loaded_model, "fetch", lambda packaged: seen_world / kinds[packaged.kind])
    monkeypatch.setattr(image_networks, "LITE0", TINY_LITE)
    shutil.copytree(seen_world / "pictures", tmp_path / "pictures")
    return tmp_path / "pictures"
