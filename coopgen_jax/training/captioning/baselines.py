"""What is subtracted from the reward of a caption.

A baseline that does not depend on the caption itself lowers the variance of the gradient and leaves
alone where it leads: the greedy caption of the image (SCST), the mean of the other samples
(leave-one-out). The group baseline depends on the caption: it is what the caption would be worth
for similar images, and the difference is a reward for telling the image from them.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from coopgen_jax.training.gcn import importance

CaptionBaseline = Literal["none", "mean", "leave-one-out", "greedy", "group", "strongest"]


def group_baseline(similarities: jax.Array, counted: jax.Array) -> jax.Array:
    """Returns the mean reward of every caption for the images of its group, `[M]`.

    Source: Zhang et al. 2022, Distinctive Image Captioning via CLIP Guided Group Optimization,
    arXiv 2208.04254.

    Args:
      similarities: `[M, K]` reward of a caption for `K` images that are similar to its own.
      counted: `[M, K]` bool, which of them there are; without any the baseline is 0.
    """
    total = jnp.sum(jnp.where(counted, similarities, 0.0), axis=-1)
    return jax.lax.stop_gradient(total / jnp.maximum(jnp.sum(counted, axis=-1), 1))


def caption_advantage(
    reward: jax.Array,
    condition: jax.Array,
    *,
    baseline: CaptionBaseline = "none",
    greedy: jax.Array | None = None,
    group: jax.Array | None = None,
) -> jax.Array:
    """Returns r - b of every caption, `[M]`, without a gradient.

    Args:
      reward: `[M]`.
      condition: `[M]` int32 number of a caption's image, from 0 to M - 1; negative where a row is
        padding.
      baseline: b. "none" is 0; "mean" is the mean reward of the model's own captions of the image,
        this one included; "leave-one-out" is the mean of the other ones; "greedy" is the reward of
        the image's greedy caption (SCST; Rennie et al. 2017, arXiv 1612.00563); "group" is that of
        `group_baseline`; "strongest" is the larger one of "greedy" and "group".
      greedy: `[M]` reward of the greedy caption of each one's image.
      group: `[M]` as `group_baseline` returns it.

    Raises:
      ValueError: a reward that the baseline needs is missing.
    """
    if baseline != "group" and baseline != "strongest":
        return importance.advantage(reward, condition, baseline=baseline, greedy=greedy)
    if group is None:
        raise ValueError(f"the {baseline} baseline needs the rewards for similar images")
    against = group
    if baseline == "strongest":
        if greedy is None:
            raise ValueError("the strongest baseline needs the greedy caption's reward")
        against = jnp.maximum(greedy, group)
    return importance.advantage(reward, condition, baseline="greedy", greedy=against)
