"""Stop strings: an automaton over the bytes of tokens, which runs along with every text.

A stop string may begin inside one token and end inside another. The automaton of Aho and Corasick
(1975) keeps how much of a stop string the text ends with; `table` has one row a state and one
column a token, so that a token costs one look-up. A text's state belongs to its node, in `Slots`,
and moves with it.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from coopgen_jax.tokenizer import Tokenizer

# What the table holds where a token completes a stop string.
DONE = -1


class StopStrings:
    """Stop strings for one vocabulary; equal when strings and tokenizer are equal.

    Attributes:
      strings: the strings.
      table: `[S, V]` int32 the state behind every token, `DONE` where it completes a string; a
        special token, which stands for no text, leaves it.
    """

    def __init__(self, strings: Sequence[str], table: np.ndarray, identity: str) -> None:
        self.strings, self.table = tuple(strings), table
        self._key = (self.strings, table.shape, identity)

    @classmethod
    def compile(
        cls, strings: Sequence[str], tokenizer: Tokenizer, vocab_size: int
    ) -> "StopStrings":
        """Returns the automaton of stop strings, none empty, over a language model's tokens.

        There are `vocab_size` in its logits, which may be more than its tokenizer has.
        """
        step = _byte_automaton([text.encode() for text in strings])
        spelt = tokenizer.token_bytes[:vocab_size]
        return cls(strings, _over_tokens(step, spelt, vocab_size), tokenizer.identity)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StopStrings) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return f"StopStrings({list(self.strings)!r})"

    def after(self, state: jax.Array, token: jax.Array) -> jax.Array:
        """Returns the states `[...]` behind one more token each."""
        return jnp.asarray(self.table)[state, token]

    def completes(self, state: jax.Array, token: jax.Array) -> jax.Array:
        """Returns where a token completes a stop string, `[...]` bool."""
        return self.after(state, token) == DONE

    def completing(self, state: jax.Array) -> jax.Array:
        """Returns which tokens would complete a stop string, `[..., V]` bool."""
        return jnp.asarray(self.table == DONE)[state]


def _byte_automaton(strings: list[bytes]) -> np.ndarray:
    """Returns the automaton `[S, 256]` over bytes, `DONE` where a string is complete."""
    prefixes = sorted({text[:end] for text in strings for end in range(len(text))}, key=len)
    number = {prefix: place for place, prefix in enumerate(prefixes)}
    step = np.zeros((len(prefixes), 256), np.int32)
    for prefix, state in number.items():
        for byte in range(256):
            text = prefix + bytes([byte])
            if any(text.endswith(stop) for stop in strings):
                step[state, byte] = DONE
                continue
            # The longest end of the text that begins a stop string.
            tail = next(text[at:] for at in range(len(text) + 1) if text[at:] in number)
            step[state, byte] = number[tail]
    return step


def _over_tokens(step: np.ndarray, spelt: Sequence[bytes | None], vocab_size: int) -> np.ndarray:
    """Returns the automaton `[S, V]` over tokens, given that over bytes and each token's bytes."""
    longest = max((len(text) for text in spelt if text), default=0)
    codes = np.zeros((vocab_size, longest), np.uint8)
    lengths = np.zeros(vocab_size, np.int32)
    for token, text in enumerate(spelt):
        if text:
            codes[token, : len(text)] = np.frombuffer(text, np.uint8)
            lengths[token] = len(text)
    states = np.repeat(np.arange(len(step), dtype=np.int32)[:, None], vocab_size, axis=1)
    for place in range(longest):
        going = (place < lengths)[None] & (states != DONE)
        states = np.where(going, step[states, codes[None, :, place]], states)
    return states
