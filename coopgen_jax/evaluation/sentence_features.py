"""Sentence features: a frozen encoder's mean state of each text, on the host, in bulk."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from coopgen_jax.discriminators.host.retokenise import word_pieces
from coopgen_jax.models.encoder import EncoderConfig, encode, mean_pool
from coopgen_jax.models.pretrained.loaded_model import LoadedEncoder


@partial(jax.jit, static_argnums=0)
def _pooled(config: EncoderConfig, params: Any, tokens: jax.Array, mask: jax.Array) -> jax.Array:
    return mean_pool(encode(config, params, tokens, mask), mask)


def sentence_features(
    encoder: LoadedEncoder, texts: Sequence[str], *, longest: int = 128, batch: int = 64
) -> np.ndarray:
    """Returns the mean of the encoder's states over each text, `[n, E]` float32.

    Of a text the last `longest` word pieces are read; `batch` texts of like length are read at
    once.
    """
    pieces = word_pieces(encoder.tokenizer, texts, longest)
    order = sorted(range(len(pieces)), key=lambda row: len(pieces[row]))
    features = np.zeros((len(pieces), encoder.config.width), np.float32)
    for first in range(0, len(order), batch):
        rows = order[first : first + batch]
        # Lengths in steps of 16 and full batches keep the number of compilations small.
        width = min(-(-len(pieces[rows[-1]]) // 16) * 16, max(longest, 1))
        tokens = np.zeros((batch, width), np.int32)
        mask = np.zeros((batch, width), bool)
        for place, row in enumerate(rows):
            tokens[place, : len(pieces[row])] = pieces[row]
            mask[place, : len(pieces[row])] = True
        pooled = _pooled(encoder.config, encoder.params, tokens, mask)
        features[rows] = np.asarray(pooled)[: len(rows)]
    return features
