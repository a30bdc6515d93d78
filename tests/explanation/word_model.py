"""A tiny language model whose tokens are words, and classifiers of bags of words."""

import dataclasses
from functools import cache

import jax
import numpy as np
import tokenizers

from coopgen_jax.models.pretrained.loaded_model import LoadedModel
from coopgen_jax.models.transformer import init_decoder
from coopgen_jax.testing import TINY_LLAMA
from coopgen_jax.tokenizer import Tokenizer

# Words of four letters, made of two syllables.
SYLLABLES = [first + second for first in "bdfgklmnprstvz" for second in "aeiou"]
WORDS = [one + other for one in SYLLABLES[:17] for other in SYLLABLES[17:34]]
CLASSES = ("dull", "bright")
# Fifteen words of each class.
BAGS = (WORDS[0:150:10], WORDS[5:155:10])


@cache
def model() -> LoadedModel:
    vocabulary = {word: number for number, word in enumerate([*WORDS, "<end>"])}
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token=WORDS[0]))
    core.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    end = vocabulary["<end>"]
    shape = dataclasses.replace(
        TINY_LLAMA, vocab_size=len(vocabulary), layers=1, context=64, end_tokens=(end,)
    )
    params = jax.tree.map(lambda leaf: 2 * leaf, init_decoder(jax.random.key(0), shape))
    tokenizer = Tokenizer(core, end_tokens=[end])
    return LoadedModel(shape, params, tokenizer, "words", "0" * 64, None)


def bag(texts):
    """p(dull), p(bright): the log-odds are 2 for every bright word, -2 for every dull one."""
    sets = [set(words) for words in BAGS]
    score = np.array(
        [
            2.0 * sum((word in sets[1]) - (word in sets[0]) for word in text.split())
            for text in texts
        ]
    )
    p = 1 / (1 + np.exp(-score))
    return np.stack([1 - p, p], axis=-1)
