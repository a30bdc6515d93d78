"""Several hosts: each process writes its share of the prompts, process 0 has all the texts.

The processes share no computation, so nothing of the search waits for a network. They meet and talk
through the key-value store of `jax.distributed`, which needs no folder in common: parts that are
finished, the first failure, and a sign of life every second. A process that fails or falls silent
is named, and the others stop with the next token.

Processes that train compute as one: see `unite`.
"""

import atexit
import json
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import jax

from coopgen_jax.errors import UserError
from coopgen_jax.models.pretrained.loaded_model import LoadedModel
from coopgen_jax.parallel.multihost import PATIENCE, client, join
from coopgen_jax.text_generation import Step, Text, generate

BEAT = 1.0


class HostError(UserError):
    """Another process failed; the message names it."""


class Hosts:
    """One process among those of a job; made by `connect`.

    Used as a context manager it tells the others of whatever goes wrong inside.

    Attributes:
      count: how many processes there are.
      number: which of them this one is; 0 puts the parts together.
    """

    def __init__(self, count: int, number: int, patience: float) -> None:
        self.count, self.number, self.patience = count, number, patience
        self._parts = 0
        self._heard: dict[int, tuple[str | None, float]] = {}
        self._over = threading.Event()
        self._pulse = threading.Thread(target=self._beat, daemon=True)
        self._pulse.start()
        atexit.register(self._leave)

    def share(self, total: int) -> range:
        """Returns the numbers of the prompts that are this process's: every `count`-th."""
        return range(self.number, total, self.count)

    def agree(self, name: str, value: str) -> str:
        """Returns the value that process 0 gives; a name is used once. See `check`."""
        if self.number > 0:
            return self._wait(f"agreed {name}")
        _set(f"agreed {name}", value)
        return value

    def check(self) -> None:
        """Raises HostError where another process has failed, or been silent for too long."""
        if failure := _get("failure"):
            found = json.loads(failure)
            if found["process"] != self.number:
                raise HostError(
                    f"process {found['process']} of {self.count} failed: {found['sentence']}"
                )
        for other in range(1, self.count) if self.number == 0 else ():
            if self._is_silent(other):
                sentence = f"nothing has been heard of it for {self.patience:g} s"
                self._report(other, sentence)
                raise HostError(
                    f"process {other} of {self.count} failed: {sentence}; see what it printed, and "
                    "start all of them again"
                )

    def merge(self, texts: Sequence[Text]) -> list[Text] | None:
        """Puts the parts together, of which each process gives its own; see `check`.

        Process 0 returns all texts in the order of the prompts, the others None once it has them.
        """
        self._parts += 1
        name = f"part {self._parts}"
        if self.number > 0:
            _set(f"{name} of {self.number}", json.dumps([asdict(text) for text in texts]))
            self._wait(f"{name} complete")
            return None
        whole = list(texts)
        for other in range(1, self.count):
            whole += [Text(**entry) for entry in json.loads(self._wait(f"{name} of {other}"))]
        _set(f"{name} complete", "yes")
        return sorted(whole, key=lambda text: (text.number, text.sample))

    def __enter__(self) -> "Hosts":
        """Returns itself."""
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Tells the others of an error."""
        if error is not None and not isinstance(error, HostError):
            known = isinstance(error, UserError)
            self._report(self.number, str(error) if known else f"{type(error).__name__}: {error}")

    def _report(self, process: int, sentence: str) -> None:
        # The first failure stands: those that follow are mostly its consequences.
        _set("failure", json.dumps({"process": process, "sentence": sentence}), once=True)

    def _wait(self, key: str) -> str:
        while (value := _get(key)) is None:
            self.check()
            time.sleep(0.1)
        return value

    def _is_silent(self, other: int) -> bool:
        now, sign = time.monotonic(), _get(f"alive {other}")
        before, since = self._heard.setdefault(other, (sign, now))
        if sign != before:
            self._heard[other] = (sign, now)
            return False
        return sign != "left" and now - since > self.patience

    def _beat(self) -> None:
        beats = 0
        while not self._over.wait(BEAT):
            beats += 1
            _set(f"alive {self.number}", str(beats))

    def _leave(self) -> None:
        """Says good-bye; process 0, which keeps the store, stays until the others have left it."""
        self._over.set()
        self._pulse.join()  # or its last beat may overwrite the good-bye
        _set(f"alive {self.number}", "left")
        if self.number > 0:
            return
        others = range(1, self.count)
        while waiting := [n for n in others if _get(f"alive {n}") != "left"]:
            silent = [n for n in waiting if self._is_silent(n)]
            if silent == waiting:
                break
            time.sleep(0.1)
        gone = [n for n in others if n not in waiting]
        disconnected = threading.Thread(target=_wait_for, args=(gone,), daemon=True)
        disconnected.start()
        disconnected.join(self.patience)


def connect(
    coordinator: str | None = None,
    count: int | None = None,
    number: int | None = None,
    *,
    patience: float | None = None,
) -> Hosts:
    """Joins the processes of a job; to be called before JAX computes anything.

    Args:
      coordinator: "HOST:PORT" of process 0, with a port that is free there; None where a cluster
        says all three (TPU pods, Slurm, Open MPI, Kubernetes).
      count: how many processes there are.
      number: which of them this one is, from 0.
      patience: seconds to wait for a process that does not come or falls silent, 120 by default.

    Raises:
      UserError: the processes cannot meet, or there is no cluster to ask.
    """
    patience = PATIENCE if patience is None else patience
    # Without this JAX ends every process as soon as one has died.
    jax.config.update("jax_enable_recoverability", True)
    # The processes compute apart, and Gloo, which would connect them, prints to standard output.
    jax.config.update("jax_cpu_collectives_implementation", None)
    join(coordinator, count, number, patience)
    # Counting them has the processes tell each other of their devices, which needs them all, and so
    # comes before anything that may fail on one of them.
    return Hosts(jax.process_count(), jax.process_index(), patience)


def generate_on_hosts(
    hosts: Hosts,
    model: LoadedModel,
    prompts: Sequence[str],
    *,
    listener: Callable[[Step], None] | None = None,
    **options: Any,
) -> list[Text] | None:
    """Writes continuations of prompts on all hosts; every process calls it alike.

    Args:
      hosts: from `connect`.
      model: the same language model on each.
      prompts: all prompts; each process works on its share of them.
      listener: hears every token that this process writes.
      options: those of `generate`; a `mesh` is of this process's own devices.

    Returns:
      The texts that `generate` would have returned on process 0, None on the others.

    Raises:
      HostError: another process failed; it is named.
      UserError: as `generate` does.
    """

    def heard(step: Step) -> None:
        hosts.check()
        if listener is not None:
            listener(step)

    with hosts:
        numbers = hosts.share(len(prompts))
        return hosts.merge(generate(model, prompts, numbers=numbers, listener=heard, **options))


def _wait_for(processes: Sequence[int]) -> None:
    """Returns once processes have disconnected: JAX aborts one that finds the store gone by then.

    The store's list of the living is settled only when each of those asked for has answered too,
    which none of them does, or has disconnected.
    """
    with suppress(jax.errors.JaxRuntimeError):
        client().get_live_nodes([0, *processes])


def _set(key: str, value: str, *, once: bool = False) -> None:
    try:
        client().key_value_set(f"coopgen/{key}", value, allow_overwrite=not once)
    except jax.errors.JaxRuntimeError as error:
        if not (once and "ALREADY_EXISTS" in str(error)):
            raise


def _get(key: str) -> str | None:
    try:
        value: str = client().key_value_try_get(f"coopgen/{key}")
    except jax.errors.JaxRuntimeError as error:
        if "NOT_FOUND" not in str(error):
            raise
        return None
    return value
