"""The bidirectional discriminator: a frozen encoder of the BERT family reads each node's text anew.

It has a tokenizer of its own, so a node's tokens become a string and then word pieces on the host,
in one batched and memoised callback per wave; the encoder and the head on top stay on the device.
Nothing of a bidirectional reading can be cached along the tree, which is its price (Chaffin et al.
2022, arXiv 2204.11586, compare it with discriminators that can).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from coopgen_jax.discriminators.crossing import Crossing
from coopgen_jax.discriminators.discriminator import Discriminator, uniform
from coopgen_jax.discriminators.head import HeadConfig, classify
from coopgen_jax.discriminators.spelled import Spelled, begin, of_nodes, of_prompt
from coopgen_jax.models.encoder import EncoderConfig, encode, mean_pool
from coopgen_jax.models.language_model import Bound, Nodes, Prompt
from coopgen_jax.models.slots import Capacity

# A wave of short texts need not pay for the longest that the width allows.
WIDTH_STEP = 16


@dataclass(frozen=True)
class BidirectionalConfig:
    """What a bidirectional discriminator is made of.

    encoder: the shape of the encoder.
    head: the network on the mean of its states; its input is the encoder's width.
    crossing: from the language model's tokens to the encoder's word pieces.
    reads_prompt: whether it judges the prompt and the continuation, or the continuation alone.
    """

    encoder: EncoderConfig
    head: HeadConfig
    crossing: Crossing
    reads_prompt: bool = False


def bidirectional(config: BidirectionalConfig) -> Discriminator:
    """Returns the discriminator; its params are `{"encoder": ..., "head": ...}`.

    A text without a word piece of its own is judged uniformly.
    """
    return Discriminator(
        init=Bound(_init, config),
        evaluate=Bound(_evaluate, config),
        classes=config.head.classes,
        reads_prompt=config.reads_prompt,
        differentiable=False,
        tokenizer=config.crossing.target.identity,
    )


def read_pieces(config: BidirectionalConfig, params: Any, pieces: jax.Array) -> jax.Array:
    """Returns log p(class | text) of word pieces.

    Args:
      config: the discriminator's.
      params: of encoder and head.
      pieces: `[n, width]` int32 word pieces, -1 behind the last; a text without any is judged
        uniformly.

    Returns:
      `[n, C]` float32.
    """
    width = pieces.shape[1]
    count = jnp.sum(pieces >= 0, axis=-1)
    widths = [*range(WIDTH_STEP, width, WIDTH_STEP), width]

    def at(cut: int) -> Callable[[], jax.Array]:
        def read() -> jax.Array:
            mask = jnp.arange(cut)[None, :] < count[:, None]
            tokens = jnp.maximum(pieces[:, :cut], 0)
            hidden = encode(config.encoder, params["encoder"], tokens, mask)
            return classify(config.head, params["head"], mean_pool(hidden, mask))

        return read

    shortest = jnp.searchsorted(jnp.asarray(widths), jnp.max(count, initial=0))
    log_class = jax.lax.switch(shortest, [at(cut) for cut in widths])
    return jnp.where(count[:, None] > 0, log_class, uniform(len(pieces), len(config.head.classes)))


def _judge(
    config: BidirectionalConfig, params: Any, common: jax.Array, own: jax.Array
) -> jax.Array:
    """Returns log p `[B, R, W, C]` of texts: `common` `[B, R, M]`, then `own` `[B, R, W, D]`."""
    pieces = config.crossing(common, own)
    log_class = read_pieces(config, params, pieces.reshape(-1, config.crossing.width))
    return log_class.reshape(*own.shape[:3], -1)


def _init(
    config: BidirectionalConfig,
    params: Any,
    prompt: Prompt,
    hidden: jax.Array,
    *,
    capacity: Capacity,
) -> tuple[jax.Array, Spelled]:
    state = begin(prompt, capacity=capacity, reads_prompt=config.reads_prompt)
    if config.reads_prompt:
        return _judge(config, params, *of_prompt(state))[:, 0, 0], state
    return uniform(len(prompt.tokens), len(config.head.classes)), state


def _evaluate(
    config: BidirectionalConfig, params: Any, state: Spelled, nodes: Nodes
) -> tuple[jax.Array, Spelled]:
    common, own, state = of_nodes(state, nodes)
    return _judge(config, params, common, own), state
