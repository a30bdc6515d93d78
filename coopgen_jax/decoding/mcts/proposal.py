"""The search as a proposal: draws whose probability is known, and above zero, for every text.

Generative Cooperative Networks (Lamprier et al., ICML 2022, arXiv 2201.12320) weigh a text y by
p(y) D(y) / q^(y). That is an estimate of the target p D / Z where q^ can write all that the target
can. A draw from the visits n of a search never leaves its candidates, so every token comes from

    q(v | x) = (1 - epsilon) n(v)^(1 / tau) / sum_u n(u)^(1 / tau) + epsilon p(v | x)

with p the language model's own distribution over the whole vocabulary, no penalty or temperature
applied. A token's probability is the mixture's, whichever part it came from, and what follows
depends on the token alone: one that has no child in the tree is read, and a new tree is planted
behind it as behind a prompt. No text of T tokens has p(y) / q^(y) above epsilon^-T.

Visits say where a search has looked rather than how likely a token is under the target: they make
a text of what is likeliest. By `value_power` the first part is p(v | x) Q(v)^power over the whole
vocabulary instead, with the values Q that the search has found. Then every text can come without
epsilon too, but where a discriminator is sure that the beginning of a good text is none, it hardly
ever does: only epsilon keeps its weight, and so the error of an estimate, within bounds.

Without roll-outs a tree is a function of the text so far, and so q^ is one of the text. With them
`log_proposal` is the log-probability given their noise, and differs between draws of one text. That
is above zero for every text whatever the noise, so that weights by it remain unbiased.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from coopgen_jax.decoding.generation import Generation, entry_at, where
from coopgen_jax.decoding.job import (
    Job,
    States,
    children,
    ends,
    read_nodes,
    seen_by,
    stop_states,
)
from coopgen_jax.decoding.mcts.expansion import root
from coopgen_jax.decoding.mcts.mcts_config import ByValues, MCTSConfig
from coopgen_jax.decoding.mcts.reference import read_reference
from coopgen_jax.decoding.rules.draw import draw, log_drawn, per_key
from coopgen_jax.decoding.rules.shaping import Seen, log_constrained, log_marked
from coopgen_jax.decoding.rules.truncation import mixture
from coopgen_jax.search.mcts import root_visits, value_logits, visit_logits
from coopgen_jax.search.tree import Tree, plant


@struct.dataclass
class Choice:
    """The next token of every text.

    token: `[B, R]` int32.
    rank: `[B, R]` int32 which of the root's candidates it is, -1 where it has no child in the tree.
    log_prob: `[B, R]` float32 its log-probability under the plain language model.
    log_proposal: `[B, R]` float32 that with which it was drawn, NaN where it was not.
    log_class: `[B, R, C]` float32 what the discriminator says of the text with it.
    end: `[B, R]` bool, true where it ends the text.
    """

    token: jax.Array
    rank: jax.Array
    log_prob: jax.Array
    log_proposal: jax.Array
    log_class: jax.Array
    end: jax.Array


def of_child(tree: Tree, rank: jax.Array, arrays: Any) -> Any:
    """Returns what arrays `[B, R, N, ...]` hold of each root's child of rank `rank` `[B, R]`."""
    return entry_at(arrays, jnp.maximum(entry_at(tree.children[:, :, 0], rank), 0))


def child(tree: Tree, rank: jax.Array, log_proposal: jax.Array) -> Choice:
    """Returns each root's child of rank `rank` `[B, R]`, chosen with the given log-probability."""
    token, log_prob = entry_at((tree.tokens[:, :, 0], tree.log_probs[:, :, 0]), rank)
    log_class, end = of_child(tree, rank, (tree.log_class, tree.terminal))
    return Choice(token, rank, log_prob, log_proposal, log_class, end)


def propose(
    keys: jax.Array,
    job: Job,
    caches: Sequence[Any],
    generation: Generation,
    tree: Tree,
    choice: Choice,
    logits: jax.Array,
    *,
    tau: jax.Array,
) -> tuple[Choice, tuple[jax.Array, jax.Array | None], list[Any]]:
    """Draws a token from the whole vocabulary in every row, and has all networks read the tokens.

    The `caches` are both networks' states and the reference's cache, the trees those after the
    search. `choice` are the tokens that were drawn from visits by their temperature `tau`, if they
    were; the `logits` `[B, R, V]` are the language model's of this token.

    Returns:
      The tokens drawn from the mixture, the logits `[B, R, V]` behind them, the language model's
      and the reference's, and the caches, where they stand in the first slot behind the tree's.
    """
    config: MCTSConfig = job.config
    stop = stop_states(caches[0])
    seen = seen_by(job, generation, stop)
    token, log_prob, log_proposal = _draw(
        keys, job, tree, choice.token, logits, seen, generation.length, tau=tau
    )
    same = (tree.tokens[:, :, 0] == token[..., None]) & (tree.children[:, :, 0] >= 0)
    outside = ~same.any(axis=-1)
    end = ends(job, token, stop)
    # What the tree holds has been judged, and a text that had ended has nothing to judge.
    idle = (end | ~outside | generation.finished)[..., None]
    slot = config.search.nodes
    node = children(token[..., None], generation.length, terminal=idle, slot=slot)
    states, cache = caches
    after, judged, states = read_nodes(job, states, node, generation.log_class[:, :, None])
    reference, cache = read_reference(job, cache, node)
    reference = None if reference is None else reference[:, :, 0]
    rank = jnp.where(outside, -1, jnp.argmax(same, axis=-1)).astype(jnp.int32)
    log_class = where(outside, judged[:, :, 0], of_child(tree, rank, tree.log_class))
    chosen = Choice(token, rank, log_prob, log_proposal, log_class, end)
    return chosen, (after[:, :, 0], reference), [states, cache]


