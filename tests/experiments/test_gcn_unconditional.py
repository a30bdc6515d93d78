"""The experiment on captions divides its texts as it says, trains, measures, tells and goes on."""

import json
from dataclasses import replace

import numpy as np
import pytest

from experiments import gcn_unconditional
from experiments.gcn_unconditional import Config, divided, run, variants
from tests.training.gcn.gcn_worker import language

ONLY = ("more maximum likelihood", "GAN, division by Z, SGD", "GCN, nucleus")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("captions"), np.random.default_rng(0)
    for name, words in (("train", ("a", "red", "bath")), ("test", ("two", "grey", "zebras"))):
        rows = [" ".join([f"{number}", *rng.choice(words, 3)]) for number in range(1100)]
        rows += rows[:40]
        (folder / f"{name}.txt").write_text("\n".join(rows) + "\n\n")
    return folder


def test_both_files_are_in_every_part_and_no_sentence_in_two(data):
    parts = divided(data)
    assert [len(part) for part in parts] == [200, 1000, 1000]
    assert len(set().union(*parts)) == 2200
    for part in parts:
        of_first = np.mean([text.split()[1] in ("a", "red", "bath") for text in part])
        assert 0.4 < of_first < 0.6
    assert divided(data) == parts


@pytest.mark.slow
def test_what_is_missing_is_trained_measured_and_told_and_nothing_twice(
    data, tmp_path, monkeypatch
):
    config = Config(
        data, tmp_path / "work", tmp_path / "out", seeds=(0,), rounds=2, texts=16,
        first_judge_steps=2, layers=1, width=64, vocabulary=300, epochs=1, measured=6, references=9,
        only=ONLY,
    )  # fmt: skip
    monkeypatch.setattr(gcn_unconditional, "oracle", language)
    assert run(replace(config, budget_minutes=1e-9)) == 0
    assert not (tmp_path / "out").exists()
    assert run(config) == 0
    table = (tmp_path / "out" / "gcn_unconditional.txt").read_text().splitlines()
    assert [row[:32].strip() for row in table] == ["", "people", "maximum likelihood", *ONLY]
    said = json.loads((tmp_path / "out" / "gcn_unconditional.json").read_text())
    assert said["settings"]["rounds"] == 2 and "data" not in said["settings"]
    for name in ONLY:
        (found,) = said["results"][name]
        assert [line["step"] for line in found["rounds"] if line["split"] == "training"] == [1, 2]
        assert set(found["measured"]) == {"0.7", "0.85", "1.0", "1.15"}
        assert 0 <= found["measured"]["1.0"]["bleu"] <= 1
        assert 1 < found["measured"]["1.0"]["perplexity"] < np.inf
    assert (tmp_path / "out" / "gcn_unconditional.png").stat().st_size > 10_000
    monkeypatch.setattr(gcn_unconditional, "train_gcn", lambda *_, **__: pytest.fail("again"))
    assert run(config) == 0
    for changes, sentence in (
        ({"only": ("GAN",)}, "--only GAN is unknown"),
        ({"rounds": 3}, "was begun with another rounds"),
        ({"measured": 995}, "can be 1000 together at most"),
        ({"work": data}, "holds something else"),
    ):
        with pytest.raises(SystemExit, match=sentence):
            run(replace(config, **changes))


def test_schedules_differ_in_nothing_else(data):
    rows = variants(Config(data, data))
    plain = rows["GAN, no scheduler"]
    for name, scheduler in (("manual scheduler", "manual"), ("division by Z", "z")):
        for other in (rows[f"GAN, {name}"], rows[f"GAN, {name}, SGD"]):
            assert replace(other.config, scheduler="none") == plain.config
            assert other.config.scheduler == scheduler
    assert {name for name, row in rows.items() if row.sgd} == {
        name for name in rows if name.endswith("SGD")
    }
