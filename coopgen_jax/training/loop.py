"""The training loop: steps, validation, early stopping, checkpoints, a record of all metrics.

A batch is a pure function of its number and a step of the state and the batch, so that a run that
was killed at any moment and resumed ends where one that never was ends.
"""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.experimental import multihost_utils
from tensorboardX import SummaryWriter

from coopgen_jax.errors import UserError
from coopgen_jax.files import replacing
from coopgen_jax.training.checkpoint import Checkpoints

METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class LoopConfig:
    """How long to train, and when to validate and save.

    Attributes:
      steps: the most steps.
      validate_every: steps between validations.
      patience: validations without a better loss after which training stops, None to go on.
      save_every: steps between checkpoints.
      log_every: steps between records of the training loss.
      budget_minutes: wall-clock minutes of this run after which it saves and stops, None without
        limit; the next run goes on.
      keep: which parameters come out, the "best" by their validation loss or the "last".
    """

    steps: int
    validate_every: int = 100
    patience: int | None = None
    save_every: int = 100
    log_every: int = 10
    budget_minutes: float | None = None
    keep: Literal["best", "last"] = "best"

    def __post_init__(self) -> None:
        for name in ("steps", "validate_every", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: it must be 1 or more")
        for name in ("patience", "budget_minutes"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"{name} is {value}: it must be above 0")


class State(Protocol):
    """What training changes; a pytree."""

    @property
    def trainable(self) -> Any:
        """The parameters that are trained."""

    @property
    def step(self) -> jax.Array:
        """Steps taken."""


S = TypeVar("S", bound=State)


class Batches(Protocol):
    """Batches by number; the same number gives the same batch."""

    def __getitem__(self, number: int) -> Any:
        """Returns one batch."""


@struct.dataclass
class _Kept:
    """What a checkpoint holds; the best parameters are `()` where the last ones are kept."""

    state: Any
    best: Any


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
      trainable: the parameters of the best validation loss; the last ones where these are kept, or
        where there was no validation.
      best: their metrics on the validation rows, and the "step" at which they were measured.
      step: steps taken.
      stopped: why: all steps were taken, patience or the budget was at its end, or the listener
        asked for it.
    """

    trainable: Any
    best: dict[str, float]
    step: int
    stopped: Literal["steps", "patience", "budget", "interrupt"]


# Called after every step: steps taken, of how many, and the means, which may not be computed yet.
# If it returns True, a run of one process saves and stops; the next run goes on.
Listener = Callable[[int, int, dict[str, jax.Array]], bool | None]
# Called once all checks have passed and the first step is about to be compiled.
Begin = Callable[[], None]


class _Record:
    """Metrics as JSON lines and for TensorBoard; lines behind a resumed step are dropped."""

    def __init__(self, folder: Path, step: int) -> None:
        # Of several processes the first one does.
        self._writes = jax.process_index() == 0
        if not self._writes:
            return
        path, board = folder / METRICS, folder / "tensorboard"
        before = path.read_text(encoding="utf-8") if path.is_file() else ""
        # At line feeds alone: JSON leaves other line breaks as they are inside a string.
        kept = [line for line in before.split("\n") if _step_of(line) <= step]
        with replacing(path) as (unfinished,):
            unfinished.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        self._lines = path.open("a", encoding="utf-8")
        # A killed run loses what TensorBoard has not written yet, so everything is written anew.
        shutil.rmtree(board, ignore_errors=True)
        self._board = SummaryWriter(str(board))
        for line in kept:
            values = json.loads(line)
            self._scalars(values.pop("step"), values.pop("split"), values)

    def add(self, step: int, split: str, means: dict[str, float]) -> None:
        if not self._writes:
            return
        self._lines.write(json.dumps({"step": step, "split": split, **means}) + "\n")
        self._lines.flush()
        self._scalars(step, split, means)

    def _scalars(self, step: int, split: str, means: dict[str, float]) -> None:
        for name, value in means.items():
            self._board.add_scalar(f"{split}/{name}", value, step)

    def close(self) -> None:
        if not self._writes:
            return
        self._lines.close()
        self._board.close()


def _step_of(line: str) -> float:
    """Returns the step of a line; a line that a killed run left unfinished is behind every step."""
    try:
        return json.loads(line)["step"]
    except ValueError:
        return float("inf")


def train(
    state: S,
    *,
    step: Callable[[S, Any], tuple[S, dict[str, jax.Array]]],
    batches: Batches,
    validate: Callable[[Any], dict[str, float]],
    folder: Path,
    config: LoopConfig,
    listener: Listener = lambda done, total, means: None,
    begin: Begin = lambda: None,
) -> Outcome:
    """Trains, going on from the last checkpoint in `folder` if there is one.

    Args:
      state: in front of the first step, on the devices that train; it is donated.
      step: `(state, batch) -> (state, means)`.
      batches: by the number of the step.
      validate: from trainable parameters to metrics, "loss" among them.
      folder: where checkpoints and metrics are written; it is made.
      config: how long to train, and when to validate and save.
      listener: see `Listener`.
      begin: see `Begin`.

    Raises:
      UserError: the folder holds the checkpoint of another training or of more steps, or the loss
        is not finite.
    """
    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(folder / "checkpoints")
    bests = config.keep == "best"
    state, best, notes, done = _resumed(checkpoints, state, bests, config.steps, folder)
    record = _Record(folder, done)
    stopped = notes["stopped"]
    if done >= config.steps:
        stopped = "steps"
    if stopped is None:
        begin()
    try:
        while stopped is None:
            batch = batches[done]
            state, means = step(state, batch)
            done += 1
            finite = partial(_finite, step=done, batch=batch, folder=folder)
            if done % config.log_every == 0 or done == config.steps:
                record.add(done, "training", finite(means))
            if done % config.validate_every == 0 or done == config.steps:
                found = finite(validate(state.trainable))
                record.add(done, "validation", found)
                notes["since"] += 1
                if not notes["best"] or found["loss"] < notes["best"]["loss"]:
                    notes["best"], notes["since"] = {**found, "step": done}, 0
                    if bests:
                        best = jax.tree.map(lambda leaf: leaf.copy(), state.trainable)
                if config.patience is not None and notes["since"] >= config.patience:
                    stopped = notes["stopped"] = "patience"
            asked = listener(done, config.steps, means) and jax.process_count() == 1
            if done == config.steps:
                stopped = "steps"
            if stopped is None and asked:
                stopped = "interrupt"
            if stopped is None and _spent(started, config.budget_minutes):
                stopped = "budget"
            if done % config.save_every == 0 or stopped:
                finite({**means, "parameters": _largest(state.trainable)})
                checkpoints.save(done, _Kept(state, best), notes)
    finally:
        record.close()
        checkpoints.close()
    chosen = best if bests and notes["best"] else state.trainable
    return Outcome(chosen, notes["best"], done, stopped)


def _resumed(
    checkpoints: Checkpoints, state: S, bests: bool, steps: int, folder: Path
) -> tuple[S, Any, dict[str, Any], int]:
    """Returns what a run begins with: state, best parameters, notes and the steps taken.

    Raises UserError where more than `steps` were taken already.
    """
    kept = _Kept(state, jax.tree.map(lambda leaf: leaf.copy(), state.trainable) if bests else ())
    if checkpoints.latest() is None:
        return state, kept.best, {"best": {}, "since": 0, "stopped": None}, 0
    restored, notes = checkpoints.restore(kept)
    jax.tree.map(lambda leaf: leaf.delete(), kept)
    done = int(restored.state.step)
    if done > steps:
        checkpoints.close()
        raise UserError(
            f"{folder} has gone {done} steps already, and {steps} are asked for: ask for as many "
            "or more"
        )
    return restored.state, restored.best, notes, done


def _spent(started: float, minutes: float | None) -> bool:
    """Returns whether the budget is spent; of several processes the first one's clock rules."""
    if minutes is None:
        return False
    spent = time.monotonic() - started >= 60 * minutes
    if jax.process_count() == 1:
        return spent
    return bool(multihost_utils.broadcast_one_to_all(np.int32(spent)))


@jax.jit
def _largest(tree: Any) -> jax.Array:
    """Returns the largest absolute value in a tree, NaN where there is one."""
    return jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(tree)]).max()


def _finite(means: dict[str, Any], step: int, batch: Any, folder: Path) -> dict[str, float]:
    """Returns the means as plain numbers; writes the batch and raises where one is not finite."""
    plain = {name: float(mean) for name, mean in means.items()}
    wrong = [name for name, value in plain.items() if not abs(value) < float("inf")]
    if wrong:
        path = keep_batch(folder, step, batch)
        raise UserError(
            f"the training is no longer finite at step {step} ({wrong[0]}; its batch is in "
            f"{path}): lower the learning rate and start again, in another folder"
        )
    return plain


def keep_batch(folder: Path, step: int, batch: Any) -> Path:
    """Writes a step's batch, array by array, and returns the file."""
    path = folder / f"not-finite-{step}.npz"
    arrays = {
        jax.tree_util.keystr(name): leaf
        for name, leaf in jax.tree_util.tree_flatten_with_path(batch)[0]
        # Arrays that lie on other processes too have to be fetched before.
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable
    }
    if jax.process_index() == 0:
        np.savez(path, **jax.device_get(arrays))
    return path
