"""`coopgen compare --seconds-per-text`, under a clock of the tests'."""

import json

import pytest

import coopgen_jax.cli.compare as command
from coopgen_jax.cli.compare_tuning import chosen_runs, notes_on, trial_table
from coopgen_jax.comparison import tuning, tuning_grid
from coopgen_jax.comparison.method_run import MethodRun
from coopgen_jax.comparison.tuning import Trial, Tuned
from coopgen_jax.comparison.tuning_grid import Grid
from coopgen_jax.decoding.methods.sampling import SamplingConfig
from tests.cli.judging import write_all
from tests.cli.running import run, sentence

PROMPTS = ["so", "a", "it is a long prompt"]
GRID = {
    "rerank": Grid("of", (2, 3, 5), ({"temperature": 0.5}, {"temperature": 2.0})),
    "fudge": Grid("candidates", (4, 8), ({"strength": 2},)),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = write_all(tmp_path_factory.mktemp("world"))
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    (folder / "others.txt").write_text("bad\nfilm\ngood\n")
    return folder


@pytest.fixture(autouse=True)
def timed(monkeypatch):
    """Has a text take as many seconds as it has rivals; returns what was written to tune."""
    real, written = tuning.lines_of, []

    def lines_of(job, batch, **how):
        written.append(job.run.method.name)
        seconds = float(getattr(job.run.config, "of", 9))
        return [line | {"seconds": seconds} for line in real(job, batch, **how)]

    monkeypatch.setattr(command, "keep_compilations", lambda folder: None)
    monkeypatch.setattr(tuning, "lines_of", lines_of)
    monkeypatch.setattr(tuning_grid, "GRIDS", GRID)
    return written


def job(world, out, *more, methods="rerank,fudge,greedy", seconds=3):
    return [
        "compare", "--methods", methods, "--prompts", world / "prompts.txt", "--out", out,
        "--seconds-per-text", seconds, "--tuning-prompts", world / "others.txt",
        "--target", "good", "bad", "--model", world / "base", "--discriminator", world / "guide",
        "--new-tokens", 3, "--batch-size", 4, "--quiet", *more,
    ]  # fmt: skip


def test_methods_are_tuned_and_then_compared(world, capsys, tmp_path, timed):
    status, out, err = run(capsys, *job(world, tmp_path, "--json", "--against", "fudge"))
    assert (status, err) == (0, "")
    report = json.loads(out)
    rerank, fudge, greedy = report["tuning"]["methods"]
    assert report["tuning"]["seconds_per_text"] == 3
    names = [row["method"] for row in report["methods"]]
    assert names == [rerank["chosen"], "fudge:candidates=4:strength=2", "greedy"]
    assert names[0].startswith("rerank:of=3:temperature=") and rerank["within_budget"]
    assert report["against"] == names[1]
    # The best is taken, or one as good by its error that is likelier.
    scored = [trial for trial in rerank["trials"] if trial["score"] is not None]
    best = max(scored, key=lambda trial: trial["score"])
    near = [trial for trial in scored if trial["score"] >= best["score"] - best["error"]]
    assert len(scored) == 2
    assert min(near, key=lambda trial: trial["perplexity"])["name"] == names[0]
    assert {trial["name"] for trial in rerank["trials"]} == {
        "rerank:of=2:temperature=0.5", "rerank:of=3:temperature=0.5",
        "rerank:of=5:temperature=0.5", "rerank:of=3:temperature=2.0",
    }  # fmt: skip
    # What cannot fit is there all the same, and the report says so.
    assert not fudge["within_budget"] and not greedy["within_budget"]
    assert any("over the budget: fudge takes 9.00 s" in note for note in report["notes"])
    for row in report["methods"]:
        assert row["texts"] == 6 and row["seconds_per_text"]["value"] > 0
    kept = {path.name: path.read_bytes() for path in tmp_path.rglob("*.jsonl")}
    assert {"rerank.jsonl", "fudge.jsonl", "greedy.jsonl"} <= kept.keys() and len(kept) == 5
    # The same command finds all of it there, and says the same.
    timed.clear()
    status, again, _ = run(capsys, *job(world, tmp_path, "--json", "--against", "fudge"))
    assert status == 0 and timed == [] and json.loads(again) == report
    assert {path.name: path.read_bytes() for path in tmp_path.rglob("*.jsonl")} == kept
    # For people all that was tried is a table in front.
    status, page, _ = run(capsys, *job(world, tmp_path, "--against", "fudge"))
    lines = page.splitlines()
    assert lines[0].split() == ["tried", "s/text", "log", "p(target)", "perplexity"]
    assert sum(line.endswith("chosen") for line in lines) == 1
    assert sum(line.endswith("over the budget") for line in lines) == 2
    assert "s/text" in page.partition("method ")[2]
    message = sentence(capsys, *job(world, tmp_path, seconds=2))
    assert "holds trials of another seconds per text: name another --out" in message


def test_a_chosen_method_is_what_its_name_says(world, capsys, tmp_path):
    status, out, _ = run(capsys, *job(world, tmp_path / "a", "--json", methods="rerank"))
    assert status == 0
    (row,) = json.loads(out)["methods"]
    words = job(world, tmp_path / "b", methods=row["method"])
    at = words.index("--seconds-per-text")
    assert run(capsys, *words[:at], *words[at + 4 :])[0] == 0
    for (one,), (other,) in [[list((tmp_path / f).glob("*.jsonl")) for f in ("a", "b")]]:
        assert one.name == other.name
        first, second = ([json.loads(line) for line in p.read_text().splitlines()] for p in
                         (one, other))  # fmt: skip
        assert first[0] == second[0]
        assert [row["tokens"] for row in first[1:]] == [row["tokens"] for row in second[1:]]


@pytest.mark.parametrize(
    ("methods", "more", "told"),
    [
        ("rerank", ["--seconds-per-text", "0"], "--seconds-per-text is 0.0: give seconds above 0"),
        ("rerank", ["--tuning-rows", "0"], "--tuning-rows is 0: give 1 or more"),
        ("rerank", ["--tuning-prompts", "PROMPTS"], "share 3, such as 'so': tune on other prompts"),
        ("rerank", ["--tuning-prompts", "nowhere.txt"], "nowhere.txt cannot be read"),
        ("rerank", ["--tuning-rows", "1"], "1 tuning prompts towards 2 targets do not fill"),
        ("rerank,rerank", [], "--methods names rerank twice"),
        ("rerank:of=many", [], "--of is 'many'"),
        ("rerank:temperature=-1", [], "temperature is -1.0: give 0"),
        ("rerank:discriminator=none", [], "rerank"),
        ("rerank", ["--judge", "KNOWING"], "were both trained on 1 of"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(world, capsys, tmp_path, methods, more, told):
    places = {"PROMPTS": world / "prompts.txt", "KNOWING": world / "knowing"}
    more = [places.get(word, word) for word in more]
    assert told in sentence(capsys, *job(world, tmp_path / "new", *more, methods=methods))
    assert not list(tmp_path.rglob("*.jsonl"))


@pytest.mark.parametrize("left_out", ["--seconds-per-text", "--tuning-prompts"])
def test_seconds_and_prompts_belong_together(world, capsys, tmp_path, left_out):
    words = job(world, tmp_path)
    at = words.index(left_out)
    assert f"is there without {left_out}" in sentence(capsys, *words[:at], *words[at + 2 :])


def test_methods_may_come_to_the_same():
    one = MethodRun("rerank:of=2", SamplingConfig())
    trials = (Trial("rerank:of=2", 1.0, -0.5, 0.25, 7.0), Trial("rerank:of=0", refused="of is 0"))
    tuned = [Tuned("rerank", one, 1.0, True, trials), Tuned("rerank:of=2", one, 1.0, True, ())]
    assert [run.name for run in chosen_runs(tuned)] == ["rerank:of=2"]

    class Options:
        seconds_per_text = 2.0

    assert notes_on(Options, tuned)[-1] == "rerank:of=2 came to what rerank came to: rerank:of=2"
    table = trial_table(tuned, "markdown").splitlines()
    assert table[2:] == [
        "| rerank:of=2 | 1.00 | -0.500 ± 0.250 | 7.00 | chosen |",
        "| rerank:of=0 | - | - | - | refused: of is 0 |",
    ]


def test_help_teaches_it(capsys):
    with pytest.raises(SystemExit):
        run(capsys, "compare", "--help")
    page = " ".join(capsys.readouterr().out.split())
    assert "--seconds-per-text 1.5" in page and "--tuning-prompts FILE" in page
