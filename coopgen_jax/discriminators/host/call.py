"""Functions of texts that run on the host: one batched, memoised callback per wave.

Strings live on the host, so whatever reads a text as a string (another tokenizer, a classifier in
Python) is called through `jax.pure_callback`. A search asks for the same texts again and again;
each is worked out once and remembered.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from weakref import WeakValueDictionary

import jax
import jax.numpy as jnp
import numpy as np

from coopgen_jax.models.language_model import Bound
from coopgen_jax.tokenizer import Tokenizer

# Inside a callback on the CPU, JAX copies arguments of 100 kB and more on its own worker threads.
# Where all of them are waiting for callbacks that copy may never be made, so every argument stays
# below that size.
SAFE_ELEMENTS = 16_000


@dataclass
class Counts:
    """What the calls of the host have cost.

    Attributes:
      calls: callbacks, one per wave.
      texts: texts asked for.
      hits: texts that were known already, or stood twice in a wave.
      seconds: wall-clock time inside the callbacks.
    """

    calls: int = 0
    texts: int = 0
    hits: int = 0
    seconds: float = 0.0


class _Memory:
    """Rows by token ids and by text, the least recently used forgotten first."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.rows: OrderedDict[bytes, np.ndarray] = OrderedDict()
        self.spelt: OrderedDict[str, np.ndarray] = OrderedDict()
        self.counts = Counts()
        self.failure: Exception | None = None


_MEMORIES: WeakValueDictionary[tuple, _Memory] = WeakValueDictionary()


class HostCall:
    """A function from token ids, through texts, to rows of numbers; equal when its key is equal.

    A compiled program keeps the first of several equal calls; they share one memory and one set of
    counts, so that it does not matter which is asked.
    """

    def __init__(
        self,
        function: Callable[[list[str]], np.ndarray],
        source: Tokenizer,
        *,
        key: Hashable,
        width: int,
        dtype: type[np.generic],
        remember: int = 65_536,
    ) -> None:
        """Wraps `function`, from `n` texts to `[n, width]`; `key` says which function it is.

        The ids are those of the tokenizer `source`, and `remember` texts are remembered.
        """
        self.source = source
        self.width = width
        self.dtype = dtype
        self.remember = remember
        self._function = function
        self._key = (key, source.identity, width, remember)
        self._memory = _MEMORIES.setdefault(self._key, _Memory())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HostCall) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def counts(self) -> Counts:
        """What the calls have cost since `reset` was called."""
        return self._memory.counts

    @property
    def failure(self) -> Exception | None:
        """What the function has raised since `forgive` was called, or None."""
        return self._memory.failure

    def forgive(self) -> None:
        """Forgets the last failure."""
        self._memory.failure = None

    def reset(self) -> None:
        """Forgets every text and sets the counts to zero."""
        with self._memory.lock:
            self._memory.rows.clear()
            self._memory.spelt.clear()
            self._memory.counts = Counts()

    def host(self, common: np.ndarray, own: np.ndarray) -> np.ndarray:
        """Makes the call on the host, `n` for `B, R`; see `__call__`."""
        start = time.perf_counter()
        prefixes = [row[row >= 0] for row in common]
        ids = [
            np.concatenate([prefix, lane[lane >= 0]])
            for prefix, lanes in zip(prefixes, own, strict=True)
            for lane in lanes
        ]
        keys = [row.tobytes() for row in ids]
        memory = self._memory
        with memory.lock:
            known = {key: memory.rows[key] for key in keys if key in memory.rows}
            fresh = {key: row for key, row in zip(keys, ids, strict=True) if key not in known}
            known.update(zip(fresh, self._worked_out(list(fresh.values())), strict=True))
            self._keep(memory.rows, known, keys)
            memory.counts.calls += 1
            memory.counts.texts += len(keys)
            memory.counts.hits += len(keys) - len(fresh)
            memory.counts.seconds += time.perf_counter() - start
        rows = np.stack([known[key] for key in keys]) if keys else np.zeros(0, self.dtype)
        return rows.astype(self.dtype, copy=False).reshape(*own.shape[:2], self.width)

    def _worked_out(self, rows: list[np.ndarray]) -> list[np.ndarray]:
        if not rows:
            return []
        # Several tokenisations spell one text, and half a character adds nothing to it: tokens can
        # end inside a UTF-8 character, and what there is of it decodes to U+FFFD.
        texts = [text.rstrip("\ufffd") for text in self.source.decode_batch(rows)]
        spelt = self._memory.spelt
        known = {text: spelt[text] for text in texts if text in spelt}
        fresh = [text for text in dict.fromkeys(texts) if text not in known]
        try:
            known.update(zip(fresh, self._function(fresh) if fresh else (), strict=True))
        except Exception as error:
            self._memory.failure = error
            raise
        self._keep(spelt, known, texts)
        return [known[text] for text in texts]

    def _keep(self, memory: OrderedDict, known: dict, keys: list) -> None:
        """Remembers what is known of the keys, and forgets what was not asked for longest."""
        for key in keys:
            memory[key] = known[key]
            memory.move_to_end(key)
        while len(memory) > self.remember:
            memory.popitem(last=False)

    def __call__(self, common: jax.Array, own: jax.Array) -> jax.Array:
        """Makes the call in one host callback; can be called under `jit`.

        All texts of a row begin with the ids `common` `[B, R, M]` and go on with their `own`
        `[B, R, W, D]`, int32; -1 is no token. What is returned is `[B, R, W, width]`.
        """
        call = Bound(_on_host, (self, common.shape, own.shape))
        shape = jax.ShapeDtypeStruct((*own.shape[:3], self.width), jnp.dtype(self.dtype))
        parts = [*in_parts(common), *in_parts(own)]
        return jax.pure_callback(call, shape, *parts, vmap_method="sequential")


def _on_host(bound: tuple[HostCall, tuple, tuple], *parts: jax.Array) -> np.ndarray:
    """Puts the parts of the arguments together again and makes the call."""
    call, common, own = bound
    flat = np.concatenate([np.asarray(part) for part in parts])
    rows = own[0] * own[1]
    split = rows * common[2]
    result = call.host(flat[:split].reshape(rows, common[2]), flat[split:].reshape(rows, *own[2:]))
    return result.reshape(*own[:3], -1)


def in_parts(array: jax.Array) -> list[jax.Array]:
    """Returns an array, flat, in parts that a callback can take; see `SAFE_ELEMENTS`."""
    flat = array.reshape(-1)
    return [flat[start : start + SAFE_ELEMENTS] for start in range(0, flat.size, SAFE_ELEMENTS)]
