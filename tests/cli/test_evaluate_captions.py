"""`coopgen evaluate captions` on files of a few captions."""

import json
import sys

import nltk
import pytest

from coopgen_jax.data.image_captions import read_image_captions
from coopgen_jax.evaluation.captions import evaluate_captions
from coopgen_jax.evaluation.meteor import nltk_meteor
from tests.cli.running import run, sentence
from tests.evaluation.tiny_wordnet import write_wordnet

REFERENCES = """image,caption
a.jpg,A brown dog runs over the grass.
a.jpg,"A dog, running"
b.jpg,Two boats lie in the harbour.
c.jpg,A train stops at the station.
,Somebody's caption of nothing
"""
CAPTIONS = {"a.jpg": "A dog runs over grass", "b.jpg": "Boats in a harbour", "c.jpg": ""}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    (folder / "references.csv").write_text(REFERENCES, encoding="utf-8")
    rows = [{"image": image, "caption": text} for image, text in CAPTIONS.items()]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "beam.jsonl").write_text(lines, encoding="utf-8")
    coco = [{"image_id": image, "caption": "A boat"} for image in CAPTIONS]
    (folder / "results.json").write_text(json.dumps(coco), encoding="utf-8")
    return folder


def job(world, *more):
    return ["evaluate", "captions", *more, "--references", world / "references.csv"]


def test_captions_in_and_figures_out(world, capsys, tmp_path):
    file = tmp_path / "figures.json"
    status, out, err = run(capsys, *job(world, world / "beam.jsonl"), "--out", file)
    assert status == 0
    lines = out.splitlines()
    assert lines[0].split() == ["beam"] and lines[1].split() == ["images", "3"]
    assert [line.split()[0] for line in lines[2:6]] == [f"BLEU-{n}" for n in (1, 2, 3, 4)]
    assert err.splitlines() == [
        f"coopgen: note: {world / 'references.csv'}: 1 row left out (row 5: a caption without "
        "image)",
        "coopgen: note: beam: 1 image with a caption without words, which scores 0 (c.jpg)",
    ]
    found = json.loads(file.read_text(encoding="utf-8"))
    references = read_image_captions(world / "references.csv").captions
    given = {image: (text,) for image, text in CAPTIONS.items()}
    assert found["methods"] == evaluate_captions({"beam": given}, references)["methods"]


def test_several_files_are_compared_as_json(world, capsys):
    entries = ["one=" + str(world / "beam.jsonl"), world / "results.json"]
    status, out, _ = run(capsys, *job(world, *entries), "--json", "--against", "results")
    report = json.loads(out)
    assert status == 0 and [row["method"] for row in report["methods"]] == ["one", "results"]
    assert report["against"] == "results" and report["methods"][0]["paired"]["images"] == 3


def test_further_figures_are_reported_under_their_names(world, capsys, tmp_path, monkeypatch):
    write_wordnet(tmp_path)
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    status, out, _ = run(capsys, *job(world, world / "beam.jsonl"), "--meteor-nltk", "--json")
    references = read_image_captions(world / "references.csv").captions
    wanted = nltk_meteor(list(CAPTIONS.values()), [references[image] for image in CAPTIONS])
    assert status == 0 and json.loads(out)["methods"][0]["meteor_nltk"] == wanted
    monkeypatch.setattr(nltk.data, "path", [])
    given = job(world, world / "beam.jsonl")
    assert "NLTK's METEOR needs WordNet" in sentence(capsys, *given, "--meteor-nltk")
    monkeypatch.setenv("PATH", "")
    assert "needs Java" in sentence(capsys, *given, "--meteor-jar", "meteor.jar")
    monkeypatch.setitem(sys.modules, "sng_parser", None)
    assert "scene graphs need SceneGraphParser" in sentence(capsys, *given, "--scene-graphs")
    for option in (("--scene-graphs",), ("--meteor-nltk",), ("--meteor-jar", "meteor.jar")):
        said = sentence(capsys, *given[:-2], *option)
        assert said == f"{option[0]} compares with human captions: give --references"


@pytest.mark.parametrize(
    "more, message",
    [
        ([], "there are no captions: give files"),
        (["beam.jsonl", "beam.jsonl"], "two methods are called beam"),
        (["beam.jsonl", "--self-bleu", "1"], "--self-bleu is 1: give 2 or more"),
        (["beam.jsonl", "--caption", "text"], "has no column 'text', only image, caption"),
        (["beam.jsonl", "--out", "."], "--out . is a folder"),
        (["beam.jsonl", "--out", "references.csv"], "references.csv is --references: name another"),
        (["beam.jsonl", "--out", "beam.jsonl"], "beam.jsonl is the file beam.jsonl: name another"),
        (["none.jsonl"], "none.jsonl is not a file"),
    ],
)
def test_mistakes_end_with_a_sentence(world, capsys, monkeypatch, more, message):
    monkeypatch.chdir(world)
    status, out, err = run(capsys, *job(world, *more))
    assert (status, out) == (2, "") and message in err and "Traceback" not in err
