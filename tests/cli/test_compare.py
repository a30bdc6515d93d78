"""`coopgen compare`: what is written, what is kept, and what is measured."""

import json
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import chisquare

import coopgen_jax as cg
import coopgen_jax.cli.compare as command
from coopgen_jax.cli.compare_methods import method_options
from coopgen_jax.cli.options import GenerateOptions
from coopgen_jax.comparison import writing
from coopgen_jax.comparison.writing import batches_of, drawn
from coopgen_jax.errors import UserError
from coopgen_jax.models.pretrained import hub
from coopgen_jax.models.pretrained.loaded_model import load
from tests.cli.judging import write_all
from tests.cli.running import run, sentence

PROMPTS = ["so", "a", "bad", "it is a long prompt", "film"]
GUIDED = "mcts:simulations=2:wave=1:candidates=2:depth=2:considered=0"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = write_all(tmp_path_factory.mktemp("world"))
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    return folder


@pytest.fixture(autouse=True)
def no_compilations_kept(monkeypatch):
    monkeypatch.setattr(command, "keep_compilations", lambda folder: None)


def job(world, out, methods="greedy,sample:top_p=0.9", *more):
    return [
        "compare", "--methods", methods, "--prompts", world / "prompts.txt", "--out", out,
        "--target", "good", "bad", "--model", world / "base", "--discriminator", world / "guide",
        "--new-tokens", 3, "--batch-size", 4, "--quiet", *more,
    ]  # fmt: skip


def test_who_judges_is_told_before_anything_is_written(world, capsys, tmp_path, monkeypatch):
    def stop(*runs, **settings):
        raise UserError("this far")

    monkeypatch.setattr(command, "compare", stop)
    asked = job(world, tmp_path / "x", "greedy", "--judge", world / "judge")
    status, _, err = run(capsys, *(word for word in asked if word != "--quiet"))
    assert status == 2 and err.endswith("coopgen: error: this far\n")
    assert err.startswith("coopgen: note: ") and "have no row in common" in err.splitlines()[0]
    assert run(capsys, *asked)[2] == "coopgen: error: this far\n"


