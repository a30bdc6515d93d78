"""The temperature that experiments give a guide."""

import json

import numpy as np

from coopgen_jax.data.labelled import Labelled
from experiments.calibration import calibrate
from tests.cli.judging import CLASSES, write_all


def test_a_guide_is_calibrated_once(tmp_path, capsys):
    folder = write_all(tmp_path)
    texts = tuple(f"it is a {word} film" for word in ("good", "bad", "long", "short"))
    data = Labelled(texts, np.asarray([1, 0, 1, 0]), CLASSES)
    before = json.loads((folder / "guide" / "card.json").read_text())
    calibrate(folder / "guide", folder / "base", data, longest=8)
    after = json.loads((folder / "guide" / "card.json").read_text())
    assert after.pop("temperature") > 0 and after == before
    assert "guide: judges best at a temperature of" in capsys.readouterr().out
    # What has a temperature keeps it, and nothing is read.
    calibrate(folder / "guide", folder / "no such model", data, longest=8)
    assert capsys.readouterr().out == ""
