"""What a shared-trunk head reads, in bulk: tapped states of many spans of many texts."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from coopgen_jax.discriminators.shared_trunk import features
from coopgen_jax.models.pretrained.loading import LoadedModel
from coopgen_jax.models.reading import read
from coopgen_jax.models.transformer import DecoderConfig, tapped

LENGTH_STEP = 8


@partial(jax.jit, static_argnums=(0, 1))
def _span_features(
    config: DecoderConfig,
    taps: tuple[int, ...],
    params: Any,
    tokens: jax.Array,
    mask: jax.Array,
    first: jax.Array,
    last: jax.Array,
) -> jax.Array:
    """Returns `[B, S, 2 J E]`: of every span `first` to `last` `[B, S]` of tokens `[B, L]`."""
    embedded, _, streams, _ = read(config, params, tokens, mask)
    states = tapped(config, params, embedded, streams, taps)
    place = jnp.arange(tokens.shape[1])[None, None, :]
    inside = (place >= first[..., None]) & (place <= last[..., None])
    share = inside / (last - first + 1)[..., None]
    mean = jnp.einsum("bsl,blje->bsje", share.astype(jnp.float32), states)
    end = jnp.take_along_axis(states, last[:, :, None, None], axis=1)
    return features(end, mean).astype(jnp.float16)


def trunk_features(
    model: LoadedModel,
    taps: tuple[int, ...],
    texts: Sequence[str],
    spans: Callable[[int], list[tuple[int, int]]],
    *,
    longest: int = 48,
    batch: int = 32,
    listener: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[np.ndarray, np.ndarray]:
    """Reads texts and returns the features of spans of them.

    A span stands for what has been written and the tokens in front of it for the prompt: it ends at
    the token whose state the head sees, and the mean runs over the span alone.

    Args:
      model: a loaded language model.
      taps: the layers that the head reads.
      texts: texts, of which the first `longest` tokens are read; none may be empty.
      spans: from a text's number of tokens to its spans, first and last token of each; the same
        number of spans for every text.
      longest: tokens read at most.
      batch: texts read at once; texts of like length are read together.
      listener: told after each batch how many of how many texts have been read.

    Returns:
      Features `[n, 2 J E]` in float16, text by text, and which text each is of, `[n]`.
    """
    rows = [ids[:longest] for ids in model.tokenizer.encode_batch(texts)]
    chosen = np.array([spans(len(row)) for row in rows], np.int32)
    count = chosen.shape[1]
    width = 2 * len(taps) * model.config.width
    result = np.zeros((len(rows), count, width), np.float16)
    order = sorted(range(len(rows)), key=lambda number: len(rows[number]))
    for at in range(0, len(order), batch):
        numbers = order[at : at + batch]
        length = -(-len(rows[numbers[-1]]) // LENGTH_STEP) * LENGTH_STEP
        tokens = np.zeros((batch, length), np.int32)
        mask = np.zeros((batch, length), bool)
        pairs = np.zeros((batch, count, 2), np.int32)
        for place, number in enumerate(numbers):
            tokens[place, : len(rows[number])] = rows[number]
            mask[place, : len(rows[number])] = True
            pairs[place] = chosen[number]
        got = _span_features(
            model.config, taps, model.params, tokens, mask, pairs[..., 0], pairs[..., 1]
        )
        result[numbers] = np.asarray(got)[: len(numbers)]
        listener(min(at + batch, len(rows)), len(rows))
    return result.reshape(-1, width), np.repeat(np.arange(len(rows)), count)
