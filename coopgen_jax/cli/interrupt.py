"""Ctrl-C: a run ends within seconds, whatever swallows the exception.

Python raises KeyboardInterrupt between two instructions of its own. During a compilation none of
them runs for many seconds, and an exception in a callback of JAX's is swallowed or turned into
another one. So the handler also sets a flag, which every token asks, and a thread that hears of the
signal itself ends the process where nothing else has.
"""

import atexit
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

# Seconds that a run has to end by itself after the first Ctrl-C; the second one ends it at once.
GRACE = 4.0
STATUS = 130
_asked = threading.Event()


def check_interrupt() -> None:
    """Raises KeyboardInterrupt where Ctrl-C was pressed and the exception has been swallowed."""
    if _asked.is_set():
        raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[None]:
    """Ends the process a few seconds after Ctrl-C if what runs inside has not ended until then.

    An error that follows Ctrl-C becomes KeyboardInterrupt. Where another handler is in place, or in
    another thread than the main one, nothing is changed.
    """
    alone = threading.current_thread() is threading.main_thread()
    if not alone or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    _asked.clear()
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    over = threading.Event()
    threading.Thread(target=_watch, args=(ours, over), daemon=True).start()
    signal.signal(signal.SIGINT, _handle)
    try:
        yield
    except BaseException as error:
        if not _asked.is_set():
            raise
        _skip_teardown()
        raise KeyboardInterrupt from error
    finally:
        over.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.set_wakeup_fd(before)
        theirs.close()
        _asked.clear()


def _skip_teardown() -> None:
    """Has the process end before the interpreter is taken down.

    A program that is still being compiled or run would be waited for, or crash the process.
    """
    jax = sys.modules.get("jax")
    # Machines that work together end in a way of their own.
    if jax is not None and not jax.distributed.is_initialized():
        atexit.register(leave, STATUS)


def leave(status: int, wait: float = 0.0) -> None:
    """Ends the process after some seconds, in front of all that would run at its exit."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):
            stream.flush()
    time.sleep(wait)
    os._exit(status)


def _handle(number: int, frame: FrameType | None) -> None:
    _asked.set()
    raise KeyboardInterrupt


def _watch(signals: socket.socket, over: threading.Event) -> None:
    """Waits for signals, whose numbers come through a socket even while Python stands still."""
    count = 0
    with signals:
        while True:
            try:
                found = signals.recv(64)
            except TimeoutError:
                break
            if not found:
                return
            count += found.count(signal.SIGINT)
            if count > 1:
                break
            if count:
                signals.settimeout(GRACE)
    if not over.is_set():
        _end()


def _end() -> NoReturn:
    # A progress bar has hidden the terminal's cursor.
    shown = "\x1b[?25h" if sys.stderr is not None and sys.stderr.isatty() else ""
    os.write(2, f"{shown}coopgen: interrupted\n".encode())
    os._exit(STATUS)
