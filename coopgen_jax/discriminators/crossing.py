"""From one tokenizer to another: a language model's tokens become an encoder's word pieces.

Strings live on the host, so this is a host function for `jax.pure_callback`: one call per wave,
batched and memoised. Networks stay on the device.
"""

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from weakref import WeakValueDictionary

import jax
import jax.numpy as jnp
import numpy as np

from coopgen_jax.discriminators.sentences import word_pieces
from coopgen_jax.text import Tokenizer

# Inside a callback on the CPU, JAX copies arguments of 100 kB and more on its own worker threads.
# Where all of them are waiting for callbacks that copy may never be made, so every argument stays
# below that size.
SAFE_ELEMENTS = 16_000

Row = tuple[np.ndarray, int]


@dataclass
class Counts:
    """What crossing over has cost.

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
    """Rows by their token ids, the least recently used forgotten first."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.rows: OrderedDict[bytes, Row] = OrderedDict()
        self.counts = Counts()


_MEMORIES: WeakValueDictionary[tuple, _Memory] = WeakValueDictionary()


class Crossing:
    """A function from token ids to word pieces, equal when its tokenizers and width are equal.

    A compiled program keeps the first of several equal crossings; they share one memory and one
    set of counts, so that it does not matter which is asked.

    Attributes:
      source: the language model's tokenizer.
      target: the encoder's tokenizer.
      width: word pieces kept of a text, special ones included, the last ones of a longer text.
      remember: how many texts are remembered.
      counts: what the calls have cost so far; `reset` sets it to zero.
    """

    def __init__(
        self, source: Tokenizer, target: Tokenizer, *, width: int, remember: int = 65_536
    ) -> None:
        self.special = len(target.encode("", special=True))
        if width <= self.special:
            raise ValueError(f"a width of {width} leaves no room beside the special word pieces")
        self.source = source
        self.target = target
        self.width = width
        self.remember = remember
        self._key = (source.identity, target.identity, width, remember)
        self._memory = _MEMORIES.setdefault(self._key, _Memory())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Crossing) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def counts(self) -> Counts:
        """What the calls have cost so far."""
        return self._memory.counts

    def reset(self) -> None:
        """Forgets every text and sets the counts to zero."""
        with self._memory.lock:
            self._memory.rows.clear()
            self._memory.counts = Counts()

    def texts(self, rows: list[np.ndarray]) -> list[str]:
        """Returns the text of each row of ids, without a last character that is incomplete."""
        # Tokens can end inside a UTF-8 character; what there is of it decodes to U+FFFD.
        return [text.rstrip("\ufffd") for text in self.source.decode_batch(rows)]

    def host(self, common: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Crosses over on the host.

        Args:
          common: `[n, M]` token ids with which all texts of a row begin; -1 is no token.
          own: `[n, W, D]` ids with which each goes on; -1 is no token.

        Returns:
          Word pieces `[n, W, width]` and how many there are, `[n, W]`, special ones included; 0 for
          a text without any of its own.
        """
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
            known.update(zip(fresh, self._encoded(list(fresh.values())), strict=True))
            for key in keys:
                memory.rows[key] = known[key]
                memory.rows.move_to_end(key)
            while len(memory.rows) > self.remember:
                memory.rows.popitem(last=False)
            pieces = np.zeros((len(keys), self.width), np.int32)
            counts = np.zeros(len(keys), np.int32)
            for place, key in enumerate(keys):
                pieces[place], counts[place] = known[key]
            memory.counts.calls += 1
            memory.counts.texts += len(keys)
            memory.counts.hits += len(keys) - len(fresh)
            memory.counts.seconds += time.perf_counter() - start
        shape = own.shape[:2]
        return pieces.reshape(*shape, self.width), counts.reshape(shape)

    def _encoded(self, rows: list[np.ndarray]) -> list[Row]:
        if not rows:
            return []
        encoded = []
        for ids in word_pieces(self.target, self.texts(rows), self.width):
            padded = np.zeros(self.width, np.int32)
            padded[: len(ids)] = ids
            encoded.append((padded, len(ids) if len(ids) > self.special else 0))
        return encoded

    def __call__(self, common: jax.Array, own: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Crosses over in one host callback; can be called under `jit`.

        Args:
          common: `[B, R, M]` int32 ids with which all texts of a row begin; -1 is no token.
          own: `[B, R, W, D]` int32 ids with which each goes on; -1 is no token.

        Returns:
          Word pieces `[B, R, W, width]` and how many there are `[B, R, W]`; see `host`.
        """
        lanes = own.shape[:3]
        call = _Call(self, common.shape, own.shape)
        shapes = (
            jax.ShapeDtypeStruct((*lanes, self.width), jnp.int32),
            jax.ShapeDtypeStruct(lanes, jnp.int32),
        )
        parts = [*_parts(common), *_parts(own)]
        return jax.pure_callback(call, shapes, *parts, vmap_method="sequential")


@dataclass(frozen=True)
class _Call:
    """The callback itself: puts the parts of the arguments together again."""

    crossing: Crossing
    common: tuple[int, ...]
    own: tuple[int, ...]

    def __call__(self, *parts: jax.Array) -> tuple[np.ndarray, np.ndarray]:
        flat = np.concatenate([np.asarray(part) for part in parts])
        rows = self.own[0] * self.own[1]
        split = rows * self.common[2]
        pieces, counts = self.crossing.host(
            flat[:split].reshape(rows, self.common[2]), flat[split:].reshape(rows, *self.own[2:])
        )
        return pieces.reshape(*self.own[:3], -1), counts.reshape(self.own[:3])


def _parts(ids: jax.Array) -> list[jax.Array]:
    flat = ids.reshape(-1)
    return [flat[start : start + SAFE_ELEMENTS] for start in range(0, flat.size, SAFE_ELEMENTS)]
