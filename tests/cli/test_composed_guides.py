"""Several --discriminator at once: what they stand for, what they write, and bad ones."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import jax.numpy as jnp
import pytest

import coopgen_jax.cli.generate as command
from coopgen_jax.cli import _parse
from coopgen_jax.cli.checks import check_class
from coopgen_jax.cli.guides import Wish, wish_of
from coopgen_jax.cli.settings import decoder_config
from coopgen_jax.discriminators.composition import Term, compose
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.discriminators.loading import load_discriminator
from coopgen_jax.testing import TINY_LLAMA, ToyLanguage, toy_discriminator
from coopgen_jax.text_generation import generate
from tests.cli.running import SHORT, generate_json, run, sentence
from tests.cli.tiny import tiny_model

SOURCE = """
def few(texts):
    return [1 / (1 + text.count("w")) for text in texts]
few.classes = ("many", "few")
"""


@pytest.fixture(autouse=True)
def real(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(command, "check_class", check_class)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f.py").write_text(SOURCE)


def toys(name, *, language_model):
    """Heads of random scores by the names of packaged ones."""
    if name.startswith("python:"):
        return load_discriminator(name, language_model=language_model)
    classes = {"sentiment": ("negative", "positive"), "topic": ("world", "sports")}[name]
    toy = ToyLanguage(vocab_size=TINY_LLAMA.vocab_size)
    discriminator = toy_discriminator(toy)
    scores = jnp.asarray(toy.tables(len(name))["scores"])
    assert len(discriminator.classes) == 2
    return LoadedDiscriminator(replace(discriminator, classes=classes), {"scores": scores})


def options_of(*words):
    options = _parse(["generate", "text", *words])
    return SimpleNamespace(
        discriminator=options.discriminator, wishes=options.wishes, target=options.target
    )


def test_one_without_a_class_is_as_it_was():
    for words, name in (((), "sentiment"), (("--discriminator", "topic"), "topic")):
        options = options_of(*words, "--target", "sports")
        assert (options.discriminator, options.wishes) == (name, ())
        assert options.target == "sports"
    assert options_of("--discriminator=none").discriminator == "none"


def test_several_are_several_wishes():
    options = options_of("--discriminator", "sentiment=positive", "--discriminator=topic=sports:.5")
    assert options.wishes == (Wish("sentiment", "positive"), Wish("topic", "sports", 0.5))
    assert options.discriminator == "sentiment=positive, topic=sports:0.5"
    assert options.target == "all"


def test_the_longest_name_that_is_there_counts(tmp_path):
    for name in ("a=b", "a=b:2", "a"):
        (tmp_path / name).mkdir()
    (tmp_path / "g=h.py").write_text(SOURCE)
    cases = {
        "a": None,
        "a=b": None,
        "a=b:2": None,
        "a=c": Wish("a", "c"),
        "a=b:3": Wish("a", "b", 3.0),
        "a=b=c": Wish("a=b", "c"),
        "a=b:2=c:d:0": Wish("a=b:2", "c:d", 0.0),
        "python:f.py:few": None,
        "python:f.py:few=few:0.5": Wish("python:f.py:few", "few", 0.5),
        "python:g=h.py:few=few": Wish("python:g=h.py:few", "few"),
        "python:g=h.py:few": None,
    }
    assert {value: wish_of(value) for value in cases} == cases


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (["sentiment", "topic=sports"], "sentiment names no class: of several each names its own"),
        (["none", "topic=sports"], "none names no class"),
        (["sentiment=positive:-1"], "the weight is '-1', and it must be a number of 0 or more"),
        (["sentiment=positive:much"], "the weight is 'much'"),
        (["sentiment=positive:inf"], "the weight is 'inf'"),
        (["sentiment=positive:nan"], "the weight is 'nan'"),
        (["sentiment="], "names no class: give sentiment=CLASS"),
        (["sentiment=:2"], "names no class"),
        (["nowhere=positive"], "nowhere is neither a folder"),
        (["python:nowhere.py:few=few"], "there is no file nowhere.py"),
        (["=positive"], "is neither a folder"),
        (["sentiment=positive", "sentiment=positive:2"], "sentiment=positive twice: name it once"),
        (["python:f.py:few=few", "python:./f.py:few=few"], "twice: name it once"),
        (["sentiment=fine"], "the class fine is unknown to sentiment: its classes are negative"),
        (["sentiment=positive", "python:f.py:few=fine"], "the class fine is unknown to python:"),
    ],
)
def test_mistakes_are_told_before_the_model_is_loaded(capsys, no_work, values, told):
    words = [word for value in values for word in ("--discriminator", value)]
    assert told in sentence(capsys, "generate", "This", *words)


def test_a_target_beside_classes_is_refused(capsys, no_work):
    words = ["--discriminator", "sentiment=positive", "--discriminator", "topic=sports"]
    told = sentence(capsys, "generate", "This", *words, "--target", "positive")
    assert told == ("--discriminator sentiment=positive names its class itself: leave --target out")
    told = sentence(capsys, "generate", "This", *words, "--control-code", "{target}: ")
    assert "every --discriminator has its own" in told


def test_texts_are_those_of_the_composition(capsys, monkeypatch):
    monkeypatch.setattr(command, "load_discriminator", toys)
    names = ["sentiment=positive", "python:f.py:few=few:2", "topic=sports:0.5"]
    words = [word for name in names for word in ("--discriminator", name)]
    found = generate_json(capsys, "This film", *SHORT, *words)
    (text,) = found["texts"]
    model = tiny_model()
    parts = [toys(name.partition("=")[0], language_model=model) for name in names]
    terms = [
        Term(part, target, weight)
        for part, target, weight in zip(
            parts, ("positive", "few", "sports"), (1, 2, 0.5), strict=True
        )
    ]
    config = decoder_config(_parse(["generate", "This film", *SHORT, *words]))
    (wanted,) = generate(
        model, ["This film"], config=config, discriminator=compose(terms), target="all",
        batch_size=1,
    )  # fmt: skip
    assert text["text"] == wanted.text and text["target"] == "all"
    said = text["class_probabilities"]
    assert said["all"] == pytest.approx(wanted.class_probabilities["all"])
    names = ["sentiment=positive", "python:f.py:few=few", "topic=sports"]
    assert list(said) == ["all", *names]
    positive, few, sports = (said[name] for name in names)
    assert said["all"] == pytest.approx(positive * few**2 * sports**0.5, rel=1e-4)
    assert few == pytest.approx(1 / (1 + text["text"].count("w")), rel=1e-4)
    assert found["settings"]["target"] == "all"
    guide = found["discriminator"]
    assert guide["name"] == "sentiment=positive, python:f.py:few=few:2, topic=sports:0.5"
    assert guide["classes"] == ["all", *names] and guide["card"]["kind"] == "composition"
    assert [(t["target"], t["weight"]) for t in guide["card"]["terms"]] == [
        ("positive", 1), ("few", 2), ("sports", 0.5),
    ]  # fmt: skip
    assert len(guide["card"]["terms"][1]["card"]["sha256"]) == 64
    status, out, _ = run(capsys, "generate", "This film", *SHORT, *words, "--quiet")
    assert status == 0 and "p(all)" in out and "p(topic=sports)" in out and guide["name"] in out


def test_two_classes_of_one_discriminator_load_it_once(capsys, monkeypatch):
    loads = []

    def counted(name, *, language_model):
        loads.append(name)
        return toys(name, language_model=language_model)

    monkeypatch.setattr(command, "load_discriminator", counted)
    words = ["--discriminator", "sentiment=positive", "--discriminator", "sentiment=negative:0.1"]
    generate_json(capsys, "This film", *SHORT, *words)
    assert loads == ["sentiment"]


def test_a_comparison_is_guided_by_one(capsys, tmp_path):
    job = ["compare", "so", "--methods", "greedy", "--target", "positive", "--out", tmp_path / "o"]
    told = sentence(capsys, *job, "--discriminator", "sentiment=positive")
    assert "is guided by one discriminator towards --target: give --discriminator" in told
    assert "sentiment without =positive" in told
    told = sentence(capsys, *job, "--discriminator", "sentiment", "--discriminator=topic")
    assert "name it once" in told
    job[3] = "mcts:discriminator=topic=sports"
    assert "topic without =sports" in sentence(capsys, *job)
    assert not (tmp_path / "o").exists()
