"""Of two trainings with one folder the second is refused, and a dead one holds nothing."""

import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys

import pytest

from coopgen_jax.data.batches import BatchConfig
from coopgen_jax.errors import UserError
from coopgen_jax.parallel.mesh import make_mesh
from coopgen_jax.training.folder_lock import lock
from coopgen_jax.training.loop import LoopConfig
from coopgen_jax.training.recipes import train_language_model
from coopgen_jax.training.run import RecipeConfig
from tests.training.gcn import gcn_worker as worker

HOLD = """
import sys, time
from pathlib import Path
from coopgen_jax.training.folder_lock import lock
lock(Path(sys.argv[1]))
print("locked", flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that trains in `tmp_path / "out"`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "out")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.communicate()


def test_the_second_training_is_refused_until_the_first_dies(tmp_path, holder):
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "out")
    for name in (tmp_path / "out", link):
        with pytest.raises(UserError, match=r"another process trains in .*: wait until it ends"):
            lock(name)
    lock(tmp_path / "other")
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    lock(tmp_path / "out")


def test_a_training_of_any_kind_is_refused(tmp_path, holder):
    model, folder, mesh = worker.language(), tmp_path / "out", make_mesh(1)
    loop, texts = LoopConfig(steps=1), ["w1 w2", "w3"]
    where = {"folder": folder, "mesh": mesh}
    data = worker.pairs(0, 8, True), worker.pairs(1, 4, True)
    how = worker.GcnTraining(loop, lora=None)
    config = worker.GcnConfig(proposal=worker.PROPOSALS["nucleus"])
    with pytest.raises(UserError, match="another process trains in"):
        worker.train_gcn(model, *data, config, how, **where)
    recipe = RecipeConfig(loop, BatchConfig(rows=2, longest=4), lora=None)
    with pytest.raises(UserError, match="another process trains in"):
        train_language_model(model, texts, texts, recipe, **where)
    assert list(folder.iterdir()) == []


def test_one_process_trains_in_a_folder_again_and_again(tmp_path):
    folder = tmp_path / "out"
    lock(folder)
    lock(folder)
    folder.rmdir()
    lock(folder)
    # The new folder is locked, not the one that is gone.
    command = HOLD.replace("time.sleep(600)", "")
    second = subprocess.run(
        [sys.executable, "-c", command, str(folder)], capture_output=True, text=True, check=False
    )
    assert "another process trains in" in second.stderr and "locked" not in second.stdout


def test_where_folders_cannot_be_locked_a_file_is(tmp_path, monkeypatch):
    flock = fcntl.flock

    def of_files(file: int, how: int) -> None:
        if stat.S_ISDIR(os.fstat(file).st_mode):
            raise OSError(errno.EBADF, "a network file system")
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", of_files)
    lock(tmp_path)
    with (tmp_path / ".lock").open("r+") as file, pytest.raises(BlockingIOError):
        flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    lock(tmp_path)


def test_a_file_system_without_locks_lets_everyone_in(tmp_path, monkeypatch):
    def none(file: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", none)
    lock(tmp_path)
