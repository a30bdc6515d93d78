"""Watermarks: secret-keyed rules that leave a trace in a text, which a test finds again.

Four schemes, each a function of pseudo-random words (`decoding.rules.keys`) of the secret, the last
`h` tokens of the text (its window) and a candidate token:

- `greenlist` (Kirchenbauer et al., ICML 2023, arXiv 2301.10226): a share gamma of the vocabulary is
  green, and delta is added to the logits of green tokens. An infinite delta is their hard list.
- `gumbel` (Aaronson 2022): of uniform r, the token of largest r^(1/p) is written. Over secrets that
  is a draw from p, and given the secret nothing is random.
- `permute-flip` (Zhao et al., ICLR 2025, arXiv 2402.05864): the token of largest log p + E, with E
  exponential.
- `tournament` (SynthID-Text; Dathathri et al., Nature 634, 2024): every candidate has a random bit
  g in every layer, and each layer moves p to p (1 + g - E_p[g]).

A mark begins where the whole window lies in the continuation, so that the prompt is not needed to
find it. The three that take the place of a draw leave a token to the text's own noise where its
window was there before in this text, so that their draws stay those of p, and where an earlier one
of the prompt's texts has the same window at the same step, so that two texts do not become one.
Where texts are chosen among (resampling, best of n), a window of one that was dropped can come
again in another, so that there draws are those of p but for such windows.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from coopgen_jax.decoding.rules.keys import green_below, shifted, token_words, window_seed

Scheme = Literal["greenlist", "gumbel", "permute-flip", "tournament"]
LONGEST_WINDOW = 8
# Single precision keeps the logits apart up to here.
LARGEST_DELTA = 100
# A word has so many bits, one for a layer of a tournament.
MOST_LAYERS = 32


@dataclass(frozen=True)
class Watermark:
    """Which mark a text is given; static under `jit`. The secret is an array beside it, `Marking`.

    Attributes:
      scheme: "greenlist", "gumbel", "permute-flip" or "tournament".
      window: `h`, how many tokens in front of a token its mark depends on, from 0 to 8. A longer
        one hides the mark better, and an edit destroys more of it.
      gamma: share of the vocabulary that is green, of a greenlist alone.
      delta: what green tokens' logits gain, of a greenlist alone; infinite for nothing but green
        tokens.
      layers: rounds of a tournament, at most 32.
      mark_repeats: marks a token whose window was there before in the text too, where a scheme
        takes the place of a draw. Without a window it is so in any case.
    """

    # Its fields are no settings of a method: a key has them.
    opaque: ClassVar[bool] = True

    scheme: Scheme = "greenlist"
    window: int = 4
    gamma: float = 0.25
    delta: float = 2.0
    layers: int = 30
    mark_repeats: bool = False

    def __post_init__(self) -> None:
        if self.scheme not in get_args(Scheme):
            raise ValueError(f"scheme is {self.scheme!r}: give {', '.join(get_args(Scheme))}")
        if not 0 <= self.window <= LONGEST_WINDOW:
            raise ValueError(f"window is {self.window}: give 0 to {LONGEST_WINDOW} tokens")
        if not 0 < self.gamma < 1:
            raise ValueError(f"gamma is {self.gamma}: give a share between 0 and 1")
        if not (0 < self.delta <= LARGEST_DELTA or self.delta == math.inf):
            raise ValueError(
                f"delta is {self.delta}: give a number above 0 and up to {LARGEST_DELTA}, or inf"
            )
        if not 1 <= self.layers <= MOST_LAYERS:
            raise ValueError(f"layers is {self.layers}: give 1 to {MOST_LAYERS}")
        if self.scheme == "tournament" and self.window == 0:
            raise ValueError(
                "window is 0 and scheme is tournament: every window would be a repeat, which a "
                "tournament leaves unmarked, give 1 or more"
            )

    def on_disc(self) -> dict[str, Any]:
        """Returns the settings as strict JSON has them: an infinite delta is "infinity"."""
        delta = "infinity" if math.isinf(self.delta) else self.delta
        return asdict(self) | {"delta": delta}

    @property
    def draws(self) -> bool:
        """Whether the scheme takes the place of a token's draw."""
        return self.scheme != "greenlist"

    @property
    def skips_repeats(self) -> bool:
        """Whether a token is left unmarked where its window was there before in the text."""
        return self.draws and self.window > 0 and not self.mark_repeats


@struct.dataclass
class Marking:
    """What a mark is made with, as arrays: a secret is never part of a compiled program.

    secret: `[4]` uint32; message: `[B]` uint32 what every prompt's texts say, 0 for nothing.
    """

    secret: jax.Array = struct.field(repr=False)
    message: jax.Array


