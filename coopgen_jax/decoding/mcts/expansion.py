"""What a leaf is worth and which tokens may follow it, as the two networks read it.

PPL-MCTS (Chaffin, Claveau and Kijak, NAACL 2022), section 3: a candidate's prior is its penalised,
tempered probability; a leaf's value is p(c|x)^alpha * L^(1 - alpha). A discriminator that judges
children before they are read can choose among them too: with `foresight_power` a prior is that
probability times p(c|x v)^foresight_power, normalised over the vocabulary.
"""

from typing import Any

import jax
import jax.numpy as jnp

from coopgen_jax.decoding.generation import Generation, pick
from coopgen_jax.decoding.job import (
    Job,
    States,
    ends,
    read_nodes,
    room,
    roots,
    seen_by,
    shaped,
    stop_states,
)
from coopgen_jax.decoding.judgement import foreseen, log_target
from coopgen_jax.decoding.mcts.mcts_config import Value
from coopgen_jax.decoding.mcts.reference import read_reference, rewards
from coopgen_jax.decoding.mcts.rollout import roll_out
from coopgen_jax.decoding.rules.shaping import Seen
from coopgen_jax.models.language_model import Nodes
from coopgen_jax.models.slots import Slots, take
from coopgen_jax.parallel.mesh import top_k
from coopgen_jax.search.tree import Expansion, Leaves, Tree


def root(
    job: Job,
    generation: Generation,
    states: States,
    logits: jax.Array,
    log_class: jax.Array,
    reference: jax.Array | None,
) -> Expansion:
    """Returns the expansion of the bare prompts, from logits `[B, R, V]` and `[B, R, C]`.

    The reference's logits `[B, R, V]` are None where there is none.
    """
    seen = seen_by(job, generation, stop_states(states), marked=False)
    logits, log_class, reference, seen = _per_node((logits, log_class, reference, seen))
    nodes, prior = roots(generation.length), shaped(job, logits, seen)
    return Expansion(
        **_candidates(job, states, nodes, logits, prior, reference),
        log_class=log_class,
        value=_value(job, log_class, jnp.zeros(nodes.depth.shape), nodes.depth),
        terminal=nodes.terminal,
    )


def expand(
    job: Job,
    generation: Generation,
    keys: jax.Array,
    state: tuple[States, Any, jax.Array],
    tree: Tree,
    leaves: Leaves,
) -> tuple[tuple[States, Any, jax.Array], Expansion]:
    """Has the networks read the leaves of one wave.

    `keys` `[B, R]` are typed keys of this token's search, for roll-outs. The state is that of both
    networks, the reference's cache, and how many tokens each row has read `[B, R]`.
    """
    states, cache, read = state
    config = job.config
    ended = leaves.fresh & ends(job, leaves.token, stop_states(states, leaves.parent))
    nodes = Nodes(
        start=leaves.start,
        token=leaves.token,
        parent=leaves.parent,
        path=leaves.path,
        depth=leaves.depth,
        committed=generation.length,
        # Lanes without a new node have no text to judge either.
        terminal=ended | ~leaves.fresh,
    )
    above = pick(tree.log_class, leaves.parent)
    logits, log_class, states = read_nodes(job, states, nodes, above)
    reference, cache = read_reference(job, cache, nodes)
    read = read + jnp.sum(leaves.fresh, axis=-1, dtype=jnp.int32)

    here = leaves.start + jnp.arange(leaves.token.shape[-1])
    stop = stop_states(states, jnp.broadcast_to(here, leaves.token.shape))
    tokens, there = _own_tokens(tree, leaves)
    seen = _longer(_per_node(seen_by(job, generation, None, marked=False)), tokens, there, stop)
    prior = shaped(job, logits, seen)
    final_class = log_class
    if config.rollout is not None:

        def behind(logits: jax.Array, tokens: jax.Array, there: jax.Array, stop: Any) -> jax.Array:
            return shaped(job, logits, _longer(seen, tokens, there, stop))

        states, final_class, rolled = roll_out(
            keys,
            job,
            states,
            nodes,
            prior,
            log_class,
            limit=room(job, generation),
            shape=behind,
        )
        read = read + rolled
    expansion = Expansion(
        **_candidates(job, states, nodes, logits, prior, reference),
        log_class=log_class,
        value=_value(job, final_class, leaves.log_likelihood, leaves.depth),
        terminal=ended,
    )
    return (states, cache, read), expansion


