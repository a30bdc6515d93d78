"""Texts of two classes, and the options that train on them within seconds."""

import json
from pathlib import Path

import numpy as np

TRAIN = ["--rows", "16", "--longest", "16", "--quiet", "--json", "--learning-rate", "3e-2"]


def sentence(rng, label: str) -> str:
    """A word of one letter, which tells the class, and others that do not."""
    letter = {"high": "ab", "low": "xy"}[label][rng.integers(2)]
    return letter * int(rng.integers(2, 5)) + " " + "mn"[rng.integers(2)] * int(rng.integers(0, 4))


def written(path: Path, seed: int, count: int) -> Path:
    rng = np.random.default_rng(seed)
    labels = [("high", "low")[number % 2] for number in range(count)]
    rows = [{"said": sentence(rng, label), "class": label} for label in labels]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{\n")
    return path