@struct.dataclass
class Mark:
    """The mark at the next token of every text; the leading axes `[...]` are the texts'.

    seed: two words `[...]` of the window in front; message: `[...]` uint32.
    there: `[...]` bool, whether the token is marked.
    vocab_size: `V`, tokens that the message shifts around.
    """

    seed: tuple[jax.Array, jax.Array]
    message: jax.Array
    there: jax.Array
    vocab_size: int = struct.field(pytree_node=False)

    def words(self, tokens: jax.Array | None, own: jax.Array | None = None) -> jax.Array:
        """Returns the words `[..., K]` of tokens `[..., K]`, None for all of the vocabulary.

        Where no token is marked they are those of the texts' `own` typed keys `[...]`, if there are
        any.
        """
        if tokens is None:
            shape = (*self.there.shape, self.vocab_size)
            tokens = jax.lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1)
        index = shifted(tokens.astype(jnp.uint32), self.message[..., None], self.vocab_size)
        seed = self.seed
        if own is not None:
            noise = jax.random.key_data(own)[..., -2:]
            first, second = (jnp.where(self.there, seed[at], noise[..., at]) for at in range(2))
            seed = first, second
        return token_words((seed[0][..., None], seed[1][..., None]), index)


def mark_behind(
    watermark: Watermark,
    marking: Marking,
    tokens: jax.Array,
    length: jax.Array,
    *,
    vocab_size: int,
) -> Mark:
    """Returns the mark at the next token of every text.

    The texts are the `length` `[B, ..., W]` first of their tokens `[B, ..., W, T]`; those that
    stand side by side on the axis `W` are kept from becoming one.
    """
    count, total = watermark.window, tokens.shape[-1]
    shape = (*length.shape, count)
    last = length[..., None] - count + jax.lax.broadcasted_iota(jnp.int32, shape, length.ndim)
    window = jnp.take_along_axis(tokens, jnp.maximum(last, 0), axis=-1)
    there = length >= count
    if watermark.skips_repeats:
        starts = max(total - count, 0)
        shape = (*length.shape, starts)
        start = jax.lax.broadcasted_iota(jnp.int32, shape, length.ndim)
        same = start < length[..., None] - count
        for place in range(count):
            earlier = tokens[..., place : place + starts]
            same = same & (earlier == window[..., place : place + 1])
        there = there & ~jnp.any(same, axis=-1)
    if watermark.draws:
        # Of texts with one window and one secret, one is marked.
        agree = jnp.all(window[..., None, :, :] == window[..., :, None, :], axis=-1)
        agree = agree & there[..., None, :]
        there = there & ~jnp.any(jnp.tril(agree, -1), axis=-1)
    message = marking.message.reshape(-1, *(1,) * (length.ndim - 1))
    message = jnp.broadcast_to(message, length.shape)
    seed = window_seed(marking.secret, window.astype(jnp.uint32))
    return Mark(seed, message, there, vocab_size)


def biased(
    watermark: Watermark, logits: jax.Array, mark: Mark, tokens: jax.Array | None = None
) -> jax.Array:
    """Returns the logits `[..., K]` with the greenlist's delta; the other schemes leave them.

    They are of `tokens` `[..., K]`, None where `K` is the vocabulary. An infinite delta rules out
    what is not green, unless nothing would be left.
    """
    if watermark.draws:
        return logits
    green = mark.words(tokens) < np.uint32(green_below(watermark.gamma))
    if math.isinf(watermark.delta):
        only = jnp.where(green, logits, -jnp.inf)
        some = jnp.isfinite(only).any(axis=-1, keepdims=True)
        raised = jnp.where(some, only, logits)
    else:
        raised = logits + watermark.delta * green
    return jnp.where(mark.there[..., None], raised, logits)


def tournament(scores: jax.Array, words: jax.Array, *, layers: int) -> jax.Array:
    """Returns the log-probabilities `[..., K]` behind a tournament of two, layer after layer."""

    def layer(p: jax.Array, bit: jax.Array) -> tuple[jax.Array, None]:
        g = ((words >> bit) & 1).astype(jnp.float32)
        # What is sure of its bit must not be rounded below nothing.
        return p * jnp.maximum(1 + g - jnp.sum(p * g, axis=-1, keepdims=True), 0), None

    p, _ = jax.lax.scan(layer, jax.nn.softmax(scores), jnp.arange(layers, dtype=jnp.uint32))
    return jnp.log(p)


def marking_of(secret: Any, messages: Any) -> Marking:
    """Returns what a job marks with: four words, and one message a prompt."""
    return Marking(jnp.asarray(secret, jnp.uint32), jnp.asarray(messages, jnp.uint32))
