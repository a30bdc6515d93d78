"""A decode over several devices writes what one device writes; a mesh that cannot be is named."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coopgen_jax.errors import UserError
from coopgen_jax.parallel.mesh import BATCH, OWN, P, make_mesh, map_over_mesh, top_k
from tests.processes import ROOT, environment

# What a plain run checks, and what `--slow` adds.
CHECKS = (
    "toy", "marked", "conditional", "largest", "attended", "kept whole", "truncated", "callback",
    "training", "3 key/value heads by 8", "shared parameters",
)  # fmt: skip
SLOW = (
    "reference", "sources", "batch", "combination", "foreseen", "shifted", "kernels",
    "shared optimiser state", "8 key/value heads", "3 key/value heads",
)  # fmt: skip


@pytest.fixture(scope="module")
def found(request: pytest.FixtureRequest) -> dict:
    """What the checks found on eight virtual devices, in one process for all of them."""
    worker = ROOT / "tests" / "parallel" / "parallel_checks.py"
    names = CHECKS + (SLOW if request.config.getoption("--slow") else ())
    command = [sys.executable, "-W", "error", str(worker), *names]
    done = subprocess.run(
        command, env=environment(8), cwd=ROOT, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "check", [*CHECKS, *(pytest.param(check, marks=pytest.mark.slow) for check in SLOW)]
)
def test_on_eight_devices(found, check):
    assert check in found["seconds"]
    assert check not in found["failures"], found["failures"][check]


def test_one_device_is_a_mesh_too():
    mesh = make_mesh(1)

    def sums(scale, rows, state):
        total = jax.lax.psum(rows.sum(), BATCH)
        return scale * rows.T, total, state + 1

    rows, state = jnp.arange(6.0).reshape(3, 2), jnp.zeros((1, 4))
    specs = (P(), P(BATCH), OWN), (P(None, BATCH), P(), OWN)
    for mapper in ("shard_map", "pmap"):
        turned, total, after = jax.jit(map_over_mesh(sums, mesh, *specs, mapper=mapper))(
            2.0, rows, state
        )
        np.testing.assert_array_equal(turned, 2 * rows.T)
        assert total == 15 and after.shape == (1, 4) and (after == 1).all()


def test_an_unsharded_top_k_is_the_plain_one():
    logits = jnp.asarray([[1.0, 3.0, 3.0, 2.0]])
    best, places = top_k(logits, 2)
    assert best.tolist() == [[3, 3]] and places.tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("batch", "tensor", "sentence"),
    [
        (64, 2, "a mesh of 64 by 2 needs 128 devices and this machine shows"),
        (0, 1, "a mesh of 0 by 1 devices: give 1 or more of each"),
        (1, 0, "a mesh of 1 by 0 devices"),
    ],
)
def test_a_mesh_that_cannot_be_is_named(batch, tensor, sentence):
    with pytest.raises(UserError, match=sentence):
        make_mesh(batch, tensor)


def test_an_unknown_mapper_is_named():
    with pytest.raises(UserError, match="no mapper 'xmap': choose one of shard_map, pmap"):
        map_over_mesh(lambda x: x, make_mesh(1), (P(BATCH),), P(BATCH), mapper="xmap")
