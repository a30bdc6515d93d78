"""What a sampled text counts in the generator's next step: rewards and importance weights.

Every objective here is a weighted maximum likelihood, theta += eps sum_i w_i grad log p_theta(y_i),
and differs from the others in its weights alone. No gradient flows through any of them.

Generative Cooperative Networks (Lamprier et al., ICML 2022, arXiv 2201.12320) climb towards
q = p_{t-1} D_t / Z, which cannot be sampled. So texts come from a proposal q^ of known density, and
w_i is proportional to p_{t-1}(y_i) D_t(y_i) / q^(y_i), divided by their sum: Z cancels, and with
q^ = p_{t-1} what is left is the reward of a discrete GAN over the sum of all rewards.
"""

from typing import Literal

import jax
import jax.numpy as jnp

Baseline = Literal["none", "mean", "leave-one-out", "greedy"]


def importance(log_prob: jax.Array, log_judged: jax.Array, log_proposal: jax.Array) -> jax.Array:
    """Returns GCN's log w = log p_{t-1}(y) + log D_t(y) - log q^(y), up to a constant, `[M]`."""
    return jax.lax.stop_gradient(log_prob + log_judged - log_proposal)


def self_normalised(
    log_weight: jax.Array, condition: jax.Array, *, clip: float | None = None
) -> jax.Array:
    """Returns weights `[M]` that add up to one, every condition's share as large as any other's.

    Texts of one source are only compared with each other: a source that the discriminator finds
    easy must not take the weight of one that it finds hard.

    Args:
      log_weight: `[M]`, up to a constant for every condition; minus infinity counts nothing, and
        what is no number, as where a proposal has no density, makes its condition no number.
      condition: `[M]` int32 from 0 to M - 1, the number of a text's source; negative where a row
        is padding. A condition whose texts all count nothing has no share.
      clip: weights are cut at so many times their condition's mean before they are divided by
        their sum again (truncated importance sampling; Ionides 2008, JCGS 17), above 0; None for
        no cut, and no bias but that of order 1 / M.

    Raises:
      ValueError: the cut is at nothing.
    """
    if clip is not None and not clip > 0:
        raise ValueError(f"clip is {clip}: give a multiple of the mean above 0, or None")
    share = _shares(log_weight, condition)
    if clip is not None:
        share = _over_sum(jnp.minimum(share, clip / texts_of(condition)), condition)
    there = (share != 0).astype(jnp.float32)
    # Every text that counts brings an equal part of its condition.
    conditions = jnp.sum(there / jnp.maximum(_summed(there, condition), 1.0))
    return share / jnp.maximum(conditions, 1.0)


def effective_sample_size(log_weight: jax.Array, condition: jax.Array) -> jax.Array:
    """Returns (sum w)^2 / sum w^2 of each text's condition, `[M]`; 0 where nothing counts."""
    squares = _summed(_shares(log_weight, condition) ** 2, condition)
    return jnp.where(squares == 0, 0.0, 1.0 / jnp.where(squares == 0, 1.0, squares))


def entropy(log_weight: jax.Array, condition: jax.Array) -> jax.Array:
    """Returns the entropy in nats of the weights of each text's condition, `[M]`.

    It is log n for n equal weights and 0 where one text has everything.
    """
    share = _shares(log_weight, condition)
    return _summed(-share * jnp.log(jnp.where(share == 0, 1.0, share)), condition)


def texts_of(condition: jax.Array) -> jax.Array:
    """Returns how many texts each one's condition has, itself included, `[M]`; 1 for padding."""
    return jnp.maximum(_summed(jnp.ones(len(condition)), condition), 1.0)


def advantage(
    reward: jax.Array,
    condition: jax.Array,
    *,
    baseline: Baseline = "none",
    greedy: jax.Array | None = None,
) -> jax.Array:
    """Returns REINFORCE's (r - b) `[M]` (Williams 1992, Machine Learning 8).

    Args:
      reward: `[M]`.
      condition: `[M]` as in `self_normalised`.
      baseline: `b`: nothing; the mean of the condition, this text's reward included, which scales
        the gradient by 1 - 1/n; the mean of the others of it, which leaves the gradient unbiased
        (Kool et al. 2019), and nothing where there are none; or the reward of the greedy text of
        the condition (self-critical; Rennie et al. 2017, arXiv 1612.00563).
      greedy: `[M]` that reward.

    Raises:
      ValueError: the baseline is "greedy" and its reward is missing.
    """
    if baseline == "greedy":
        if greedy is None:
            raise ValueError("the greedy baseline wants the greedy text's reward")
        against = greedy
    else:
        texts, total = texts_of(condition), _summed(reward, condition)
        against = {
            "none": jnp.zeros_like(reward),
            "mean": total / texts,
            "leave-one-out": jnp.where(
                texts > 1, (total - reward) / jnp.maximum(texts - 1.0, 1.0), 0.0
            ),
        }[baseline]
    return jax.lax.stop_gradient(jnp.where(condition >= 0, reward - against, 0.0))


def distributional(
    log_initial: jax.Array,
    log_judged: jax.Array,
    log_proposal: jax.Array,
    log_partition: jax.Array,
) -> jax.Array:
    """Returns the weights P(y) / (Z q^(y)) `[M]` of generation with distributional control.

    The target P = p_0 D stands still, where GCN's moves with the generator (Khalifa, Elsahar and
    Dymetman, ICLR 2021, arXiv 2012.11635); Z is known only as the estimate of `partition`.
    """
    return jax.lax.stop_gradient(jnp.exp(log_initial + log_judged - log_proposal - log_partition))


def partition(log_partition: jax.Array, rounds: jax.Array, log_weight: jax.Array) -> jax.Array:
    """Returns log Z as the mean over all rounds of the mean of P / q^, `[]`.

    It follows from the estimate of the `rounds` before and this round's log P(y) - log q^(y) `[M]`.
    """
    now = jax.nn.logsumexp(log_weight) - jnp.log(float(len(log_weight)))
    before = jnp.where(rounds > 0, log_partition + jnp.log(jnp.maximum(rounds, 1)), -jnp.inf)
    return jax.lax.stop_gradient(jnp.logaddexp(before, now) - jnp.log(rounds + 1))


def _summed(values: jax.Array, condition: jax.Array) -> jax.Array:
    """Returns for each text the sum over its condition, `[M]`; 0 for padding."""
    there = condition >= 0
    count = len(values)
    totals = jax.ops.segment_sum(
        jnp.where(there, values, 0.0), jnp.where(there, condition, 0), num_segments=count
    )
    return jnp.where(there, totals[jnp.clip(condition, 0, count - 1)], 0.0)


def _over_sum(values: jax.Array, condition: jax.Array) -> jax.Array:
    total = _summed(values, condition)
    return jnp.where(total == 0, 0.0, values / jnp.where(total == 0, 1.0, total))


def _shares(log_weight: jax.Array, condition: jax.Array) -> jax.Array:
    """Returns each weight as a share of its condition's sum, `[M]`."""
    log_weight = jax.lax.stop_gradient(log_weight).astype(jnp.float32)
    there = condition >= 0
    count = len(log_weight)
    highest = jax.ops.segment_max(
        jnp.where(there, log_weight, -jnp.inf), jnp.where(there, condition, 0), num_segments=count
    )[jnp.clip(condition, 0, count - 1)]
    counts = there & (highest != -jnp.inf)
    return _over_sum(
        jnp.where(counts, jnp.exp(log_weight - jnp.where(counts, highest, 0.0)), 0.0), condition
    )
