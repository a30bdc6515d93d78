"""The machine that was measured, in words."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax


def _processor() -> str:
    """Returns the processor's name, where the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def describe() -> dict[str, Any]:
    """Returns the hardware and the versions of what ran on it."""
    device = jax.devices()[0]
    return {
        "device": device.device_kind if device.platform != "cpu" else _processor(),
        "platform": device.platform,
        "devices": jax.device_count(),
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "python": platform.python_version(),
        "coopgen_jax": version("coopgen_jax"),
    }
