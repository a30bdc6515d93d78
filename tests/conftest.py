"""Settings of the whole suite."""

import gc
import os
import platform
import tempfile

os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from tests.tiny_encoder import make_encoder

jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--default-model",
        action="store_true",
        help="run the tests of the default language model too; fetches it once (98 MB)",
    )
    parser.addoption(
        "--slow",
        action="store_true",
        help="run what is slow by nature too: crash loops, several processes and many devices",
    )


# Most of a run's time is compilation, and what is tested is what programs compute.
QUICK = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1 "
    "--xla_disable_hlo_passes=while-loop-simplifier,while-loop-invariant-code-motion,"
    "while-loop-constant-sinking"
)


# What "auto" chooses, and how sums are rounded, is then the same on every processor.
SAME = "--xla_cpu_max_isa=AVX2" if platform.machine() in ("x86_64", "AMD64") else ""


def pytest_configure(config: pytest.Config) -> None:
    """Has programs compiled fast, before the first of them is, but for networks of real size."""
    quick = "" if config.getoption("--default-model") else QUICK
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {SAME} {quick}".strip()
    keep_programs(config)
    # Traces are many small objects that live long: looking through all of them often takes time.
    gc.set_threshold(50_000, 20, 20)


def keep_programs(config: pytest.Config) -> None:
    """Has a process read again what it has compiled before, for as long as it runs.

    Every process has a folder of its own: JAX writes programs in place, so that another process
    could read half of one. It asks for the folder once, before its first program.
    """
    folder = tempfile.TemporaryDirectory(prefix="programs-")
    config.add_cleanup(folder.cleanup)
    jax.config.update("jax_compilation_cache_dir", folder.name)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = {name for name in ("default_model", "slow") if not config.getoption(name)}
    chosen = [item for item in items if not left_out & item.keywords.keys()]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


# Every compiled program takes maps of memory, and Linux gives a process 65,530 of them.
MANY_MAPS = 20_000


@pytest.fixture(autouse=True, scope="module")
def forget_programs() -> Iterator[None]:
    """Has compiled programs forgotten between files, before a process has too many of them."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > MANY_MAPS:
        jax.clear_caches()


@pytest.fixture(scope="session")
def tiny_encoder() -> SimpleNamespace:
    return make_encoder()
