"""Given texts that a search goes along: it writes their tokens, and tells what it finds at each."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from coopgen_jax.decoding.decoder_settings import DecoderSettings
from coopgen_jax.decoding.mcts.mcts_config import MCTSConfig
from coopgen_jax.decoding.rules.stop import DONE, StopStrings
from coopgen_jax.errors import UserError
from coopgen_jax.models.language_model import LanguageModel

Texts = Sequence[Sequence[int]]


def check_along(
    config: DecoderSettings, along: Texts | None, count: int, model: LanguageModel
) -> None:
    """Raises UserError where a method cannot go along texts, or they are not as they must be.

    There is one a prompt, of ids of the `model`. It has `new_tokens` or more, of which the first
    ones are taken, or it stops at a token that ends texts, or where it completes a stop string. The
    search is one that can write every token: `ByValues`, or with a `mix_base`.
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
    for number, text in enumerate(along):
        if other := [token for token in text if not 0 <= token < model.vocab_size]:
            raise UserError(
                f"text {number} to search along has the token {other[0]}: the language model's "
                f"are 0 to {model.vocab_size - 1}"
            )
        if len(text) < config.new_tokens and not _stops(text, model.end_tokens, config.rules.stop):
            raise UserError(
                f"text {number} to search along has {len(text)} of {config.new_tokens} new tokens "
                "and does not stop at a token that ends texts: give all of them, or such a token"
            )


def _stops(text: Sequence[int], ends: Sequence[int], stop: Any) -> bool:
    """Returns whether the last token of a text ends it, or completes a stop string."""
    state = 0
    if isinstance(stop, StopStrings):
        for token in text:
            state = state if state == DONE else int(stop.table[state, token])
    return state == DONE or (len(text) > 0 and text[-1] in ends)


def along_of(texts: Texts | None, rows: Sequence[int], length: int) -> jax.Array | None:
    """Returns the texts of the `rows`, `[B, length]` int32, 0 behind their ends; None for none."""
    if texts is None:
        return None
    tokens = np.zeros((len(rows), length), np.int32)
    for place, row in enumerate(rows):
        own = list(texts[row])[:length]
        tokens[place, : len(own)] = own
    return jnp.asarray(tokens)
