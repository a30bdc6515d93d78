"""Pseudo-random words of a secret, a window of tokens and a token, for marks and their detection.

Every word is Threefry-2x32 with 20 rounds (Salmon, Moraes, Dror and Shaw, "Parallel random numbers:
as easy as 1, 2, 3", SC 2011) of a counter. It uses 32-bit additions, rotations and exclusive ors
alone, so NumPy and JAX, on a processor, a GPU or a TPU, find the same bits, and a detector computes
the words of the tokens that stand in a text and no others.
"""

from typing import Any

# A uint32 array of NumPy or JAX; all functions here work on both.
Words = Any

SECRET_WORDS = 4
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


def threefry(key: tuple[Words, Words], counter: tuple[Words, Words]) -> tuple[Words, Words]:
    """Returns two pseudo-random words of a key and a counter of two words each; they broadcast."""
    keys = (*key, key[0] ^ key[1] ^ _PARITY)
    a, b = counter[0] + keys[0], counter[1] + keys[1]
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            a = a + b
            b = (b << rotation) | (b >> (32 - rotation))
            b = b ^ a
        a = a + keys[(group + 1) % 3]
        b = b + keys[(group + 2) % 3] + (group + 1)
    return a, b


def window_seed(secret: Words, window: Words) -> tuple[Words, Words]:
    """Returns the seed of what may follow a window, two words `[...]`.

    Args:
      secret: `[4]` uint32.
      window: `[N, ..., h]` uint32 the last `h` tokens, the oldest first; `h` may be 0.
    """
    one = (1,) * (window.ndim - 1)
    # Arrays, for NumPy lets them wrap around and warns of scalars that do.
    words = [secret[place : place + 1].reshape(one) for place in range(SECRET_WORDS)]
    seed = threefry((words[0], words[1]), (words[2], words[3]))
    nothing = window[..., :0].sum(axis=-1).astype(window.dtype)
    seed = seed[0] + nothing, seed[1] + nothing
    for place in range(window.shape[-1]):
        token = window[..., place]
        seed = threefry(seed, (token, token ^ token))
    return seed


def token_words(seed: tuple[Words, Words], index: Words) -> Words:
    """Returns the word of every token's index; both broadcast.

    Args:
      seed: two words, of the window in front; see `window_seed`.
      index: uint32 the token, shifted by the message: (token + message) mod V.
    """
    # The second word of a counter is 0 in a window and 1 here, so that no token is a window.
    return threefry(seed, (index, (index ^ index) + 1))[0]


def shifted(token: Words, message: Words, vocab_size: int) -> Words:
    """Returns (token + message) mod V of uint32 arrays below V, at most 2^31: a cyclic shift."""
    moved = token + message
    return moved - vocab_size * (moved >= vocab_size).astype(token.dtype)


def green_below(gamma: float) -> int:
    """Returns the word below which a token is green, with probability `gamma` to 2^-32."""
    return min(max(round(gamma * 2**32), 1), 2**32 - 1)
