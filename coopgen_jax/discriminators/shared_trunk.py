"""The shared-trunk discriminator: a small head on the language model's own hidden states.

The language model has read every node anyway, so judging it costs one small network. The head sees,
at each of the `J` tapped layers, the state of the node's token and the mean of the states over the
text so far; the mean is kept as one running sum per slot.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from coopgen_jax.discriminators.discriminator import Discriminator, at_lengths, uniform
from coopgen_jax.discriminators.head import HeadConfig, classify
from coopgen_jax.models.language_model import Bound, Nodes, Prompt
from coopgen_jax.models.slots import Capacity, Slots, allocate, filled_up, rooted, take, write


@dataclass(frozen=True)
class SharedTrunkConfig:
    """What a shared-trunk head reads.

    Attributes:
      taps: the `J` layers it reads, numbered as `LanguageModel.taps`.
      reads_prompt: whether the mean runs over prompt and continuation, or the continuation alone.
      head: the network on top; its input is `2 * J * E` wide.
    """

    taps: tuple[int, ...]
    reads_prompt: bool
    head: HeadConfig


@struct.dataclass
class SharedTrunkState:
    """What a node's children need of it.

    The `total` `[B, R, N, J * E]` float32 is the sum of the states over the text down to the node;
    it counts as many tokens of the prompt as `before` `[B]` says.
    """

    total: Slots
    before: jax.Array


def features(last: jax.Array, mean: jax.Array) -> jax.Array:
    """Returns a head's input `[..., 2 J E]` of the last state and the mean state `[..., J, E]`."""
    joined = jnp.concatenate([last, mean], axis=-1)
    return joined.reshape(*joined.shape[:-2], -1)


def shared_trunk(config: SharedTrunkConfig) -> Discriminator:
    """Returns the discriminator; its params are those of the head."""
    return Discriminator(
        init=Bound(_init, config),
        evaluate=Bound(_evaluate, config),
        evaluate_prefixes=Bound(_evaluate_prefixes, config),
        classes=config.head.classes,
        taps=config.taps,
        reads_prompt=config.reads_prompt,
        differentiable=True,
    )


def _init(
    config: SharedTrunkConfig,
    params: Any,
    prompt: Prompt,
    hidden: jax.Array,
    *,
    capacity: Capacity,
) -> tuple[jax.Array, SharedTrunkState]:
    batch, _, taps, width = hidden.shape
    capacity = filled_up(capacity)
    if not config.reads_prompt:
        total = allocate(batch, capacity, (taps * width,), trunk=False)
        nothing = uniform(batch, len(config.head.classes))
        return nothing, SharedTrunkState(total, jnp.zeros(batch, jnp.int32))
    before = jnp.sum(prompt.mask, axis=-1, dtype=jnp.int32)
    root = jnp.sum(jnp.where(prompt.mask[..., None, None], hidden, 0.0), axis=1)
    mean = root / before[:, None, None]
    log_class = classify(config.head, params, features(hidden[:, -1], mean))
    total = rooted(root.reshape(batch, -1).astype(jnp.float32), capacity)
    return log_class, SharedTrunkState(total, before)


def _evaluate(
    config: SharedTrunkConfig, params: Any, state: SharedTrunkState, nodes: Nodes
) -> tuple[jax.Array, SharedTrunkState]:
    assert nodes.hidden is not None, "the nodes have not been extended by a tapped language model"
    total = take(state.total, nodes.parent).reshape(nodes.hidden.shape) + nodes.hidden
    count = state.before[:, None, None] + nodes.committed[..., None] + nodes.depth
    mean = total / count[..., None, None].astype(jnp.float32)
    log_class = classify(config.head, params, features(nodes.hidden, mean))
    rows = total.reshape(*total.shape[:-2], -1)
    return log_class, replace(state, total=write(state.total, nodes.start, rows))


def running_features(states: jax.Array, inside: jax.Array) -> jax.Array:
    """Returns what a head sees of every beginning of whole texts, `[B, S, 2 J E]`.

    The language model's states at the taps are `[B, S, J, E]`, and `inside` `[B, S]` says which
    tokens the mean runs over.
    """
    counted = jnp.where(inside[..., None, None], states, 0.0)
    count = jnp.maximum(jnp.cumsum(inside, axis=-1), 1)
    mean = jnp.cumsum(counted, axis=1) / count[..., None, None].astype(jnp.float32)
    return features(states, mean)


def judge_texts(
    config: SharedTrunkConfig,
    params: Any,
    states: jax.Array,
    inside: jax.Array,
    keys: jax.Array | None = None,
) -> jax.Array:
    """Returns log p(class) `[B, S, C]` of every beginning of whole texts, as training needs it.

    See `running_features`; `keys` `[B]` are those of each row's dropout, None for none.
    """
    seen = running_features(states, inside)
    if keys is None:
        return classify(config.head, params, seen)
    return jax.vmap(partial(classify, config.head, params))(seen, keys)


def _evaluate_prefixes(
    config: SharedTrunkConfig,
    params: Any,
    prompt: Prompt,
    tokens: jax.Array,
    lengths: jax.Array,
    hidden: jax.Array,
) -> jax.Array:
    front = prompt.mask if config.reads_prompt else jnp.zeros_like(prompt.mask)
    inside = jnp.concatenate([front, jnp.ones(tokens.shape, bool)], axis=1)
    said = judge_texts(config, params, hidden, inside)
    return at_lengths(said[:, front.shape[1] :], lengths)
