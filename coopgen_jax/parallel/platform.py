"""What kind of device a program is made for: the one at hand, or one that it is only compiled for.

How parameters lie, which precision is chosen and whether a kernel stands in for plain operations
depend on the device. A program can be compiled for a device that is not there; `made_for` names it.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Literal, get_args

import jax

from coopgen_jax.errors import UserError

Platform = Literal["cpu", "gpu", "tpu"]
Dtype = Literal["float32", "bfloat16"]

CPUINFO = Path("/proc/cpuinfo")
# Flags of processors that multiply bfloat16 themselves: Intel's since Sapphire Rapids, AMD's since
# Zen 4. Behind them XLA's names of the instruction sets with such products.
FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
SETS = frozenset({"AVX512_BF16", "AMX", "AMX_FP16"})

_made_for: ContextVar[Platform | None] = ContextVar("made_for", default=None)


def platform() -> Platform:
    """Returns the kind of JAX's first device, or the kind that `made_for` names."""
    named = _made_for.get()
    if named is not None:
        return named
    found = jax.devices()[0].platform
    # A plugin's device of another name is an accelerator that no kernel of ours is written for.
    return found if found in get_args(Platform) else "gpu"


def on_accelerator() -> bool:
    """Tells whether programs are made for something else than a processor."""
    return platform() != "cpu"


def fastest_dtype() -> Dtype:
    """Returns bfloat16 where the platform multiplies it faster than float32, else float32.

    That is on every accelerator and on some processors. A processor is known by its flags, never by
    timing, so that the same machine always says the same. One that says nothing of itself, or one
    that XLA is told to use less of, has float32.
    """
    return "bfloat16" if on_accelerator() or _multiplies_bfloat16() else "float32"


def activation_dtype(dtype: str) -> str:
    """Returns what a network of a dtype computes in between its products with weights.

    That is the dtype itself on an accelerator, and float32 on a processor, which adds, copies and
    compares bfloat16 by way of float32; there the product alone rounds what it is given.
    """
    return dtype if on_accelerator() else "float32"


def _multiplies_bfloat16() -> bool:
    capped = re.findall(r"--xla_cpu_max_isa=(\w+)", os.environ.get("XLA_FLAGS", ""))
    if capped and capped[-1].upper() not in SETS:
        return False
    try:
        found = re.search(r"^flags\s*:(.*)$", CPUINFO.read_text(), re.MULTILINE)
    except OSError:
        return False
    return found is not None and not FLAGS.isdisjoint(found[1].split())


@contextmanager
def made_for(kind: Platform) -> Iterator[None]:
    """Makes what is traced inside a program for another kind of device than the one at hand.

    A function that has been traced is not traced again: inside, use functions of its own, or a
    process of its own.

    Raises:
      UserError: there is no such kind of device.
    """
    if kind not in get_args(Platform):
        raise UserError(f"there is no platform {kind!r}: choose one of cpu, gpu, tpu")
    token = _made_for.set(kind)
    try:
        yield
    finally:
        _made_for.reset(token)
