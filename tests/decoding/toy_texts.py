"""All texts of the toy language behind a prompt, with what both networks say of them."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from coopgen_jax.models.language_model import Prompt
from tests.decoding.toy import END, TABLES, TOY, log_softmax, memory_of, prompt_of

# A judge who is never so sure that few texts carry nearly all of the weight.
MILD = {**TABLES, "scores": 0.3 * TABLES["scores"]}
LOGITS = TABLES["logits"].astype(np.float64)
MILD_PARAMS = jax.tree.map(jnp.asarray, MILD)

Words = tuple[int, ...]


@functools.cache
def every_text(steps: int, prompt: Words = (0, 1)) -> tuple[Words, ...]:
    """Every text of up to so many tokens that has ended or has no room left."""
    letters = range(TOY.vocab_size - 1)
    texts: list[Words] = []
    for length in range(steps):
        texts += [(*text, END) for text in itertools.product(letters, repeat=length)]
    return (*texts, *itertools.product(letters, repeat=steps))


def log_p(text: Words, prompt: Words = (0, 1), temperature: float = 1.0) -> float:
    """log p(text | prompt), every token's logits divided by a temperature."""
    return sum(
        log_softmax(LOGITS[memory_of([*prompt, *text[:at]])] / temperature)[token]
        for at, token in enumerate(text)
    )


def said(text: Words, prompt: Words = (0, 1)) -> np.ndarray:
    """What the mild judge says of a text: log p(class | text without its end)."""
    judged = text[:-1] if text and text[-1] == END else text
    return log_softmax(MILD["scores"][memory_of([*prompt, *judged])])


def repeated(count: int, *text: int) -> Prompt:
    """One prompt so many times, each with noise of its own."""
    one = prompt_of(list(text) or [0, 1])
    return Prompt(
        jnp.repeat(one.tokens, count, 0), jnp.repeat(one.mask, count, 0), jnp.arange(count)
    )


def texts_of(generation, row: int) -> list[Words]:
    """The texts of a row, as tuples."""
    tokens, lengths = np.asarray(generation.tokens[row]), np.asarray(generation.length[row])
    return [tuple(text[:length].tolist()) for text, length in zip(tokens, lengths, strict=True)]


def same_row(together, row: int, alone) -> None:
    """Asserts that a row's texts and counts are those of the row by itself.

    Sums of exponentials are rounded by the batch's size, so its figures are only nearly so.
    """

    def same(many: jax.Array, one: jax.Array) -> None:
        if many.dtype == jnp.float32:
            np.testing.assert_allclose(many[row], one[0], rtol=1e-5, atol=1e-5)
        else:
            np.testing.assert_array_equal(many[row], one[0])

    jax.tree.map(same, together, alone)


def fits(counts: np.ndarray, probabilities: np.ndarray, least: float = 8.0) -> bool:
    """Whether counts can be draws of given probabilities (chi-square, rare cells together)."""
    probabilities = np.asarray(probabilities, np.float64)
    expected = probabilities / probabilities.sum() * counts.sum()
    rare = expected < least
    seen = np.append(counts[~rare], counts[rare].sum())
    wanted = np.append(expected[~rare], expected[rare].sum())
    if wanted[-1] < least:
        seen, wanted = seen[:-1], wanted[:-1] * (seen[:-1].sum() / wanted[:-1].sum())
    return bool(stats.chisquare(seen, wanted).pvalue > 1e-4)
