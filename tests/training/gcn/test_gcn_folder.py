"""What a cooperative training leaves, where there is room for it and where there is none."""

from pathlib import Path

import jax
import numpy as np
import pytest

from coopgen_jax.data.fingerprint import fingerprint, write_fingerprint
from coopgen_jax.errors import UserError
from coopgen_jax.parallel.mesh import make_mesh
from coopgen_jax.training.gcn.gcn_config import GcnConfig
from coopgen_jax.training.gcn.gcn_folder import deliver
from coopgen_jax.training.gcn.gcn_recipe import begin_networks
from coopgen_jax.training.gcn.gcn_training import GcnTraining
from coopgen_jax.training.loop import LoopConfig
from tests.full_disk import full_behind
from tests.training.gcn.gcn_worker import language, pairs


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_full_disk_leaves_what_was_delivered_before(tmp_path):
    model, how = language(), GcnTraining(LoopConfig(steps=1), lora=None)
    networks, trainable, fixed = begin_networks(model, model, pairs(0, 8, True), how, make_mesh(1))
    write_fingerprint(tmp_path, fingerprint(["one", "two"]))
    last = networks, trainable, fixed, GcnConfig()
    deliver(tmp_path, (model, model), *last, {"steps": 1}, "float32")
    before = files(tmp_path)
    weights = tmp_path / "model.safetensors", tmp_path / "judge/network/model.safetensors"
    assert {str(path) for path in weights} < set(before)
    other = jax.tree.map(lambda leaf: 2 * leaf, trainable)
    last = networks, other, fixed, GcnConfig()
    for size in (100, weights[0].stat().st_size - 1):
        with full_behind(size), pytest.raises(UserError, match=r"cannot be written .*: make room"):
            deliver(tmp_path, (model, model), *last, {"steps": 2}, "float32")
        assert files(tmp_path) == before
    with full_behind(30), pytest.raises(UserError, match=r"rows\.npy cannot be written"):
        write_fingerprint(tmp_path, np.arange(9, dtype=np.uint64))
    assert files(tmp_path) == before
    deliver(tmp_path, (model, model), *last, {"steps": 2}, "float32")
    assert files(tmp_path).keys() == before.keys()
    assert all(path.read_bytes() != before[str(path)] for path in weights)
