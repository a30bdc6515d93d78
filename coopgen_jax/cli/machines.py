"""What a run works on: one device or several, one host or several."""

import atexit
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import jax
from jax.sharding import Mesh

from coopgen_jax.bulk.hosts import Hosts, connect
from coopgen_jax.cli.compare_options import CompareOptions
from coopgen_jax.cli.interrupt import leave
from coopgen_jax.cli.options import GenerateOptions
from coopgen_jax.errors import UserError
from coopgen_jax.models.pretrained.loaded_model import resolve_dtype
from coopgen_jax.models.sharding import undivided
from coopgen_jax.models.transformer import DecoderConfig
from coopgen_jax.parallel.mesh import make_mesh
from coopgen_jax.parallel.multihost import agreed, await_all, unite
from coopgen_jax.training.training_folder import begun_dtype

AUTO = "auto"
# Seconds that the first machine, without which none can speak, leaves the others to say their own.
GRACE = 3.0
_Training = TypeVar("_Training", bound=Any)


def missing_device() -> str | None:
    """Returns a sentence where JAX finds no device of the kind that it was asked for, else None."""
    try:
        jax.devices()
    except (AssertionError, RuntimeError) as error:
        # JAX says nothing at all where a kind is known and its plugin is not installed.
        why = " ".join(str(error).split()) or "no such device, or its plugin is not installed"
        asked = os.environ.get("JAX_PLATFORMS") or "unset"
        return (
            f"JAX cannot start its devices (JAX_PLATFORMS is {asked}: {why}): unset JAX_PLATFORMS, "
            "or set JAX_PLATFORMS=cpu"
        )
    return None


def check_machines(options: GenerateOptions) -> None:
    """Raises UserError where a number is out of its range, or one that belongs to it is missing."""
    for name in ("devices", "tensor"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} is {getattr(options, name)}: give 1 or more")
    check_hosts(options)
    if options.coordinator and options.trace:
        raise UserError("--trace shows the trees of one host: leave it or --coordinator out")


def check_hosts(options: Any) -> None:
    """Raises UserError where what is said of several hosts does not go together."""
    numbers = (options.hosts, options.host)
    if options.coordinator is None and numbers != (None, None):
        raise UserError("--hosts and --host need --coordinator, where process 0 can be reached")
    if options.coordinator == AUTO and numbers != (None, None):
        raise UserError("--coordinator auto asks the cluster: leave --hosts and --host out")
    if options.coordinator not in (None, AUTO):
        if options.hosts is None or options.host is None:
            raise UserError("--coordinator needs --hosts, how many there are, and each its --host")
        if options.hosts < 1:
            raise UserError(f"--hosts is {options.hosts}: give how many there are")
        if not 0 <= options.host < options.hosts:
            raise UserError(
                f"--host is {options.host}: {options.hosts} hosts are numbered from 0 to "
                f"{options.hosts - 1}"
            )


def join_hosts(options: GenerateOptions) -> Hosts | None:
    """Returns this process among those of the job, None where it works alone; see `connect`."""
    return None if options.coordinator is None else connect(*_place(options))


def in_one_dtype(options: GenerateOptions, hosts: Hosts | None) -> GenerateOptions:
    """Returns options whose dtype is chosen, on several machines by the first.

    Otherwise texts would depend on which kind of machine writes them. Raises UserError where this
    machine is given another one by name.
    """
    dtype: Any = resolve_dtype(options.dtype)
    if hosts is not None:
        own, dtype = options.dtype, hosts.agree("dtype", dtype)
        if own not in ("auto", dtype):
            raise UserError(
                f"--dtype is {own} here and {dtype} on the first machine: give all of them the same"
            )
    return replace(options, dtype=dtype)


def _place(options: Any) -> tuple[str | None, int | None, int | None]:
    """Returns JAX's arguments about the processes: none where a cluster has them all."""
    where = None if options.coordinator == AUTO else options.coordinator
    return where, options.hosts, options.host


def united(what: _Training) -> _Training:
    """Joins the processes of a training, where there are several, and returns its options for them.

    All devices work then, in the dtype that the first process chooses, which alone tells of it, and
    what is not Python's own goes from standard output to standard error.

    Raises:
      UserError: the processes cannot meet, or what is said of them does not go together.
    """
    check_hosts(what)
    if what.coordinator is None:
        return replace(what, dtype=training_dtype(what))
    if what.devices != 1:
        raise UserError("with --coordinator all devices of all machines work: leave --devices out")
    if what.mapper == "pmap":
        raise UserError("--mapper pmap maps over one machine: leave it or --coordinator out")
    _keep_output()
    unite(*_place(what))
    first = agreed("dtype", training_dtype(what))
    # A machine that was given another one by name is refused when it claims the folder.
    dtype = first if what.dtype == "auto" else what.dtype
    quiet = what.quiet or jax.process_index() > 0
    return replace(what, devices=jax.device_count(), dtype=dtype, quiet=quiet)


def training_dtype(what: Any) -> str:
    """Returns the dtype of a training's products; auto goes on in that of one that was begun."""
    begun = begun_dtype(what.out) if what.dtype == "auto" else None
    return resolve_dtype(begun or what.dtype)


def _keep_output() -> None:
    """Leaves standard output to this program: Gloo, which connects CPUs, tells of itself there."""
    sys.stdout.flush()
    own = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = os.fdopen(own, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)


@contextmanager
def together(what: Any) -> Iterator[None]:
    """Has several machines end together: behind the last that is done, or all where one fails.

    Raises:
      UserError: in place of JAX's error where one has failed. JAX does not say which: of this one's
        errors memory that runs out is known, and raised as it is.
    """
    if what.coordinator is None:
        yield
        return
    try:
        with _named():
            yield
            await_all()
    except BaseException as error:
        # JAX would wait at the end for the others, who wait for this one.
        if jax.distributed.is_initialized():
            atexit.register(leave, _status(error), GRACE if jax.process_index() == 0 else 0.0)
        raise


@contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            raise
        reason = str(error).partition("\n")[0].rpartition("Error dispatching computation: ")[2]
        raise UserError(
            f"the machines cannot go on together ({reason}): see which of them has failed and why, "
            "and start all of them again"
        ) from error


def _status(error: BaseException) -> int:
    """Returns the exit status of an error; see `coopgen_jax.cli.main`."""
    match error:
        case UserError() | OSError(errno=errno.ENOSPC):
            return 2
        case KeyboardInterrupt():
            return 130
        case BrokenPipeError():
            return 141
    return 1


def mesh_of(options: GenerateOptions | CompareOptions) -> Mesh | None:
    """Returns a mesh of this host's devices, None for the first alone; see `make_mesh`."""
    if options.devices * options.tensor == 1:
        return None
    return make_mesh(options.devices, options.tensor, devices=jax.local_devices())


def whole_parts(options: GenerateOptions, config: DecoderConfig) -> str | None:
    """Returns a sentence about what `--tensor` cannot split, None where it splits everything."""
    whole = undivided(config, options.tensor)
    if not whole:
        return None
    return (
        f"--tensor {options.tensor} does not divide the {', the '.join(whole)}: every device has "
        "all of them"
    )


def keep_compilations(folder: Path) -> None:
    """Has JAX keep what it compiles, so that the next run need not wait for it."""
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
