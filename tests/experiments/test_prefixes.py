"""Classifiers of full texts on prefixes: figures by hand, and the experiment on tiny networks."""

import json
from dataclasses import replace

import numpy as np
import pytest

from coopgen_jax.data.labelled import Labelled, half_of
from coopgen_jax.discriminators.host.function import host_function
from coopgen_jax.discriminators.loading import load_discriminator
from coopgen_jax.evaluation.discriminator_accuracy import judge_prefixes
from coopgen_jax.models.pretrained.loaded_model import load
from experiments import prefixes
from experiments.prefixes import Config, by_prefix, main, tfidf_classifier
from tests.cli.judging import write_all
from tests.tiny_encoder import make_encoder


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_all(tmp_path_factory.mktemp("world"))


def test_a_length_has_the_texts_that_are_so_long_and_their_first_tokens(world):
    model = load(world / "base")
    texts = ("it is a good film", "so it is a long, long text: bad", "a")
    asked = []

    def ends(rows):
        asked.extend(rows)
        return [0.9 if row.endswith(("film", "bad", "a")) else 0.2 for row in rows]

    guide = host_function(ends, classes=("bad", "good"), tokenizer=model.tokenizer)
    data = Labelled(texts, np.array([1, 1, 0], np.int32), ("bad", "good"))
    counts = [len(model.tokenizer.encode(f" {text}")) for text in texts]
    found = by_prefix(model, guide, data, 64)
    for length in (4, 8, 16, 24, 32):
        long = sum(count >= length for count in counts)
        assert (str(length) in found) == bool(long)
        if long:
            assert found[str(length)]["texts"] == long
    assert found["full"]["texts"] == 3
    # Both long texts are judged rightly at .9, the short one wrongly.
    assert found["full"]["accuracy"] == pytest.approx(2 / 3)
    assert found["full"]["calibration_error"] == pytest.approx(0.9 - 2 / 3)
    first = model.tokenizer.decode(model.tokenizer.encode(f" {texts[0]}")[:4]).strip()
    assert first in [row.strip() for row in asked] and first != texts[0]


def test_heads_on_the_models_states_are_read_once_and_say_the_same(world, monkeypatch):
    model = load(world / "base")
    guide = load_discriminator(world / "guide", language_model=model)
    texts = ("it is a good film", "so it is a long, long text: bad", "a")
    data = Labelled(texts, np.array([1, 1, 0], np.int32), ("bad", "good"))
    found, calls = by_prefix(model, guide, data, 32), []

    def spied(*arguments, **more):
        calls.append(more)
        return judge_prefixes(*arguments, **more)

    monkeypatch.setattr(prefixes, "judge_prefixes", spied)
    again = replace(guide, discriminator=replace(guide.discriminator, tokenizer="host"))
    apart = by_prefix(model, again, data, 32)
    assert len(calls) == len(apart) > 2
    assert found.keys() == apart.keys()
    for length, row in found.items():
        for name in ("texts", "accuracy", "calibration_error", "brier"):
            assert row[name] == pytest.approx(apart[length][name], abs=1e-5)


def test_the_experiment_writes_every_guide(world, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    words = {"negative": "bad", "positive": "good"}
    for name in ("sst2", "amazon_reviews"):
        (tmp_path / name).mkdir()
        for split in ("train", "validation"):
            lines = ["text,label"]
            for number in range(48):
                label = ("negative", "positive")[number % 2]
                noise = " ".join(rng.choice(["film", "it", "is", "a"], 4))
                lines.append(f"{noise} {words[label]} {number},{label}")
            (tmp_path / name / f"{split}.csv").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(prefixes, "load_encoder", lambda name: make_encoder())
    config = Config(
        tmp_path, tmp_path / "out", model=str(world / "base"), heads=(), rows=16, longest=32
    )
    main(config)
    found = json.loads((tmp_path / "out" / "prefixes.json").read_text())
    rows = (tmp_path / "sst2" / "train.csv").read_text().splitlines()[1:]
    own = [row.rsplit(",", 1)[0] for row in rows]
    assert found["settings"]["trained_on"] == sum(half_of(text) == "A" for text in own)
    assert list(found["guides"]) == ["tf-idf", "MiniLM"]
    # Full sentences hold the word that tells, prefixes of four tokens seldom do.
    full = found["guides"]["tf-idf"]["full"]
    assert full["accuracy"] == 1 and full["texts"] == 16
    assert found["guides"]["tf-idf"]["4"]["accuracy"] < 1


def test_the_words_decide():
    texts = tuple(f"{word} film {n}" for n in range(8) for word in ("bad", "good"))
    data = Labelled(texts, np.arange(16, dtype=np.int32) % 2, ("negative", "positive"))
    said = tfidf_classifier(data)(["a good one", "a bad one"])
    assert said[0, 1] > 0.5 > said[1, 1]
