"""The experiments on domains ask for methods that there are, and for prompts of every class."""

import csv
import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from coopgen_jax.cli.compare_methods import runs_of
from coopgen_jax.cli.compare_options import CompareOptions
from coopgen_jax.comparison import header
from coopgen_jax.data.fingerprint import fingerprint, read_fingerprint
from coopgen_jax.data.labelled import half_of
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.independence import independence, trained_on
from coopgen_jax.evaluation.text_judges import load_text_judge
from coopgen_jax.models.pretrained.loaded_model import load
from coopgen_jax.training.recipes.scratch import ScratchConfig
from experiments import domain as domains
from experiments import polarity_fr
from experiments.domain import (
    Config,
    Domain,
    is_done,
    prompts_of,
    settings_of,
    train_all,
    write_and_measure,
)
from experiments.domain_methods import greedy, nucleus
from experiments.emotion import EMOTION
from experiments.polarity import POLARITY
from experiments.polarity_fr import POLARITY_FR, Noise, train_from_noise
from experiments.topic import TOPIC
from tests.cli.judging import write_all

DOMAINS = [POLARITY, POLARITY_FR, EMOTION, TOPIC]


@pytest.mark.parametrize("domain", DOMAINS, ids=lambda domain: domain.name)
def test_every_method_is_what_compare_writes_by_its_name(domain, tmp_path):
    found = [method(tmp_path, 9) for method in domain.methods]
    options = CompareOptions(
        ",".join(run.name for run in found), tmp_path, target=domain.classes, new_tokens=9,
        model=str(tmp_path / "lm"), discriminator=str(tmp_path / "trunk"),
    )  # fmt: skip
    for run, other in zip(found, runs_of(options), strict=True):
        for name in ("name", "config", "model", "discriminator", "steering", "reference"):
            assert getattr(run, name) == getattr(other, name)
        shared = {"target": None, "seed": 0, "batch_size": 2, "dtype": "float32", "chat": False}
        assert header.settings_of(
            run.config, method=run.method, preset=run.preset, **shared
        ) == header.settings_of(other.config, method=other.method, preset=other.preset, **shared)


@pytest.mark.parametrize("domain", DOMAINS, ids=lambda domain: domain.name)
def test_every_method_needs_what_is_trained(domain, tmp_path):
    made = {"trunk", "judge", "oracle", "lm", *domain.trained}
    for run in (method(tmp_path, 9) for method in domain.methods):
        for name in (run.discriminator or "", run.model, run.steering.expert or ""):
            if str(tmp_path) in name:
                part = Path(name).relative_to(tmp_path).parts[0]
                assert part in made or (part.startswith("expert") and "experts" in made)


@pytest.mark.parametrize("domain", [POLARITY, POLARITY_FR], ids=lambda domain: domain.name)
def test_a_class_conditional_model_is_read_behind_the_prefix_it_was_trained_with(domain, tmp_path):
    runs = [method(tmp_path, 9) for method in domain.methods]
    (coded,) = (run for run in runs if "control_code" in run.name)
    assert coded.steering.control_code == "{target}:"


def test_prompts_are_the_first_words_of_rows_of_every_class(tmp_path):
    (tmp_path / "emotion").mkdir()
    rows = [
        (f"{name} text number {n} has many words", name)
        for name in EMOTION.classes
        for n in range(5)
    ]
    with (tmp_path / "emotion" / "validation.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows, ("too short", "joy")])
    config = Config(data=tmp_path, work=tmp_path, texts=12, words=4)
    prompts = prompts_of(config, EMOTION)
    assert len(prompts) == len(set(prompts)) == 12
    assert {prompt.split()[0] for prompt in prompts} == set(EMOTION.classes)
    assert all(len(prompt.split()) == 4 for prompt in prompts)


def write_rows(path, texts):
    """Writes texts, good ones with a word of praise."""
    rows = [(text, "positive" if "bon" in text else "negative") for text in texts]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])


