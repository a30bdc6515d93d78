"""Programs compiled for TPUs that are not there, in processes of their own."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

import jax
import pytest

from tests.processes import ROOT

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs libtpu: pip install '.[accelerators]'"
)
# Without a TPU there is no metadata server to ask, and other processes may compile as well.
ALONE = {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "JAX_PLATFORMS": "cpu"}


def slow_but(fast: Iterable[str], checks: Iterable[str]) -> list[Any]:
    """Returns checks to parametrise a test with: the fast ones, and the others marked slow."""
    others = [check for check in checks if check not in fast]
    return [*fast, *(pytest.param(check, marks=pytest.mark.slow) for check in others)]


def last_line_of(module: str, *arguments: str) -> str:
    """Runs a module that compiles for a TPU and returns the last line that it prints."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=os.environ | ALONE | {"XLA_FLAGS": "", "PYTHONPATH": str(ROOT)},
        cwd=ROOT, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout.splitlines()[-1]


def devices(name: str) -> list[Any]:
    """Returns the chips of a topology such as "v5e:2x2"."""
    from jax.experimental import topologies

    chips = [1, 1, 1] if name.endswith("1x1") else [2, 2, 1]
    described = topologies.get_topology_desc(
        platform="tpu", topology_name=name, chips_per_host_bounds=chips
    )
    return list(described.devices)


def laid(tree: Any, sharding: Any) -> Any:
    """Returns the shapes of a tree of arrays, lying so."""
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), tree)
