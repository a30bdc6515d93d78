"""The cases of the experiment on explanations, with a tiny model whose tokens are words."""

import json
from functools import partial

import numpy as np
import pytest

import coopgen_jax as cg
from experiments import therapy_cases
from experiments.therapy_cases import BAGS, CUES, Config, bag_of_words, place
from tests.experiments.word_sets import write_set
from tests.explanation.word_model import BAGS as OWN_BAGS
from tests.explanation.word_model import CLASSES, bag, model


@pytest.fixture
def config(tmp_path):
    write_set(tmp_path / "data" / "amazon_reviews", ("negative", "positive"), 120, 0)
    return Config(
        tmp_path / "data", tmp_path / "work", tmp_path / "out", cues=1, cue_texts=10, bag_texts=0,
        heads=("head",), head_texts=20, new_tokens=8, batch_size=10, tried=15, rows=6, samples=20,
    )  # fmt: skip


def test_a_cue_is_planted_and_a_head_is_explained(config, monkeypatch):
    guide = cg.host_function(bag, classes=CLASSES, tokenizer=model().tokenizer)
    monkeypatch.setattr(cg, "load_language_model", lambda dtype: model())
    monkeypatch.setattr(cg, "load_discriminator", lambda name, language_model: guide)
    # Its tokenizer knows no line break, which heads read in front of texts.
    monkeypatch.setattr(therapy_cases, "explain", partial(therapy_cases.explain, black_box=bag))
    therapy_cases.main(config)
    found = json.loads((config.out / "therapy_cases.json").read_text())
    (cue,) = found["planted"]
    assert cue["cue"] == CUES[0] and cue["class"] == "negative" and cue["glass_box"] == 1
    assert cue["lime_on_clean_texts"] is None and cue["clean_texts_with_it"] == 0
    assert cue["vocabulary"] is None, "the tiny model has no such word"
    for label, name in enumerate(CLASSES):
        words = found["heads"]["head"]["reactions"][name]
        assert words and set(words) <= set(OWN_BAGS[label])
    texts = (config.work / "head" / "texts.jsonl").read_bytes()
    therapy_cases.main(config)
    assert (config.work / "head" / "texts.jsonl").read_bytes() == texts
    assert "work" not in found["settings"]


def test_thirty_words_move_the_log_odds_by_two():
    box = bag_of_words()
    assert sum(len(words.split()) for words in BAGS.values()) == 30
    assert sorted(box.weights[0].values()) == [-2.0] * 15 + [2.0] * 15
    assert box.weights[0] == {word: -weight for word, weight in box.weights[1].items()}
    p = box.judge(["The kitchen, the table.", "A river and a lamp", "", "fields", "a field"])
    np.testing.assert_allclose(np.log(p[:, 1] / p[:, 0]), [-4, 0, 0, 0, 2], atol=1e-9)


def test_the_place_of_a_word():
    weights = {"a": 2.0, "b": 3.0, "c": -1.0}
    assert [place(word, weights) for word in "abcd"] == [2, 1, None, None]
