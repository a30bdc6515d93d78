"""Processes of their own, as tests of several devices, machines and crashes start them."""

import atexit
import os
import shutil
import socket
import subprocess
import tempfile
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]


def environment(devices: int) -> dict[str, str]:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": paths}


@cache
def kept_programs() -> dict[str, str]:
    """Returns what has processes keep what they compile, for those that start after them.

    A size makes JAX lock the folder, so that none of them reads what is half written.
    """
    folder = tempfile.mkdtemp(prefix="programs-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return {
        "JAX_COMPILATION_CACHE_DIR": folder,
        "JAX_COMPILATION_CACHE_MAX_SIZE": str(1 << 30),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def ends_of(processes: list[subprocess.Popen]) -> list[tuple[int, str, str]]:
    """Returns exit status, output and errors of processes."""
    try:
        ends = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(p.returncode, *end) for p, end in zip(processes, ends, strict=True)]