def _own_tokens(tree: Tree, leaves: Leaves) -> tuple[jax.Array, jax.Array]:
    """Returns the tokens from the root down to each leaf, `[B, R, W, S]`, and which are there."""
    above = take(Slots(tree.token, None), leaves.path)
    return (
        jnp.concatenate([above, leaves.token[..., None]], axis=-1),
        jnp.concatenate([leaves.path >= 0, leaves.fresh[..., None]], axis=-1),
    )


def _longer(seen: Seen, tokens: jax.Array, there: jax.Array, stop: jax.Array | None) -> Seen:
    """Returns what stands in front of the next token behind `tokens` `[B, R, W, S]` more."""
    return seen.followed_by(Seen(tokens, there, there.sum(axis=-1, dtype=jnp.int32), stop))


def _per_node(arrays: Any) -> Any:
    """Returns arrays `[B, R, ...]` with an axis for the nodes of a sample."""
    return jax.tree.map(lambda array: array[:, :, None], arrays)


def _value(job: Job, log_class: jax.Array, log_likelihood: jax.Array, depth: jax.Array) -> Any:
    """Returns p(c|x)^alpha * L^(1 - alpha), `[B, R, W]` in float32."""
    config: Value = job.config.value
    log_value = jnp.zeros(depth.shape, jnp.float32)
    if job.discriminator is not None and job.target is not None:
        log_value = config.alpha * log_target(log_class, job.target)
    if config.alpha < 1:
        log_value = log_value + (1 - config.alpha) * _likelihood(config, log_likelihood, depth)
    return jnp.exp(log_value)


def _likelihood(config: Value, log_likelihood: jax.Array, depth: jax.Array) -> jax.Array:
    """Returns log L of nodes whose log priors add up to `log_likelihood` from the root on."""
    if config.likelihood == "mean":
        return log_likelihood / jnp.maximum(depth, 1)
    return log_likelihood


def rebased(
    config: Value, value: jax.Array, log_likelihood: jax.Array, depth: jax.Array, step: jax.Array
) -> jax.Array:
    """Returns the values of nodes whose root has moved down by one token, all `[B, R, N]`.

    `value` has L below the old root; `log_likelihood`, the sum of the log priors down to the node,
    and `depth` are below the new one, whose log prior is `step` `[B, R, 1]`.
    """
    before = _likelihood(config, log_likelihood + step, depth + 1)
    return value * jnp.exp(
        (1 - config.alpha) * (_likelihood(config, log_likelihood, depth) - before)
    )


def _log_total(scores: jax.Array, most: jax.Array) -> jax.Array:
    """Returns log sum exp `[..., 1]` of scores `[..., V]` of which the largest is known."""
    shift = jnp.where(jnp.isfinite(most), most, 0.0)
    return jnp.log(jnp.exp(scores - shift).sum(axis=-1, keepdims=True)) + shift


def _candidates(
    job: Job,
    states: States,
    nodes: Nodes,
    logits: jax.Array,
    prior: jax.Array,
    reference: jax.Array | None,
) -> dict[str, Any]:
    """Returns the `K` best tokens by the shaped logits `prior` and foresight, `[B, R, W, K]`."""
    if job.config.foresight_power:
        prior = prior + job.config.foresight_power * foreseen(job, states, nodes, None)
    count = min(job.config.search.candidates, job.language_model.vocab_size)
    best, tokens = top_k(prior, count, shards=job.language_model.vocab_shards)
    plain = jnp.take_along_axis(logits, tokens, axis=-1)
    log_probs = plain - _log_total(logits, logits.max(axis=-1, keepdims=True))
    return {
        "tokens": tokens.astype(jnp.int32),
        "priors": jnp.exp(best - _log_total(prior, best[..., :1])),
        "log_probs": log_probs,
        "rewards": rewards(job, log_probs, tokens, reference),
    }
