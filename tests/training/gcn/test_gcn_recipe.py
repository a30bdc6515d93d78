"""A cooperative training that is killed and resumed, or spread out, ends as one left alone ends."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
import tokenizers

from coopgen_jax.discriminators.loading import load_discriminator
from coopgen_jax.errors import UserError
from coopgen_jax.models.layer_layout import separate_layers
from coopgen_jax.models.lora import LoraConfig
from coopgen_jax.models.pretrained.loaded_model import LoadedModel, load
from coopgen_jax.tokenizer import Tokenizer
from coopgen_jax.training.checkpoint import Checkpoints
from coopgen_jax.training.gcn import examination as gcn_examination
from tests.processes import ROOT, environment, free_port
from tests.training.gcn.gcn_worker import END, pairs, tokenizer

SMALL = {
    "sources": 4, "discriminator_steps": 1, "first_discriminator_steps": 1, "replay_rows": 0,
    "discriminator_rows": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Callable[..., subprocess.Popen]:
    """Returns what starts a training in a process; what one has compiled the next ones take."""
    programs = tmp_path_factory.mktemp("programs")

    def started(folder: Path, devices: int = 1, **options) -> subprocess.Popen:
        job = json.dumps({"folder": str(folder), "rounds": 3, **options})
        kept = {
            "JAX_COMPILATION_CACHE_DIR": str(programs),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
        }
        return subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "training" / "gcn" / "gcn_worker.py"), job],
            env=environment(devices) | kept, cwd=ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    return started


def ended(process: subprocess.Popen) -> dict:
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def alone(start, tmp_path_factory) -> tuple[dict, Path]:
    folder = tmp_path_factory.mktemp("alone")
    return ended(start(folder)), folder


@pytest.mark.slow
def test_killed_in_every_phase_of_a_round_and_resumed_equals_never_killed(start, alone, tmp_path):
    # The first turn of each is that of the round which the one before it died in.
    for phase, turn in (("sampled", 2), ("judged", 1), ("weighed", 1), ("trained", 2)):
        process = start(tmp_path, die=phase, at=turn)
        process.communicate(timeout=300)
        assert process.returncode == -signal.SIGKILL, phase
    assert ended(start(tmp_path)) == alone[0]
    assert (tmp_path / "metrics.jsonl").read_text() == (alone[1] / "metrics.jsonl").read_text()


@pytest.mark.slow
def test_a_finished_training_goes_on_with_further_rounds_and_not_with_fewer(start, alone, tmp_path):
    assert ended(start(tmp_path, rounds=1))["stopped"] == "steps"
    process = start(tmp_path, die="sampled")
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL
    # What is under way does not look finished.
    assert not (tmp_path / "card.json").exists() and not (tmp_path / "judge/card.json").exists()
    assert ended(start(tmp_path)) == alone[0]
    process = start(tmp_path, rounds=2)
    _, errors = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "has gone 3 steps already, and 2 are asked for" in errors


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_checkpoint_whole(start, alone, tmp_path):
    process = start(tmp_path, die="trained", at=2, full=True)
    _, errors = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "cannot be written" in errors and "the one of step 1 is whole" in errors
    assert ended(start(tmp_path)) == alone[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{"mapper": "shard_map", "sharded": True}, {"mapper": "pmap"}, {"parameters": True}],
)
def test_eight_devices_train_as_one(start, alone, tmp_path, options):
    check_same(ended(start(tmp_path, 8, **options)), alone[0])
    check_network(tmp_path, alone[1])


@pytest.mark.slow
def test_a_search_over_eight_devices_trains_as_one(start, tmp_path):
    # Without sources texts of all devices are weighed against each other.
    options = {"proposal": "tree", "conditional": False, "rounds": 2}
    folders = tmp_path / "one", tmp_path / "eight"
    processes = [start(folder, n, **options) for folder, n in zip(folders, (1, 8), strict=True)]
    try:
        one, eight = map(ended, processes)
    finally:
        for process in processes:
            process.kill()
    assert one["proposal"] == "MCTSConfig"
    check_same(eight, one)
    check_network(folders[1], folders[0])


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"parameters": True}])
def test_two_processes_train_as_one(start, alone, tmp_path, options):
    job = {"coordinator": f"localhost:{free_port()}", **options}
    processes = [start(tmp_path, 2, process=number, **job) for number in range(2)]
    try:
        first, second = map(ended, processes)
    finally:
        for process in processes:
            process.kill()
    assert first["last"] == second["last"]
    check_same(first, alone[0])
    check_network(tmp_path, alone[1])


def check_same(card: dict, other: dict) -> None:
    for name, value in other["last"].items():
        assert card["last"][name] == pytest.approx(value, abs=2e-3), name


def check_network(folder: Path, other: Path) -> None:
    ours, theirs = (load(path, stacked=True).params for path in (folder, other))
    for name in ("query", "down"):
        pair = (net["layers"][name]["kernel"] for net in (ours, theirs))
        # AdamW's first steps go as far where a gradient is nearly 0 as elsewhere.
        differ = np.abs(np.subtract(*map(np.asarray, pair)))
        assert np.mean(differ) < 2e-4 and differ.max() < 2e-2


def test_the_folder_is_a_language_model_and_a_guide(alone):
    card, folder = alone
    assert card["stopped"] == "steps" and card["rounds"] == 3
    assert card["start"]["kl_to_start"] == pytest.approx(0, abs=1e-5)
    assert card["last"]["kl_to_start"] > 1e-3
    model = load(folder, stacked=True)
    guide = load_discriminator(folder / "judge", language_model=model)
    assert guide.discriminator.classes == ("generated", "human")
    assert guide.discriminator.reads_prompt
    assert len(json.loads((folder / "samples.json").read_text())) == 8
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    logged = {"loss", "log_z", "effective_share", "weight_entropy", "judge_accuracy", "reward"}
    assert logged <= set(lines[0])
    measured = {"loss", "kl_to_start", "bleu", "self_bleu", "judge_calibration_error"}
    assert measured <= set(lines[2])
    texts = json.loads((folder / "samples.json").read_text())
    people = [row[:-1] if row[-1] == END else row for row in pairs(1, 12, True).texts]
    # Those that are measured, evenly among all.
    usual = np.mean([len(people[number * 12 // 8]) for number in range(8)])
    words = np.mean([len(text.split()) for text in texts])
    assert card["last"]["relative_length"] == pytest.approx(words / usual, rel=1e-5)
    assert card["last"]["distinct"] == len(set(texts)) / 8


@pytest.mark.slow
def test_the_discriminator_learns_alike_beside_either_optimiser_of_the_generator(
    tmp_path, monkeypatch
):
    from tests.training.gcn import gcn_worker as worker

    monkeypatch.setattr(gcn_examination, "LEAST_LENGTH", float("inf"))
    told: list[tuple[str, object]] = []
    config = worker.GcnConfig(
        proposal=worker.PROPOSALS["nucleus"], **SMALL | {"first_discriminator_steps": 2}
    )
    generators, judges = [], []
    for name in ("adamw", "sgd"):
        how = worker.GcnTraining(
            worker.LoopConfig(steps=1, validate_every=1, save_every=1), lora=None, optimiser=name,
            learning_rate=1e-3, examination=worker.Examination(4, 4, 4), saved_dtype="float32",
        )  # fmt: skip
        worker.train_gcn(
            worker.language(), pairs(0, 8, True), pairs(1, 8, True), config, how,
            folder=tmp_path / name, mesh=worker.make_mesh(1),
            watch=lambda phase, found: told.append((phase, found)),
        )  # fmt: skip
        warned = [found for phase, found in told if phase == "warning"]
        assert len(warned) == 1 and "tokens of human texts" in str(warned[0])
        told.clear()
        generators.append((tmp_path / name / "model.safetensors").read_bytes())
        judges.append((tmp_path / name / "judge/network/model.safetensors").read_bytes())
    assert generators[0] != generators[1] and judges[0] == judges[1]


@pytest.mark.slow
@pytest.mark.parametrize("rank", [None, 2])
def test_a_discriminator_may_begin_as_another_language_model(tmp_path, rank):
    from tests.training.gcn import gcn_worker as worker

    generator = worker.language()
    shape = replace(generator.config, layers=1, ffn_width=48)
    params = worker.init_decoder(jax.random.key(7), shape)
    critic = LoadedModel(shape, params, tokenizer(), "smaller", "1" * 64, None)
    config = worker.GcnConfig(proposal=worker.TREE, **SMALL)
    how = worker.GcnTraining(
        worker.LoopConfig(steps=1, validate_every=1, save_every=1),
        discriminator_learning_rate=1e-12,
        lora=rank and LoraConfig(rank=rank),
        examination=worker.Examination(4, 4, 4),
        saved_dtype="float32",
    )

    def trained(judge: LoadedModel | None, how=how) -> dict:
        return worker.train_gcn(
            generator, pairs(0, 8, True), pairs(1, 8, True), config, how, folder=tmp_path,
            mesh=worker.make_mesh(1), discriminator=judge,
        )  # fmt: skip

    other = Tokenizer(tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0})), end_tokens=[])
    with pytest.raises(UserError, match="smaller has other tokens than tiny"):
        trained(replace(critic, tokenizer=other))
    with pytest.raises(UserError, match="exceed the context of smaller, 8"):
        trained(replace(critic, config=replace(shape, context=8)))
    separate = replace(critic, params=separate_layers(critic.params))
    with pytest.raises(UserError, match="wants layers in one stack of numbers: load smaller with"):
        trained(separate)
    assert not list(tmp_path.iterdir())
    card = trained(critic)
    assert (card["model"], card["judge_model"]) == ("tiny", "smaller")
    # It has hardly changed, so it is what it began as.
    network = load(tmp_path / "judge" / "network", stacked=True)
    jax.tree.map(
        partial(np.testing.assert_allclose, atol=1e-6), network.params["layers"], params["layers"]
    )
    guide = load_discriminator(tmp_path / "judge", language_model=load(tmp_path))
    assert (guide.card["model"], guide.card["model_sha256"]) == ("smaller", "1" * 64)
    assert guide.discriminator.reads_prompt
    assert load(tmp_path).config.layers == generator.config.layers
    longer = replace(how, loop=replace(how.loop, steps=2))
    with pytest.raises(UserError, match="another model for the discriminator"):
        trained(None, longer)


@pytest.mark.slow
def test_a_copy_of_the_generator_is_no_other_model_for_the_discriminator(tmp_path):
    from tests.training.gcn import gcn_worker as worker

    config = worker.GcnConfig(proposal=worker.PROPOSALS["nucleus"], **SMALL)

    def trained(rounds: int, **named) -> dict:
        how = worker.GcnTraining(
            worker.LoopConfig(steps=rounds, validate_every=1, save_every=1),
            examination=worker.Examination(4, 4, 4),
        )  # fmt: skip
        return worker.train_gcn(
            worker.language(), pairs(0, 8, True), pairs(1, 8, True), config, how, folder=tmp_path,
            mesh=worker.make_mesh(1), **named,
        )  # fmt: skip

    assert (
        trained(1, discriminator=replace(worker.language(), name="copy"))["judge_model"] == "tiny"
    )
    # Folders that were begun before there was a choice do not name it.
    path = tmp_path / "training.json"
    claimed = json.loads(path.read_text())
    assert claimed.pop("judge_sha256") is None
    path.write_text(json.dumps(claimed))
    assert trained(2)["rounds"] == 2


def test_texts_that_are_no_number_stop_the_run_and_are_kept(tmp_path):
    from tests.training.gcn import gcn_worker as worker

    config = worker.GcnConfig(proposal=worker.PROPOSALS["nucleus"], **SMALL)
    how = worker.GcnTraining(
        worker.LoopConfig(steps=3, validate_every=3, save_every=1), lora=None, optimiser="sgd",
        learning_rate=1e20, clip=None, examination=worker.Examination(4, 4, 4),
    )  # fmt: skip
    told: list[str] = []
    with pytest.raises(UserError, match=r"round 2 is no longer finite .*not-finite-2\.npz"):
        worker.train_gcn(
            worker.language(), pairs(0, 8, True), pairs(1, 8, True), config, how, folder=tmp_path,
            mesh=worker.make_mesh(1), watch=lambda phase, found: told.append(phase),
        )  # fmt: skip
    assert told == ["compiling"] * 2 + ["sampled", "judged", "weighed", "trained"] * 2
    kept = np.load(tmp_path / "not-finite-2.npz")
    assert any("tokens" in name for name in kept) and any("weighed" in name for name in kept)
    assert Checkpoints(tmp_path / "checkpoints").latest() == 1
