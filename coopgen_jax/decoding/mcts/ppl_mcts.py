"""PPL-MCTS: Monte Carlo tree search over tokens, guided by a discriminator.

Chaffin, Claveau and Kijak, "PPL-MCTS: Constrained Textual Generation Through Discriminator-Guided
MCTS Decoding" (NAACL 2022). A language model proposes the candidates of every node, a discriminator
gives it its value, and a child of the root is written: the most visited one, or the one that
sequential halving ends with.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from coopgen_jax.decoding.generation import Generation, append, blank, row_keys
from coopgen_jax.decoding.job import (
    Decoder,
    Job,
    States,
    read_prompts,
    room,
    seen_by,
    stop_states,
)
from coopgen_jax.decoding.judgement import check_foresight
from coopgen_jax.decoding.mcts.expansion import expand, rebased, root
from coopgen_jax.decoding.mcts.mcts_config import ByVisits, MCTSConfig
from coopgen_jax.decoding.mcts.proposal import (
    Choice,
    child,
    drawn_first,
    of_child,
    propose,
    replant,
)
from coopgen_jax.decoding.mcts.reference import begin_reference
from coopgen_jax.decoding.rules.draw import draw, per_key
from coopgen_jax.decoding.rules.shaping import Seen, marked
from coopgen_jax.errors import UserError
from coopgen_jax.models.slots import Capacity, commit, move
from coopgen_jax.search.mcts import best_child, root_visits, search, visit_logits
from coopgen_jax.search.tree import Tree, new_tree, plant, reroot, revalue


@struct.dataclass
class MCTSState:
    """Between two tokens: both states, the tree that outlived the last one, the texts, the step.

    reference: the cache of the one that the search is charged for leaving, None where `kl` is 0.
    logits: `[B, R, V]` of the next token, None where tokens come from the tree alone.
    """

    states: States
    tree: Tree
    generation: Generation
    step: jax.Array
    reference: Any = None
    logits: jax.Array | None = None


def begin(job: Job) -> MCTSState:
    """Reads the prompts and plants the trees.

    Raises:
      UserError: the discriminator has no target, the search has nothing to value a text or its
        roll-out by, a wave is wider than the vocabulary, `foresight_power` asks a discriminator
        that does not judge children, a price of leaving a reference is given without one that goes
        with the language model, or the prompt and what the search reads behind it exceed the
        context.
    """
    config: MCTSConfig = job.config
    if config.search.wave > job.language_model.vocab_size:
        raise UserError(
            f"wave is {config.search.wave} but the vocabulary has only "
            f"{job.language_model.vocab_size} tokens: lower wave"
        )
    if job.discriminator is not None and job.target is None:
        raise UserError("a guided search needs a target: the class that the text is to have")
    if job.discriminator is None and config.value.alpha == 1:
        raise UserError("without a discriminator the search needs alpha below 1: it has no value")
    if job.discriminator is None and config.rollout:
        raise UserError("a roll-out is read by a discriminator alone: give one, or rollout 0")
    capacity = Capacity(config.samples, config.new_tokens, config.nodes)
    logits, log_class, states = read_prompts(job, capacity, config.ahead)
    if config.foresight_power:
        check_foresight(job, states, "a search with foresight")
    generation = blank(log_class, config.new_tokens)
    first, reference = begin_reference(job, capacity, config.ahead)
    planted = root(job, generation, states, logits, log_class, first)
    batch, samples, classes = log_class.shape
    size = (config.search.nodes, planted.tokens.shape[-1], classes)
    tree = plant(new_tree(batch, samples, *size, rewards=config.reference is not None), planted)
    drawn_from = logits if config.has_full_support else None
    return MCTSState(states, tree, generation, jnp.int32(0), reference, drawn_from)


def advance(key: jax.Array, job: Job, state: MCTSState) -> tuple[MCTSState, Tree]:
    """Searches for and writes one token of every text that is not finished.

    Returns:
      The next state, and the trees as they stood when the tokens were chosen.
    """
    config: MCTSConfig = job.config
    generation = state.generation
    keys = row_keys(key, job.prompt, config.samples, state.step)
    live = ~generation.finished
    tree, (*caches, read), simulations = search(
        state.tree,
        (state.states, state.reference, generation.model_tokens),
        expand=partial(expand, job, generation, keys),
        active=live,
        config=config.engine,
        depth_limit=room(job, generation),
    )
    choice, tau = _choose(job, keys, generation, tree, state.states)
    logits, charged = state.logits, None
    if logits is not None:
        choice, (logits, charged), caches = propose(
            keys, job, caches, generation, tree, choice, logits, tau=tau
        )
        read = read + live
    depth = jnp.where(tree.visits > 0, tree.depth, 0).max(axis=-1)
    written = append(
        replace(
            generation,
            simulations=generation.simulations + simulations,
            model_tokens=read,
            deepest=jnp.where(live, jnp.maximum(generation.deepest, depth), generation.deepest),
        ),
        choice.token,
        log_prob=choice.log_prob,
        log_proposal=choice.log_proposal,
        log_class=choice.log_class,
        end=choice.end,
    )
    kept, source = reroot(tree, choice.rank, kept=config.search.reused_nodes)
    if config.value.alpha < 1 and config.search.reused_nodes:
        step = jnp.where(choice.rank < 0, 0.0, of_child(tree, choice.rank, tree.log_likelihood))
        value = rebased(config.value, kept.value, kept.log_likelihood, kept.depth, step[..., None])
        kept = revalue(kept, value, depth=config.search.depth)
    if config.search.reused_nodes == 0:
        # The published code discards the tree: the root starts again from its own evaluation.
        kept = replace(
            kept,
            visits=jnp.minimum(kept.visits, 1),
            value_sum=jnp.where(kept.visits > 0, kept.value, 0.0),
            credits=jnp.minimum(kept.credits, 1),
        )
    if logits is not None:
        source = drawn_first(job, source, choice)
    states, reference = commit(move(caches, source), generation.length)
    if logits is not None:
        kept = replant(job, states, written, kept, choice, logits, charged)
    return MCTSState(states, kept, written, state.step + 1, reference, logits), tree


def _choose(
    job: Job, keys: jax.Array, generation: Generation, tree: Tree, states: States
) -> tuple[Choice, jax.Array]:
    """Returns a child of every root, the best or one drawn from visits, and their temperature."""
    config: MCTSConfig = job.config
    seen, tokens = seen_by(job, generation, stop_states(states)), tree.tokens[:, :, 0]
    rank = best_child(tree, config=config.search)
    if seen.mark is not None and not config.draws:
        rank = _best_marked(config, tree, rank, seen)
    log_proposal, tau = jnp.full(rank.shape, jnp.nan, jnp.float32), jnp.float32(0)
    if isinstance(config.choice, ByVisits):
        tau = jnp.float32(config.choice.visit_temperature)
        if config.choice.anneal:
            tau = tau * (1 - generation.length / config.new_tokens)
        first = per_key(partial(jax.random.fold_in, data=0), keys)
        logits, sampled = visit_logits(root_visits(tree), tau)
        logits = marked(config.rules, logits, seen, tokens)
        token, log_p = draw(config.rules, first, logits, tokens, seen=seen)
        drawn = jnp.argmax(tokens == token[..., None], axis=-1).astype(jnp.int32)
        rank = jnp.where(sampled, drawn, rank)
        log_proposal = jnp.where(sampled, log_p, log_proposal)
    return child(tree, rank, log_proposal), tau


def _best_marked(config: MCTSConfig, tree: Tree, rank: jax.Array, seen: Seen) -> jax.Array:
    """Returns the best child `[B, R]` by log visits and a greenlist's delta, instead of `rank`.

    A halved root's finalist counts as visited once more than any other.
    """
    visits = root_visits(tree)
    finalist = jnp.arange(visits.shape[-1])[None, None] == rank[..., None]
    visits = jnp.where(finalist, jnp.max(visits, axis=-1, keepdims=True) + 1, visits)
    scores = marked(config.rules, jnp.log(visits), seen, tree.tokens[:, :, 0])
    return jnp.argmax(scores, axis=-1).astype(jnp.int32)


MCTS = Decoder(begin, advance)
