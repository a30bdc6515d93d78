"""What `coopgen train gcn` does with its defaults, its examples and its mistakes."""

import json
import re
import shlex
from dataclasses import replace

import numpy as np
import pytest
from jax.sharding import AbstractMesh

from coopgen_jax.cli import _parse_train, main, train_gcn, train_options
from coopgen_jax.cli.ask import spelt
from coopgen_jax.cli.train_gcn import round_of, training_of
from coopgen_jax.cli.train_options import GcnOptions
from coopgen_jax.decoding.mcts.mcts_config import ByVisits, MCTSConfig, Reference
from coopgen_jax.decoding.methods.sampling import SamplingConfig
from coopgen_jax.errors import UserError
from coopgen_jax.parallel.mesh import BATCH
from coopgen_jax.training.gcn.gcn_config import GcnConfig
from coopgen_jax.training.gcn.gcn_training import check_gcn
from tests.processes import ROOT
from tests.training.gcn.gcn_worker import WORDS, language, pairs

SMALL = [
    "--model",
    "tiny",
    "--rounds",
    "2",
    "--new-tokens",
    "4",
    "--source-tokens",
    "5",
    "--sources",
    "2",
    "--samples",
    "2",
    "--quiet",
    "--judge-rows",
    "4",
    "--judge-steps",
    "1",
    "--first-judge-steps",
    "2",
    "--replay-rows",
    "4",
    "--sample-texts",
    "2",
    "--validation-rows",
    "2",
    "--validate-every",
    "2",
    "--rank",
    "2",
    "--json",
]

MODELS = {"tiny": language, "other": lambda: replace(language(), name="other", sha256="1" * 64)}


@pytest.fixture
def data(tmp_path, monkeypatch) -> list[str]:
    monkeypatch.setattr(train_gcn, "load", lambda name, **how: MODELS[name]())
    rng = np.random.default_rng(0)
    rows = [
        {"context": " ".join(rng.choice(WORDS[:9], 2)), "question": str(rng.choice(WORDS[:9]))}
        for _ in range(6)
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
        "--data", str(path), "--validation", str(path), "--source", "context", "--text",
        "question", "--template", "{} w58", "--out", str(tmp_path / "out"),
    ]  # fmt: skip