def _draw(
    keys: jax.Array,
    job: Job,
    tree: Tree,
    token: jax.Array,
    logits: jax.Array,
    seen: Seen,
    at: jax.Array,
    *,
    tau: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns a token of the mixture, its log-probability under p and under the mixture, `[B, R]`.

    By visits, `token` `[B, R]` is what was drawn from them. The mixture's p is under the
    constraints. In a search along given texts the token is theirs, the one at the place `at`
    `[B, R]`.
    """
    config, rules = job.config, job.config.rules
    power = config.choice.value_power if isinstance(config.choice, ByValues) else 0.0
    # Roll-outs fold in the slot of their leaf, the draw from visits or values the root's.
    pair = per_key(partial(jax.random.fold_in, data=tree.visits.shape[2]), keys)
    pair = per_key(jax.random.split, pair)
    plain = jax.nn.log_softmax(logits.astype(jnp.float32))
    log_p = plain
    if rules.constrains:
        log_p = log_constrained(rules, logits, seen, ends=job.language_model.end_tokens)
    log_tree, known = _searched(tree, log_p, tau=tau, power=power)
    # Values and visits are of what is searched; the mark is set on what is drawn from.
    marked_p, log_tree = (log_marked(rules, found, seen) for found in (log_p, log_tree))
    plainly = not rules.constrains and marked_p is log_p
    by_model, log_p = logits if plainly else marked_p, marked_p
    if power:
        first = per_key(partial(jax.random.fold_in, data=0), keys)
        token, _ = draw(rules, first, log_tree, seen=seen)
    chance = partial(jax.random.bernoulli, p=jnp.float32(config.mix_base))
    full = per_key(chance, pair[:, :, 0]) | ~known
    by_model, _ = draw(rules, pair[:, :, 1], by_model, seen=seen)
    token = jnp.where(full, by_model, token)
    if job.along is not None:
        token = entry_at(job.along[:, None], jnp.minimum(at, job.along.shape[-1] - 1))
    log_base, log_own = (log_drawn(rules, array, token, seen) for array in (log_p, log_tree))
    log_proposal = jnp.where(known, mixture(log_own, log_base, config.mix_base), log_base)
    return token, entry_at(plain, token), log_proposal


def _searched(
    tree: Tree, log_p: jax.Array, *, tau: jax.Array, power: float
) -> tuple[jax.Array, jax.Array]:
    """Returns the search's own log-probabilities `[B, R, V]`, and where it has some, `[B, R]`."""
    if power:
        log_tree = jax.nn.log_softmax(value_logits(tree, log_p, power))
        return log_tree, jnp.ones(log_p.shape[:2], bool)
    visits, visited = visit_logits(root_visits(tree), tau)
    none = jnp.full_like(log_p, -jnp.inf)
    put = jax.vmap(jax.vmap(lambda row, at, found: row.at[at].set(found)))
    return put(none, tree.tokens[:, :, 0], jax.nn.log_softmax(visits)), visited


def drawn_first(job: Job, source: jax.Array, choice: Choice) -> jax.Array:
    """Returns where each slot comes from, `source` `[B, R, 1 + kept]`, for tokens in no tree too.

    Their new root is what `propose` has read.
    """
    read = (choice.rank < 0)[..., None] & (jnp.arange(source.shape[-1]) == 0)[None, None]
    return jnp.where(read, job.config.search.nodes, source)


def replant(
    job: Job,
    states: States,
    generation: Generation,
    tree: Tree,
    choice: Choice,
    logits: jax.Array,
    reference: jax.Array | None,
) -> Tree:
    """Plants new trees behind the tokens that were in none: there the re-rooted trees are holes.

    The states are moved and committed, so that slot 0 is the token; the logits `[B, R, V]` are
    behind it, as are the reference's, None where there is none.
    """
    expansion = root(job, generation, states, logits, generation.log_class, reference)
    expansion = replace(expansion, terminal=generation.finished[..., None])
    planted: Tree = where(choice.rank < 0, plant(tree, expansion), tree)
    return planted
