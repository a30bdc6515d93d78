"""Roll-outs: a leaf's text is sampled on for some tokens before it is judged.

PPL-MCTS (Chaffin et al., 2022), section 3.2. Every token is drawn from the distribution that
follows the one before it. A roll-out changes the leaf's value alone: its tokens live in scratch
slots behind the tree, which the next wave writes over.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from coopgen_jax.decoding.job import Job, States, ends, read_nodes, stop_states
from coopgen_jax.decoding.rules.draw import draw
from coopgen_jax.models.language_model import Nodes


def roll_out(
    keys: jax.Array,
    job: Job,
    states: States,
    leaves: Nodes,
    logits: jax.Array,
    log_class: jax.Array,
    *,
    live: jax.Array,
    limit: jax.Array,
    shape: Callable[[jax.Array, jax.Array, jax.Array, jax.Array | None], jax.Array],
    scratch: int,
) -> tuple[States, jax.Array, jax.Array]:
    """Samples on behind the leaves of one wave, as far as the job's config says.

    Args:
      keys: `[B, R]` typed keys of this token's search.
      job: the job; its config has a `Rollout`.
      states: of both networks.
      leaves: the leaves, as they were extended.
      logits: `[B, R, W, V]` shaped distribution of the token behind each leaf.
      log_class: `[B, R, W, C]` what the discriminator says of the leaves themselves.
      live: `[B, R, W]` bool, true where a leaf is to be rolled out.
      limit: `[B, R]` int32 depth that the contexts leave room for.
      shape: `(logits, tokens [B, R, W, length], there, stop [B, R, W]) -> logits`: the rules, given
        the tokens rolled out so far.
      scratch: first scratch slot.

    Returns:
      The states, the class log-probabilities of the texts rolled out, and how many tokens each row
      read, `[B, R]` int32.
    """
    length, confidence = job.config.rollout.rollout, job.config.rollout.rollout_confidence
    wave = leaves.token.shape[-1]
    width = leaves.path.shape[-1] + length
    behind = jnp.full((*leaves.path.shape[:-1], length), -1, jnp.int32)
    path = jnp.concatenate([leaves.path, behind], axis=-1)
    lanes = leaves.start + jnp.arange(wave)
    fold = jax.vmap(jax.random.fold_in, (None, 0))
    lane_keys = jax.vmap(jax.vmap(lambda key: fold(key, lanes)))(keys)
    at_step = jax.vmap(jax.vmap(jax.vmap(jax.random.fold_in, (0, None)), (0, None)), (0, None))

    def settle(live: jax.Array, log_class: jax.Array) -> jax.Array:
        if confidence is None:
            return live
        return live & (log_class.max(axis=-1) < jnp.log(confidence))

    def placed(path: jax.Array, depth: jax.Array, slot: jax.Array) -> jax.Array:
        here = jnp.arange(width)[None, None, None] == depth[..., None] - 1
        return jnp.where(here, slot[None, None, :, None], path)

    def more(carry: tuple) -> jax.Array:
        step, *_, live = carry
        return (step < length) & live.any()

    def sample_on(carry: tuple) -> tuple:
        step, states, logits, path, tokens, log_class, read, live = carry
        token, _ = draw(job.config.rules, at_step(lane_keys, step), logits)
        depth = leaves.depth + step + 1
        start = scratch + step * wave
        parent = jnp.where(step == 0, lanes, start - wave + jnp.arange(wave))
        before = jnp.broadcast_to(parent[None, None], token.shape)
        live = live & ~ends(job, token, stop_states(states, before)) & (depth <= limit[..., None])
        nodes = Nodes(
            start=start,
            token=token,
            parent=before,
            path=path,
            depth=depth,
            committed=leaves.committed,
            terminal=~live,
        )
        logits, log_class, states = read_nodes(job, states, nodes, log_class)
        here = jnp.broadcast_to((start + jnp.arange(wave))[None, None], token.shape)
        tokens = jnp.where(jnp.arange(length)[None, None, None] == step, token[..., None], tokens)
        there = jnp.broadcast_to(jnp.arange(length)[None, None, None] <= step, tokens.shape)
        return (
            step + 1,
            states,
            shape(logits, tokens, there, stop_states(states, here)),
            placed(path, depth, start + jnp.arange(wave)),
            tokens,
            log_class,
            read + jnp.sum(live, axis=-1, dtype=jnp.int32),
            settle(live, log_class),
        )

    carry = (
        jnp.int32(0),
        states,
        logits,
        placed(path, leaves.depth, lanes),
        jnp.zeros((*leaves.token.shape, length), jnp.int32),
        log_class,
        jnp.zeros(leaves.token.shape[:2], jnp.int32),
        settle(live, log_class),
    )
    _, states, _, _, _, log_class, read, _ = jax.lax.while_loop(more, sample_on, carry)
    return states, log_class, read
