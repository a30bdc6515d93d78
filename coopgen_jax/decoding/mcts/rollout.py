"""Roll-outs: a leaf's text is sampled on for some tokens before it is judged.

PPL-MCTS (Chaffin et al., 2022), section 3.2. Every token is drawn from the distribution that
follows the one before it. A roll-out changes the leaf's value alone: its tokens live in scratch
slots behind the tree, which the next wave writes over.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from coopgen_jax.decoding.job import Job, States, ends, read_nodes, stop_states
from coopgen_jax.decoding.rules.draw import draw, per_key
from coopgen_jax.models.language_model import Nodes


def roll_out(
    keys: jax.Array,
    job: Job,
    states: States,
    leaves: Nodes,
    logits: jax.Array,
    log_class: jax.Array,
    *,
    limit: jax.Array,
    shape: Callable[[jax.Array, jax.Array, jax.Array, jax.Array | None], jax.Array],
) -> tuple[States, jax.Array, jax.Array]:
    """Samples on behind the leaves of one wave, as far as the job's config says.

    Leaves that are terminal are not rolled out. The shaped `logits` `[B, R, W, V]` are of the token
    behind each leaf, and `limit` `[B, R]` is the depth that the contexts leave room for. The rules
    are `shape`, `(logits, tokens [B, R, W, length], there, stop [B, R, W]) -> logits`, given the
    tokens rolled out so far.

    Returns:
      The states, the class log-probabilities of the texts rolled out, and how many tokens each row
      read, `[B, R]` int32.
    """
    length = job.config.rollout.rollout
    wave = leaves.token.shape[-1]
    path = jnp.pad(leaves.path, ((0, 0),) * 3 + ((0, length),), constant_values=-1)
    counted = jnp.arange(length)[None, None, None]
    scratch = job.config.search.nodes
    lanes = leaves.start + jnp.arange(wave)
    fold = jax.vmap(jax.random.fold_in, (None, 0))
    lane_keys = per_key(lambda key: fold(key, lanes), keys)
    unsure = partial(_unsure, job.config.rollout.rollout_confidence)

    def more(carry: tuple) -> jax.Array:
        step, *_, live = carry
        return (step < length) & live.any()

    def sample_on(carry: tuple) -> tuple:
        step, states, logits, path, tokens, log_class, read, live = carry
        step_keys = per_key(partial(jax.random.fold_in, data=step), lane_keys)
        token, _ = draw(job.config.rules, step_keys, logits)
        depth = leaves.depth + step + 1
        start = scratch + step * wave
        parent = jnp.where(step == 0, lanes, start - wave + jnp.arange(wave))
        before = jnp.broadcast_to(parent[None, None], token.shape)
        live &= ~ends(job, token, stop_states(states, before)) & (depth <= limit[..., None])
        nodes = Nodes(start, token, before, path, depth, leaves.committed, ~live)
        logits, log_class, states = read_nodes(job, states, nodes, log_class)
        slots = start + jnp.arange(wave)
        here = stop_states(states, jnp.broadcast_to(slots[None, None], token.shape))
        tokens = jnp.where(counted == step, token[..., None], tokens)
        return (
            step + 1,
            states,
            shape(logits, tokens, jnp.broadcast_to(counted <= step, tokens.shape), here),
            _placed(path, depth, slots),
            tokens,
            log_class,
            read + jnp.sum(live, axis=-1, dtype=jnp.int32),
            live & unsure(log_class),
        )

    carry = (
        jnp.int32(0),
        states,
        logits,
        _placed(path, leaves.depth, lanes),
        jnp.zeros((*leaves.token.shape, length), jnp.int32),
        log_class,
        jnp.zeros(leaves.token.shape[:2], jnp.int32),
        ~leaves.terminal & unsure(log_class),
    )
    _, states, _, _, _, log_class, read, _ = jax.lax.while_loop(more, sample_on, carry)
    return states, log_class, read


def _unsure(confidence: float | None, log_class: jax.Array) -> jax.Array:
    """Tells where no class is as probable as `confidence` yet, from `[B, R, W, C]`."""
    if confidence is None:
        return jnp.ones(log_class.shape[:-1], bool)
    return log_class.max(axis=-1) < jnp.log(confidence)


def _placed(path: jax.Array, depth: jax.Array, slot: jax.Array) -> jax.Array:
    """Puts each lane's slot `[W]` at the end of its path `[B, R, W, S]`, `depth` tokens long."""
    here = jnp.arange(path.shape[-1])[None, None, None] == depth[..., None] - 1
    return jnp.where(here, slot[None, None, :, None], path)
