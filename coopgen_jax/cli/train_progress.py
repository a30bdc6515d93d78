"""How a training shows where it stands, and how it is interrupted."""

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from coopgen_jax.cli.progress import INTERVAL
from coopgen_jax.training.loop import Begin, Listener


@contextmanager
def shown(what: Any, unit: str = "step") -> Iterator[Listener]:
    """Shows a bar on a terminal, and a line now and then elsewhere.

    Args:
      what: the options, of which `quiet` is read.
      unit: what is counted.
    """
    if what.quiet:
        yield lambda done, total, means: None
        return
    if not sys.stderr.isatty():
        said = time.monotonic()

        def line(done: int, total: int, means: dict[str, jax.Array]) -> None:
            nonlocal said
            if time.monotonic() - said >= INTERVAL or done == total:
                said = time.monotonic()
                print(
                    f"coopgen: {unit} {done} of {total}, loss {float(means['loss']):.3f}",
                    file=sys.stderr,
                    flush=True,
                )

        yield line
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("training", total=None)

        def show(done: int, total: int, means: dict[str, jax.Array]) -> None:
            text = f"{unit} {done} of {total}, loss {float(means['loss']):.3f}"
            bar.update(task, total=total, completed=done, description=text)

        yield show


@contextmanager
def watched(what: Any, unit: str = "step") -> Iterator[Listener]:
    """Shows a training, and has Ctrl-C save it where it is that of one process.

    Of several processes none could stop behind a step that the others go beyond.
    """
    with shown(what, unit) as progress:
        if jax.process_count() > 1:
            yield progress
            return
        with interruptible(progress) as listener:
            yield listener


def compiling(what: Any, unit: str = "step") -> Begin:
    """Returns what tells, once, that the first step is compiled."""
    told = what.quiet

    def tell() -> None:
        nonlocal told
        if not told:
            told = True
            print(f"coopgen: compiling the first {unit}", file=sys.stderr, flush=True)

    return tell


@contextmanager
def interruptible(listener: Listener) -> Iterator[Listener]:
    """Has the first Ctrl-C while steps are taken end the run behind the next one, and save it."""
    before = signal.getsignal(signal.SIGINT)
    installed = asked = False

    def handle(number: int, frame: Any) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, before)
        print("coopgen: saving; press once more to stop at once", file=sys.stderr, flush=True)

    def listen(done: int, total: int, means: dict[str, jax.Array]) -> bool:
        nonlocal installed
        # In front of the first step there is nothing to save.
        if not installed and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handle)
            installed = True
        listener(done, total, means)
        return asked

    try:
        yield listen
    finally:
        if installed:
            signal.signal(signal.SIGINT, before)
