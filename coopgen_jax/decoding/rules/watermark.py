"""The two places where a watermark enters: the logits before the temperature, and the draw."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Watermark:
    """A watermark as functions, equal when they are equal; static under `jit`.

    Attributes:
      logits: `(logits [..., V], tokens [..., S], mask [..., S]) -> logits [..., V]`, given the
        tokens in front; None leaves them.
      draw: `(keys [...], scores [..., K], tokens [..., K] | None, seen_tokens [..., S], seen_mask
        [..., S]) -> rank [...]`: chooses among the scores in place of a draw from their softmax,
        which stays the reported probability; `tokens` is None where `K` is the vocabulary. None
        leaves the draw.
    """

    opaque: ClassVar[bool] = True

    logits: Callable | None = None
    draw: Callable | None = None
