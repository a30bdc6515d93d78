"""The discriminator's contract: log p(class | text) of a tree's nodes."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

# A smaller probability counts as this one: its logarithm is finite, and 0 times it is 0.
LEAST = 1e-30


@dataclass(frozen=True)
class Discriminator:
    """A record of pure functions, hashable and static under `jit`.

    State is a pytree in which whatever belongs to a node stands in `Slots`, so that `move` and
    `commit` keep it in step with the tree.

    Attributes:
      init: `(params, prompt, hidden [B, P, J, E], *, capacity) -> (log p [B, C], state)`: reads the
        prompt; the log-probabilities are those of the bare prompt, uniform where the discriminator
        reads the continuation alone. Here it takes what it needs of `prompt.context`, which each
        row has for itself, into its state.
      evaluate: `(params, state, nodes) -> (log p [B, R, W, C], state)`: judges the text that ends
        at each node and writes what its children will need into the node's slot.
      classes: names of the `C` classes; a reward has one.
      taps: the language model's layers whose states it reads; empty where it reads tokens.
      evaluate_children: `(params, state, nodes, candidates [B, R, W, K] | None) -> log p [B, R, W,
        K or V, C]` of the children of nodes that have been evaluated, without extending them; one
        that ends the text keeps its parent's. The nodes are named by the slots that they were
        written to. The root is one of them from `init` on and after every `commit`: slot 0, at
        depth 0 behind the committed tokens (`decoding.job.roots`). None where it cannot.
      evaluate_prefixes: `(params, prompt, tokens [B, T], lengths [B, W], hidden [B, P + T, J, E])
        -> log p [B, W, C]` of the first `lengths` tokens, 1 to T, of texts behind their prompts:
        what `evaluate` says of them. The language model's states are those of prompt and text in
        one sequence. What stands behind a length does not count, so texts are padded there. None
        where it has to read token by token.
      reads_prompt: whether it judges the prompt and the continuation, or the continuation alone.
      differentiable: whether log p depends on the text through `nodes.hidden` alone, as a smooth
        function, so that a node may stand for a vector in place of a token.
      tokenizer: which tokenizer it has, or None for the language model's own. With another one,
        texts cross over in one batched host callback per wave.
      context: the most tokens that it can read, None where there is no limit of its own.
      parts: the discriminators that it is composed of, each with a context of its own.
    """

    init: Callable
    evaluate: Callable
    classes: tuple[str, ...]
    taps: tuple[int, ...] = ()
    evaluate_children: Callable | None = None
    evaluate_prefixes: Callable | None = None
    reads_prompt: bool = False
    differentiable: bool = False
    tokenizer: str | None = None
    context: int | None = None
    parts: "tuple[Discriminator, ...]" = ()


def at_lengths(log_class: jax.Array, lengths: jax.Array) -> jax.Array:
    """Returns `[B, W, C]`, of what is said behind every token `[B, T, C]` that of some lengths."""
    return jnp.take_along_axis(log_class, lengths[..., None] - 1, axis=1)


def spare_ends(
    children: jax.Array,
    itself: jax.Array,
    candidates: jax.Array | None,
    end_tokens: tuple[int, ...],
) -> jax.Array:
    """Returns what is said of children `[B, R, W, K or V, C]`, but `itself` where the text ends.

    An end token is no text: where one follows, the node's own judgement `[B, R, W, C]` stays.
    """
    ids = jnp.arange(children.shape[-2])[None, None, None] if candidates is None else candidates
    ends = jnp.isin(ids, jnp.asarray(end_tokens, jnp.int32))
    return jnp.where(ends[..., None], itself[..., None, :], children)


def uniform(batch: int, classes: int) -> jax.Array:
    """Returns what is known of texts of which nothing has been read: `[B, C]` log-probabilities.

    A single class, such as a reward, is as likely as not.
    """
    return jnp.full((batch, classes), -jnp.log(float(max(classes, 2))), jnp.float32)
