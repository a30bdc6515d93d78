"""METEOR: NLTK's by its formula, and the program's over a pipe, by what the program has said."""

import json
import sys
from pathlib import Path

import nltk
import numpy as np
import pytest

from coopgen_jax.errors import UserError
from coopgen_jax.evaluation import meteor as module
from coopgen_jax.evaluation.captions import caption_cells, evaluate_captions
from coopgen_jax.evaluation.meteor import java_meteor, nltk_meteor, summable
from tests.evaluation import meteor_program
from tests.evaluation.tiny_wordnet import write_wordnet

HERE = Path(__file__).parent
ANSWERS = json.loads((HERE / "meteor_answers.json").read_text(encoding="utf-8"))
IMAGES = json.loads((HERE / "coco_scores.json").read_text(encoding="utf-8"))["images"]
CAPTIONS = [image["caption"] for image in IMAGES.values()]
REFERENCES = [image["references"] for image in IMAGES.values()]


def write_java(folder: Path, body: str) -> Path:
    """Puts a program called java where no other one is found."""
    folder.mkdir()
    (folder / "java").write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    (folder / "java").chmod(0o755)
    return folder


@pytest.fixture
def jar(tmp_path, monkeypatch):
    """A file, which java takes for the program; its folder has a blank in its name."""
    program = f'exec "{sys.executable}" "{HERE / "meteor_program.py"}" "$@"'
    monkeypatch.setenv("PATH", str(write_java(tmp_path / "bin", program)))
    (tmp_path / "two words").mkdir()
    path = tmp_path / "two words" / "meteor-1.5.jar"
    path.write_bytes(b"")
    return path


def test_the_stand_in_says_what_the_program_says():
    rows = [[float(word) for word in counts.split()] for counts in ANSWERS["counts"].values()]
    found = [meteor_program.score([row]) for row in rows]
    np.testing.assert_allclose(found, ANSWERS["scores"], rtol=1e-12)
    assert meteor_program.score(rows) == pytest.approx(ANSWERS["corpus"], rel=1e-12)
    for counts, score in ANSWERS["stages"]:
        assert meteor_program.score([counts]) == pytest.approx(score, rel=1e-12)


def test_the_score_is_the_programs_of_all_captions(jar):
    found = java_meteor(CAPTIONS, REFERENCES, jar=jar)
    assert found["value"] == pytest.approx(ANSWERS["corpus"], rel=1e-12)
    # It is not the mean of the captions' scores.
    assert abs(found["value"] - np.mean(ANSWERS["scores"])) > 0.01
    low, high = found["interval"]
    assert low < found["value"] < high


def test_sums_of_counts_have_the_score_of_all_captions():
    counts = np.array([[float(word) for word in row.split()] for row in ANSWERS["counts"].values()])
    rng = np.random.default_rng(0)
    for _ in range(20):
        drawn = counts[rng.integers(0, len(counts), 8)]
        together = meteor_program.score(summable(drawn).sum(axis=0)[None].tolist())
        assert together == pytest.approx(meteor_program.score(drawn.tolist()), rel=1e-12)
    plain = meteor_program.score([counts.sum(axis=0).tolist()])
    assert abs(plain - ANSWERS["corpus"]) > 1e-3


def test_one_caption_has_no_spread(jar):
    found = java_meteor(CAPTIONS[:1], REFERENCES[:1], jar=jar)
    assert found["value"] == pytest.approx(ANSWERS["scores"][0])
    assert found["interval"] == [found["value"]] * 2


@pytest.mark.parametrize(
    "body, said",
    [
        ("echo no manifest >&2; exit 1", "it has ended: no manifest"),
        ("while read line; do echo hello; done", "it answers 'hello'"),
        ("exec sleep 60", "it has ended"),
    ],
)
def test_a_program_that_fails_is_named(body, said, jar, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "STARTS_WITHIN", 0.5)
    path = f"{write_java(tmp_path / 'other', body)}:/usr/bin:/bin"
    monkeypatch.setenv("PATH", path)
    with pytest.raises(UserError, match="does not answer as METEOR") as error:
        java_meteor(CAPTIONS, REFERENCES, jar=jar)
    assert said in str(error.value) and "two words" in str(error.value)


def test_what_java_needs_is_named(jar, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="jar is not a file"):
        java_meteor(CAPTIONS, REFERENCES, jar=tmp_path / "gone.jar")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="needs Java: install"):
        java_meteor(CAPTIONS, REFERENCES, jar=jar)


def by_hand(matches: int, chunks: int, length: int, reference: int) -> float:
    """METEOR as Lavie and Agarwal (2007) have it, with the parameters of NLTK."""
    precision, recall = matches / length, matches / reference
    mean = precision * recall / (0.9 * precision + 0.1 * recall)
    return mean * (1 - 0.5 * (chunks / matches) ** 3)


@pytest.fixture
def wordnet(tmp_path, monkeypatch):
    write_wordnet(tmp_path / "nltk_data")
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path / "nltk_data")])


def test_nltks_score_is_its_formula_with_words_stems_and_synonyms(wordnet):
    captions = ["A man drives the cab.", "Dogs running", "...", "a lamp"]
    references = [
        # "drives" by its stem and "cab" by its synonym: five matches in one chunk of five words.
        ["A man driving the taxi", "nothing alike"],
        # "running" by its stem, "Dogs" too: the best of two references.
        ["a dog", "the dog runs"],
        ["a boat"],
        ["some boats"],
    ]
    wanted = [by_hand(5, 1, 5, 5), by_hand(2, 1, 2, 3), 0.0, 0.0]
    found = nltk_meteor(captions, references)
    assert found["value"] == pytest.approx(np.mean(wanted))
    low, high = found["interval"]
    assert low < found["value"] < high
    each = [nltk_meteor(captions[at : at + 1], references[at : at + 1])["value"] for at in range(4)]
    assert each == pytest.approx(wanted)


def test_wordnet_that_is_missing_or_damaged_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    with pytest.raises(UserError, match="needs WordNet: fetch it in Python"):
        nltk_meteor(["a"], [["a"]])
    write_wordnet(tmp_path)
    (tmp_path / "corpora" / "wordnet" / "lexnames").write_text("one\n")
    with pytest.raises(UserError, match="WordNet is damaged"):
        nltk_meteor(["a"], [["a"]])


def test_the_report_calls_them_by_their_names(wordnet):
    captions = {name: (image["caption"],) for name, image in IMAGES.items()}
    references = {name: tuple(image["references"]) for name, image in IMAGES.items()}
    report = evaluate_captions({"one": captions}, references, metrics={"meteor_nltk": nltk_meteor})
    found = report["methods"][0]["meteor_nltk"]
    assert found == nltk_meteor(CAPTIONS, REFERENCES)
    table = {line[0]: line[1] for line in caption_cells(report)}
    assert (
        table["NLTK's METEOR"].startswith(f"{found['value']:.3f} [") and "METEOR 1.5" not in table
    )
