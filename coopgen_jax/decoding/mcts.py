"""PPL-MCTS: Monte Carlo tree search over tokens, guided by a discriminator.

Chaffin, Claveau and Kijak, "PPL-MCTS: Constrained Textual Generation Through Discriminator-Guided
MCTS Decoding" (NAACL 2022). A language model proposes the candidates of every node, a discriminator
gives it its value, and the most visited child of the root is written.
"""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import struct

from coopgen_jax.decoding.generation import (
    Generation,
    append,
    blank,
    check_capacity,
    is_end,
    per_sample,
    row_keys,
    zero_classes,
)
from coopgen_jax.decoding.rollout import roll_out
from coopgen_jax.decoding.rules import repetition_penalty
from coopgen_jax.discriminators.discriminator import Discriminator
from coopgen_jax.models.language_model import LanguageModel, Nodes, Prompt
from coopgen_jax.models.slots import Capacity, commit, move
from coopgen_jax.search.config import SearchConfig
from coopgen_jax.search.mcts import choose, search
from coopgen_jax.search.tree import Expansion, Leaves, Tree, new_tree, plant, reroot


@dataclass(frozen=True)
class MCTSConfig:
    """How the search writes; static under `jit`.

    new_tokens: `T`, the most tokens to write.
    samples: `R`, texts per prompt.
    temperature: of the prior, softmax(penalised logits / temperature).
    repetition_penalty: CTRL's, over the text so far; 1 for none.
    penalise_prompt: whether the prompt's tokens count as text.
    alpha: value = p(c|x)^alpha * L^(1 - alpha) (PPL-MCTS, section 3.2); 1 is the discriminator
      alone.
    likelihood: L is the "mean" prior of a node's tokens below the root (geometric), or the paper's
      raw "product".
    visit_temperature: 0 writes the most visited token; above it, tokens are drawn from
      visits^(1 / visit_temperature) and `log_proposal` is the draw's log-probability.
    rollout: tokens sampled behind a leaf before it is judged, at most; 0 for none.
    rollout_confidence: a roll-out ends as soon as a class has this probability; None for a fixed
      length.
    search: budget, shape and selection rule of the search.
    """

    new_tokens: int = 24
    samples: int = 1
    temperature: float = 1.0
    repetition_penalty: float = 1.2
    penalise_prompt: bool = True
    alpha: float = 1.0
    likelihood: Literal["mean", "product"] = "mean"
    visit_temperature: float = 0.0
    rollout: int = 0
    rollout_confidence: float | None = None
    search: SearchConfig = field(default_factory=SearchConfig)

    def __post_init__(self) -> None:
        if self.new_tokens < 1 or self.samples < 1:
            raise ValueError("new_tokens and samples must be 1 or more")
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}: a prior needs more than 0")
        if self.repetition_penalty <= 0:
            raise ValueError(f"repetition_penalty is {self.repetition_penalty}: give 1 or more")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha is {self.alpha}: give a weight from 0 to 1")
        if self.likelihood not in ("mean", "product"):
            raise ValueError(f'likelihood is {self.likelihood!r}: use "mean" or "product"')
        if self.visit_temperature < 0:
            raise ValueError(f"visit_temperature is {self.visit_temperature}: give 0 or more")
        if self.rollout < 0:
            raise ValueError(f"rollout is {self.rollout}: give 0 (none) or more tokens")
        if self.visit_temperature > 0 and self.search.early_stop:
            # Stopping early would change the distribution that the token is drawn from.
            object.__setattr__(self, "search", replace(self.search, early_stop=False))

    @property
    def nodes(self) -> int:
        """Node slots of a sample: the tree's, then the scratch of a wave's roll-outs."""
        return self.search.nodes + self.search.wave * self.rollout


@struct.dataclass
class MCTSState:
    """Between two tokens: both states, the tree that outlived the last one, the texts, the step."""

    cache: Any
    judgement: Any
    tree: Tree
    generation: Generation
    step: jax.Array


@dataclass(frozen=True)
class _Job:
    """What stays the same from the first token to the last."""

    prompt: Prompt
    language_model: LanguageModel
    params: Any
    discriminator: Discriminator | None
    discriminator_params: Any
    target: jax.Array | None
    config: MCTSConfig


