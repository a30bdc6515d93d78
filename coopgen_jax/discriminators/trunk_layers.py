"""A shared-trunk discriminator with causal layers of its own on the language model's states.

The tapped states of every token are projected to a narrow stream, which one or two small layers
read along the tree out of a slot cache of their own, behind a trained start vector. They can
weigh single words, which a running mean cannot, and cost next to nothing beside the network below.

A look-ahead head judges the children of a node from the node's own state and the embeddings of the
candidate tokens, before any of them has been read: log p(c | x, v) is a softmax over classes of
b_c(x) + q_c(x) . k(v), as in value functions over actions; the whole vocabulary costs one product.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from coopgen_jax.discriminators.discriminator import Discriminator, at_lengths, spare_ends, uniform
from coopgen_jax.discriminators.head import Head, HeadConfig, classify, standardised
from coopgen_jax.models.decoder import with_last_states
from coopgen_jax.models.language_model import Bound, Nodes, Prompt
from coopgen_jax.models.published_shapes import llama
from coopgen_jax.models.reading import read
from coopgen_jax.models.slots import Capacity, Slots, allocate, rooted, take, write
from coopgen_jax.models.transformer import DecoderConfig, final_norm, init_decoder


@dataclass(frozen=True)
class TrunkLayersConfig:
    """What is read, and by what.

    Attributes:
      taps: the `J` layers of the language model that are read, numbered as `LanguageModel.taps`.
      inputs: `E`, the language model's width.
      network: the small layers; their one token, number 0, stands in front of every text.
      head: on the last layer's state after the final norm.
      look_ahead: width of the keys of candidate tokens, 0 for no look-ahead head.
      end_tokens: the language model's ids that end a text, which a look-ahead head does not judge.
    """

    taps: tuple[int, ...]
    inputs: int
    network: DecoderConfig
    head: HeadConfig
    look_ahead: int = 0
    end_tokens: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.head.inputs != self.network.width:
            raise ValueError(
                f"the head reads {self.head.inputs} numbers but the layers' states have "
                f"{self.network.width}"
            )


def small_network(*, layers: int, width: int, context: int) -> DecoderConfig:
    """Returns the shape of a few narrow layers of the Llama family.

    Their width is a multiple of 32; the context counts the start vector.
    """
    return llama(
        vocab_size=1,
        layers=layers,
        width=width,
        heads=width // 32,
        ffn_width=2 * width,
        context=context,
    )


class Entrance(nn.Module):
    """From tapped states `[..., J, E]`, standardised, to the small layers' stream."""

    width: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, states: jax.Array, *, training: bool = False) -> jax.Array:
        """Maps states `[..., J, E]` to `[..., width]`."""
        x = states.reshape(*states.shape[:-2], -1).astype(jnp.float32)
        x = nn.Dropout(self.dropout, deterministic=not training)(standardised(self, x))
        projected: jax.Array = nn.Dense(self.width, name="projection")(x)
        return projected


class Queries(nn.Module):
    """What a look-ahead head asks of candidates: `[..., C, K + 1]`, the last of each the bias."""

    classes: int
    width: int

    @nn.compact
    def __call__(self, state: jax.Array) -> jax.Array:
        """Maps states `[..., E]` to queries."""
        flat = nn.Dense(self.classes * (self.width + 1), name="query")(state)
        return flat.reshape(*state.shape[:-1], self.classes, self.width + 1)


def init_trunk_layers(key: jax.Array, config: TrunkLayersConfig) -> dict[str, Any]:
    """Returns random parameters: `entrance`, `network`, `head`, and `queries` and `keys` [E, K]."""
    keys = jax.random.split(key, 5)
    width = config.network.width
    states = jnp.zeros((1, len(config.taps), config.inputs))
    params = {
        "entrance": Entrance(width).init(keys[0], states)["params"],
        "network": init_decoder(keys[1], config.network),
        "head": Head(config.head).init(keys[2], jnp.zeros((1, width)))["params"],
    }
    if config.look_ahead:
        asking = Queries(len(config.head.classes), config.look_ahead)
        params["queries"] = asking.init(keys[3], jnp.zeros((1, width)))["params"]
        drawn = jax.random.normal(keys[4], (config.inputs, config.look_ahead), jnp.float32)
        params["keys"] = drawn / config.inputs**0.5
    return params


@struct.dataclass
class TrunkLayersState:
    """What a node's children, and who judges them, need of it.

    That is the small layers' cache and, for a look-ahead head, its queries `[B, R, N, C, K + 1]`
    and the nodes' own judgements `[B, R, N, C]`.
    """

    cache: Any
    queries: Slots | None = None
    log_class: Slots | None = None


def trunk_layers(config: TrunkLayersConfig) -> Discriminator:
    """Returns the discriminator; its params are those of `init_trunk_layers`.

    For a look-ahead head they hold, besides, `vocabulary` `[V, K]`: the keys of all tokens, which
    are `embedding @ keys` of the language model's embedding `[V, E]`.
    """
    return Discriminator(
        init=Bound(_init, config),
        evaluate=Bound(_evaluate, config),
        classes=config.head.classes,
        taps=config.taps,
        evaluate_children=Bound(_evaluate_children, config) if config.look_ahead else None,
        evaluate_prefixes=Bound(_evaluate_prefixes, config),
        differentiable=True,
        context=config.network.context,
    )


