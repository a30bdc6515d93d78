"""Several processes write what one writes; one that fails is named."""

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from coopgen_jax.cli.machines import check_machines, mesh_of, united, whole_parts
from coopgen_jax.cli.options import GenerateOptions
from coopgen_jax.cli.train_options import LanguageModelOptions
from coopgen_jax.errors import UserError
from coopgen_jax.parallel import rendezvous
from coopgen_jax.parallel.rendezvous import meet
from coopgen_jax.testing import TINY_LLAMA
from tests.processes import ROOT, ends_of, environment, free_port, kept_programs

WRITE = ["generate", "a b", "c", "d e", "--discriminator", "none", "--method", "sample"]
WRITE += ["--new-tokens", "3", "--batch-size", "1", "--json", "--quiet", "--seed", "4"]


def run(wrong: str, *arguments: str) -> subprocess.Popen:
    command = [
        sys.executable,
        str(ROOT / "tests" / "bulk" / "hosts_worker.py"),
        wrong,
        *WRITE,
        *arguments,
    ]
    return subprocess.Popen(
        command, env=environment(2) | kept_programs(), cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def run_both(wrong: str) -> list[tuple[int, str, str]]:
    """Returns exit status, output and errors of processes 0 and 1."""
    job = ["--coordinator", f"localhost:{free_port()}", "--hosts", "2", "--devices", "2", "--host"]
    return ends_of([run(wrong, *job, str(number)) for number in range(2)])


# Who looks for a file of another process finds it at once here.
TRAIN = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell may have it ignore
from coopgen_jax.cli import main
from coopgen_jax.training import training_folder as claim
claim.PATIENCE = 1.0
sys.exit(main(["train", *sys.argv[1:]]))
"""


def train(number_of_devices: int, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", TRAIN, *arguments],
        env=environment(number_of_devices) | kept_programs(), cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def train_both(*commands: list[str]) -> list[tuple[int, str, str]]:
    """Returns the ends of processes 0 and 1 of a training, of one command or one of each."""
    job = ["--coordinator", f"localhost:{free_port()}", "--hosts", "2", "--host"]
    first, second = commands * (2 if len(commands) == 1 else 1)
    return ends_of([train(1, *first, *job, "0"), train(1, *second, *job, "1")])


def small(folder: Path) -> list[str]:
    """Returns how a small language model is trained on texts that are left in a folder."""
    rng = np.random.default_rng(0)
    words = ["red", "green", "blue", "cat", "dog", "bird", "runs", "sleeps"]
    texts = [" ".join(rng.choice(words, 4)) for _ in range(40)]
    (folder / "texts.txt").write_text("\n".join(texts))
    data = [f"--{name}={folder / 'texts.txt'}" for name in ("data", "validation")]
    return ["lm", *data, "--from-scratch", "--vocabulary", "300", "--layers", "1", "--width", "64",
            "--rows", "8", "--longest", "8", "--epochs", "0.4"]  # fmt: skip


@pytest.mark.slow
def test_two_processes_train_what_one_trains(tmp_path):
    lm, own, both = small(tmp_path), tmp_path / "own", tmp_path / "both"
    (begun,) = ends_of([train(1, *lm, "--out", str(tmp_path / "lm"))])
    assert begun[0] == 0, begun
    # What is added to a network (LoRA), by draws from a tree that each process searches for itself.
    gcn = ["gcn", *lm[1:3], "--model", str(tmp_path / "lm"), "--rank", "2", "--rounds", "2",
           "--proposal", "mcts:preset=values:simulations=4", "--new-tokens", "6", "--sources", "4",
           "--samples", "2", "--judge-rows", "8", "--judge-steps", "1", "--first-judge-steps", "2",
           "--replay-rows", "8", "--sample-texts", "8", "--validation-rows", "8",
           "--validate-every", "2", "--learning-rate", "1e-2"]  # fmt: skip
    first, second = train_both([*gcn, "--json", "--out", str(both)])
    (alone,) = ends_of([train(2, *gcn, "--devices", "2", "--out", str(own))])
    assert [first[0], second[0], alone[0]] == [0, 0, 0], (first, second, alone)
    # Gloo, which tells of itself on standard output, spoils neither.
    assert json.loads(first[1]) == json.loads((both / "card.json").read_text())
    assert json.loads(first[1])["stopped"] == "steps"
    assert second[1] == "" and said(second[2]) == []
    paths = sorted(path.relative_to(own) for path in own.rglob("*.safetensors"))
    assert len(paths) == 3, "generator, discriminator and its head"
    for path in paths:
        one, two = (safetensors.numpy.load_file(folder / path) for folder in (own, both))
        assert one.keys() == two.keys()
        for key in one:
            np.testing.assert_allclose(two[key], one[key], atol=1e-4, err_msg=f"{path} {key}")
    after, before = (
        safetensors.numpy.load_file(folder / "model.safetensors")
        for folder in (own, tmp_path / "lm")
    )
    assert max(np.abs(after[key] - before[key]).max() for key in before) > 1e-3
    for end in train_both([*gcn, "--out", str(both)], [*gcn, "--out", str(both), "--rounds", "3"]):
        assert end[0] == 2 and "were given different settings" in said(end[2])[-1], end


@pytest.mark.slow
def test_a_machine_that_cannot_train_is_told_of_by_the_others(tmp_path):
    lm = [*small(tmp_path), "--out", str(tmp_path / "out")]
    first, second = train_both(lm, [*lm, "--data", str(tmp_path / "missing.txt")])
    assert (first[0], second[0]) == (2, 2), (first, second)
    assert "missing.txt is not a file" in said(second[2])[0]
    assert "the machines cannot go on together" in said(first[2])[-1]
    assert "Traceback" not in first[2]


@pytest.mark.parametrize(
    ("first", "second", "sentence"),
    [
        pytest.param(
            ("here", 1),
            ("here", 2),
            "the machines were given different settings",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("here", 1),
            ("there", 1),
            "is not the same folder on all machines",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_machines_that_differ_are_told(tmp_path, first, second, sentence):
    lm = small(tmp_path)
    commands = (
        [*lm, "--out", str(tmp_path / out), "--seed", str(seed)] for out, seed in (first, second)
    )
    for end in train_both(*commands):
        assert end[0] == 2, end
        assert sentence in said(end[2])[-1] and "Traceback" not in end[2]
    assert not list(tmp_path.rglob("checkpoints"))


@pytest.mark.slow
def test_all_machines_end_where_one_is_interrupted(tmp_path):
    lm = [*small(tmp_path), "--epochs", "100000", "--validate-every", "1000000"]
    lm += ["--out", str(tmp_path / "out"), "--coordinator", f"localhost:{free_port()}"]
    processes = [train(1, *lm, "--hosts", "2", "--host", str(number)) for number in range(2)]
    metrics = tmp_path / "out" / "metrics.jsonl"
    end = time.monotonic() + 120
    while time.monotonic() < end and not (metrics.is_file() and metrics.read_text()):
        time.sleep(0.2)
    processes[1].send_signal(signal.SIGINT)
    started = time.monotonic()
    first, second = ends_of(processes)
    assert time.monotonic() - started < 60
    assert (second[0], said(second[2])[-1]) == (130, "coopgen: interrupted")
    assert first[0] == 2 and "the machines cannot go on together" in said(first[2])[-1]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"devices": 2}, "leave --devices out"), ({"mapper": "pmap"}, "--mapper pmap maps over one")],
)
def test_what_says_nothing_to_several_machines_is_refused(options, sentence):
    with pytest.raises(UserError, match=sentence):
        united(LanguageModelOptions(
            "a", "b", Path("c"), coordinator="here:1", hosts=2, host=0, **options
        ))  # fmt: skip


def said(errors: str) -> list[str]:
    return [line for line in errors.splitlines() if line.startswith("coopgen")]


def test_two_processes_write_what_one_writes():
    alone = run("nothing")
    out, errors = alone.communicate(timeout=300)
    assert alone.returncode == 0, errors
    first, second = run_both("nothing")
    assert (first[0], second[0]) == (0, 0), (first, second)
    assert second[1] == "" and said(first[2]) == said(second[2]) == []
    expected, found = json.loads(out)["texts"], json.loads(first[1])["texts"]
    for name in ("prompt", "tokens", "text", "number"):
        assert [text[name] for text in found] == [text[name] for text in expected]


def test_the_failure_of_a_process_is_named():
    first, second = run_both("load")
    assert (first[0], second[0]) == (2, 2), (first, second)
    assert first[1] == second[1] == ""
    assert said(second[2]) == ["coopgen: error: weights.gguf is damaged"]
    assert said(first[2]) == ["coopgen: error: process 1 of 2 failed: weights.gguf is damaged"]


@pytest.mark.slow
def test_a_process_that_vanishes_is_named():
    first, second = run_both("vanish")
    assert (first[0], second[0]) == (2, 9), (first, second)
    (sentence,) = said(first[2])
    assert sentence.startswith(
        "coopgen: error: process 1 of 2 failed: nothing has been heard of it for 4 s"
    )
    assert first[1] == ""


def test_who_does_not_come_is_named(monkeypatch):
    monkeypatch.setattr(rendezvous, "GRACE", 0.5)
    port = free_port()
    answers = []

    def second() -> None:
        try:
            meet(f"localhost:{port}", 3, 1, patience=2)
        except UserError as error:
            answers.append(str(error))

    other = threading.Thread(target=second)
    other.start()
    time.sleep(1.5)  # process 0 comes last, and gives up after the time of the other is over
    with pytest.raises(UserError, match=r"process 2 of 3 did not come within 2 s"):
        meet(f"localhost:{port}", 3, 0, patience=2)
    other.join()
    assert answers == [
        "process 2 of 3 did not come within 2 s: start each process once, with the same count"
    ]


def test_a_silent_coordinator_is_named():
    port = free_port()
    with pytest.raises(UserError, match=f"process 0 did not answer at localhost:{port} within 1 s"):
        meet(f"localhost:{port}", 2, 1, patience=1)


def test_the_processes_meet_and_a_wrong_count_is_named():
    port = free_port()
    roll = threading.Thread(target=meet, args=(f"localhost:{port}", 2, 0), kwargs={"patience": 60})
    roll.start()
    with pytest.raises(UserError, match="process 0 counts 2 processes, not 3: start each process"):
        meet(f"localhost:{port}", 3, 1, patience=60)
    meet(f"localhost:{port}", 2, 1, patience=60)
    roll.join()


@pytest.mark.parametrize("wrong", ["localhost", "localhost:x", ":80", "host:0", "host:99999"])
def test_an_address_that_is_none_is_named(wrong):
    with pytest.raises(UserError, match="must be HOST:PORT"):
        meet(wrong, 2, 1, patience=1)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"devices": 0}, "--devices is 0: give 1 or more"),
        ({"tensor": -1}, "--tensor is -1: give 1 or more"),
        ({"hosts": 2}, "--hosts and --host need --coordinator"),
        ({"coordinator": "a:1", "hosts": 2}, "--coordinator needs --hosts"),
        ({"coordinator": "a:1", "hosts": 2, "host": 2}, "--host is 2: 2 hosts are numbered from 0"),
        ({"coordinator": "auto", "host": 0}, "--coordinator auto asks the cluster"),
        ({"coordinator": "auto", "trace": Path("t.html")}, "--trace shows the trees of one host"),
    ],
)
def test_a_wrong_option_is_named(options, sentence):
    with pytest.raises(UserError, match=sentence):
        check_machines(GenerateOptions(**options))


def test_what_cannot_be_split_is_said():
    assert whole_parts(GenerateOptions(tensor=2), TINY_LLAMA) == (
        "--tensor 2 does not divide the 61 tokens of the vocabulary: every device has all of them"
    )
    assert whole_parts(GenerateOptions(), TINY_LLAMA) is None
    assert mesh_of(GenerateOptions()) is None
