"""The causal discriminator: a decoder network of its own, with a class head on its last state.

The "unidirectional" discriminator of Chaffin et al., "Which Discriminator for Cooperative Text
Generation?" (SIGIR 2022). It reads the tree as the language model does, one token per evaluation
out of a slot cache of its own, so that no text is ever read twice.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from coopgen_jax.discriminators.discriminator import Discriminator, at_lengths, uniform
from coopgen_jax.discriminators.head import Head, HeadConfig, classify
from coopgen_jax.models.decoder import with_last_states
from coopgen_jax.models.language_model import Bound, Nodes, Prompt
from coopgen_jax.models.reading import read
from coopgen_jax.models.slots import Capacity
from coopgen_jax.models.transformer import DecoderConfig, final_norm, init_decoder


@dataclass(frozen=True)
class CausalConfig:
    """The shape of a causal discriminator.

    Attributes:
      network: of the decoder; its tokens are those of the language model it guides.
      head: the network on top; its input is the state of the last token after the final norm.
      start_token: the continuation alone is judged, behind this token; None to judge the prompt and
        the continuation.
    """

    network: DecoderConfig
    head: HeadConfig
    start_token: int | None = None

    def __post_init__(self) -> None:
        if self.head.inputs != self.network.width:
            raise ValueError(
                f"the head reads {self.head.inputs} numbers but the network's states have "
                f"{self.network.width}"
            )
        if self.start_token is not None and not 0 <= self.start_token < self.network.vocab_size:
            raise ValueError(
                f"start_token is {self.start_token}: the network's tokens are 0 to "
                f"{self.network.vocab_size - 1}"
            )

    def say(self, params: Any, states: jax.Array) -> jax.Array:
        """Returns what is said of states `[..., E]`: log p(class) `[..., C]`."""
        return classify(self.head, params["head"], states)

    def bare(self, batch: int) -> jax.Array:
        """Returns what is said of texts of which nothing has been read, `[B, C]`."""
        return uniform(batch, len(self.head.classes))


class CausalReader(Protocol):
    """What reads the tree by its own network, and says something of each text's last state.

    `say` and `bare` are as in `CausalConfig`, of any width; it is equal to one that reads alike.
    """

    def __hash__(self) -> int:
        """It is static under `jit`."""

    @property
    def network(self) -> DecoderConfig:
        """The shape of the network, whose parameters are the entry "network"."""

    @property
    def start_token(self) -> int | None:
        """As in `CausalConfig`."""

    def say(self, params: Any, states: jax.Array) -> jax.Array:
        """Returns what is said `[..., C]` of states `[..., E]`."""

    def bare(self, batch: int) -> jax.Array:
        """Returns what is said `[B, C]` of texts of which nothing has been read."""


def causal(config: CausalConfig) -> Discriminator:
    """Returns the discriminator; its params are those of `init_causal`."""
    return reading_causally(config, config.head.classes)


def reading_causally(reader: CausalReader, classes: tuple[str, ...]) -> Discriminator:
    """Returns the functions of a reader, whose numbers are called `classes`."""
    return Discriminator(
        init=Bound(_init, reader),
        evaluate=Bound(_evaluate, reader),
        evaluate_prefixes=Bound(_evaluate_prefixes, reader),
        classes=classes,
        reads_prompt=reader.start_token is None,
        context=reader.network.context,
    )


def init_causal(key: jax.Array, config: CausalConfig) -> dict[str, Any]:
    """Returns randomly initialised parameters: those of the `network` and of the `head`."""
    network_key, head_key = jax.random.split(key)
    head = Head(config.head).init(head_key, jnp.zeros((1, config.head.inputs)))["params"]
    return {"network": init_decoder(network_key, config.network), "head": head}


def _init(
    config: CausalReader,
    params: Any,
    prompt: Prompt,
    hidden: jax.Array,
    *,
    capacity: Capacity,
) -> tuple[jax.Array, Any]:
    batch = prompt.tokens.shape[0]
    if config.start_token is not None:
        start = jnp.full((batch, 1), config.start_token, jnp.int32)
        prompt = Prompt(tokens=start, mask=jnp.ones((batch, 1), bool), index=prompt.index)
    _, own, cache = with_last_states(config.network).prefill(
        params["network"], prompt, capacity=capacity
    )
    if config.start_token is None:
        return config.say(params, own[:, -1, 0]), cache
    return config.bare(batch), cache


def read_tokens(config: CausalConfig, params: Any, tokens: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns log p(class | text) `[n, C]` of whole texts `[n, S]`, padded behind the last token.

    Behind the start token, if there is one, a text is read alone. For texts of another tokenizer
    than the language model's; see `rereading`.
    """
    if config.start_token is not None:
        tokens = jnp.pad(tokens, [(0, 0), (1, 0)], constant_values=config.start_token)
        mask = jnp.pad(mask, [(0, 0), (1, 0)], constant_values=True)
    _, stream, _, _ = read(config.network, params["network"], tokens, mask)
    last = jnp.maximum(jnp.sum(mask, axis=-1) - 1, 0)
    state = jnp.take_along_axis(stream, last[:, None, None], axis=1)[:, 0]
    state = final_norm(config.network, params["network"], state)
    return config.say(params, state)


def _evaluate(config: CausalReader, params: Any, state: Any, nodes: Nodes) -> tuple[jax.Array, Any]:
    _, own, cache = with_last_states(config.network).extend(params["network"], state, nodes)
    return config.say(params, own[..., 0, :]), cache


def _evaluate_prefixes(
    config: CausalReader,
    params: Any,
    prompt: Prompt,
    tokens: jax.Array,
    lengths: jax.Array,
    hidden: jax.Array,
) -> jax.Array:
    front, mask = prompt.tokens, prompt.mask
    if config.start_token is not None:
        front = jnp.full((len(tokens), 1), config.start_token, jnp.int32)
        mask = jnp.ones(front.shape, bool)
    whole = jnp.concatenate([front, tokens], axis=1)
    mask = jnp.concatenate([mask, jnp.ones(tokens.shape, bool)], axis=1)
    _, stream, _, _ = read(config.network, params["network"], whole, mask)
    states = final_norm(config.network, params["network"], stream[:, front.shape[1] :])
    return at_lengths(config.say(params, states), lengths)
