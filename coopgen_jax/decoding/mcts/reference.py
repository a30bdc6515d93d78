"""A reference language model, which reads along so that a search can be charged for leaving it.

PPO-MCTS (Liu, Cohen, Pasunuru, Choi, Hajishirzi and Celikyilmaz, COLM 2024, arXiv 2309.15028)
searches by the rewards that PPO was trained on: going on from a text s by a token a earns

    r(s, a) = -beta (log p(a | s) - log p_reference(a | s)),

and Q(s, a) = r(s, a) + V(s a), gamma being 1. The code published with it charges the difference of
the probabilities; here it is that of their logarithms, as PPO has it.

The reference reads the nodes that the language model reads, in the same slots, so that its cache
moves and is committed with the other states.
"""

from typing import Any

import jax
import jax.numpy as jnp

from coopgen_jax.decoding.generation import per_sample
from coopgen_jax.decoding.job import Job, check_context
from coopgen_jax.decoding.judgement import LEAST
from coopgen_jax.errors import UserError
from coopgen_jax.models.language_model import Nodes
from coopgen_jax.models.slots import Capacity


def begin_reference(job: Job, capacity: Capacity, ahead: int) -> tuple[jax.Array | None, Any]:
    """Has the reference read the prompts, behind which it may read `ahead` tokens.

    Returns:
      Logits `[B, R, V]` of the first token and its cache; None for both where nothing is charged.

    Raises:
      UserError: something is charged without a reference, the vocabularies differ in size or in
        shards, the prompt has vectors in place of tokens, or it exceeds the context.
    """
    if job.config.reference is None:
        return None, None
    other, own = job.reference, job.language_model
    if other is None:
        raise UserError(
            f"kl is {job.config.reference.kl}, the price of leaving a reference, and there is "
            "none: give one, or kl 0"
        )
    if other.vocab_size != own.vocab_size:
        raise UserError(
            f"the reference has {other.vocab_size} tokens and the language model {own.vocab_size}: "
            "give a reference of the same vocabulary"
        )
    if other.vocab_shards != own.vocab_shards:
        raise UserError(
            f"the reference's logits lie on {other.vocab_shards} devices and the language model's "
            f"on {own.vocab_shards}: make both with the same tensor"
        )
    if job.prompt.embeddings is not None:
        raise UserError(
            "vectors in place of tokens are those of one network, and the reference is another: "
            "give tokens, or kl 0"
        )
    check_context("reference", other.context, job.prompt.tokens.shape[1], ahead)
    logits, _, cache = other.prefill(job.reference_params, job.prompt, capacity=capacity)
    return per_sample(logits, capacity.samples), cache


def read_reference(job: Job, cache: Any, nodes: Nodes) -> tuple[jax.Array | None, Any]:
    """Has the reference read the nodes of one call.

    Returns:
      Logits `[B, R, W, V]` behind the nodes and the cache; None for both where nothing is charged.
    """
    if job.config.reference is None:
        return None, None
    assert job.reference is not None
    logits, _, cache = job.reference.extend(job.reference_params, cache, nodes)
    return logits, cache


def rewards(
    job: Job, log_probs: jax.Array, tokens: jax.Array, logits: jax.Array | None
) -> jax.Array | None:
    """Returns what going on to each candidate earns, `[B, R, W, K]`, None where nothing is charged.

    `tokens` `[B, R, W, K]` are the candidates and `log_probs` their log-probabilities under the
    plain language model: what the rules do is not charged. `logits` `[B, R, W, V]` are the
    reference's behind the nodes.
    """
    if logits is None:
        return None
    there = jnp.take_along_axis(logits, tokens, axis=-1)
    there = there - jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    # A token that one of the models rules out must not leave numbers that are none.
    return -job.config.reference.kl * (jnp.maximum(log_probs, LEAST) - jnp.maximum(there, LEAST))
