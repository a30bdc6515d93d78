"""The weights of a round's texts under every objective."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from coopgen_jax.decoding.generation import Generation
from coopgen_jax.decoding.methods.smc import SMCConfig
from coopgen_jax.training.gcn import importance
from coopgen_jax.training.gcn.gcn_config import GcnConfig
from coopgen_jax.training.gcn.gcn_networks import HUMAN, gather_rows

Means = dict[str, jax.Array]


@struct.dataclass
class Sampled:
    """A round's `M` texts and their probabilities.

    Attributes:
      rows: as `rows_behind` returns them.
      condition: `[M]` int32 number of a text's source.
      log_prob: `[M]` under the generator that sampled them.
      log_proposal: `[M]` log-probability with which they were drawn. Particles have log weights
        towards p D of the discriminator that guided them instead; here they are written as such a
        probability.
      length: `[M]` int32 tokens.
      finished: `[M]` bool whether they have ended.
    """

    rows: dict[str, jax.Array]
    condition: jax.Array
    log_prob: jax.Array
    log_proposal: jax.Array
    length: jax.Array
    finished: jax.Array


def gather(config: GcnConfig, prompt: Any, generation: Generation, *, conditional: bool) -> Sampled:
    """Returns the texts of a generation `[B, R]` as rows, a source's one after another."""
    samples = generation.tokens.shape[1]
    source = jnp.repeat(prompt.index, samples)
    log_proposal = generation.log_proposal
    if isinstance(config.proposal, SMCConfig):
        judged = config.proposal.power * generation.log_class[..., HUMAN]
        log_proposal = generation.log_prob + judged - generation.log_weight
    return Sampled(
        rows=gather_rows(prompt, generation),
        condition=source if conditional else jnp.zeros_like(source),
        log_prob=generation.log_prob.reshape(-1),
        log_proposal=log_proposal.reshape(-1),
        length=generation.length.reshape(-1),
        finished=generation.finished.reshape(-1),
    )


def weigh(
    config: GcnConfig,
    sampled: Sampled,
    log_human: jax.Array,
    *,
    round_number: jax.Array,
    log_partition: jax.Array,
    log_first: jax.Array | None = None,
    log_human_greedy: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, Means]:
    """Returns the weight of each of `M` texts, such that their mean is the objective's sum.

    Args:
      config: its objective decides.
      sampled: the texts.
      log_human: `[M]` the discriminator's log-probability that they are human.
      round_number: `[]` rounds done before.
      log_partition: `[]` see `GcnState`.
      log_first: `[M]` under the generator before all training, for "gdc".
      log_human_greedy: `[M]` of the greedy text of each one's source, for that baseline.

    Returns:
      The weights `[M]`, times `M`; the estimate of log Z over all rounds; and what to record: the
      mean `reward` D; where texts have importance weights p D / q^, the log of their mean, `log_z`;
      and how unequal the weights are that count, clipped ones where they are cut: the mean over
      texts of (sum w)^2 / (n sum w^2) among the `n` texts of a condition, `effective_share`, and of
      the entropy in nats, `weight_entropy`. A reward less a baseline may be negative and has no
      such share: of "gan" it is that of its rewards before, p D / q^ = D.
    """
    texts = len(log_human)
    reward = jnp.exp(log_human)
    means: Means = {"reward": jnp.mean(reward)}
    log_weight = importance.importance(sampled.log_prob, log_human, sampled.log_proposal)
    if config.weighable:
        means["log_z"] = jax.nn.logsumexp(log_weight) - jnp.log(float(texts))
    described = partial(_described, condition=sampled.condition)
    if config.objective == "gcn":
        share = importance.self_normalised(log_weight, sampled.condition, clip=config.clip)
        return share * texts, log_partition, means | described(jnp.log(share))
    if config.objective == "gdc" and log_first is not None:
        target = importance.importance(log_first, log_human, sampled.log_proposal)
        log_partition = importance.partition(log_partition, round_number, target)
        counted = importance.distributional(
            log_first, log_human, sampled.log_proposal, log_partition
        )
        means |= described(target) | {"log_z_first": log_partition}
        return counted, log_partition, means
    if config.objective == "selfgan":
        return jnp.ones(texts), log_partition, means | described(jnp.zeros(texts))
    means |= described(log_weight)
    counted = importance.advantage(
        reward, sampled.condition, baseline=config.baseline,
        greedy=None if log_human_greedy is None else jnp.exp(log_human_greedy),
    )  # fmt: skip
    if config.scheduler == "z":
        counted = importance.self_normalised(log_human, sampled.condition) * texts
    if config.scheduler == "manual":
        counted = counted * 0.5 ** (round_number.astype(jnp.float32) / config.half_life)
    return counted, log_partition, means


def _described(log_weight: jax.Array, condition: jax.Array) -> Means:
    """Returns how unequal weights `[M]` are among the texts of their condition."""
    texts = importance.texts_of(condition)
    share = importance.effective_sample_size(log_weight, condition) / texts
    return {
        "effective_share": jnp.mean(share),
        "weight_entropy": jnp.mean(importance.entropy(log_weight, condition)),
    }
