"""Accelerators that programs are compiled for: what they are, and how JAX describes absent ones."""

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coopgen_jax.errors import UserError
from coopgen_jax.parallel.platform import Platform

INSTALL = "pip install '.[accelerators]'"


@dataclass(frozen=True)
class Chip:
    """One kind of device, by its makers' published figures.

    Attributes:
      name: on the command line.
      platform: whose layouts and kernels a program gets.
      plugins: modules of which one must be installed to compile for it.
      needs: what a user calls them.
      topologies: JAX's name of a slice with so many devices.
      bandwidth: of the large memory, bytes per second.
      peak: bfloat16 operations per second of large products.
      hertz: cycles per second that the compiler's estimates are divided by; None where the
        compiler estimates none.
      memory: bytes.
    """

    name: str
    platform: Platform
    plugins: tuple[str, ...]
    needs: str
    topologies: dict[int, str] = field(hash=False)
    bandwidth: float
    peak: float
    hertz: float | None
    memory: float

    @property
    def absent(self) -> str | None:
        """Says in one sentence what is not installed and how to install it; None if it is."""
        if any(_there(plugin) for plugin in self.plugins):
            return None
        return f"{self.name} is compiled for by {self.needs}, not installed here: {INSTALL}"


def _there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package around it
        return False


# A chip of its own has no topology of its own in every version of libtpu: the first of four has.
_TPU = {1: "2x2", 4: "2x2", 8: "2x4"}
_GPU = {1: "1x1x1", 4: "1x1x4", 8: "1x1x8"}
_CUDA = ("jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13")
CHIPS = {
    chip.name: chip
    for chip in (
        # Four units of 128 x 128 multiply and add 1.5e9 times a second: the published peak.
        Chip("v5e", "tpu", ("libtpu",), "libtpu", _TPU, 819e9, 197e12, 1.5e9, 16e9),
        # The clock is not published; it is the one at which four units of 256 x 256 give the peak.
        Chip("v6e", "tpu", ("libtpu",), "libtpu", _TPU, 1640e9, 918e12, 1.75e9, 32e9),
        Chip("h100", "gpu", _CUDA, "JAX's CUDA plugin", _GPU, 3352e9, 989e12, None, 80e9),
    )
}


def chip_of(name: str) -> Chip:
    """Returns a chip by its name; raises UserError where there is no such chip."""
    if name not in CHIPS:
        raise UserError(f"there is no chip {name!r}: choose from {', '.join(CHIPS)}")
    return CHIPS[name]


def devices_of(chip: Chip, count: int) -> list[Any]:
    """Returns devices of a chip, to compile for, not to run on.

    Raises:
      UserError: the plugin is not installed, or there is no slice of so many.
    """
    from jax.experimental import topologies

    if count not in chip.topologies:
        counts = ", ".join(map(str, chip.topologies))
        raise UserError(f"there is no slice of {count} {chip.name}: choose from {counts}")
    if chip.absent:
        raise UserError(chip.absent)
    shape = chip.topologies[count]
    if chip.platform == "tpu":
        found = topologies.get_topology_desc(platform="tpu", topology_name=f"{chip.name}:{shape}")
    else:
        spec = Path(__file__).with_name(f"{chip.name}.txtpb").read_text(encoding="utf-8")
        found = topologies.get_topology_desc(platform="cuda", target_config=spec, topology=shape)
    return list(found.devices)[:count]


def environment() -> dict[str, str]:
    """Returns what a process that compiles for absent devices has in its environment.

    A plugin would otherwise look for devices, ask the network where it is, or refuse to start
    beside another process.
    """
    return {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
