"""The tokens of every node's text, for discriminators that read it anew as a whole."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from coopgen_jax.discriminators.discriminator import Discriminator, uniform
from coopgen_jax.models.language_model import Bound, Nodes, Prompt
from coopgen_jax.models.slots import Capacity, Slots, allocate, take, write
from coopgen_jax.tokenizer import Tokenizer


@struct.dataclass
class Spelled:
    """The tokens of every text.

    Attributes:
      prompt: `[B, P]` int32 the prompt's ids, -1 in the padding; `[B, 0]` where it is not read.
      tokens: `Slots` of int32 ids, nodes `[B, R, N]` and trunk `[B, R, T]`; -1 adds no text.
    """

    prompt: jax.Array
    tokens: Slots


def begin(prompt: Prompt, *, capacity: Capacity, reads_prompt: bool) -> Spelled:
    """Returns the state in front of the first token."""
    batch = prompt.tokens.shape[0]
    ids = jnp.zeros((batch, 0), jnp.int32)
    if reads_prompt:
        ids = jnp.where(prompt.spelt, prompt.tokens, -1)
    return Spelled(ids, allocate(batch, capacity, dtype=jnp.int32))


def of_prompt(state: Spelled) -> tuple[jax.Array, jax.Array]:
    """Returns the bare prompts as `of_nodes` does: `[B, 1, P]`, and one node without a token."""
    return state.prompt[:, None], jnp.full((len(state.prompt), 1, 1, 1), -1, jnp.int32)


def of_nodes(state: Spelled, nodes: Nodes) -> tuple[jax.Array, jax.Array, Any]:
    """Returns the tokens of every node's text, and the state with the nodes.

    A terminal node adds no token to its parent's text.

    Returns:
      `[B, R, M]` ids with which all texts of a sample begin, `[B, R, W, D + 1]` ids with which each
      goes on (-1 is no token in both), and the next state.
    """
    token = jnp.where(nodes.terminal, -1, nodes.token)
    path = jnp.where(nodes.path >= 0, take(state.tokens, nodes.path), -1)
    own = jnp.concatenate([path, token[..., None]], axis=-1)
    after = Spelled(state.prompt, write(state.tokens, nodes.start, token))
    return _common(state, nodes), own, after


def _common(state: Spelled, nodes: Nodes) -> jax.Array:
    """Returns the ids with which all texts of a sample begin, `[B, R, M]`, -1 for no token."""
    trunk = state.tokens.trunk
    assert trunk is not None
    place = jnp.arange(trunk.shape[-1])[None, None, :]
    trunk = jnp.where(place < nodes.committed[..., None], trunk, -1)
    rows = (*trunk.shape[:2], state.prompt.shape[1])
    prompt = jnp.broadcast_to(state.prompt[:, None, :], rows)
    return jnp.concatenate([prompt, trunk], axis=-1)


def judging_whole(
    judge: Callable,
    classes: tuple[str, ...],
    *,
    reads_prompt: bool,
    tokenizer: str,
    source: Tokenizer,
) -> Discriminator:
    """Returns the discriminator that judges every node's text as a whole.

    Equal judges `(params, common, own) -> log p [B, R, W, C]`, of ids as `of_nodes` returns them,
    make equal ones. The ids are those of the tokenizer `source`; `tokenizer` says what else reads
    the texts.
    """
    ids = source.vocab_size, source.end_tokens
    return Discriminator(
        init=Bound(_init, (judge, len(classes), reads_prompt)),
        evaluate=Bound(_evaluate, judge),
        evaluate_children=Bound(_evaluate_children, (judge, *ids)),
        evaluate_prefixes=Bound(_evaluate_prefixes, (judge, reads_prompt)),
        classes=classes,
        reads_prompt=reads_prompt,
        tokenizer=tokenizer,
    )


def _init(
    bound: tuple[Callable, int, bool],
    params: Any,
    prompt: Prompt,
    hidden: jax.Array,
    *,
    capacity: Capacity,
) -> tuple[jax.Array, Spelled]:
    judge, classes, reads_prompt = bound
    state = begin(prompt, capacity=capacity, reads_prompt=reads_prompt)
    if reads_prompt:
        return judge(params, *of_prompt(state))[:, 0, 0], state
    return uniform(len(prompt.tokens), classes), state


def _evaluate(
    judge: Callable, params: Any, state: Spelled, nodes: Nodes
) -> tuple[jax.Array, Spelled]:
    common, own, state = of_nodes(state, nodes)
    return judge(params, common, own), state


def _evaluate_children(
    bound: tuple[Callable, int, tuple[int, ...]],
    params: Any,
    state: Spelled,
    nodes: Nodes,
    candidates: jax.Array | None,
) -> jax.Array:
    """Judges the children as texts, for which the language model need not have read them."""
    judge, vocab, ends = bound
    own_slots = nodes.slots[..., None]
    # The root's token is in the trunk already.
    own_slots = jnp.where(nodes.depth[..., None] > 0, own_slots, -1)
    path = jnp.concatenate([nodes.path, own_slots], axis=-1)
    front = jnp.where(path >= 0, take(state.tokens, path), -1)
    if candidates is None:
        candidates = jnp.broadcast_to(jnp.arange(vocab), (*nodes.token.shape, vocab))
    # A token that ends the text adds nothing to it.
    ended = jnp.isin(candidates, jnp.asarray(ends, jnp.int32))
    last = jnp.where(ended, -1, candidates)[..., None]
    count = candidates.shape[-1]
    front = jnp.broadcast_to(front[..., None, :], (*last.shape[:-1], front.shape[-1]))
    own = jnp.concatenate([front, last], axis=-1)
    said = judge(params, _common(state, nodes), _flat(own))
    return jnp.asarray(said).reshape(*candidates.shape[:3], count, said.shape[-1])


def _flat(own: jax.Array) -> jax.Array:
    """Returns the texts of all children of a sample in one row `[B, R, W * K, D + 2]`."""
    return own.reshape(*own.shape[:2], -1, own.shape[-1])


def _evaluate_prefixes(
    bound: tuple[Callable, bool],
    params: Any,
    prompt: Prompt,
    tokens: jax.Array,
    lengths: jax.Array,
    hidden: jax.Array,
) -> jax.Array:
    judge, reads_prompt = bound
    front = jnp.where(prompt.spelt, prompt.tokens, -1)[:, : None if reads_prompt else 0]
    asked = jnp.arange(tokens.shape[1])[None, None] < lengths[..., None]
    own = jnp.where(asked, tokens[:, None, :], -1)
    said: jax.Array = judge(params, front[:, None], own[:, None])[:, 0]
    return said
