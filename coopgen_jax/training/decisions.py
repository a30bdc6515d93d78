"""What searches found in front of every token of their texts, as a table that a loss looks up.

FUDGE (Yang and Klein, NAACL 2021, arXiv 2104.05218) writes v with p(v | x) p(c | x v)^s / Z. With
the values Q(v) of a search for the class c in place of p(c | x v) that is the search's improved
policy, p(v | x) Q(v)^s / Z (Danihelka et al., ICLR 2022, section 4; `search.mcts.value_logits`). So
a look-ahead head that has learned Q from searches makes FUDGE write as the search would draw, and
one product a token replaces its simulations. The strength s stays open: it is none of the target.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from coopgen_jax.discriminators.trunk_layers import foreseen
from coopgen_jax.training import losses
from coopgen_jax.training.searched_texts import SearchedText
from coopgen_jax.training.step import Sums

# A table has a multiple of so many candidates.
MULTIPLE = 8


def decision_table(
    texts: Sequence[SearchedText], classes: Sequence[str], embedding: np.ndarray, before: int
) -> dict[str, np.ndarray]:
    """Returns what was found of all texts, for places of which `before` belong to other texts.

    Returns:
      `row` `[n]` int32, for the place of a token the number of its decision, 0 for none; of every
      decision, of which there are `M - 1`, `token` `[M, K]` int32, its candidates in `embedding`
      `[U, E]` float32, `value` `[M, K]` float32, `weight` `[M, K]` float32, their shares of the
      visits, 0 where there is no candidate, and `target` `[M]` int32.
    """
    found = [decision for text in texts for decision in text.found]
    widest = max((len(decision.tokens) for decision in found), default=1)
    shape = (1 + len(found), -(-widest // MULTIPLE) * MULTIPLE)
    tokens, visits, values = (np.zeros(shape, kind) for kind in (np.int32, np.float32, np.float32))
    for number, decision in enumerate(found, start=1):
        count = len(decision.tokens)
        tokens[number, :count] = decision.tokens
        visits[number, :count] = decision.visits
        values[number, :count] = decision.values
    targets = [classes.index(text.target) for text in texts for _ in text.found]
    known, index = np.unique(tokens, return_inverse=True)
    return {
        "row": np.arange(1 - before, 1 + len(found), dtype=np.int32).clip(0),
        "token": index.reshape(shape).astype(np.int32),
        "embedding": np.asarray(embedding[known], np.float32),
        "value": values,
        "weight": visits / np.maximum(visits.sum(axis=-1, keepdims=True), 1),
        "target": np.asarray([0, *targets], np.int32),
    }


def was_searched(table: Any, places: jax.Array, inside: jax.Array) -> jax.Array:
    """Returns which texts `[B]` were searched, of their tokens' places `[B, S]`."""
    return jnp.any((table["row"][places] > 0) & inside, axis=-1)


def searched_loss(
    table: dict[str, jax.Array],
    keys: jax.Array,
    queries: jax.Array,
    places: jax.Array,
    inside: jax.Array,
) -> Sums:
    """Returns a look-ahead head's loss of what was found, in nats a searched text.

    That is `losses.searched_value` of every candidate, weighed by its visits, as a mean over the
    tokens of a text.

    Args:
      table: see `decision_table`.
      keys: `[E, K]`, the head's.
      queries: `[B, S, C, K + 1]` in front of every token.
      places: `[B, S]` the tokens' places.
      inside: `[B, S]` which of them are there.
    """
    number = jnp.where(inside, table["row"][places], 0)
    ahead = foreseen(queries, (table["embedding"] @ keys)[table["token"][number]])
    of_candidates = jax.vmap(losses.searched_value, (0, None, 0))
    of_tokens = jax.vmap(jax.vmap(of_candidates))
    each = of_tokens(ahead, table["target"][number], table["value"][number])
    each = jnp.sum(table["weight"][number] * each, axis=-1)
    count = jnp.sum(number > 0, axis=-1)
    mean = jnp.sum(jnp.where(number > 0, each, 0.0), axis=-1) / jnp.maximum(count, 1)
    return {"searched_loss": (jnp.sum(mean), jnp.sum(count > 0, dtype=jnp.float32))}
