"""Texts of the toy language under rules, written by any decoder and enumerated slowly."""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from coopgen_jax.decoding.decode import decode
from coopgen_jax.decoding.rules.shaping import Rules
from coopgen_jax.decoding.rules.stop import DONE, StopStrings
from tests.byte_tokenizer import make_tokenizer
from tests.decoding.rules.slow_rules import slow_constraints, slow_shape, softmax
from tests.decoding.toy import END, JUDGE, MODEL, PARAMS, TABLES, TOY, memory_of, prompt_of

# Tokens 0 to 3 are written as ! " # and $.
STOP = StopStrings.compile(("$##", "$$#"), make_tokenizer(), TOY.vocab_size)
STOPS = ((3, 2, 2), (3, 3, 2))


@functools.partial(jax.jit, static_argnames="config")
def written(key, prompt, config, target=None):
    """Returns texts for the target class 1, judged by the toy's discriminator."""
    return decode(
        key,
        prompt,
        language_model=MODEL,
        params=PARAMS,
        discriminator=JUDGE,
        discriminator_params=PARAMS,
        target=jnp.ones(len(prompt.index), jnp.int32) if target is None else target,
        config=config,
    )


def texts(got, row: int = 0) -> list[tuple[int, ...]]:
    tokens, lengths = np.asarray(got.tokens[row]), np.asarray(got.length[row])
    return [tuple(text[:length].tolist()) for text, length in zip(tokens, lengths, strict=True)]


def write(config, prompt, key: int = 0):
    return written(jax.random.key(key), prompt_of(prompt), config)


def over(text) -> bool:
    """Tells whether a text has ended, by the end token or by one of `STOPS`."""
    return tuple(text[-1:]) == (END,) or tuple(text[-3:]) in STOPS


def state_of(rules: Rules, text) -> int:
    state = 0
    if isinstance(rules.stop, StopStrings):
        for token in text:
            state = rules.stop.table[state, token]
    return int(state)


def logits_behind(prompt, text) -> np.ndarray:
    return TABLES["logits"][memory_of([*prompt, *text])].astype(np.float64)


def shaped(rules: Rules, prompt, text) -> np.ndarray:
    """Returns the logits of the next token by all rules."""
    behind = logits_behind(prompt, text)
    return slow_shape(rules, behind, [*prompt, *text], len(text), state_of(rules, text), (END,))


def constrained(rules: Rules, prompt, text) -> np.ndarray:
    """Returns p of the next token under the constraints."""
    behind, state = logits_behind(prompt, text), state_of(rules, text)
    whole = [*prompt, *text]
    return softmax(slow_constraints(rules, behind, whole, len(text), state, behind, (END,)))


def every_text(rules: Rules, new_tokens: int, begun: tuple = ()) -> Iterator[tuple[int, ...]]:
    """Yields every text that ends by the end token, a stop string or its length."""
    ended = begun[-1:] == (END,) or state_of(rules, begun) == DONE
    if ended or len(begun) == new_tokens:
        yield begun
        return
    for token in range(TOY.vocab_size):
        yield from every_text(rules, new_tokens, (*begun, token))


def product(step, prompt, text) -> float:
    """Returns the probability of a text, of those of its tokens by `step(prompt, text)`."""
    return float(np.prod([step(prompt, text[:at])[token] for at, token in enumerate(text)]))
