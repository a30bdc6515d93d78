"""Texts of two classes, a tiny language model and the options that train it within seconds."""

from pathlib import Path

import pytest

from tests.models.model_files import hf_model, save
from tests.training.tiny_texts import TRAIN, written


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> tuple[Path, list[str]]:
    folder = tmp_path_factory.mktemp("recipes")
    save(hf_model("llama"), folder / "base")
    data, held_out = written(folder / "a.jsonl", 0, 64), written(folder / "b.jsonl", 1, 32)
    options = ["--data", str(data), "--validation", str(held_out), "--text", "said"]
    return folder, [*options, "--model", str(folder / "base"), *TRAIN]
