"""Small parts for tests: tiny networks, and a toy language that can be enumerated.

The toy language model keeps a remainder of everything it has read and looks its integer logits up
in a table, so that its arithmetic is exact whatever the batch; it obeys the same contract as a real
network, slots included, and so exercises every decoder.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from coopgen_jax.discriminators.discriminator import Discriminator
from coopgen_jax.models.language_model import Bound, LanguageModel, Nodes, Prompt, log_probs_of
from coopgen_jax.models.published_shapes import gpt2, llama
from coopgen_jax.models.slots import Capacity, Slots, rooted, take, write

TINY_LLAMA = llama(
    vocab_size=61,
    layers=3,
    width=32,
    heads=4,
    kv_heads=2,
    ffn_width=48,
    context=128,
    tied=False,
)
TINY_GPT2 = gpt2(vocab_size=61, layers=2, width=32, heads=4, ffn_width=64, context=128)


@dataclass(frozen=True)
class ToyLanguage:
    """A language of `vocab_size` tokens, the last of which ends a text.

    Of its `M` states reading a token turns memory `h` into `(5 h + token + 1) mod M`.
    """

    vocab_size: int = 5
    states: int = 97

    def read(self, memory: Any, token: Any) -> Any:
        """Returns the memory after one more token."""
        return (5 * memory + token + 1) % self.states

    def tables(self, seed: int) -> dict[str, np.ndarray]:
        """Returns integer logits `[M, V]` and class scores `[M, 2]` drawn from a seed."""
        rng = np.random.default_rng(seed)
        return {
            "logits": rng.integers(-4, 5, (self.states, self.vocab_size)).astype(np.float32),
            "scores": rng.integers(-3, 4, (self.states, 2)).astype(np.float32),
        }


@struct.dataclass
class ToyState:
    """Memory of every token read: the prompt's `[B]`, and the nodes' as `Slots` `[B, R, N]`."""

    prompt: jax.Array
    memory: Slots


def _read_prompt(toy: ToyLanguage, prompt: Prompt) -> jax.Array:
    def step(memory: jax.Array, column: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        token, real = column
        return jnp.where(real, toy.read(memory, token), memory), None

    start = jnp.zeros(prompt.tokens.shape[0], jnp.int32)
    return jax.lax.scan(step, start, (prompt.tokens.T, prompt.mask.T))[0]


def _toy_state(toy: ToyLanguage, prompt: Prompt, capacity: Capacity) -> ToyState:
    memory = _read_prompt(toy, prompt)
    # Slot 0 is the root: for as long as nothing is committed its memory is the prompt's.
    return ToyState(prompt=memory, memory=rooted(memory, capacity, trunk=True))


def _extend_toy(toy: ToyLanguage, state: ToyState, nodes: Nodes) -> tuple[jax.Array, ToyState]:
    before = take(state.memory, nodes.parent)
    memory = toy.read(before, nodes.token)
    return memory, replace(state, memory=write(state.memory, nodes.start, memory))


def _toy_prefill(toy: ToyLanguage, params: Any, prompt: Prompt, *, capacity: Capacity) -> Any:
    state = _toy_state(toy, prompt, capacity)
    hidden = jnp.zeros((*prompt.tokens.shape, 0, 1))
    return params["logits"][state.prompt], hidden, state


def _toy_extend(toy: ToyLanguage, params: Any, state: ToyState, nodes: Nodes) -> Any:
    memory, state = _extend_toy(toy, state, nodes)
    return params["logits"][memory], jnp.zeros((*memory.shape, 0, 1)), state


def _toy_score(
    toy: ToyLanguage, params: Any, prompt: Prompt, tokens: jax.Array, mask: jax.Array
) -> jax.Array:
    start = jnp.broadcast_to(_read_prompt(toy, prompt)[:, None], tokens.shape[:2])

    def step(memory: jax.Array, column: tuple[jax.Array, jax.Array]) -> Any:
        token, real = column
        chosen = log_probs_of(params["logits"][memory], token)
        return toy.read(memory, token), jnp.where(real, chosen, 0.0)

    columns = (jnp.moveaxis(tokens, -1, 0), jnp.moveaxis(mask, -1, 0))
    return jnp.moveaxis(jax.lax.scan(step, start, columns)[1], 0, -1)


def toy_language_model(toy: ToyLanguage) -> LanguageModel:
    """Returns the toy's language model; its params are `toy.tables(seed)`."""
    return LanguageModel(
        prefill=Bound(_toy_prefill, toy),
        extend=Bound(_toy_extend, toy),
        score=Bound(_toy_score, toy),
        vocab_size=toy.vocab_size,
        width=1,
        context=1 << 20,
        end_tokens=(toy.vocab_size - 1,),
    )


def _toy_init(
    toy: ToyLanguage, params: Any, prompt: Prompt, hidden: jax.Array, *, capacity: Capacity
) -> Any:
    state = _toy_state(toy, prompt, capacity)
    return jax.nn.log_softmax(params["scores"][state.prompt]), state


def _toy_evaluate(toy: ToyLanguage, params: Any, state: ToyState, nodes: Nodes) -> Any:
    memory, state = _extend_toy(toy, state, nodes)
    return jax.nn.log_softmax(params["scores"][memory]), state


def _toy_evaluate_children(
    toy: ToyLanguage, params: Any, state: ToyState, nodes: Nodes, candidates: jax.Array | None
) -> jax.Array:
    memory = take(state.memory, nodes.slots)[..., None]
    ids = jnp.arange(toy.vocab_size)[None, None, None] if candidates is None else candidates
    after = jnp.where(ids == toy.vocab_size - 1, memory, toy.read(memory, ids))
    return jax.nn.log_softmax(params["scores"][after])


def toy_discriminator(toy: ToyLanguage) -> Discriminator:
    """Returns a discriminator of two classes over the same memory, prompt included.

    What it says of the children of a node is what it says of them once they are read.
    """
    return Discriminator(
        init=Bound(_toy_init, toy),
        evaluate=Bound(_toy_evaluate, toy),
        evaluate_children=Bound(_toy_evaluate_children, toy),
        classes=("zero", "one"),
        reads_prompt=True,
    )