@pytest.mark.slow
def test_the_defaults_train_and_go_on_behind_a_budget(data, tmp_path, capsys):
    job = ["train", "gcn", *data, *SMALL]
    loud = [word for word in job if word != "--quiet"]
    assert main([*loud, "--budget-minutes", "1e-9"]) == 0
    printed, told = capsys.readouterr()
    assert told.count("compiling the first round") == 1
    first = json.loads(printed)
    assert (first["stopped"], first["rounds"], first["trained"]) == ("budget", 1, "LoRA of rank 2")
    assert first["last"]["kl_to_start"] >= 0
    assert main(job) == 0
    card = json.loads(capsys.readouterr().out)
    assert (card["stopped"], card["rounds"], card["start"]) == ("steps", 2, first["start"])
    out = tmp_path / "out"
    for name in ("model.safetensors", "rows.npy", "judge/head.safetensors", "judge/rows.npy"):
        assert (out / name).is_file(), name
    judge = json.loads((out / "judge" / "card.json").read_text())
    assert judge["classes"] == ["generated", "human"] and judge["objective"] == "gcn"
    assert main([*loud, "--rounds", "1", "--objective", "gan"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "holds a training with another round objective (gcn, and gan is asked for)" in told


def test_the_discriminator_begins_as_the_model_that_is_named(data, tmp_path, capsys):
    job = ["train", "gcn", *data, *SMALL, "--rounds", "1", "--judge-model", "other"]
    assert main([*job, "--objective", "mle"]) == 2
    assert "mle has no discriminator, so no model for it" in capsys.readouterr().err
    assert main(job) == 0
    card = json.loads(capsys.readouterr().out)
    assert (card["model"], card["judge_model"]) == ("tiny", "other")
    judge = json.loads((tmp_path / "out/judge/card.json").read_text())
    assert (judge["model"], judge["model_sha256"]) == ("other", "1" * 64)


def test_every_example_can_be_said():
    text = train_options.EXAMPLES.replace("\\\n", " ")
    lines = [line.split() for line in text.splitlines() if line.strip().startswith("coopgen train")]
    assert len(lines) >= 6
    for line in lines:
        options = _parse_train(shlex.split(" ".join(line[2:])))
        if isinstance(options.what, GcnOptions):
            assert round_of(options.what).covers


def options(*more: str) -> GcnOptions:
    found = _parse_train(["gcn", "--data", "a.txt", "--validation", "b.txt", "--out", "c", *more])
    assert isinstance(found.what, GcnOptions)
    return found.what


def test_what_samples_where_nothing_is_said():
    nucleus = round_of(options()).proposal
    assert isinstance(nucleus, SamplingConfig)
    assert (nucleus.rules.top_p, nucleus.mix_base, nucleus.new_tokens) == (0.9, 0.1, 32)
    for name in ("gan", "mle"):
        assert round_of(options("--objective", name)).own
    assert isinstance(round_of(options("--objective", "selfgan")).proposal, MCTSConfig)
    tree = "mcts:preset=puct:visit_temperature=1:mix_base=0.2"
    assert round_of(options("--proposal", tree)).proposal.mix_base == 0.2


def test_what_the_discriminator_reads_and_drops():
    for said, meant in (("auto", None), ("beginnings", True), ("texts", False)):
        assert round_of(options("--judge-reads", said)).prefixes is meant
    assert training_of(options()).dropout == 0.1
    assert training_of(options("--judge-dropout", "0.4")).dropout == 0.4


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (["--judge-dropout", "1"], "dropout is 1.0: give a share from 0 to below 1"),
        (["--samples", "0"], "--samples is 0: give 1 or more"),
        (["--sample-texts", "1"], "self-BLEU wants 2"),
        (["--seed", "-1"], "seed is -1: give a number from 0"),
        (["--warmup", "-3"], "warmup is -3: give 0 or more"),
        (["--proposal", "greedy"], "^--proposal greedy: gcn weighs .* train by selfgan"),
        (["--judge-rows", "5"], "^discriminator_rows is 5: half of them are human texts"),
        (["--proposal", "sample:top_p=0.8", "--kl", "-1"], "^kl is -1.0: give a price"),
        (["--objective", "gdc", "--clip", "2"], "^clip says nothing to gdc, only to gcn"),
        (["--baseline", "mean"], "^baseline and scheduler say nothing to gcn"),
        (["--gradient-clip", "-1"], "^a gradient's largest norm is -1.0: give one above 0"),
        (["--proposal", "nonsense"], "--proposal has 'nonsense'"),
        (["--proposal", "sample:control_code=x"], "control_code says nothing"),
        (["--proposal", "mcts:preset=ppo:kl=0.1"], "kl says nothing to it: leave it out"),
        (["--proposal", "sample:begin_with=x"], "begin_with says nothing"),
        (["--rank", "-1"], "--rank is -1"),
        (["--objective", "selfgan", "--proposal", "sample"], "imitates what a decoder"),
    ],
)
def test_mistakes_are_told(said, sentence):
    what = options(*said)
    with pytest.raises(UserError, match=sentence):
        training_of(what)
        round_of(what)


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (["--samples", "1"], "give samples of 2 or more"),
        (["--objective", "gdc"], "every source has its own"),
        (["--pieces", "3"], "cannot be split into 3 equal micro-batches"),
        (["--proposal", "gedi:draw=true", "--objective", "selfgan"], "gedi and pplm"),
        (["--template", "no place"], "must have {} once"),
        (["--judge-rows", "5"], "--discriminator-rows is 5: half of them"),
        (["--generator-steps", "0"], "--generator-steps is 0: it must be 1 or more"),
        (["--kl", "-1"], "--kl is -1.0: give a price"),
        (["--budget-minutes", "-1"], "--budget-minutes is -1.0: it must be above 0"),
    ],
)
def test_mistakes_leave_no_folder_behind(data, tmp_path, capsys, said, sentence):
    assert main(["train", "gcn", *data, *SMALL, *said]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_names_of_options_are_spelt_as_flags_but_not_in_paths_or_quotes():
    names = ("rows", "judge_rows", "baseline")
    for sentence, wanted in (
        ("judge_rows of 3 and 4 rows", "--judge-rows of 3 and 4 rows"),
        ("rows is 0: give 1", "--rows is 0: give 1"),
        ("baseline and scheduler say nothing", "--baseline and scheduler say nothing"),
        ("/x/judge_rows.txt has no column 'judge_rows'",) * 2,
    ):
        assert spelt(sentence, names) == wanted


def test_a_warning_is_printed_unless_quiet(data, monkeypatch, capsys):
    def warn(*given, watch, **more):
        watch("sampled", None)
        watch("warning", "samples have become alike")
        return {"stopped": "steps"}

    monkeypatch.setattr(train_gcn, "train_gcn", warn)
    loud = [word for word in SMALL if word != "--quiet"]
    for said, told in ((loud, 1), (SMALL, 0)):
        assert main(["train", "gcn", *data, *said]) == 0
        assert capsys.readouterr().err.count("coopgen: samples have become alike\n") == told


def test_what_is_cut_is_told_and_all_that_is_cut_refused(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train_gcn, "train_gcn", lambda *given, **more: {"stopped": "steps"})
    job = ["train", "gcn", *data, *[word for word in SMALL if word != "--quiet"]]
    assert main(job) == 0 and " cut " not in capsys.readouterr().err
    rows = [{"context": "w1 " * (3 + 2 * (number > 3)), "question": "w2 " * (3 + (number > 2))}
            for number in range(6)]  # fmt: skip
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(job) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if " cut " in line]
    # Of training and validation texts each.
    assert len(lines) == 4
    assert "2 of 6 sources are cut at 5 tokens" in lines[0] and "--source-tokens" in lines[0]
    assert "3 of 6 texts are cut at 4 tokens" in lines[1] and "--new-tokens" in lines[1]
    assert main([*job, "--new-tokens", "3"]) == 2
    assert "all 6 texts have more than 3 tokens" in capsys.readouterr().err


