"""python:FILE.py:FUNCTION wherever a discriminator or a judge is named."""

import json
import sys

import pytest

import coopgen_jax.cli.compare as comparing
import coopgen_jax.cli.generate as command
from coopgen_jax.cli.checks import check_class
from coopgen_jax.discriminators.loading import load_discriminator
from tests.cli.judging import write_all
from tests.cli.running import SHORT, generate_json, run, sentence

SOURCE = """
def judge(texts):
    return [min(1, (1 + text.count("e")) / 20) for text in texts]
judge.classes = ("bad", "good")

def other(texts):
    return [{"good": p, "bad": 1 - p} for p in judge(texts)]

def score(texts):
    return [float(len(text)) for text in texts]
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = write_all(tmp_path_factory.mktemp("world"))
    rows = [{"text": f"it is {word}", "label": word} for word in ("good", "bad")]
    (folder / "dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(command, "load_discriminator", load_discriminator)
    monkeypatch.setattr(command, "check_class", check_class)
    monkeypatch.setattr(comparing, "keep_compilations", lambda folder: None)
    (tmp_path / "guides.py").write_text(SOURCE)
    return tmp_path / "guides.py"


def test_generate_is_guided_by_it(file, capsys):
    options = ["This film", *SHORT, "--discriminator", f"python:{file}:judge"]
    found = generate_json(capsys, *options, "--target", "good")
    text = found["texts"][0]
    wanted = min(1, (1 + text["text"].count("e")) / 20)
    assert text["class_probabilities"]["good"] == pytest.approx(wanted, abs=1e-5)
    assert found["discriminator"]["name"] == f"python:{file}:judge"
    assert len(found["discriminator"]["card"]["sha256"]) == 64
    assert found["host_seconds"] > 0
    options[-1] = f"python:{file}:score"
    found = generate_json(capsys, *options, "--target", "reward")
    assert set(found["texts"][0]["class_probabilities"]) == {"reward"}


def test_mistakes_are_found_before_the_model_is_loaded(file, capsys, no_work):
    def told(function, target="good"):
        name = f"python:{file}:{function}"
        options = ["--discriminator", name, "--target", target]
        return sentence(capsys, "generate", "This", *options)

    assert "--target fine is unknown to" in told("judge", "fine")
    assert "its classes are reward" in told("score")
    assert "guides.py has no function nothing" in told("nothing")
    file.write_text("def judge(texts):\n    return [[0.5, 0.5] for _ in texts]\n")
    assert "judge.classes = (" in told("judge")
    file.write_text("import nowhere_at_all\n")
    assert "No module named 'nowhere_at_all' (line 1)" in told("judge")
    file.unlink()
    assert "there is no file" in told("judge")


def compare(world, file, out, *more):
    return [
        "compare", "so", "a", "--methods", "greedy,fudge:candidates=4", "--out", out,
        "--target", "good", "--model", world / "base", "--new-tokens", 2, "--batch-size", 2,
        "--discriminator", f"python:{file}:judge", "--quiet", *more,
    ]  # fmt: skip


def test_a_run_that_is_gone_on_with_another_file_is_refused(world, file, capsys, tmp_path):
    out = tmp_path / "out"
    assert run(capsys, *compare(world, file, out))[0] == 0
    before = {path.name: path.read_bytes() for path in out.glob("*.jsonl")}
    assert len(before) == 2
    assert run(capsys, *compare(world, file, out))[0] == 0
    file.write_text(SOURCE + "\n# The same classes and the same numbers.\n")
    told = sentence(capsys, *compare(world, file, out))
    assert "holds texts of another" in told
    assert before == {path.name: path.read_bytes() for path in out.glob("*.jsonl")}


def test_it_judges_texts_that_others_wrote(world, file, capsys, tmp_path):
    judge = f"python:{file}:judge"
    status, _, errors = run(capsys, *compare(world, file, tmp_path / "out"))
    assert status == 0, errors
    files = sorted((tmp_path / "out").glob("*.jsonl"))
    job = ["evaluate", "texts", *files, "--quiet", "--json", "--model", "a model that is not there"]
    told = sentence(capsys, *job, "--judge", judge)
    assert f"{judge} is the guide {judge} itself" in told
    other = f"python:{file}:other"
    assert f"which rows {other} was trained on is unknown" in sentence(
        capsys, *job, "--judge", other
    )
    status, out, errors = run(capsys, *job, "--judge", other, "--force")
    assert status == 0, errors
    report = json.loads(out)
    lines = [json.loads(line) for line in files[0].read_text().splitlines()[1:]]
    hits = [(1 + line["text"].strip().count("e")) / 20 > 0.5 for line in lines]
    assert report["methods"][0]["accuracy"]["value"] == sum(hits) / len(hits)
    told = sentence(capsys, *job, "--judge", f"python:{file}:score")
    assert "gives a reward: a judge gives the probabilities of classes" in told
    told = sentence(capsys, *job, "--judge", f"python:{file}:nothing")
    assert "has no function nothing" in told


def test_its_accuracy_is_evaluated(world, file, capsys):
    job = ["evaluate", "discriminator", "--data", world / "dev.jsonl", "--model", world / "base"]
    job += ["--quiet", "--json"]
    name = f"python:{file}:judge"
    status, out, errors = run(capsys, *job, "--discriminator", name)
    assert status == 0, errors
    report = json.loads(out)
    assert report["classes"] == ["bad", "good"]
    assert report["judges"][name]["by_tokens_read"]["whole"]["accuracy"] == 0.5
    told = sentence(capsys, *job, "--discriminator", name, "--calibrate")
    assert "and python:" in told and "has none" in told
    told = sentence(capsys, *job, "--discriminator", f"python:{file}:score")
    assert "gives a reward, which has no classes" in told


def test_states_are_kept_and_asked_lengths_count(world, file, capsys, tmp_path):
    job = ["evaluate", "discriminator", "--data", world / "dev.jsonl", "--model", world / "base"]
    job += ["--quiet", "--json", "--discriminator", world / "guide", world / "judge"]
    status, plain, errors = run(capsys, *job)
    assert status == 0, errors
    status, kept, errors = run(capsys, *job, "--states", tmp_path / "states")
    assert status == 0, errors
    # Both heads read the same taps of the same texts.
    assert len(list((tmp_path / "states").iterdir())) == 1
    assert json.loads(kept) == json.loads(plain)
    assert "--asked" in sentence(capsys, *job, "--asked", "never")
    told = sentence(capsys, *job, "--states", world / "dev.jsonl")
    assert "the states cannot be kept in" in told
    name = f"python:{file}:judge"
    job[-2:] = [name]
    file.write_text(SOURCE.replace('"e"', '"i"'))
    status, _, errors = run(capsys, *job, "--states", tmp_path / "none")
    assert status == 0 and "reads no states of the language model" in errors
    found = []
    for asked in ("doubling", "every"):
        status, out, errors = run(capsys, *job, "--asked", asked)
        assert status == 0, errors
        found.append(json.loads(out)["judges"][name]["by_tokens_read"])
    # Every row of the table is of a length that was asked.
    assert found[0] == found[1]
