"""Whether a teacher is ahead: what is read, whose mean is taken, and what is reported."""

import json

import numpy as np
import pytest

from coopgen_jax.data.labelled import half_of
from experiments import teachers
from experiments.teachers import TRAINED, Config, compared, main, means, training_rows

WORDS = (("bad", "negative"), ("good", "positive"))


@pytest.fixture
def data(tmp_path):
    for name in ("sst2", "amazon_reviews"):
        (tmp_path / name).mkdir()
        for split in ("train", "validation"):
            rows = [f"{name} {split} {n} is {WORDS[n % 2][0]},{WORDS[n % 2][1]}" for n in range(40)]
            (tmp_path / name / f"{split}.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    return tmp_path


def test_the_teacher_learns_from_half_a_alone(data):
    rows = training_rows(Config(data, data / "work", reviews=5))
    assert {half_of(text) for text in rows.origins} == {"A"}
    assert all(" train " in text for text in rows.origins)
    assert sum(text.startswith("amazon_reviews") for text in rows.origins) == 5
    assert sum(text.startswith("sst2") for text in rows.origins) > 5


def test_a_mean_is_that_of_probabilities():
    one, two = np.array([[0.9, 0.1]]), np.array([[0.3, 0.7]])
    found = means({"one": np.log(one), "two": np.log(two)})
    assert list(found) == ["one", "two", "one + two"]
    assert found["one + two"] == pytest.approx(np.array([[0.6, 0.4]]))
    assert found["two"] == pytest.approx(two)


def test_who_is_ahead_is_told_on_the_same_texts():
    right, wrong = [0.8, 0.2], [0.1, 0.9]
    labels = np.zeros(4, int)
    p = {
        "guide": np.array([right, right, wrong, wrong]),
        "other": np.array([right, wrong, right, right]),
    }
    found = compared(p, labels, "guide")
    assert found["guide"]["value"] == 0.5 and "ahead" not in found["guide"]
    assert found["other"]["value"] == 0.75 and found["other"]["ahead"]["value"] == 0.25
    low, high = found["other"]["ahead"]["interval"]
    assert -1 <= low < 0.25 < high <= 1
    # Who is right of the same texts is ahead by nothing, for certain.
    same = compared({"guide": p["guide"], "two": p["guide"]}, labels, "guide")
    assert same["two"]["ahead"] == {"value": 0.0, "interval": [0.0, 0.0]}


def test_a_training_that_is_there_is_not_repeated_and_all_are_told(data, monkeypatch, capsys):
    work, out = data / "work", data / "out"
    trained = []

    def train(config, folder):
        trained.append(folder)
        folder.mkdir()
        (folder / "card.json").write_text("{}")

    def judge(model, head, texts, *, longest, asked, listener):
        assert asked == "last" and longest == 64
        sure = {"sentiment": 0.9, "sentiment-minilm": 0.6}.get(head, 0.2)
        good = np.array([sure if "good" in text else 1 - sure for text in texts])
        # A text of one token, and nothing behind it.
        said = np.full((len(texts), 2, 2), np.nan, np.float32)
        said[:, 0] = np.log(np.stack([1 - good, good], axis=1))
        return said

    monkeypatch.setattr(teachers, "train", train)
    monkeypatch.setattr(teachers, "load", lambda name: name)
    monkeypatch.setattr(teachers, "load_discriminator", lambda name, language_model: name)
    monkeypatch.setattr(teachers, "judge_prefixes", judge)
    config = Config(data, work, out)
    main(config)
    main(config)
    assert trained == [work]
    found = json.loads((out / "teachers.json").read_text())
    assert found["texts"] == {"sst2": 40, "amazon_reviews": 40} and len(found["readers"]) == 7
    assert found["readers"]["sentiment"]["sst2"]["value"] == 1
    assert found["readers"][TRAINED]["sst2"]["ahead"]["value"] == -1
    # .9 and .2 make .55, .6 and .2 make .4.
    assert found["readers"][f"sentiment + {TRAINED}"]["sst2"]["value"] == 1
    assert found["readers"][f"sentiment-minilm + {TRAINED}"]["sst2"]["value"] == 0
    main(Config(data, None, data / "fewer"))
    fewer = json.loads((data / "fewer" / "teachers.json").read_text())["readers"]
    assert list(fewer) == ["sentiment", "sentiment-minilm", "sentiment + sentiment-minilm"]
    assert fewer.items() <= found["readers"].items() and trained == [work]
    assert f"-1.0000 [-1.0000, -1.0000] {TRAINED}" in capsys.readouterr().out
