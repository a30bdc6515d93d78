"""Several processes that train as one through `jax.distributed`."""

from typing import Any

import jax

from coopgen_jax.errors import UserError
from coopgen_jax.parallel.rendezvous import meet

# Seconds until a process that has not come, or has fallen silent, is given up.
PATIENCE = 120.0
# Seconds until processes that train as one stop waiting for the last of them to be done.
LONGEST_END = 7200


def unite(
    coordinator: str | None = None, count: int | None = None, number: int | None = None
) -> None:
    """Has processes compute as one, as for a training: `jax.devices()` are then those of all.

    To be called before JAX computes anything, and by all of them alike from then on. Where one dies
    JAX ends the others: by an error from whatever they compute together, or at once with a message
    of its own. The coordinator is "HOST:PORT" of process 0, None where a cluster says all three.

    Raises:
      UserError: the processes cannot meet, or there is no cluster to ask.
    """
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    join(coordinator, count, number, PATIENCE)


def await_all() -> None:
    """Waits until all processes that `unite` has joined are done, for the first has more to write.

    Without this JAX ends those that have waited for five minutes. Raises JaxRuntimeError where one
    has died.
    """
    client().wait_at_barrier("coopgen/done", 1000 * LONGEST_END)


def agreed(name: str, value: str) -> str:
    """Returns the value that process 0 gives; every process calls it, and 0 waits for nobody.

    A name stands for one value. Raises JaxRuntimeError where process 0 does not say it in time.
    """
    key = f"coopgen/agreed/{name}"
    if jax.process_index() > 0:
        found: str = client().blocking_key_value_get(key, int(1000 * PATIENCE))
        return found
    client().key_value_set(key, value)
    return value


def join(coordinator: str | None, count: int | None, number: int | None, patience: float) -> None:
    """Has the processes meet and JAX know of them; raises UserError where they cannot."""
    if coordinator is not None:
        if count is None or number is None or not 0 <= number < count:
            raise UserError(
                f"process {number} of {count}: give the number of processes, and each its own "
                "number from 0"
            )
        meet(coordinator, count, number, patience=patience)
    try:
        jax.distributed.initialize(coordinator, count, number)
    except ValueError as error:
        raise UserError(
            f"there is no cluster to ask ({error}): name the coordinator, the number of processes "
            "and this one's"
        ) from error


def client() -> Any:
    """Returns the key-value store by which the processes meet."""
    # JAX has no public name for the store that `jax.distributed` keeps.
    from jax._src.distributed import global_state

    return global_state.client
