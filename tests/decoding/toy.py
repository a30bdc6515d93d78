"""The toy language under the decoders: its tables, its networks and its prompts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from coopgen_jax.decoding.decode import sample
from coopgen_jax.models.language_model import Prompt
from coopgen_jax.testing import ToyLanguage, toy_discriminator, toy_language_model

TOY = ToyLanguage()
TABLES = TOY.tables(3)
PARAMS = jax.tree.map(jnp.asarray, TABLES)
MODEL, JUDGE = toy_language_model(TOY), toy_discriminator(TOY)
END = TOY.vocab_size - 1


@functools.partial(jax.jit, static_argnames="config")
def decode(key, prompt, config):
    return sample(
        key,
        prompt,
        language_model=MODEL,
        params=PARAMS,
        discriminator=JUDGE,
        discriminator_params=PARAMS,
        config=config,
    )


def prompt_of(*rows, length=4, first=0) -> Prompt:
    tokens = np.zeros((len(rows), length), np.int32)
    mask = np.zeros((len(rows), length), bool)
    for i, row in enumerate(rows):
        tokens[i, length - len(row) :], mask[i, length - len(row) :] = row, True
    index = jnp.arange(first, first + len(rows))
    return Prompt(tokens=jnp.asarray(tokens), mask=jnp.asarray(mask), index=index)


def memory_of(text) -> int:
    memory = 0
    for token in text:
        memory = TOY.read(memory, int(token))
    return memory


def log_softmax(x):
    return x - np.log(np.exp(x).sum())


def said_of(text) -> np.ndarray:
    judged = text[:-1] if text and text[-1] == END else text
    return log_softmax(TABLES["scores"][memory_of([0, 1, *judged])])


def repeats(text: list[int], n: int) -> bool:
    grams = [tuple(text[at : at + n]) for at in range(len(text) - n + 1)]
    return n > 0 and len(grams) > len(set(grams))
