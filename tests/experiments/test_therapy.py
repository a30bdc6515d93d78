"""The experiment on explanations, with a tiny model whose tokens are words."""

import json

import numpy as np
import pytest

import coopgen_jax as cg
from coopgen_jax.data.labelled import Labelled
from experiments import therapy
from experiments.therapy import SETS, Config, glass_box
from tests.experiments.word_sets import write_set
from tests.explanation.word_model import BAGS, WORDS, model


@pytest.fixture
def config(tmp_path):
    for seed, (name, classes) in enumerate(SETS.items()):
        write_set(tmp_path / "data" / name, classes, 120, seed)
    return Config(
        tmp_path / "data", tmp_path / "work", tmp_path / "out", sets=("amazon_reviews",),
        texts=30, new_tokens=8,
        batch_size=15, rows=6, samples=20, tried=20,
    )  # fmt: skip


def test_explanations_are_rated(config, monkeypatch):
    monkeypatch.setattr(cg, "load_language_model", lambda dtype: model())
    therapy.main(config)
    found = json.loads((config.out / "therapy.json").read_text())
    ratings = found["amazon_reviews"]["explanations"]
    names = ("therapy", "therapy, considered", "therapy, by reaction", "therapy, vocabulary",
             "lime", "lime, other texts", "shap", "shap, other texts", "glass box",
             "random words")  # fmt: skip
    assert set(ratings) == set(names)
    for name in names:
        assert len(ratings[name]["moves"]["put out"]) == len(ratings[name]["moves"]["words"])
        assert ratings[name]["moves"]["put in"][0] == 0.0
    own = ratings["therapy"]["classes"]["positive"]
    assert own["spearman"]["union"]["n"] >= own["spearman"]["50"]["n"] > 10
    assert set(WORDS[10:16]) & set(own["top"]), "words of the class are among the strongest"
    assert found["amazon_reviews"]["by_texts"][0]["texts"] == 25
    assert (config.out / "therapy.png").read_bytes()[1:4] == b"PNG"
    examples = found["amazon_reviews"]["examples"]
    assert set(examples) == set(SETS["amazon_reviews"]) and all(map(len, examples.values()))
    # Every word of the class is one of the vocabulary.
    assert ratings["therapy, vocabulary"]["classes"]["positive"]["words"][1]["precision"] > 0.5
    texts = (config.work / "amazon_reviews" / "texts.jsonl").read_bytes()
    therapy.main(config)
    assert (config.work / "amazon_reviews" / "texts.jsonl").read_bytes() == texts
    assert "seconds" not in json.dumps(found["settings"]) and "work" not in found["settings"]


def test_a_glass_box_says_by_which_weights_it_judges():
    texts = tuple(f"{word} {WORDS[200 + n % 7]}" for n in range(4) for word in (*BAGS[0][:5],
                  *BAGS[1][:5]))  # fmt: skip
    labels = np.array([int(text.split()[0] in BAGS[1]) for text in texts])
    data = Labelled(texts, labels, ("dull", "bright"))
    box = glass_box(data, data)
    assert box.accuracy == 1.0
    assert min(box.weights[1][word] for word in BAGS[1][:5]) > 0.5
    assert all(box.weights[0][word] == -box.weights[1][word] for word in box.weights[0])
    assert box.judge([BAGS[1][0]])[0, 1] > 0.5
