"""Given texts that a search goes along: it writes their tokens, and tells what it finds at each."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from coopgen_jax.decoding.decoder_settings import DecoderSettings
from coopgen_jax.decoding.mcts.mcts_config import MCTSConfig
from coopgen_jax.errors import UserError

Texts = Sequence[Sequence[int]]


def check_along(config: DecoderSettings, along: Texts | None, count: int) -> None:
    """Raises UserError where a method cannot go along texts, or there is not one a prompt.

    A text is as long as `new_tokens`, or it ends. The search is one that can write every token:
    `ByValues`, or with a `mix_base`.
    """
    if along is None:
        return
    if not (isinstance(config, MCTSConfig) and config.has_full_support):
        raise UserError(
            "only a search that can write every token goes along given texts: give an MCTSConfig "
            "that draws ByValues, or with a mix_base"
        )
    if len(along) != count:
        raise UserError(f"{len(along)} texts to search along for {count} prompts: give one each")


def along_of(texts: Texts | None, rows: Sequence[int], length: int) -> jax.Array | None:
    """Returns the texts of the `rows`, `[B, length]` int32, 0 behind their ends; None for none."""
    if texts is None:
        return None
    tokens = np.zeros((len(rows), length), np.int32)
    for place, row in enumerate(rows):
        own = list(texts[row])[:length]
        tokens[place, : len(own)] = own
    return jnp.asarray(tokens)
