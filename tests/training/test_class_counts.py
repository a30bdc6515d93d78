"""Classes and their counts are reported before anything is trained."""

import json

import pytest

from coopgen_jax.cli import main


def rows(path, names):
    lines = [json.dumps({"text": f"text {n}", "label": name}) for n, name in enumerate(names)]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def report(tmp_path, capsys, names, *more, kind="discriminator") -> list[str]:
    """Trains from a model that is not there, and returns what was reported before."""
    data = rows(tmp_path / "a.jsonl", names)
    held_out = rows(tmp_path / "b.jsonl", sorted(set(names))[::-1])
    job = ["train", kind, "--data", data, "--validation", held_out, "--out", str(tmp_path / "out")]
    assert main([*job, "--model", str(tmp_path / "missing"), *more]) == 2
    return [line for line in capsys.readouterr().err.splitlines() if "error" not in line]


def test_classes_are_counted(tmp_path, capsys):
    told = report(tmp_path, capsys, ["low"] * 5 + ["high"] * 3)
    assert told == [
        f"coopgen: {tmp_path / 'a.jsonl'}: 8 texts of 2 classes: high 3, low 5",
        f"coopgen: {tmp_path / 'b.jsonl'}: 2 texts of 2 classes: high 1, low 1",
    ]
    assert report(tmp_path, capsys, ["low", "high"], "--quiet") == []


def test_a_class_conditional_language_model_counts_too(tmp_path, capsys):
    told = report(tmp_path, capsys, ["low"] * 5 + ["high"] * 3, "--label", "label", kind="lm")
    assert told[0] == f"coopgen: {tmp_path / 'a.jsonl'}: 8 texts of 2 classes: high 3, low 5"


@pytest.mark.parametrize(
    ("names", "more", "sentence"),
    [
        (["Good", "good", "bad"], [], "the classes Good and good differ only by case: give them"),
        (["STRASSE", "straße", "bad"], [], "the classes STRASSE and straße differ only by case"),
        (["good", "bad", "nan"], [], "a class is called nan, as labels are that are missing"),
        (["good", "bad", "None"], [], "a class is called None, as labels are that are missing"),
        (
            ["good", "bad"],
            ["--classes", "good", "bad", "ugly"],
            "no text has the class ugly: leave it out, or add texts of it",
        ),
    ],
)
def test_doubtful_classes_are_warned_of_once(tmp_path, capsys, names, more, sentence):
    told = report(tmp_path, capsys, names, *more)
    warned = [line for line in told if line.startswith("coopgen: warning:")]
    assert len(warned) == 1 and sentence in warned[0] and "a.jsonl" in warned[0]


def test_a_join_by_rename_is_not_warned_of(tmp_path, capsys):
    told = report(tmp_path, capsys, ["Good", "good", "bad"], "--rename", "Good=good")
    assert [line for line in told if "warning" in line] == []
    assert told[0].endswith("3 texts of 2 classes: bad 1, good 2")