def test_the_tutorials_judge_of_a_search_has_learnt_beginnings():
    page = ROOT / "docs/tutorials/writer_and_critic.md"
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    guided = re.findall(r"^coopgen generate .*--discriminator (\w+)/judge", text, re.M)
    assert guided
    for folder in guided:
        (line,) = re.findall(rf"^coopgen train gcn (.*--out {folder}\b.*)$", text, re.M)
        what = _parse_train(["gcn", *shlex.split(line)]).what
        assert isinstance(what, GcnOptions) and round_of(what).reads_prefixes


def test_a_memory_that_the_devices_do_not_divide_is_refused():
    proposal = SamplingConfig(new_tokens=4, samples=2)
    how = training_of(options("--devices", "4"))

    def check(rows: int) -> None:
        config = GcnConfig(proposal=proposal, sources=8, replay_rows=rows)
        mesh = AbstractMesh((4,), (BATCH,))
        check_gcn(language(), language(), pairs(0, 8, True), config, how, mesh)

    with pytest.raises(UserError, match="replay_rows of 10 cannot be split over 4 devices"):
        check(10)
    check(0)
    check(12)


def test_a_proposal_that_is_charged_for_leaving_a_reference_is_refused():
    free = MCTSConfig(new_tokens=4, samples=2, choice=ByVisits(visit_temperature=1.0))

    def check(proposal: MCTSConfig) -> None:
        config = GcnConfig(proposal=proposal, objective="selfgan", sources=8)
        mesh = AbstractMesh((1,), (BATCH,))
        check_gcn(language(), language(), pairs(0, 8, True), config, training_of(options()), mesh)

    check(free)
    with pytest.raises(UserError, match="take a search whose kl is 0"):
        check(replace(free, reference=Reference(kl=0.1)))
