"""From one tokenizer to another: a language model's tokens become an encoder's word pieces."""

from collections.abc import Sequence

import numpy as np

from coopgen_jax.discriminators.host_call import HostCall
from coopgen_jax.discriminators.sentences import word_pieces
from coopgen_jax.text import Tokenizer


class Crossing(HostCall):
    """The host function from texts to word pieces, equal when tokenizers and width are equal.

    A row holds the word pieces of a text, special ones included, the last ones of a longer text; -1
    is no word piece, and a text without any of its own has none at all.

    Attributes:
      target: the encoder's tokenizer.
      special: how many special word pieces stand around a text.
    """

    def __init__(
        self, source: Tokenizer, target: Tokenizer, *, width: int, remember: int = 65_536
    ) -> None:
        """Makes a crossing from `source` to at most `width` pieces of `target`."""
        self.target = target
        self.special = len(target.encode("", special=True))
        if width <= self.special:
            raise ValueError(f"a width of {width} leaves no room beside the special word pieces")
        super().__init__(
            self._pieces,
            source,
            key=("crossing", target.identity),
            width=width,
            dtype=np.int32,
            remember=remember,
        )

    def _pieces(self, texts: Sequence[str]) -> np.ndarray:
        rows = np.full((len(texts), self.width), -1, np.int32)
        for row, ids in zip(rows, word_pieces(self.target, texts, self.width), strict=True):
            if len(ids) > self.special:
                row[: len(ids)] = ids
        return rows
