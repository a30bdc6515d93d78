"""From one tokenizer to another: a language model's tokens become those of a discriminator."""

from collections.abc import Sequence

import numpy as np

from coopgen_jax.discriminators.host.call import HostCall
from coopgen_jax.tokenizer import Tokenizer


class Crossing(HostCall):
    """The host function from texts to tokens, equal when tokenizers and settings are equal.

    A row holds the tokens of a text, special ones included, the last ones of a longer text; -1 is
    no token, and a text without any of its own has none at all.
    """

    def __init__(
        self,
        source: Tokenizer,
        target: Tokenizer,
        *,
        width: int,
        bare: bool = False,
        alone: bool = False,
        remember: int = 65_536,
    ) -> None:
        """Makes a crossing from `source` to at most `width` tokens of `target`.

        Where it is `bare` a text stands behind a space, as continuations do, and no special tokens
        stand around it. Where it is `alone` the space that it begins with is no part of it.
        """
        self.target = target
        self.bare = bare
        self.alone = alone
        self.special = 0 if bare else sum(map(len, target.wrapping))
        if width <= self.special:
            raise ValueError(f"a width of {width} leaves no room beside the special word pieces")
        super().__init__(
            self._pieces,
            source,
            key=("crossing", target.identity, bare, alone),
            width=width,
            dtype=np.int32,
            remember=remember,
        )

    def _pieces(self, texts: Sequence[str]) -> np.ndarray:
        rows = np.full((len(texts), self.width), -1, np.int32)
        if not self.bare:
            given = [text.lstrip() for text in texts] if self.alone else texts
            found = word_pieces(self.target, given, self.width)
        else:
            # Some tokenizers drop a leading space, and encoders were trained on texts behind one.
            spaced = [f" {text.lstrip()}" if text else "" for text in texts]
            found = [ids[-self.width :] for ids in self.target.encode_batch(spaced)]
        for row, ids in zip(rows, found, strict=True):
            if len(ids) > self.special:
                row[: len(ids)] = ids
        return rows


def word_pieces(tokenizer: Tokenizer, texts: Sequence[str], longest: int) -> list[list[int]]:
    """Returns the pieces of every text, special ones around them, at most `longest` in all.

    Of a text that is too long the last pieces are kept: what was said last weighs most on what a
    continuation is about to become.
    """
    begin, end = tokenizer.wrapping
    room = longest - len(begin) - len(end)
    rows = tokenizer.encode_batch(texts)
    return [[*begin, *row[max(0, len(row) - room) :], *end] for row in rows]