def _init(
    config: TrunkLayersConfig,
    params: Any,
    prompt: Prompt,
    hidden: jax.Array,
    *,
    capacity: Capacity,
) -> tuple[jax.Array, TrunkLayersState]:
    batch, classes = len(prompt.tokens), len(config.head.classes)
    start = Prompt(jnp.zeros((batch, 1), jnp.int32), jnp.ones((batch, 1), bool), prompt.index)
    _, own, cache = with_last_states(config.network).prefill(
        params["network"], start, capacity=capacity
    )
    state = TrunkLayersState(cache)
    # Of the bare prompt nothing is known.
    log_class = uniform(batch, classes)
    if config.look_ahead:
        root = jnp.broadcast_to(
            own[:, None, :, 0], (batch, capacity.samples, 1, config.network.width)
        )
        queries = allocate(batch, capacity, (classes, config.look_ahead + 1), trunk=False)
        queries = write(queries, 0, _queries(config, params, root))
        state = TrunkLayersState(cache, queries, rooted(log_class, capacity))
    return log_class, state


def _evaluate(
    config: TrunkLayersConfig, params: Any, state: TrunkLayersState, nodes: Nodes
) -> tuple[jax.Array, TrunkLayersState]:
    assert nodes.hidden is not None, "the nodes have not been extended by a tapped language model"
    stream: Any = Entrance(config.network.width).apply({"params": params["entrance"]}, nodes.hidden)
    inside = replace(nodes, token=jnp.zeros_like(nodes.token), embedding=stream, hidden=None)
    _, own, cache = with_last_states(config.network).extend(params["network"], state.cache, inside)
    own = own[..., 0, :]
    log_class = classify(config.head, params["head"], own)
    if state.queries is None or state.log_class is None:
        return log_class, TrunkLayersState(cache)
    queries = write(state.queries, nodes.start, _queries(config, params, own))
    return log_class, TrunkLayersState(
        cache, queries, write(state.log_class, nodes.start, log_class)
    )


def _queries(config: TrunkLayersConfig, params: Any, own: jax.Array) -> jax.Array:
    asking = Queries(len(config.head.classes), config.look_ahead)
    queries: Any = asking.apply({"params": params["queries"]}, own)
    return queries


def foreseen(queries: jax.Array, keys: jax.Array) -> jax.Array:
    """Returns log p(class | text and one more token) `[..., N, C]`.

    Args:
      queries: `[..., C, K + 1]` of the text.
      keys: `[..., N, K]` of the tokens, or `[V, K]` of all.
    """
    names = "vk" if keys.ndim == 2 else "...vk"
    logits = jnp.einsum(f"...ck,{names}->...vc", queries[..., :-1], keys)
    bias = queries[..., None, :, -1]
    return jax.nn.log_softmax(logits + bias)


def _evaluate_children(
    config: TrunkLayersConfig,
    params: Any,
    state: TrunkLayersState,
    nodes: Nodes,
    candidates: jax.Array | None,
) -> jax.Array:
    assert state.queries is not None and state.log_class is not None
    keys = params["vocabulary"] if candidates is None else params["vocabulary"][candidates]
    children = foreseen(take(state.queries, nodes.slots), keys)
    return spare_ends(children, take(state.log_class, nodes.slots), candidates, config.end_tokens)


def judge_texts(
    config: TrunkLayersConfig,
    params: Any,
    states: jax.Array,
    inside: jax.Array,
    keys: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Judges every beginning of whole texts at once, as training does.

    The language model's states at the taps are `[B, S, J, E]`, `inside` `[B, S]` says which tokens
    are read, and `keys` `[B]` are those of each row's dropout, None for none.

    Returns:
      log p(class) `[B, S, C]` of the text that ends at each token, and the small layers' states
      `[B, 1 + S, width]` at the start vector and at each token.
    """
    network, dropout = config.network, config.head.dropout

    def noise(number: int) -> jax.Array | None:
        return None if keys is None else jax.vmap(jax.random.fold_in, (0, None))(keys, number)

    def entered(states: jax.Array, key: jax.Array | None) -> jax.Array:
        rngs = None if key is None else {"dropout": key}
        stream: Any = Entrance(network.width, dropout).apply(
            {"params": params["entrance"]}, states, training=key is not None, rngs=rngs
        )
        return stream

    stream = jax.vmap(entered)(states, noise(0))
    stream = jnp.pad(stream, [(0, 0), (1, 0), (0, 0)])
    mask = jnp.pad(inside, [(0, 0), (1, 0)], constant_values=True)
    tokens = jnp.zeros(mask.shape, jnp.int32)
    given = jnp.broadcast_to(jnp.arange(mask.shape[1]) > 0, mask.shape)
    _, last, _, _ = read(network, params["network"], tokens, mask, stream, given)
    own = final_norm(network, params["network"], last).astype(jnp.float32)
    classified = partial(classify, config.head, params["head"])
    return jax.vmap(classified)(own[:, 1:], noise(1)), own


def _evaluate_prefixes(
    config: TrunkLayersConfig,
    params: Any,
    prompt: Prompt,
    tokens: jax.Array,
    lengths: jax.Array,
    hidden: jax.Array,
) -> jax.Array:
    states = hidden[:, prompt.tokens.shape[1] :]
    said, _ = judge_texts(config, params, states, jnp.ones(tokens.shape, bool))
    return at_lengths(said, lengths)