def test_what_begins_as_noise_learns_from_its_own_half_and_once(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    words = ["série", "acteur", "vu", "drôle", "épisode", "noël", "fin"]
    texts = [" ".join([*rng.choice(words, 7), ("bon", "nul")[n % 2]]) for n in range(64)]
    (tmp_path / "allocine_fr").mkdir()
    write_rows(tmp_path / "allocine_fr" / "train.csv", texts[:56])
    write_rows(tmp_path / "allocine_fr" / "validation.csv", texts[56:])
    noise = Noise(vocabulary=270, shape=ScratchConfig(layers=1, width=64, context=32), window=16)
    domain = replace(POLARITY_FR, trained=("lm",), language_model=partial(train_from_noise, noise))
    config = Config(data=tmp_path, work=tmp_path / "work", rows=8, lm_steps=2)
    assert not train_all(replace(config, only=("lm", "judge")), domain)
    assert not (config.work / "oracle").exists()
    assert train_all(config, domain)
    lm, oracle = (load(config.work / name) for name in ("lm", "oracle"))
    assert lm.config.layers == 1 and lm.tokenizer != oracle.tokenizer
    assert lm.tokenizer.decode(lm.tokenizer.encode("déjà vu")) == "déjà vu"
    for name, part in (("lm", "A"), ("oracle", "B"), ("judge", "B")):
        own = fingerprint([text for text in texts[:56] if half_of(text) == part])
        np.testing.assert_array_equal(read_fingerprint(config.work / name), own)
    assert independence(trained_on(config.work / "judge"), trained_on(config.work / "lm")).holds
    judge = load_text_judge(config.work / "judge", model="none is read")
    assert judge.predict_proba(["un acteur nul", "un acteur bon"]).argmax(axis=1).tolist() == [0, 1]
    said = settings_of(replace(config, lm_steps=9))
    assert (said["words"], said["trained"]["lm"]["steps"]) == (5, 2)
    assert set(said["trained"]) == {"lm", "oracle", "judge"} and "work" not in said
    monkeypatch.setattr(polarity_fr, "train_language_model", lambda *args, **more: pytest.fail())
    monkeypatch.setattr(polarity_fr, "fit_judge", lambda *args, **more: pytest.fail())
    assert train_all(config, domain)


def test_other_domains_begin_as_the_packaged_models(monkeypatch, tmp_path):
    def refuse(name, **more):
        raise UserError(name)

    monkeypatch.setattr(domains, "load", refuse)
    config = Config(data=tmp_path, work=tmp_path, model="another")
    (tmp_path / "emotion").mkdir()
    rows = [(f"{name} {n}", name) for name in EMOTION.classes for n in range(3)]
    for split in ("train", "validation"):
        with (tmp_path / "emotion" / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *rows])
    for name in ("lm", "oracle"):
        with pytest.raises(UserError, match="another"):
            train_all(replace(config, only=(name,)), EMOTION)


@pytest.mark.parametrize(
    "name, card, done",
    [
        ("card.json", {"stopped": "steps"}, True),
        ("card.json", {"stopped": "patience"}, True),
        ("card.json", {"stopped": "budget"}, False),
        ("judge.json", {"classes": ["bad", "good"]}, True),
        ("training.json", {}, False),
    ],
)
def test_a_training_whose_minutes_were_spent_goes_on(name, card, done, tmp_path):
    (tmp_path / name).write_text(json.dumps(card))
    assert is_done(tmp_path) == done


def test_methods_are_written_and_measured(tmp_path, capsys):
    work = write_all(tmp_path / "work")
    for name, old in (("lm", "base"), ("trunk", "guide")):
        shutil.copytree(work / old, work / name)
    (tmp_path / "stars").mkdir()
    rows = [(f"film {n} is what it is", ("bad", "good")[n % 2]) for n in range(6)]
    with (tmp_path / "stars" / "validation.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    domain = Domain("stars", "stars", ("bad", "good"), (nucleus, greedy))
    config = Config(
        data=tmp_path, work=work, out=tmp_path / "out", texts=4, words=2, new_tokens=3, batch_size=4
    )
    write_and_measure(config, domain)
    found = json.loads((config.out / "stars.json").read_text())
    assert found["settings"]["new_tokens"] == 3 and "trunk" in found["settings"]["trained"]
    assert [row["method"] for row in found["methods"]] == ["sample:top_p=0.9", "greedy"]
    assert all(row["texts"] == 8 and "accuracy" in row for row in found["methods"])
    printed = capsys.readouterr().out
    assert (config.out / "stars.txt").read_text() in printed
    assert "greedy: batch 2 of 2" in printed and (config.out / "stars.png").exists()
