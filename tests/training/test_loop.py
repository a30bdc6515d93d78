"""A training that is killed and resumed, or spread out, ends where one left alone ends."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from coopgen_jax.errors import UserError
from coopgen_jax.parallel.mesh import make_mesh, place
from coopgen_jax.training.checkpoint import Checkpoints
from coopgen_jax.training.loop import METRICS, LoopConfig, train
from coopgen_jax.training.step import begin, make_step, make_validation, mean_over
from tests.processes import ROOT, environment, free_port, kept_programs

STEPS = 10


def started(folder: Path, devices: int = 1, **options) -> subprocess.Popen:
    job = json.dumps({"folder": str(folder), "steps": STEPS, **options})
    return subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "training" / "training_worker.py"), job],
        env=environment(devices) | kept_programs(), cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def ended(process: subprocess.Popen) -> dict:
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return json.loads(out.splitlines()[-1])


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> tuple[dict, list[dict]]:
    """What a training that nothing happens to ends with, and its metrics."""
    folder = tmp_path_factory.mktemp("alone")
    return ended(started(folder)), metrics(folder)


def test_a_training_learns_and_keeps_the_best(alone):
    found, lines = alone
    validation = [line for line in lines if line["split"] == "validation"]
    assert [line["step"] for line in validation] == [3, 6, 9, 10]
    best = min(validation, key=lambda line: line["loss"])
    assert found["best"] == {k: v for k, v in best.items() if k != "split"}
    assert found["stopped"] == "steps" and found["step"] == STEPS
    assert [line["step"] for line in lines if line["split"] == "training"] == [*range(1, 11)]


@pytest.mark.slow
@pytest.mark.parametrize(("during", "step"), [("step", 6), ("write", 7)])
def test_killed_and_resumed_equals_never_killed(alone, tmp_path, during, step):
    first = started(tmp_path, die=step, during=during)
    first.communicate(timeout=300)
    assert first.returncode == -signal.SIGKILL
    kept = Checkpoints(tmp_path / "checkpoints").latest()
    assert kept == 4
    # Whatever the killed run still wrote: half a line.
    with (tmp_path / METRICS).open("a") as lines:
        lines.write('{"step": 9, "spl')
    found, lines = ended(started(tmp_path)), metrics(tmp_path)
    assert found == alone[0]
    assert lines == alone[1]
    (events,) = (tmp_path / "tensorboard").iterdir()
    # The first and the last of the record, whichever run they are of.
    assert b"training/loss" in events.read_bytes() and b"validation/loss" in events.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{"mapper": "shard_map"}, {"mapper": "pmap", "micro_batches": 2}]
)
def test_eight_devices_and_pieces_train_as_one_device(alone, tmp_path, options):
    found = ended(started(tmp_path, 8, **options))
    np.testing.assert_allclose(found["trainable"], alone[0]["trainable"], rtol=1e-4, atol=1e-3)
    assert found["best"]["step"] == alone[0]["best"]["step"]
    for line, other in zip(metrics(tmp_path), alone[1], strict=True):
        assert line["loss"] == pytest.approx(other["loss"], abs=1e-5)
        assert line["accuracy"] == pytest.approx(other["accuracy"])


@pytest.mark.parametrize("sharded", [pytest.param(False, marks=pytest.mark.slow), True])
def test_two_processes_train_as_one(alone, tmp_path, sharded):
    job = {"coordinator": f"localhost:{free_port()}", "sharded": sharded}
    processes = [started(tmp_path, 2, process=number, **job) for number in range(2)]
    try:
        first, second = map(ended, processes)
    finally:
        for process in processes:
            process.kill()
    assert first == second
    np.testing.assert_allclose(first["trainable"], alone[0]["trainable"], rtol=1e-4, atol=1e-3)
    for line, other in zip(metrics(tmp_path), alone[1], strict=True):
        assert line["loss"] == pytest.approx(other["loss"], abs=1e-5)


@pytest.mark.slow
def test_a_budget_stops_two_processes_at_the_same_step(tmp_path):
    """Their clocks differ; one alone in a step would wait for the other for ever."""
    job = {"coordinator": f"localhost:{free_port()}", "steps": 1000}
    budgets = (1e-9, 60)
    processes = [
        started(tmp_path, 1, process=number, budget=budget, **job)
        for number, budget in enumerate(budgets)
    ]
    try:
        first, second = map(ended, processes)
    finally:
        for process in processes:
            process.kill()
    assert first == second and (first["stopped"], first["step"]) == ("budget", 1)


def slope(trainable, fixed, batch, key):
    """A loss whose least value stands at 3, and whose gradient there is 0."""
    each = jnp.square(trainable[None] - batch["x"])
    return {"loss": (jnp.sum(each), jnp.float32(len(each)))}


KEY = jax.random.key(0)


def fitted(folder, *, rate=0.1, values=(3.0, 3.0), validate=None, listener=None, **settings):
    optimiser, mesh = optax.sgd(rate), make_mesh(1)
    step = make_step(slope, optimiser, mesh=mesh)
    validation = make_validation(slope, mesh=mesh)
    batch = {"x": jnp.asarray(values)}
    state = place(begin(jnp.float32(0), optimiser), mesh)
    return train(
        state,
        step=lambda state, batch: step(state, None, batch, KEY),
        batches=[batch] * 100,
        validate=validate
        or (lambda trainable: mean_over([batch], lambda b: validation(trainable, None, b, KEY))),
        folder=folder,
        config=LoopConfig(**settings),
        listener=listener or (lambda done, total, means: None),
    )


def test_gradient_descent_is_worked_out_by_hand(tmp_path):
    outcome = fitted(tmp_path, steps=3, validate_every=1)
    expected = 3 * (1 - 0.8**3)
    assert float(outcome.trainable) == pytest.approx(expected, rel=1e-6)
    assert outcome.best["loss"] == pytest.approx((3 - expected) ** 2, rel=1e-5)
    again = fitted(tmp_path, steps=5, validate_every=1)
    assert float(again.trainable) == pytest.approx(3 * (1 - 0.8**5), rel=1e-6)


def test_a_run_that_is_asked_to_stop_saves_and_goes_on(tmp_path):
    asked = fitted(
        tmp_path / "a", steps=5, validate_every=5, save_every=5,
        listener=lambda done, total, means: done == 3,
    )  # fmt: skip
    assert (asked.stopped, asked.step) == ("interrupt", 3)
    assert float(asked.trainable) == pytest.approx(3 * (1 - 0.8**3), rel=1e-6)
    again = fitted(tmp_path / "a", steps=5, validate_every=5, save_every=5)
    whole = fitted(tmp_path / "b", steps=5, validate_every=5, save_every=5)
    assert again == whole and again.stopped == "steps"
    # Asked at its last step it has come to its end.
    last = fitted(tmp_path / "c", steps=2, listener=lambda done, total, means: done == 2)
    assert last.stopped == "steps"


def test_patience_stops_and_gives_the_best_parameters_back(tmp_path):
    heard = iter([5.0, 2.0, 3.0, 4.0, 1.0])
    seen = []

    def validate(trainable):
        seen.append(float(trainable))
        return {"loss": next(heard)}

    outcome = fitted(tmp_path, steps=50, validate_every=2, patience=2, validate=validate)
    assert (outcome.stopped, outcome.step) == ("patience", 8)
    assert outcome.best == {"loss": 2.0, "step": 4}
    assert float(outcome.trainable) == seen[1] != seen[-1]
    # It stays stopped.
    again = fitted(tmp_path, steps=50, validate_every=2, patience=2, validate=validate)
    assert (again.stopped, again.step, float(again.trainable)) == ("patience", 8, seen[1])


def test_the_last_parameters_come_out_where_they_are_kept(tmp_path):
    heard = iter([1.0, 2.0, 3.0])
    outcome = fitted(
        tmp_path, steps=3, validate_every=1, save_every=2, keep="last",
        validate=lambda trainable: {"loss": next(heard)},
    )  # fmt: skip
    assert float(outcome.trainable) == pytest.approx(3 * (1 - 0.8**3), rel=1e-6)
    assert outcome.best == {"loss": 1.0, "step": 1}
    heard = iter([4.0, 5.0])
    again = fitted(
        tmp_path, steps=5, validate_every=1, save_every=2, keep="last",
        validate=lambda trainable: {"loss": next(heard)},
    )  # fmt: skip
    assert float(again.trainable) == pytest.approx(3 * (1 - 0.8**5), rel=1e-6)
    assert again.best == outcome.best


def test_a_loss_that_is_not_finite_is_told_and_never_saved(tmp_path):
    with pytest.raises(
        UserError, match=r"no longer finite at step [0-9]+ .loss; its batch is in .*: lower the"
    ):
        fitted(tmp_path / "a", steps=90, rate=1e9, log_every=90, validate_every=90, save_every=2)
    (kept,) = (tmp_path / "a").glob("not-finite-*.npz")
    np.testing.assert_array_equal(np.load(kept)["['x']"], [3.0, 3.0])
    optimiser = optax.sgd(1e9)
    template = {"state": begin(jnp.float32(0), optimiser), "best": jnp.float32(0)}
    kept = Checkpoints(tmp_path / "a" / "checkpoints")
    assert kept.latest() in (2, 4)
    state, _ = kept.restore(template)
    assert np.isfinite(state["state"].trainable)


def test_another_trainings_folder_is_refused(tmp_path):
    fitted(tmp_path, steps=1)
    optimiser = optax.sgd(0.1)
    with pytest.raises(UserError, match="is of another training: give an empty folder"):
        Checkpoints(tmp_path / "checkpoints").restore(begin({"w": jnp.zeros(4)}, optimiser))
    with pytest.raises(UserError, match="has no checkpoint to resume from"):
        Checkpoints(tmp_path / "none").restore(begin(jnp.zeros(4), optimiser))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"steps": 0}, "steps is 0: it must be 1 or more"),
        ({"steps": 1, "save_every": 0}, "save_every is 0"),
        ({"steps": 1, "patience": 0}, "patience is 0: it must be above 0"),
        ({"steps": 1, "budget_minutes": -1.0}, "budget_minutes is -1.0: it must be above 0"),
    ],
)
def test_mistakes_are_told(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        LoopConfig(**settings)


def test_line_breaks_inside_a_metrics_line_do_not_break_it(tmp_path):
    fitted(tmp_path, steps=2, save_every=1)
    path = tmp_path / "metrics.jsonl"
    # What another program wrote without escapes, as JSON allows.
    foreign = '{"step": 1, "split": "training \u2028 \x85 one", "loss": 1.0}\n'
    path.write_text(foreign + path.read_text("utf-8"), "utf-8")
    before = path.read_text("utf-8")
    fitted(tmp_path, steps=3, save_every=1)
    assert path.read_text("utf-8").startswith(before)
