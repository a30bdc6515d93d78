"""What all trainings check, how one shows where it stands, and how it is interrupted."""

import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any

import jax
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from coopgen_jax.cli.ask import flag
from coopgen_jax.cli.progress import INTERVAL
from coopgen_jax.errors import UserError

if TYPE_CHECKING:
    from coopgen_jax.training.loop import Begin, Listener

# Why a run ended that can go on.
GOES_ON = {"budget": "the budget is spent", "interrupt": "interrupted and saved"}


def check_numbers(what: Any, *names: str) -> None:
    """Raises UserError where one of the options `names` is below 1."""
    for name in names:
        if getattr(what, name) < 1:
            raise UserError(f"{flag(name)} is {getattr(what, name)}: give 1 or more")


def tell(what: Any, sentence: str) -> None:
    """Prints a sentence unless the options ask for quiet."""
    if not what.quiet:
        print(f"coopgen: {sentence}", file=sys.stderr, flush=True)


def tell_broken(what: Any, where: str, broken: tuple[str, ...]) -> None:
    """Tells of the rows of a file that were left out, if there are any."""
    if broken:
        more = ", ..." if len(broken) > 3 else ""
        tell(what, f"{where}: {len(broken)} rows left out ({', '.join(broken[:3])}{more})")


def finish(
    what: Any, card: dict[str, Any], show: Callable[[Console, Any, dict[str, Any]], None]
) -> None:
    """Prints a card as JSON, or as `show` does; ends as an interrupted program where it was one."""
    if jax.process_index():
        return
    stopped = card["stopped"]
    if what.json:
        print(json.dumps(card, indent=1, ensure_ascii=False))
    else:
        console = Console(highlight=False, soft_wrap=True)
        show(console, what, card)
        if stopped in GOES_ON:
            console.print(f"{GOES_ON[stopped]}: start the same command again to go on")
    if stopped == "interrupt":
        raise KeyboardInterrupt


def now_and_then(what: Any) -> Callable[[int, int, Callable[[], str]], None]:
    """Returns what reports progress, by a sentence that is made only when it is shown."""
    said = time.monotonic()

    def told(done: int, total: int, sentence: Callable[[], str]) -> None:
        nonlocal said
        if time.monotonic() - said >= INTERVAL or done == total:
            said = time.monotonic()
            tell(what, sentence())

    return told


@contextmanager
def shown(what: Any, unit: str) -> Iterator["Listener"]:
    """Shows a bar of `unit`s on a terminal, and a line now and then elsewhere."""
    if what.quiet:
        yield lambda done, total, means: None
        return

    def sentence(done: int, total: int, means: dict[str, jax.Array]) -> str:
        return f"{unit} {done} of {total}, loss {float(means['loss']):.3f}"

    if not sys.stderr.isatty():
        told = now_and_then(what)
        yield lambda *at: told(at[0], at[1], lambda: sentence(*at))
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("training", total=None)

        def show(done: int, total: int, means: dict[str, jax.Array]) -> None:
            text = sentence(done, total, means)
            bar.update(task, total=total, completed=done, description=text)

        yield show


@contextmanager
def watched(what: Any, unit: str = "step") -> Iterator["Listener"]:
    """Shows a training, and has Ctrl-C save it where it is that of one process.

    Of several processes none could stop behind a step that the others go beyond.
    """
    with shown(what, unit) as progress:
        alone = jax.process_count() == 1
        with interruptible(progress) if alone else nullcontext(progress) as listener:
            yield listener


def compiling(what: Any, unit: str = "step") -> "Begin":
    """Returns what tells, once, that the first step is compiled."""
    return cache(lambda: tell(what, f"compiling the first {unit}"))


@contextmanager
def interruptible(listener: "Listener") -> Iterator["Listener"]:
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
