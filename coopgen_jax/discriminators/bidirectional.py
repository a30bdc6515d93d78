"""The bidirectional discriminator: an encoder of the BERT family reads each node's text anew.

It has a tokenizer of its own (see `rereading`), and nothing of a bidirectional reading can be
cached along the tree, which is its price (Chaffin et al. 2022, arXiv 2204.11586, compare it with
discriminators that can).
"""

from dataclasses import dataclass
from typing import Any

import jax

from coopgen_jax.discriminators.discriminator import Discriminator
from coopgen_jax.discriminators.head import HeadConfig, classify
from coopgen_jax.discriminators.host.rereading import rereading
from coopgen_jax.discriminators.host.retokenise import Crossing
from coopgen_jax.models.encoder import EncoderConfig, encode, mean_pool
from coopgen_jax.models.language_model import Bound


@dataclass(frozen=True)
class EncoderJudge:
    """What reads: an encoder, and a head on the mean of its states."""

    encoder: EncoderConfig
    head: HeadConfig


@dataclass(frozen=True)
class BidirectionalConfig:
    """What a bidirectional discriminator is made of.

    The crossing is from the language model's tokens to the encoder's word pieces. It judges the
    prompt and the continuation, or the continuation alone.
    """

    encoder: EncoderConfig
    head: HeadConfig
    crossing: Crossing
    reads_prompt: bool = False


def bidirectional(config: BidirectionalConfig) -> Discriminator:
    """Returns the discriminator; its params are `{"encoder": ..., "head": ...}`."""
    read = Bound(read_pieces, EncoderJudge(config.encoder, config.head))
    classes = config.head.classes
    return rereading(read, classes, config.crossing, reads_prompt=config.reads_prompt)


def read_pieces(judge: EncoderJudge, params: Any, pieces: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns log p(class | text) `[n, C]` of word pieces `[n, S]`, special ones included."""
    hidden = encode(judge.encoder, params["encoder"], pieces, mask)
    return classify(judge.head, params["head"], mean_pool(hidden, mask))
