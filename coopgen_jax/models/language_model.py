"""The language model's contract: prompts and nodes in, logits, hidden states and a slot cache out.

A decoder knows a network only through `LanguageModel`, a record of three pure functions. Whoever
brings a network of their own supplies these three and has every decoder.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct


@struct.dataclass
class Prompt:
    """What is to be continued; rows are padded on the left to a common length.

    Attributes:
      tokens: `[B, P]` int32 token ids; padding may hold any valid id.
      mask: `[B, P]` bool, true at real tokens; the last column is true in every row.
      index: `[B]` int32 number of the prompt in the whole job; a row's noise is derived from it, so
        that splitting, reordering or resuming a job does not change a row's text.
      embeddings: `[B, P, E]` vectors that stand in place of tokens (an image prefix), or None.
      embedded: `[B, P]` bool, true where `embeddings` stands in place of the token, or None.
      context: what discriminators know of each row beside its text, such as the states of an image:
        any pytree of arrays with a leading axis `B`, or None. A language model does not read it.
    """

    tokens: jax.Array
    mask: jax.Array
    index: jax.Array
    embeddings: jax.Array | None = None
    embedded: jax.Array | None = None
    context: Any = None

    @property
    def spelt(self) -> jax.Array:
        """Where a real token of text stands: `[B, P]` bool."""
        return self.mask if self.embedded is None else self.mask & ~self.embedded


@struct.dataclass
class Nodes:
    """The nodes that one call extends the tree by, `W` in every row.

    Attributes:
      start: `[]` int32 first slot to write; lane `w` of every row writes slot `start + w`.
      token: `[B, R, W]` int32 the token that each node adds to its parent's text.
      parent: `[B, R, W]` int32 the parent's slot; 0 is the root.
      path: `[B, R, W, D]` int32 slots of the ancestors below the root: entry `d` is the ancestor at
        depth `d + 1`, -1 where there is none. The root, which is in the trunk or the prompt, and
        the node itself are not part of it.
      depth: `[B, R, W]` int32 depth below the root, 1 for the root's children.
      committed: `[B, R]` int32 tokens in each trunk.
      terminal: `[B, R, W]` bool, true where the token ends the text.
      hidden: `[B, R, W, J, E]` the language model's states at its `J` taps, set after `extend`.
      embedding: `[B, R, W, E]` vectors that stand in place of the tokens, or None.
    """

    start: jax.Array
    token: jax.Array
    parent: jax.Array
    path: jax.Array
    depth: jax.Array
    committed: jax.Array
    terminal: jax.Array
    hidden: jax.Array | None = None
    embedding: jax.Array | None = None

    @property
    def slots(self) -> jax.Array:
        """The slots that the nodes stand in: `[B, R, W]` int32."""
        slots = self.start + jnp.arange(self.token.shape[-1])
        return jnp.broadcast_to(slots, self.token.shape)


def log_probs_of(logits: jax.Array, tokens: jax.Array) -> jax.Array:
    """Returns the log-probabilities of tokens `[...]` under logits `[..., V]`."""
    log_probs = jax.nn.log_softmax(logits)
    return jnp.take_along_axis(log_probs, tokens[..., None], axis=-1)[..., 0]


@dataclass(frozen=True)
class Bound:
    """A function with its first argument fixed; equal, unlike a partial, when both are equal."""

    function: Callable
    config: Hashable

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the function with the fixed argument in front."""
        return self.function(self.config, *args, **kwargs)


@dataclass(frozen=True)
class LanguageModel:
    """A record of pure functions, hashable and static under `jit`.

    Attributes:
      prefill: `(params, prompt, *, capacity) -> (logits [B, V], hidden [B, P, J, E], cache)`: reads
        the prompts; the logits are those after each prompt's last token.
      extend: `(params, cache, nodes) -> (logits [B, R, W, V], hidden [B, R, W, J, E], cache)`:
        reads one token per node, each attending to the prompt, the trunk, its path and itself.
      score: `(params, prompt, tokens [B, R, S], mask [B, R, S]) -> log p [B, R, S]`: the
        log-probability of every token of a continuation, zero where the mask is false.
      vocab_size: `V`.
      width: `E`, the width of the hidden states.
      context: longest text, prompt included, that the network can read.
      end_tokens: ids that end a text.
      taps: the layers whose states come back as `hidden`: 0 is the embedding, `l` the output of
        layer `l`, the last one after the final norm.
      vocab_shards: over how many devices of a mesh's "tensor" axis the logits are split.
      embeddings: `(params) -> [V, E]`: the vectors that tokens are read as, of which
        `Nodes.embedding` may be a mixture; None where there are none.
      encodes_prompt: whether the prompt is a source that an encoder reads. A text is then no
        continuation of it, and rules against repetition leave it out.
    """

    prefill: Callable
    extend: Callable
    score: Callable
    vocab_size: int
    width: int
    context: int
    end_tokens: tuple[int, ...] = ()
    taps: tuple[int, ...] = ()
    vocab_shards: int = 1
    embeddings: Callable | None = None
    encodes_prompt: bool = False
