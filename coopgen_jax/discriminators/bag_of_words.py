"""A bag of words as a discriminator: a text is about what words of a list it has.

PPLM steers by lists of words (Dathathri et al. 2020, arXiv 1912.02164). Here every word of the list
that stands in a text is evidence for its topic, by a noisy-or (Pearl 1988): of `n` words

    p(present | x) = 1 - (1 - leak) * (1 - strength)^n.

Everything is token ids on the device. A word is found as the sequence of tokens that spell it
behind a space, and stays found only if the next token does not go on with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from coopgen_jax.discriminators.discriminator import LEAST, Discriminator
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.errors import UserError
from coopgen_jax.models.language_model import Bound, Nodes, Prompt
from coopgen_jax.models.prompt import left_padded
from coopgen_jax.models.slots import Capacity, rooted, take, write
from coopgen_jax.tokenizer import Tokenizer

CLASSES = ("absent", "present")
# Words spelt with more tokens than this are refused: every node keeps as many.
LONGEST = 16


@dataclass(frozen=True)
class BagOfWordsConfig:
    """How many tokens the longest of a list's words has, and whether the prompt's words count."""

    longest: int
    reads_prompt: bool = False


# What a node's children need of it, three arrays of int32 or the slots of them: the text's last
# tokens `[..., longest]`, -1 in front of its first; how many words of the list have ended; and how
# many end at this token, if no other token goes on with them.
State = tuple[Any, ...]


def bag_of_words(
    words: Sequence[str],
    *,
    tokenizer: Tokenizer,
    leak: float = 0.05,
    strength: float = 0.5,
    reads_prompt: bool = False,
) -> LoadedDiscriminator:
    """Makes a discriminator of a list of words; its classes are "absent" and "present".

    Args:
      words: words or phrases; each counts in lower case, capitalised, in capitals and as it is
        given.
      tokenizer: the language model's.
      leak: p(present) of a text without any of the words, above 0 and below 1.
      strength: by what share every word lessens p(absent), above 0 and at most 1. Both are run-time
        arrays in `params`.
      reads_prompt: whether the prompt's words count too.

    Raises:
      UserError: there are no words, a word is spelt with more than `LONGEST` tokens, or a number is
        out of its range.
    """
    if not 0 < leak < 1 or not 0 < strength <= 1:
        raise UserError(f"leak is {leak} and strength {strength}: they must lie between 0 and 1")
    if isinstance(words, str):
        raise UserError("words is one string: give a list of words")
    plain = [stripped for word in words if (stripped := word.strip())]
    if not plain:
        raise UserError("the bag of words is empty: give at least one word")
    forms = dict.fromkeys(
        form for word in plain for form in (word, word.lower(), word.upper(), word.capitalize())
    )
    spelt = dict.fromkeys(tuple(_behind_space(tokenizer, form)) for form in forms)
    spelt.pop((), None)  # what the vocabulary has no token for
    if not spelt:
        raise UserError(f"the tokenizer can spell none of the words, such as {plain[0]!r}")
    longest = max(map(len, spelt))
    if longest > LONGEST:
        long = max(forms, key=lambda form: len(_behind_space(tokenizer, form)))
        raise UserError(f"{long!r} is spelt with {longest} tokens: a word has at most {LONGEST}")
    table, there = left_padded([*spelt], longest)
    params = {
        "table": jnp.asarray(np.where(there, table, -1)),
        "goes_on": jnp.asarray(_goes_on(tokenizer)),
        "leak": jnp.float32(leak),
        "strength": jnp.float32(strength),
    }
    config = BagOfWordsConfig(longest, reads_prompt)
    discriminator = Discriminator(
        init=Bound(_init, config),
        evaluate=Bound(_evaluate, config),
        classes=CLASSES,
        reads_prompt=reads_prompt,
    )
    return LoadedDiscriminator(discriminator, params)


def single_tokens(
    words: Sequence[str], *, tokenizer: Tokenizer
) -> tuple[tuple[int, ...], list[str]]:
    """Returns the ids of the words that are one token each, and the words that are not.

    A word is looked up behind a space and bare, as it is written; one that is a token either way
    counts. These are the bags of `PPLMConfig`, as the method's authors keep them.
    """
    found: dict[int, None] = {}
    left = []
    for word in words:
        spelt = (_behind_space(tokenizer, word), tokenizer.encode_behind(word))
        ids = [form[0] for form in spelt if len(form) == 1]
        found.update(dict.fromkeys(ids))
        if not ids:
            left.append(word)
    return tuple(found), left


def _behind_space(tokenizer: Tokenizer, word: str) -> list[int]:
    """Returns the ids of a word as it is spelt inside a text."""
    anchor = tokenizer.encode("a")
    ids = tokenizer.encode("a " + word)
    return ids[len(anchor) :] if ids[: len(anchor)] == anchor else tokenizer.encode(" " + word)


def _goes_on(tokenizer: Tokenizer) -> np.ndarray:
    """Returns which ids `[V]` go on with a word: those whose text begins with a letter or digit.

    Half a character counts as a letter, since few others are spelt with several tokens.
    """
    texts = tokenizer.continuations([[number] for number in range(tokenizer.vocab_size)])
    return np.array([text[:1].isalnum() or text[:1] == "\ufffd" for text in texts])


def _step(params: Any, before: State, token: jax.Array, real: jax.Array) -> State:
    """Reads one more token `[...]` of texts; where it is not `real`, nothing changes."""
    window, found, open_words = before
    longer = jnp.concatenate([window[..., 1:], token[..., None]], axis=-1)
    table = params["table"].reshape(*[1] * token.ndim, *params["table"].shape)
    same = (table == longer[..., None, :]) | (table < 0)
    ends_here = jnp.sum(same.all(axis=-1), axis=-1, dtype=jnp.int32)
    settled = found + jnp.where(params["goes_on"][token], 0, open_words)
    after = (longer, settled, ends_here)
    changed = (real[..., None], real, real)
    return jax.tree.map(jnp.where, changed, after, before)


def _judge(params: Any, state: State) -> jax.Array:
    _, found, open_words = state
    words = (found + open_words).astype(jnp.float32)
    # At a strength of 1 a single word is proof.
    kept = jnp.log(jnp.maximum(1 - params["strength"], LEAST))
    absent = jnp.log1p(-params["leak"]) + words * kept
    return jnp.stack([absent, jnp.log(-jnp.expm1(absent))], axis=-1)


def _init(
    config: BagOfWordsConfig,
    params: Any,
    prompt: Prompt,
    hidden: jax.Array,
    *,
    capacity: Capacity,
) -> tuple[jax.Array, State]:
    batch = len(prompt.tokens)
    nothing = jnp.zeros(batch, jnp.int32)
    text: State = (jnp.full((batch, config.longest), -1, jnp.int32), nothing, nothing)
    if config.reads_prompt:

        def step(text: State, column: tuple[jax.Array, jax.Array]) -> tuple[State, None]:
            return _step(params, text, *column), None

        text = jax.lax.scan(step, text, (prompt.tokens.T, prompt.spelt.T))[0]
    return _judge(params, text), tuple(rooted(array, capacity) for array in text)


def _evaluate(
    config: BagOfWordsConfig, params: Any, state: State, nodes: Nodes
) -> tuple[jax.Array, State]:
    before = tuple(take(slots, nodes.parent) for slots in state)
    after = _step(params, before, nodes.token, ~nodes.terminal)
    written = (write(slots, nodes.start, array) for slots, array in zip(state, after, strict=True))
    return _judge(params, after), tuple(written)