def rows_of(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def rows_of_run(world, capsys, out, methods) -> dict[str, list[dict]]:
    status, _, errors = run(capsys, *job(world, out, methods))
    assert status == 0, errors
    return {path.stem: rows_of(path) for path in out.glob("*.jsonl")}


def untimed(rows):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    """What a run writes that nobody interrupts."""
    out = tmp_path_factory.mktemp("whole")
    command.keep_compilations, kept = (lambda folder: None), command.keep_compilations
    try:
        from coopgen_jax.cli import main

        methods = f"greedy,sample:top_p=0.9,{GUIDED}"
        judged = ["--judge", world / "judge", "--oracle", world / "oracle"]
        assert main([str(word) for word in job(world, out, methods, *judged)]) == 0
    finally:
        command.keep_compilations = kept
    return out


def test_every_method_writes_every_prompt_towards_every_target(whole):
    names = {path.name for path in whole.iterdir()}
    stem = GUIDED.replace(":", "-").replace("=", "-")
    assert names == {
        "greedy.jsonl", "sample-top_p-0.9.jsonl", f"{stem}.jsonl", "figures.json", "figures.txt",
        "figures.png",
    }  # fmt: skip
    for name in names:
        if not name.endswith("jsonl"):
            continue
        header, *rows = rows_of(whole / name)
        assert header["discriminator"]["name"].endswith("guide")
        asked = [(row["prompt"], row["target"]) for row in rows]
        assert sorted(asked) == sorted((p, t) for p in PROMPTS for t in ("good", "bad"))
        assert [row["batch"] for row in rows] == [0] * 4 + [1] * 4 + [2] * 2
        assert all(row["seconds"] > 0 for row in rows)
    assert rows_of(whole / "sample-top_p-0.9.jsonl")[0]["settings"]["top_p"] == 0.9
    report = json.loads((whole / "figures.json").read_text())
    assert [row["method"] for row in report["methods"]] == ["greedy", "sample:top_p=0.9", GUIDED]
    for row in report["methods"]:
        assert row["texts"] == 10 and row["seconds_per_token"]["batches"] == 1
        assert {"accuracy", "perplexity", "calls_per_token"} <= set(row)
    assert report["methods"][2]["paired"]["pairs"] == 10


@pytest.mark.parametrize("kept", [0, 0.02, 0.55, 0.9, 0.999])
def test_a_file_that_was_cut_anywhere_is_gone_on_with(world, whole, capsys, tmp_path, kept):
    before = (whole / "sample-top_p-0.9.jsonl").read_bytes()
    path = tmp_path / "sample-top_p-0.9.jsonl"
    path.write_bytes(before[: int(kept * len(before))])
    status, _, err = run(capsys, *job(world, tmp_path, "sample:top_p=0.9"))
    assert (status, err) == (0, "")
    expected, found = rows_of(whole / path.name), rows_of(path)
    assert untimed(found) == untimed(expected)
    # What was whole is not written anew: it keeps its seconds.
    batches = [row["batch"] for row in expected[1:]]
    stood = before[: int(kept * len(before))].count(b"\n") - 1
    for row, other, batch in zip(found[1:], expected[1:], batches, strict=True):
        complete = sum(other <= batch for other in batches) <= stood
        assert (row["seconds"] == other["seconds"]) == complete


def test_a_whole_file_is_left_as_it_is(world, whole, capsys, tmp_path, monkeypatch):
    for path in whole.glob("*.jsonl"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(writing, "generate", lambda *_, **__: pytest.fail("written again"))
    status, out, _ = run(capsys, *job(world, tmp_path), "--json")
    assert status == 0 and len(json.loads(out)["methods"]) == 2
    for name in ("greedy.jsonl", "sample-top_p-0.9.jsonl"):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.slow
def test_a_killed_run_is_gone_on_with(world, whole, capsys, tmp_path):
    worker = (
        "import os, signal, sys\n"
        "import coopgen_jax.cli.compare as command\n"
        "from coopgen_jax.comparison import writing\n"
        "real, count = writing.append, 0\n"
        "def append(path, rows):\n"
        "    global count\n"
        "    real(path, rows)\n"
        "    count += 1\n"
        "    if count == 2:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "writing.append = append\n"
        "command.keep_compilations = lambda folder: None\n"
        "from coopgen_jax.cli import main\n"
        "main(sys.argv[1:])\n"
    )
    words = [str(word) for word in job(world, tmp_path, "greedy")]
    ended = subprocess.run([sys.executable, "-c", worker, *words], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert len(rows_of(tmp_path / "greedy.jsonl")) == 1 + 8
    assert run(capsys, *words)[0] == 0
    expected = untimed(rows_of(whole / "greedy.jsonl"))
    assert untimed(rows_of(tmp_path / "greedy.jsonl")) == expected


@pytest.mark.parametrize(
    ("content", "more", "told"),
    [
        (None, ["--seed", 1], "holds texts of another seed: name another --out, or delete it"),
        (None, ["--new-tokens", 2], "holds texts of another new tokens"),
        (b"[1]\n", [], "has no texts of this command"),
        (b"words\n", [], "line 1 of .* is not JSON"),
        (b"words without an end", [], "has no texts of this command"),
        (b"H{}\nx\n", [], "line 3 of .* is not JSON"),
        (b"H" + b"{}\n" * 11, [], "holds more texts than are to be written"),
    ],
)
def test_other_files_are_not_touched(world, whole, capsys, tmp_path, content, more, told):
    path = tmp_path / "greedy.jsonl"
    there = (whole / path.name).read_bytes()
    header = there[: there.index(b"\n") + 1]
    content = there if content is None else content.replace(b"H", header, 1)
    path.write_bytes(content)
    pattern = pytest.raises(UserError, match=told)
    message = sentence(capsys, *job(world, tmp_path, "greedy", *more))
    with pattern:
        raise UserError(message)
    assert path.read_bytes() == content


def test_batches_are_full():
    assert batches_of([16, 16, 32, 16, 16], 2) == [
        ([0, 1], [0, 1]),
        ([3, 4], [3, 4]),
        ([4, 2], [2]),
    ]
    assert batches_of([16, 16], 8) == [([0, 1], [0, 1])]


def test_a_method_has_options_of_its_own():
    common = GenerateOptions(target="good")
    found = method_options("mcts:simulations=64:c-puct=2:preset=puct:samples=2", common)
    assert (found.method, found.settings) == ("mcts", {"simulations": 64, "c_puct": 2.0})
    assert (found.preset, found.samples, found.target) == ("puct", 2, "good")
    assert found.discriminator == "sentiment"
    plain = method_options("sample:discriminator=none:bad_words=a+b", common)
    assert plain.target is None and plain.words == {"bad_words": ("a", "b")}


def test_of_weighted_texts_one_is_drawn_by_the_weights():
    weights = np.array([0.1, 0.6, 0.3, 0.0])
    with np.errstate(divide="ignore"):
        # Weights are known up to a factor.
        logs = np.log(weights) - 1000
    lines = [
        {"text": number, "log_weight": log, "seconds": 0.5, "model_tokens": 3}
        for number, log in enumerate(logs)
    ]
    found = [drawn(lines, (0, row)) for row in range(3000)]
    assert {(line["seconds"], line["model_tokens"]) for line in found} == {(2.0, 12)}
    counts = np.bincount([line["text"] for line in found], minlength=4)
    assert counts[3] == 0
    assert chisquare(counts[:3], 3000 * weights[:3]).pvalue > 0.01
    assert drawn(lines, (0, 7)) == found[7]
    # Where all are impossible each comes as often.
    lost = [line | {"log_weight": -np.inf} for line in lines]
    assert {drawn(lost, (0, row))["text"] for row in range(50)} == {0, 1, 2, 3}


def test_a_comparison_keeps_one_of_a_prompts_particles(world, capsys, tmp_path):
    methods = "smc:samples=3,stochastic-beam:samples=2"
    rows = rows_of_run(world, capsys, tmp_path, methods)
    for name in ("smc-samples-3", "stochastic-beam-samples-2"):
        header, *texts = rows[name]
        assert header["settings"]["kept"] == "one by weight"
        assert {(row["prompt"], row["target"]) for row in texts} == {
            (prompt, target) for prompt in PROMPTS for target in ("good", "bad")
        }
        assert len(texts) == 2 * len(PROMPTS)
    assert {row["sample"] for row in rows["smc-samples-3"][1:]} > {0}


def test_a_prompt_that_is_too_long_is_told_before_a_file_is_made(world, capsys, tmp_path):
    (tmp_path / "prompts.txt").write_text("so\n" + "a " * 200)
    out = tmp_path / "out"
    words = job(world, out)
    words[words.index("--prompts") + 1] = tmp_path / "prompts.txt"
    assert "prompt 2 has" in sentence(capsys, *words)
    assert not list(out.glob("*.jsonl"))


@pytest.mark.parametrize(
    ("methods", "more", "told"),
    [
        ("greedy,dance", [], "--methods has 'dance': known are mcts"),
        ("greedy,greedy", [], "--methods names greedy twice"),
        ("greedy:top_p=1", [], "'top_p=1' is no option of greedy as key=value; it takes"),
        ("mcts:simulations", [], "'simulations' is no option of mcts as key=value"),
        ("mcts:simulations=many", [], "--simulations is 'many', which is no value of it"),
        ("mcts:preset=best", [], "preset is 'best': known are default, puct"),
        ("mcts:simulations=0", [], "simulations is 0"),
        ("smc", [], "give --samples 8, say"),
        ("greedy", ["--target", "good", "good"], "a --target is named twice"),
        ("greedy", ["--target", "fine"], "--target fine is unknown to"),
        ("greedy", ["--judge", "JUDGE", "--rename", "good=fine"], "'fine', and the judge knows"),
        ("gedi:draw=no", [], "draw is 'no': give true or false"),
        ("greedy", ["--judge", "KNOWING"], "were both trained on 1 of"),
        ("greedy", ["--judge", "nowhere"], "nowhere is neither a folder with a card.json"),
        ("greedy", ["--oracle", "nowhere"], "nowhere"),
        ("greedy", ["--oracle", "BASE"], "itself wrote the texts of greedy"),
        ("greedy:anti_expert=ORACLE", ["--oracle", "ORACLE"], "oracle itself wrote the texts of"),
        ("greedy:anti_expert=ORACLE", ["--judge", "SIX"], "were both trained on 1 of"),
        ("greedy", ["--against", "x"], "there is no method 'x' to compare with: greedy"),
        ("greedy", ["--reference", "nowhere"], "nowhere cannot be read"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(world, capsys, tmp_path, methods, more, told):
    names = ("JUDGE", "KNOWING", "BASE", "ORACLE", "SIX")
    places = {name: world / name.lower() for name in names}
    more = [places.get(word, word) for word in more]
    methods = methods.replace("ORACLE", str(places["ORACLE"]))
    assert told in sentence(capsys, *job(world, tmp_path / "new", methods, *more))
    assert not list((tmp_path / "new").glob("*.json*"))


def test_an_oracle_of_the_hub_is_fetched_before_a_text_is_written(
    world, whole, capsys, tmp_path, monkeypatch
):
    asked = []

    def offline(name, **_):
        asked.append(name)
        raise OSError("no route")

    named = job(world, tmp_path / "out", "greedy", "--oracle", "someone/gpt2")
    monkeypatch.setattr(hub, "snapshot_download", offline)
    assert "someone/gpt2" in sentence(capsys, *named) and set(asked) == {"someone/gpt2"}
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(hub, "snapshot_download", lambda name, **_: str(world / "oracle"))
    assert run(capsys, *named)[0] == 0
    report, before = (
        json.loads((at / "figures.json").read_text()) for at in (tmp_path / "out", whole)
    )
    assert report["oracle"] == "someone/gpt2"
    assert report["methods"][0]["perplexity"] == before["methods"][0]["perplexity"]


def test_help_teaches(capsys):
    with pytest.raises(SystemExit):
        run(capsys, "compare", "--help")
    assert "coopgen compare --methods greedy,fudge,mcts" in capsys.readouterr().out


def test_a_method_may_write_by_several_models(world, tmp_path, capsys):
    methods = f"greedy,greedy:anti_expert={world / 'oracle'}:expert_weight=2"
    code, _, err = run(capsys, *job(world, tmp_path, methods))
    assert code == 0, err
    (one,), (two,) = (tmp_path.glob("greedy.jsonl"), tmp_path.glob("greedy-*.jsonl"))
    (alone, *_), (header, *rows) = rows_of(one), rows_of(two)
    assert "parts" not in alone["model"]
    assert [part["weight"] for part in header["model"]["parts"]] == [3.0, -2.0]
    assert header["settings"]["expert_weight"] == 2 and len(rows) == 2 * len(PROMPTS)


def test_a_search_may_be_charged_for_leaving_a_reference(world, tmp_path, capsys):
    methods = f"{GUIDED}:reference={world / 'oracle'}:kl=2"
    found = rows_of_run(world, capsys, tmp_path / "out", methods)
    (header, *rows) = next(iter(found.values()))
    assert header["reference"]["name"] == str(world / "oracle")
    assert header["settings"]["kl"] == 2 and len(rows) == 2 * len(PROMPTS)


def test_a_control_code_may_name_the_target(world, tmp_path, capsys):
    methods = (
        "greedy:discriminator=none:control_code={target}\\: a\\, film,greedy:discriminator=none"
    )
    code, _, err = run(capsys, *job(world, tmp_path, methods))
    assert code == 0, err
    (coded,) = tmp_path.glob("*film.jsonl")
    header, *rows = rows_of(coded)
    assert header["settings"]["control_code"] == "{target}: a, film"
    for target in ("good", "bad"):
        own = {row["prompt"]: row["tokens"] for row in rows if row["target"] == target}
        texts = cg.generate(
            cg.combined(load(world / "base"), control_code=f"{target}: a, film"),
            PROMPTS,
            config=cg.SamplingConfig(new_tokens=3, rules=cg.Rules(temperature=0.0)),
        )
        assert own == {text.prompt: list(text.tokens) for text in texts}
    # The bare model does not know the targets, so that its texts are the same for both.
    _, *plain = rows_of(tmp_path / "greedy-discriminator-none.jsonl")
    assert len({(row["prompt"], tuple(row["tokens"])) for row in plain}) == len(PROMPTS)
    assert len({(row["prompt"], tuple(row["tokens"])) for row in rows}) > len(PROMPTS)


def test_another_expert_of_any_target_makes_other_texts(world, tmp_path, capsys):
    for name in ("ex-good", "ex-bad"):
        shutil.copytree(world / "oracle", tmp_path / name)
    methods = f"greedy:expert={tmp_path}/ex-{{target}}:expert_weight=2"
    assert run(capsys, *job(world, tmp_path / "out", methods))[0] == 0
    shutil.rmtree(tmp_path / "ex-bad")
    shutil.copytree(world / "base", tmp_path / "ex-bad")
    assert "holds texts of another" in sentence(capsys, *job(world, tmp_path / "out", methods))


def test_a_header_without_texts_gives_way_and_names_may_differ_in_signs(world, tmp_path, capsys):
    shutil.copytree(world / "base", tmp_path / "base")
    (tmp_path / "prompts.txt").write_text("so")
    methods = "greedy:control_code=a film,greedy:control_code=a-film"
    assert run(capsys, *job(world, tmp_path / "out", methods))[0] == 0
    one, two = sorted((tmp_path / "out").glob("*.jsonl"))
    header, *rows = one.read_text().splitlines()
    one.write_text(header + "\n")
    assert run(capsys, *job(world, tmp_path / "out", methods), "--seed", 3)[0] == 2
    two.unlink()
    assert run(capsys, *job(world, tmp_path / "out", methods, "--seed", 3))[0] == 0
    assert json.loads(one.read_text().splitlines()[0])["settings"]["seed"] == 3 and rows


def test_values_of_a_method_may_look_like_flags_and_switches():
    common = GenerateOptions(target="positive")

    def words(text: str) -> dict:
        return dict(method_options(text, common).words)

    assert words("sample:stop=-x+--top-p") == {"stop": ("-x", "--top-p")}
    assert words("sample:begin_with=true:stop=false") == {"begin_with": "true", "stop": ("false",)}
    assert words("sample:begin_with=C++ is") == {"begin_with": "C++ is"}
    assert words("sample:token_bias=was=-2") == {"token_bias": ("was=-2",)}
    assert method_options("mcts:anneal=false", common) == method_options("mcts", common)