def log_target(log_class: jax.Array, target: jax.Array) -> jax.Array:
    """Returns the log-probability of what is wanted, `[B, R, W]`.

    Args:
      log_class: `[B, R, W, C]`.
      target: `[B]` int32 class numbers, or `[B, C]` float weights of a mixture sum_c w_c p(c|x).
    """
    if target.ndim == 1:
        index = jnp.broadcast_to(target[:, None, None, None], (*log_class.shape[:3], 1))
        return jnp.take_along_axis(log_class, index, axis=-1)[..., 0]
    weights = jnp.log(target)[:, None, None, :]
    return jax.nn.logsumexp(log_class + weights, axis=-1)


def _value(job: _Job, log_class: jax.Array, log_likelihood: jax.Array, depth: jax.Array) -> Any:
    """Returns p(c|x)^alpha * L^(1 - alpha), `[B, R, W]` in float32."""
    config = job.config
    log_value = jnp.zeros(depth.shape, jnp.float32)
    if job.discriminator is not None and job.target is not None:
        log_value = config.alpha * log_target(log_class, job.target)
    if config.alpha < 1:
        if config.likelihood == "mean":
            log_likelihood = log_likelihood / jnp.maximum(depth, 1)
        log_value = log_value + (1 - config.alpha) * log_likelihood
    return jnp.exp(log_value)


