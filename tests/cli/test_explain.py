"""`coopgen explain`, `explain show` and `explain evaluate` on a tiny model."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest

import coopgen_jax.cli.explaining as command
from coopgen_jax.explanation.explained import explain_texts, load_explanation
from coopgen_jax.explanation.reaction import Reaction
from coopgen_jax.explanation.surrogate import SurrogateSettings
from tests.cli.judging import write_all
from tests.cli.running import run, sentence

SOURCE = """
def judge(texts):
    return [min(1, (1 + text.count("e")) / 20) for text in texts]
judge.classes = ("bad", "good")
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = write_all(tmp_path_factory.mktemp("world"))
    (folder / "boxes.py").write_text(SOURCE)
    rows = [("I see the tree", "good"), ("a dark wall", "bad"), ("be here", "good"), ("no", "bad")]
    lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
    (folder / "texts.jsonl").write_text("\n".join(lines))
    (folder / "box.csv").write_text("term,bad,good\ntree,-1,1\nwall,2,-2\n")
    return folder


@pytest.fixture(autouse=True)
def here(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(command, "keep_compilations", lambda folder: None)


def job(world, out, *more):
    return [
        "explain", "--discriminator", f"python:{world / 'boxes.py'}:judge", "--out", out,
        "--model", world / "base", "--texts", 6, "--new-tokens", 8, "--batch-size", 3,
        "--method", "fudge:candidates=8:look_ahead=true", "--min-count", 1, "--tried", 3, *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def explained(world, tmp_path_factory):
    """A folder with an explanation of words that stand there for sure."""
    folder = tmp_path_factory.mktemp("explained")
    texts = ["tree here", "tree there now", "wall here", "a wall there"] * 3
    labels, p = [1, 1, 0, 0] * 3, [[0.2, 0.8], [0.3, 0.7], [0.9, 0.1], [0.8, 0.2]] * 3
    settings = SurrogateSettings(bootstrap=4, unseen=0.0)
    about = {"discriminator": f"python:{world / 'boxes.py'}:judge", "seconds": 1.0}
    found = explain_texts(texts, labels, np.array(p), ("bad", "good"), settings)
    found = replace(
        found,
        about=about,
        tried={
            "wall": (Reaction(1.0, 0.5, 1.5), Reaction(-1.0, -1.5, -0.5)),
            "fence": (Reaction(2.0, 1.5, 2.5), Reaction(-2.0, -2.5, -1.5)),
        },
    )
    found.save(folder)
    return folder


def test_it_writes_tells_what_it_found_and_goes_on(world, capsys, tmp_path):
    out = tmp_path / "out"
    status, printed, errors = run(capsys, *job(world, out, "--top", 3))
    assert status == 0, errors
    assert "6 of 12 texts" in errors and "12 of 12 texts" in errors
    assert "bad" in printed and "good" in printed and "moves" in printed
    texts = (out / "texts.jsonl").read_bytes()
    assert texts.count(b"\n") == 13
    status, printed, errors = run(capsys, *job(world, out, "--json", "--quiet"))
    assert (status, errors) == (0, "")
    found = json.loads(printed)
    assert found["fit"]["texts"] == {"bad": 6, "good": 6}
    assert found["about"]["method"] == "fudge:candidates=8:look_ahead=true"
    assert (out / "texts.jsonl").read_bytes() == texts
    told = sentence(capsys, *job(world, out, "--quiet", "--seed", 1))
    assert "holds texts of another seed" in told


def test_it_shows_words_a_page_and_a_chart(explained, capsys, tmp_path):
    page, chart = tmp_path / "page.html", tmp_path / "chart.png"
    status, printed, errors = run(
        capsys, "explain", "show", explained, "--top", 2, "--html", page, "--png", chart,
        "--contrast", "bad", "good",
    )  # fmt: skip
    assert (status, errors) == (0, "")
    assert "wall" in printed and "tree" in printed and "good, of bad and good" in printed
    assert "bad against good" in page.read_text() and chart.read_bytes()[1:4] == b"PNG"
    status, printed, _ = run(capsys, "explain", "show", explained, "--by", "reaction")
    assert printed.index("fence") < printed.index("wall") and "tree" not in printed
    assert page.read_text().count("fence") == 1, "among the words that move it"
    status, printed, _ = run(capsys, "explain", "show", explained, "--json")
    assert json.loads(printed)["reactions"]["bad"][0]["term"] == "fence"
    words = json.loads(printed)["words"]
    assert words["good"][0]["term"] == "tree" and words["bad"][0]["term"] == "wall"


def test_it_is_rated_by_known_weights_and_by_moving_words(explained, world, capsys, tmp_path):
    out = tmp_path / "figures.json"
    status, printed, errors = run(
        capsys, "explain", "evaluate", explained, "--glass-box", world / "box.csv",
        "--data", world / "texts.jsonl", "--against", "lime", "shap", "--samples", 20,
        "--out", out, "--quiet",
    )  # fmt: skip
    assert (status, errors) == (0, "")
    assert "rank correlation" in printed and "words moved" in printed
    report = json.loads(out.read_text())
    assert report["glass_box"].keys() == {"therapy", "therapy, by reaction", "lime", "shap"}
    assert report["glass_box"]["therapy, by reaction"]["bad"]["words"][0]["recall"] == 1.0
    (first, *_) = report["glass_box"]["therapy"]["bad"]["words"]
    assert first["recall"] == 1.0 and first["precision"] == 1 / first_words(explained, "bad")
    assert report["moves"]["shap"]["put out"][0] == 0.0
    assert len(report["moves"]["words"]) == len(report["moves"]["lime"]["put in"])


def first_words(folder, name):
    """Returns how many words of a class an explanation has, ten at most."""
    return len(load_explanation(folder).top_words(name, 10))


def test_json_has_the_contrast_too(explained, capsys):
    status, printed, _ = run(
        capsys, "explain", "show", explained, "--json", "--contrast", "good", "bad"
    )
    found = json.loads(printed)["contrast"]
    assert status == 0 and found["good"][0]["term"] == "tree" and found["bad"][0]["term"] == "wall"


@pytest.mark.parametrize("wrong", [["--top", "0"], ["--contrast", "bad", "grey"]])
def test_nothing_is_written_where_something_cannot_be_shown(explained, capsys, tmp_path, wrong):
    files = ["--html", tmp_path / "page.html", "--png", tmp_path / "chart.png"]
    sentence(capsys, "explain", "show", explained, *files, *wrong)
    assert list(tmp_path.iterdir()) == []


def test_a_settled_run_does_not_ask_to_be_gone_on_with(world, capsys, tmp_path):
    more = ["--texts", 60, "--batch-size", 20, "--settled", 0.01, "--quiet"]
    status, printed, _ = run(capsys, *job(world, tmp_path / "out", *more))
    assert status == 0 and "go on" not in printed
    status, printed, _ = run(
        capsys, *job(world, tmp_path / "cut", "--budget-minutes", 0.0001, "--quiet")
    )
    assert status == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["show", "nowhere"], "holds no explanation"),
        (["what"], "explain takes no 'what'"),
        (["--texts", "3"], "--out must be given"),
        (["--out", "x", "--texts", "0"], "texts is 0"),
        (["--out", "x", "--settled", "2"], "--settled is 2.0"),
        (["--out", "x", "--method", "sample"], "is not guided"),
        (["--out", "x", "--method", "nothing"], "--method has 'nothing'"),
        (["--out", "x", "--ngrams", "0"], "ngrams is 0"),
        (["evaluate", "EXPLAINED"], "nothing to rate by"),
        (["evaluate", "EXPLAINED", "--glass-box", "nowhere.csv"], "cannot be read"),
        (["evaluate", "EXPLAINED", "--glass-box", "x", "--against", "lime"], "give --data"),
        (["evaluate", "EXPLAINED", "--data", "x.txt", "--rows", "0"], "--rows is 0"),
        (["evaluate", "EXPLAINED", "--data", "x.txt", "--samples", "1"], "--samples is 1"),
        (["evaluate", "EXPLAINED", "--data", "nowhere.txt"], "nowhere.txt"),
        (["--out", "x", "--tried", "-1"], "--tried is -1"),
        (["--out", "x", "--uses", "1"], "--uses is 1"),
        (["--out", "x", "--vocabulary", "--tried", "0"], "--tried is 0"),
        (["--out", "x", "--top", "0"], "--top is 0"),
        (["--out", "x", "--method", "smc:samples=4"], "this decoder weighs several texts"),
        (["show", "EXPLAINED", "--top", "-1"], "--top is -1"),
        (["show", "EXPLAINED", "--by", "considered"], "was considered often enough"),
        (["show", "EXPLAINED", "--json", "--contrast", "bad", "grey"], "there is no class grey"),
        (["show", "EXPLAINED", "--contrast", "bad"], "--contrast names 1 classes"),
        (["show", "EXPLAINED", "--contrast", "bad", "grey"], "there is no class grey"),
        (["show", "EXPLAINED", "--html", "nowhere/page.html"], "there is no folder"),
    ],
)
def test_mistakes_are_one_sentence(explained, capsys, arguments, told):
    words = [str(explained) if word == "EXPLAINED" else word for word in arguments]
    assert told in sentence(capsys, "explain", *words)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("term,bad\ntree,1\n", "has no column good"),
        ("term,bad,good\ntree,1,x\n", "a weight that is no number"),
        ("", "has no column term"),
    ],
)
def test_a_glass_box_that_cannot_be_read_is_told(explained, capsys, tmp_path, content, told):
    (tmp_path / "box.csv").write_text(content)
    arguments = ["evaluate", explained, "--glass-box", tmp_path / "box.csv"]
    assert told in sentence(capsys, "explain", *arguments)
