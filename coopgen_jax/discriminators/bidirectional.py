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
from flax import struct

from coopgen_jax.discriminators.crossing import Crossing
from coopgen_jax.discriminators.discriminator import Discriminator
from coopgen_jax.discriminators.head import HeadConfig, classify
from coopgen_jax.models.encoder import EncoderConfig, encode, mean_pool
from coopgen_jax.models.language_model import Bound, Nodes, Prompt
from coopgen_jax.models.slots import Capacity, Slots, allocate, take, write

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


@struct.dataclass
class BidirectionalState:
    """The tokens of every text.

    prompt: `[B, P]` int32 the prompt's ids, -1 in the padding; `[B, 0]` where it is not read.
    tokens: `Slots` of int32 ids, nodes `[B, R, N]` and trunk `[B, R, T]`; -1 adds no text.
    """

    prompt: jax.Array
    tokens: Slots


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


def read_pieces(
    config: BidirectionalConfig, params: Any, pieces: jax.Array, count: jax.Array
) -> jax.Array:
    """Returns log p(class | text) of word pieces.

    Args:
      config: the discriminator's.
      params: of encoder and head.
      pieces: `[n, width]` int32 word pieces, padded on the right.
      count: `[n]` int32 how many there are; a text of 0 is judged uniformly.

    Returns:
      `[n, C]` float32.
    """
    width = pieces.shape[1]
    widths = [*range(WIDTH_STEP, width, WIDTH_STEP), width]

    def at(cut: int) -> Callable[[], jax.Array]:
        def read() -> jax.Array:
            mask = jnp.arange(cut)[None, :] < count[:, None]
            hidden = encode(config.encoder, params["encoder"], pieces[:, :cut], mask)
            return classify(config.head, params["head"], mean_pool(hidden, mask))

        return read

    shortest = jnp.searchsorted(jnp.asarray(widths), jnp.max(count, initial=0))
    log_class = jax.lax.switch(shortest, [at(cut) for cut in widths])
    return jnp.where(count[:, None] > 0, log_class, -jnp.log(float(len(config.head.classes))))


def _judge(
    config: BidirectionalConfig, params: Any, common: jax.Array, own: jax.Array
) -> jax.Array:
    """Returns log p `[B, R, W, C]` of texts: `common` `[B, R, M]`, then `own` `[B, R, W, D]`."""
    pieces, count = config.crossing(common, own)
    flat = pieces.reshape(-1, config.crossing.width)
    return read_pieces(config, params, flat, count.reshape(-1)).reshape(*own.shape[:3], -1)


def _init(
    config: BidirectionalConfig,
    params: Any,
    prompt: Prompt,
    hidden: jax.Array,
    *,
    capacity: Capacity,
) -> tuple[jax.Array, BidirectionalState]:
    batch = prompt.tokens.shape[0]
    tokens = allocate(batch, capacity, dtype=jnp.int32)
    if not config.reads_prompt:
        classes = len(config.head.classes)
        log_class = jnp.full((batch, classes), -jnp.log(float(classes)), jnp.float32)
        return log_class, BidirectionalState(jnp.zeros((batch, 0), jnp.int32), tokens)
    real = prompt.mask if prompt.embedded is None else prompt.mask & ~prompt.embedded
    ids = jnp.where(real, prompt.tokens, -1)
    none = jnp.full((batch, 1, 1, 1), -1, jnp.int32)
    log_class = _judge(config, params, ids[:, None], none)[:, 0, 0]
    return log_class, BidirectionalState(ids, tokens)


def _evaluate(
    config: BidirectionalConfig, params: Any, state: BidirectionalState, nodes: Nodes
) -> tuple[jax.Array, BidirectionalState]:
    token = jnp.where(nodes.terminal, -1, nodes.token)
    path = jnp.where(nodes.path >= 0, take(state.tokens, nodes.path), -1)
    own = jnp.concatenate([path, token[..., None]], axis=-1)
    trunk = state.tokens.trunk
    assert trunk is not None
    place = jnp.arange(trunk.shape[-1])[None, None, :]
    trunk = jnp.where(place < nodes.committed[..., None], trunk, -1)
    rows = (*trunk.shape[:2], state.prompt.shape[1])
    prompt = jnp.broadcast_to(state.prompt[:, None, :], rows)
    common = jnp.concatenate([prompt, trunk], axis=-1)
    log_class = _judge(config, params, common, own)
    return log_class, BidirectionalState(state.prompt, write(state.tokens, nodes.start, token))
