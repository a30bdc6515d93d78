"""The packaged judge's recipe: what it learns from, and what its card says."""

import json

import numpy as np
import pytest

from coopgen_jax.data.fingerprint import fingerprint, write_fingerprint
from coopgen_jax.data.labelled import half_of
from experiments import train_encoder_judge
from experiments.train_encoder_judge import Config, main, training_rows, validation_rows
from tests.cli.judging import write_all
from tests.evaluation.word_judge import WordJudge

CALM = {half: tuple(f"table {n} of half {half}" for n in range(12)) for half in "AB"}


@pytest.fixture
def data(tmp_path, monkeypatch):
    for name in ("sst2", "amazon_reviews"):
        (tmp_path / name).mkdir()
        for split in ("train", "validation"):
            rows = ["text,label"]
            for n in range(60):
                word, label = (("bad", "negative"), ("good", "positive"))[n % 2]
                rows.append(f"{name} {split} {n} is {word},{label}")
            (tmp_path / name / f"{split}.csv").write_text("\n".join(rows) + "\n")
    monkeypatch.setattr(train_encoder_judge, "neutral_texts", lambda folder, half: CALM[half])
    return tmp_path


def test_the_judge_learns_from_half_b_alone(data):
    rows = training_rows(Config(data, data / "work", reviews=10, neutral=6))
    assert rows.classes == ("negative", "positive", "neither")
    calm = [text for text, label in zip(rows.texts, rows.labels, strict=True) if label == 2]
    assert len(calm) == 6 and set(calm) < set(CALM["B"])
    labelled = [text for text in rows.origins if not text.startswith("table")]
    assert {half_of(text) for text in labelled} == {"B"}
    assert sum(text.startswith("amazon_reviews train") for text in labelled) == 10
    assert all("validation" not in text for text in labelled)
    # The best step is chosen by rows that it does not learn from.
    chosen = validation_rows(Config(data, data / "work"))
    assert not np.intersect1d(fingerprint(chosen.origins), fingerprint(rows.origins)).size
    assert set(CALM["A"]) == {t for t in chosen.texts if t.startswith("table")}


def test_the_card_has_what_was_measured(data, monkeypatch, capsys):
    world = write_all(data / "world")
    config = Config(data, data / "work", data / "heads", name="judge", model=str(world / "base"))
    config.work.mkdir()
    card = {"classes": list(WordJudge.classes), "half": "B", "width": 34}
    (config.work / "card.json").write_text(json.dumps(card))
    (config.work / "head.safetensors").write_bytes(b"weights")
    write_fingerprint(config.work, fingerprint(["a row"]))

    class Loaded:
        discriminator = WordJudge

    def judge(model, head, texts, *, longest, asked):
        assert asked == "last" and head.discriminator is WordJudge
        # With 24 tokens everything is said to be neither.
        p = WordJudge().predict_proba(texts if longest > 24 else ["" for _ in texts])
        return np.log(np.maximum(p, 1e-9))[:, None]

    monkeypatch.setattr(train_encoder_judge, "load_discriminator", lambda *a, **k: Loaded)
    monkeypatch.setattr(train_encoder_judge, "judge_prefixes", judge)
    main(config)
    card = json.loads((data / "heads" / "judge" / "card.json").read_text())
    assert card["accuracy"]["sst2"] == {"24": 0, "whole": 1} and card["name"] == "judge"
    assert card["said_neither"]["sst2"] == {"24": 1, "whole": 0}
    assert card["said_neither"]["texts without sentiment"]["24"] == 1
    assert card["said_neither"]["texts without sentiment"]["whole"] > 0.99
    assert card["width"] == 66 and "sentiment" in card["judges"]
    assert card["intervals"]["sst2"][0] == pytest.approx(0.9398, abs=1e-4)
    assert (data / "heads" / "judge" / "head.safetensors").read_bytes() == b"weights"
    assert '"said_neither"' in capsys.readouterr().out
