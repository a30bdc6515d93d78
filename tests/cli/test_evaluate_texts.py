"""`coopgen evaluate texts` on the files and the networks of a tiny world."""

import json
import re

import pytest

from coopgen_jax.data.fingerprint import fingerprint, write_fingerprint
from coopgen_jax.evaluation.text_judges import load_text_judge
from coopgen_jax.evaluation.texts import on_target
from coopgen_jax.evaluation.written_texts import read_methods
from coopgen_jax.models.pretrained.loaded_model import load
from tests.cli.judging import write_all
from tests.cli.running import run, sentence


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = write_all(tmp_path_factory.mktemp("world"))
    document = {
        "settings": {"method": "mcts"},
        "model": {"name": str(folder / "base"), "sha256": load(folder / "base").sha256},
        "discriminator": {"name": str(folder / "guide")},
        "seconds": 3.0,
        "texts": [
            {"prompt": p, "text": f" {t}", "target": "good", "tokens": [1] * len(t),
             "model_tokens": 2 * len(t)}
            for p, t in (("so", "it is"), ("a", "good film"), ("b", "xyz"), ("c", "no no no"))
        ],
    }  # fmt: skip
    (folder / "a.json").write_text(json.dumps(document))
    other = document | {"settings": {"method": "greedy"}, "texts": document["texts"][::-1]}
    other["texts"] = [text | {"text": text["text"][::-1]} for text in other["texts"]]
    (folder / "b.json").write_text(json.dumps(other))
    rows = [{key: text[key] for key in ("prompt", "text")} for text in document["texts"]]
    (folder / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def job(world, *more):
    return ["evaluate", "texts", world / "a.json", world / "b.json", "--quiet", *more]


def test_files_in_and_figures_out(world, capsys, tmp_path):
    judge, oracle = world / "judge", world / "oracle"
    options = ["--judge", judge, "--oracle", oracle, "--out", tmp_path / "x.y"]
    status, out, err = run(capsys, *job(world, *options))
    assert (status, err) == (0, "")
    assert out.startswith((tmp_path / "x.y.txt").read_text())
    assert (tmp_path / "x.y.png").read_bytes().startswith(b"\x89PNG")
    report = json.loads((tmp_path / "x.y.json").read_text())
    (method,) = read_methods(world / "a.json")
    hits = on_target(load_text_judge(judge, model=str(world / "base")), method.texts)
    row = report["methods"][0]
    assert (row["method"], row["accuracy"]["value"]) == ("mcts", hits.mean())
    assert row["perplexity"]["value"] > 1 and row["calls_per_token"]["value"] == 2
    assert row["seconds_per_token"]["value"] == pytest.approx(3 / 25)
    assert report["methods"][1]["paired"]["pairs"] == 4
    assert report["notes"][0].endswith("have no row in common")
    assert any("compilation included" in note for note in report["notes"])
    status, out, _ = run(capsys, *job(world, *options[:2], "--json"))
    assert json.loads(out)["methods"][0]["accuracy"] == row["accuracy"]


def test_tables_for_pages_and_papers(world, capsys):
    for form, begin in (("markdown", "| method |"), ("latex", "\\begin{tabular}")):
        status, out, _ = run(capsys, *job(world, "--format", form))
        assert status == 0 and out.startswith(begin)
    assert out.splitlines()[-1].startswith("% ")


def test_names_targets_and_guides_can_be_said(world, capsys):
    plain = ["evaluate", "texts", f"plain={world / 'c.jsonl'}", "--quiet", "--json"]
    plain += ["--judge", world / "judge"]
    assert "nobody says what guided the texts of plain" in sentence(capsys, *plain)
    assert "say no target" in sentence(capsys, *plain, "--guide", "none")
    more = ["--guide", world / "guide", "--target", "fine", "--rename", "fine=good"]
    status, out, _ = run(capsys, *plain, *more)
    assert status == 0
    report = json.loads(out)
    assert report["methods"][0]["method"] == "plain" and report["unit"] == "words"
    assert "target 'fine', and the judge knows bad, good" in sentence(capsys, *plain, *more[:4])


@pytest.mark.parametrize(
    ("judge", "why"),
    [
        ("guide", "is the guide .* itself"),
        ("knowing", "were both trained on 1 of the judge's 2 rows"),
        ("unknown", "which rows .*unknown was trained on is unknown"),
    ],
)
def test_a_judge_that_is_not_independent_is_refused_unless_forced(world, capsys, judge, why):
    options = ["--judge", world / judge]
    assert re.search(why + ".*--force", sentence(capsys, *job(world, *options)))
    status, out, _ = run(capsys, *job(world, *options, "--force", "--json"))
    assert status == 0
    assert re.search("^forced: .*" + why, json.loads(out)["notes"][0])


def test_an_oracle_must_not_have_written_or_know_the_guides_rows(world, capsys):
    told = sentence(capsys, *job(world, "--oracle", world / "base"))
    assert "itself wrote the texts of mcts" in told and "--force" in told
    status, out, _ = run(capsys, *job(world, "--oracle", world / "base", "--force", "--json"))
    assert status == 0 and any("itself wrote" in note for note in json.loads(out)["notes"])
    try:
        write_fingerprint(world / "oracle", fingerprint(["one"]))
        assert "trained on 1 of" in sentence(capsys, *job(world, "--oracle", world / "oracle"))
        shared = ["--oracle", world / "oracle", "--shared-rows"]
        status, out, _ = run(capsys, *job(world, *shared, "1", "--json"))
        assert status == 0 and any("at most a share of 1" in n for n in json.loads(out)["notes"])
        assert "--shared-rows is 2.0: give a share" in sentence(capsys, *job(world, *shared, "2"))
        (world / "oracle" / "rows.npy").unlink()
        status, out, _ = run(capsys, *job(world, "--oracle", world / "oracle"))
        assert status == 0 and "was trained on is unknown" in out
    finally:
        write_fingerprint(world / "oracle", fingerprint(["six"]))


def test_mauve_without_its_library_is_left_out(world, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (tmp_path / "human.txt").write_text("a text\n")
    status, out, _ = run(capsys, *job(world, "--reference", tmp_path / "human.txt"))
    assert status == 0 and "MAUVE is left out" in out


def test_broken_rows_are_left_out_and_named(world, capsys, tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text((world / "c.jsonl").read_text() + '{"prompt": "so", "text": "\\udfff"}\n')
    status, out, _ = run(capsys, "evaluate", "texts", path, "--json", "--quiet")
    report = json.loads(out)
    assert (status, report["methods"][0]["texts"]) == (0, 4)
    note = f'1 row left out (line 5 of {path} holds half a character in its "text")'
    assert note in report["notes"]
    texts = [f'"good film {number}","{("bad", "good")[number % 2]}"' for number in range(4)]
    path = tmp_path / "set.csv"
    path.write_text("\n".join(["text,label", *texts[:2], "alone", *texts[2:]]) + "\n")
    judged = ["--discriminator", world / "guide", "--model", world / "base", "--data", path]
    status, out, err = run(capsys, "evaluate", "discriminator", *judged, "--json", "--quiet")
    report = json.loads(out)
    assert status == 0 and report["left_out"] == ["row 3: 1 fields instead of 2"]
    figures = report["judges"][str(world / "guide")]["by_tokens_read"]
    assert figures["whole"]["texts"] == 4
    assert err == f"coopgen: {path}: 1 row left out (row 3: 1 fields instead of 2)\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["no.json"], "no.json cannot be read"),
        (["=x.json"], "give the method's name and its file as NAME=FILE"),
        (["A", "A"], "two methods are called mcts: name one of them as NAME=FILE"),
        (["A", "--judge", "nowhere"], "nowhere is neither a folder with a card.json"),
        (["A", "--against", "x"], "there is no method 'x' to compare with: mcts"),
        (["A", "--rename", "good"], "--rename good: give the old name and the new one"),
        (["A", "--out", "nowhere/x"], "there is no folder"),
        (["A", "--oracle", "nowhere"], "there is no language model 'nowhere'"),
    ],
)
def test_mistakes_are_one_sentence(world, capsys, arguments, told):
    arguments = [str(world / "a.json") if word == "A" else word for word in arguments]
    assert told in sentence(capsys, "evaluate", "texts", *arguments, "--quiet")


def test_help_teaches(capsys):
    with pytest.raises(SystemExit):
        run(capsys, "evaluate", "texts", "--help")
    out = capsys.readouterr().out
    assert "coopgen evaluate texts greedy.json" in out and "--judge" in out