def _candidates(
    config: MCTSConfig, logits: jax.Array, seen: jax.Array, mask: jax.Array, count: int
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the penalised, tempered logits `[B, R, W, V]` and their `K` best as candidates."""
    shaped = repetition_penalty(logits, seen, mask, config.repetition_penalty) / config.temperature
    best, tokens = jax.lax.top_k(shaped, count)
    normaliser = jax.nn.logsumexp(shaped, axis=-1, keepdims=True)
    plain = jnp.take_along_axis(logits, tokens, axis=-1)
    return shaped, {
        "tokens": tokens.astype(jnp.int32),
        "priors": jnp.exp(best - normaliser),
        "log_probs": plain - jax.nn.logsumexp(logits, axis=-1, keepdims=True),
    }


def _seen(
    job: _Job, generation: Generation, tokens: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Puts what has been read in front of each node's own `tokens` `[B, R, W, S]`."""
    samples, wave = tokens.shape[1:3]

    def per_node(array: jax.Array) -> jax.Array:
        return jnp.broadcast_to(array[:, :, None], (*array.shape[:2], wave, array.shape[-1]))

    trunk = jnp.arange(job.config.new_tokens)[None, None] < generation.length[..., None]
    parts = [(per_node(generation.tokens), per_node(trunk)), (tokens, mask)]
    if job.config.penalise_prompt:
        prompt = (per_sample(job.prompt.tokens, samples), per_sample(job.prompt.mask, samples))
        parts.insert(0, (per_node(prompt[0]), per_node(prompt[1])))
    return (
        jnp.concatenate([part[0] for part in parts], axis=-1),
        jnp.concatenate([part[1] for part in parts], axis=-1),
    )


def _expand(
    job: _Job, generation: Generation, keys: jax.Array, state: tuple, tree: Tree, leaves: Leaves
) -> tuple[tuple, Expansion]:
    """Has both models read the leaves of one wave."""
    cache, judgement, read = state
    config = job.config
    rows = jnp.arange(tree.visits.shape[0])[:, None, None]
    samples = jnp.arange(tree.visits.shape[1])[None, :, None]
    nodes = Nodes(
        start=leaves.start,
        token=leaves.token,
        parent=leaves.parent,
        path=leaves.path,
        depth=leaves.depth,
        committed=generation.length,
        terminal=leaves.fresh & is_end(leaves.token, job.language_model.end_tokens),
    )
    logits, hidden, cache = job.language_model.extend(job.params, cache, nodes)
    nodes = replace(nodes, hidden=hidden)
    log_class = tree.log_class[rows, samples, leaves.parent]
    if job.discriminator is not None:
        judged, judgement = job.discriminator.evaluate(job.discriminator_params, judgement, nodes)
        # An end token adds no text to judge: its node has its parent's.
        log_class = jnp.where(nodes.terminal[..., None], log_class, judged)

    on_path = jnp.maximum(leaves.path, 0)
    path_tokens = tree.token[rows[..., None], samples[..., None], on_path]
    own = jnp.concatenate([path_tokens, leaves.token[..., None]], axis=-1)
    real = jnp.concatenate([leaves.path >= 0, leaves.fresh[..., None]], axis=-1)
    seen, mask = _seen(job, generation, own, real)
    count = tree.priors.shape[-1]
    shaped, candidates = _candidates(config, logits, seen, mask, count)
    read = read + jnp.sum(leaves.fresh, axis=-1, dtype=jnp.int32)

    final_class = log_class
    if config.rollout:
        (cache, judgement), final_class, rolled = roll_out(
            keys,
            nodes,
            shaped,
            log_class,
            leaves.fresh & ~nodes.terminal,
            (cache, judgement),
            language_model=job.language_model,
            params=job.params,
            discriminator=job.discriminator,
            discriminator_params=job.discriminator_params,
            reshape=lambda logits, tokens, there: _candidates(
                config,
                logits,
                jnp.concatenate([seen, tokens], axis=-1),
                jnp.concatenate([mask, there], axis=-1),
                count,
            )[0],
            scratch=config.search.nodes,
            length=config.rollout,
            confidence=config.rollout_confidence,
        )
        read = read + rolled
    value = _value(job, final_class, leaves.log_likelihood, leaves.depth)
    expansion = Expansion(**candidates, log_class=log_class, value=value, terminal=nodes.terminal)
    return (cache, judgement, read), expansion


def begin(
    prompt: Prompt,
    *,
    language_model: LanguageModel,
    params: Any,
    discriminator: Discriminator | None,
    discriminator_params: Any,
    target: jax.Array | None,
    config: MCTSConfig,
) -> MCTSState:
    """Reads the prompts and plants the trees."""
    job = _job(prompt, language_model, params, discriminator, discriminator_params, target, config)
    config, samples = job.config, job.config.samples
    batch, length = prompt.tokens.shape
    ahead = config.new_tokens + config.search.depth + config.rollout
    check_capacity(length, ahead, language_model.context)
    capacity = Capacity(samples, config.new_tokens, config.nodes)
    logits, hidden, cache = language_model.prefill(params, prompt, capacity=capacity)
    log_class, judgement = zero_classes(batch, samples), None
    if discriminator is not None:
        log_class, judgement = discriminator.init(
            discriminator_params, prompt, hidden, capacity=capacity
        )
        log_class = per_sample(log_class, samples)
    generation = blank(log_class, config.new_tokens)

    rows = (batch, samples, 1)
    none = jnp.zeros((*rows, 0), jnp.int32)
    seen, mask = _seen(job, generation, none, none.astype(bool))
    logits = per_sample(logits, samples)[:, :, None]
    count = config.search.candidates
    _, candidates = _candidates(config, logits, seen, mask, count)
    depth = jnp.zeros(rows, jnp.int32)
    root = Expansion(
        **candidates,
        log_class=log_class[:, :, None],
        value=_value(job, log_class[:, :, None], jnp.zeros(rows), depth),
        terminal=jnp.zeros(rows, bool),
    )
    tree = new_tree(batch, samples, config.search.nodes, count, log_class.shape[-1])
    return MCTSState(cache, judgement, plant(tree, root), generation, jnp.int32(0))


def advance(
    key: jax.Array,
    prompt: Prompt,
    state: MCTSState,
    *,
    language_model: LanguageModel,
    params: Any,
    discriminator: Discriminator | None,
    discriminator_params: Any,
    target: jax.Array | None,
    config: MCTSConfig,
) -> tuple[MCTSState, Tree]:
    """Searches for and writes one token of every text that is not finished.

    Returns:
      The next state, and the trees as they stood when the tokens were chosen.
    """
    job = _job(prompt, language_model, params, discriminator, discriminator_params, target, config)
    config, generation = job.config, state.generation
    keys = row_keys(key, prompt, config.samples, state.step)
    live = ~generation.finished
    tree, (cache, judgement, read), simulations = search(
        state.tree,
        (state.cache, state.judgement, generation.model_tokens),
        expand=partial(_expand, job, generation, keys),
        active=live,
        config=config.search,
    )
    draw = None
    if config.visit_temperature > 0:
        draw = jax.vmap(jax.vmap(partial(jax.random.fold_in, data=0)))(keys)
    rank, log_proposal = choose(tree, draw, config.visit_temperature)

    def chosen(array: jax.Array) -> jax.Array:
        return jnp.take_along_axis(array[:, :, 0], rank[..., None], axis=-1)[..., 0]

    child = jnp.maximum(chosen(tree.children), 0)
    rows = jnp.arange(child.shape[0])[:, None]
    samples = jnp.arange(child.shape[1])[None, :]
    kept, source = reroot(tree, rank, kept=config.search.kept)
    if config.search.kept == 0:
        # The published code discards the tree: the root starts again from its own evaluation.
        kept = replace(
            kept,
            visits=jnp.minimum(kept.visits, 1),
            value_sum=jnp.where(kept.visits > 0, kept.value, 0.0),
        )
    depth = jnp.where(tree.visits > 0, tree.depth, 0).max(axis=-1)
    generation = append(
        replace(
            generation,
            simulations=generation.simulations + simulations,
            model_tokens=read,
            deepest=jnp.where(live, jnp.maximum(generation.deepest, depth), generation.deepest),
        ),
        chosen(tree.tokens),
        log_prob=chosen(tree.log_probs),
        log_proposal=log_proposal,
        log_class=tree.log_class[rows, samples, child],
        end=tree.terminal[rows, samples, child],
    )
    committed = state.generation.length
    after = MCTSState(
        cache=commit(move(cache, source), committed),
        judgement=commit(move(judgement, source), committed),
        tree=kept,
        generation=generation,
        step=state.step + 1,
    )
    return after, tree


def _job(
    prompt: Prompt,
    language_model: LanguageModel,
    params: Any,
    discriminator: Discriminator | None,
    discriminator_params: Any,
    target: jax.Array | None,
    config: MCTSConfig,
) -> _Job:
    """Bundles a job, its candidates limited to the vocabulary."""
    if discriminator is not None and target is None:
        raise ValueError("a guided search needs a target: the class that the text is to have")
    if discriminator is None and config.alpha == 1:
        raise ValueError("without a discriminator the search needs alpha below 1: it has no value")
    count = min(config.search.candidates, language_model.vocab_size)
    config = replace(config, search=replace(config.search, candidates=count))
    return _Job(prompt, language_model, params, discriminator, discriminator_params, target, config)


def mcts(
    key: jax.Array,
    prompt: Prompt,
    *,
    language_model: LanguageModel,
    params: Any,
    discriminator: Discriminator | None = None,
    discriminator_params: Any = None,
    target: jax.Array | None = None,
    config: MCTSConfig,
) -> Generation:
    """Writes texts by guided Monte Carlo tree search.

    Args:
      key: typed key of the whole job.
      prompt: what is to be continued.
      language_model: the network's functions; static under `jit`.
      params: its parameters.
      discriminator: guides the search; without one the value is the likelihood alone.
      discriminator_params: its parameters.
      target: `[B]` int32 class numbers or `[B, C]` weights; a run-time array.
      config: the search's settings; static under `jit`.

    Returns:
      The texts; `log_proposal` is NaN unless `visit_temperature` is above 0.

    Raises:
      ValueError: a target without which the discriminator cannot guide is missing, or the prompt
        and what the search reads behind it exceed the context.
    """
    parts = {
        "language_model": language_model,
        "params": params,
        "discriminator": discriminator,
        "discriminator_params": discriminator_params,
        "target": target,
        "config": config,
    }

    def more(state: MCTSState) -> jax.Array:
        return (state.step < config.new_tokens) & ~state.generation.finished.all()

    def step(state: MCTSState) -> MCTSState:
        return advance(key, prompt, state, **parts)[0]

    return jax.lax.while_loop(more, step, begin(prompt, **parts)).generation
