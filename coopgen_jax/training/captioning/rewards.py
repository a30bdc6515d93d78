"""What a caption of an image is rewarded for, from unit embeddings of images and of texts.

Every function takes embeddings as arrays: rows of length 1, whose dot product s is their cosine.
`M` captions are rewarded, each with its own image; `F` is the width of an embedding. Gradients are
stopped: a reward is a number, and the objectives weigh likelihoods with it.

The contrastive rewards are those of Chaffin, Kijak and Claveau (Distinctive Image Captioning:
Leveraging Ground Truth Captions in CLIP Guided Reinforcement Learning, arXiv 2402.13936). They are
decoupled: the caption itself is no part of the sum that it is compared with.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import struct

from coopgen_jax.evaluation.clip_scores import all_cosines, cosines

Combine = Literal["sum", "mean"]
# exp(-logit scale) of the CLIP models that OpenAI has published.
TEMPERATURE = 0.01
# Share of the similarity in the total reward.
ALPHA = 0.94


@struct.dataclass
class RewardPool:
    """The images, or the texts, that a contrastive reward compares with.

    Attributes:
      embeddings: `[N, F]` unit embeddings.
      ids: `[N]` int32 global numbers, from 0. One number is one element, however often it stands
        here: it counts once. A row with a negative number is padding and never counts.
    """

    embeddings: jax.Array
    ids: jax.Array


def pool_of(*parts: tuple[jax.Array, jax.Array]) -> RewardPool:
    """Returns the pool of several parts, each embeddings `[N, F]` and their global ids `[N]`.

    For texts the parts are the captions of a batch, and as further baselines its ground truths and
    the model's greedy captions, each with ids of their own; for images the batch's images and the
    neighbours mined for them.
    """
    embeddings, ids = zip(*parts, strict=True)
    return RewardPool(jnp.concatenate(embeddings), jnp.concatenate(ids).astype(jnp.int32))


def log_sum_exp_of_others(
    scores: jax.Array, counted: jax.Array, *, temperature: float | jax.Array
) -> jax.Array:
    """Returns tau log sum_j exp(s_j / tau) over the entries that count, `[M]`.

    It lies between the largest score and that plus tau log(number of entries). What does not count
    is left out before the sum rather than subtracted behind it: a difference of two sums of
    exponentials cancels as soon as one term holds nearly all of the sum.

    Args:
      scores: `[M, N]`.
      counted: `[M, N]` bool.
      temperature: tau, above 0.

    Returns:
      `[M]`, minus infinity where nothing counts.
    """
    logits = jnp.where(counted, scores / temperature, -jnp.inf)
    return temperature * jax.nn.logsumexp(logits, axis=-1)


def decoupled_reward(
    positive: jax.Array,
    anchors: jax.Array,
    pool: RewardPool,
    own: jax.Array,
    *,
    temperature: float | jax.Array = TEMPERATURE,
) -> jax.Array:
    """Returns one direction of the contrastive reward, `[M]`.

    r = tau (s+ / tau - log sum_{j != own} exp(s_j / tau)), where s+ is the cosine of caption and
    image and s_j that of the anchor with an element of the pool. It is about s+ less the highest
    s_j: the closest other element is the baseline.

    Args:
      positive: `[M]` s+.
      anchors: `[M, F]` what is compared with the pool: images with texts, or captions with images.
      pool: the elements of the other kind.
      own: `[M]` int32 global id of the positive, which does not count in the sum.
      temperature: tau.

    Returns:
      `[M]`; 0 where the pool holds nothing else, for there is nothing to tell the positive from.
    """
    scores = all_cosines(anchors, pool.embeddings.T)
    counted = _once(pool.ids)[None, :] & (pool.ids[None, :] != own[:, None])
    others = log_sum_exp_of_others(scores, counted, temperature=temperature)
    reward = positive - jnp.where(counted.any(axis=-1), others, positive)
    return jax.lax.stop_gradient(reward)


def unidirectional_reward(
    captions: jax.Array,
    images: jax.Array,
    texts: RewardPool,
    text_ids: jax.Array,
    *,
    temperature: float | jax.Array = TEMPERATURE,
) -> jax.Array:
    """Returns the contrastive reward from image to text alone, `[M]`.

    r = tau (s / tau - log sum_{t != t_c} exp(s(t, i_c) / tau)), with s = s(t_c, i_c). It rewards
    a caption that fits its image better than other captions do. Nothing in it says whether the
    caption fits other images. See `bidirectional_reward`.
    """
    positive = cosines(captions, images)
    return decoupled_reward(positive, images, texts, text_ids, temperature=temperature)


def bidirectional_reward(
    captions: jax.Array,
    images: jax.Array,
    texts: RewardPool,
    text_ids: jax.Array,
    others: RewardPool,
    image_ids: jax.Array,
    *,
    temperature: float | jax.Array = TEMPERATURE,
    combine: Combine = "sum",
) -> jax.Array:
    """Returns the decoupled bidirectional contrastive reward, `[M]`.

    r = tau (s / tau - log sum_{t != t_c} exp(s(t, i_c) / tau))
      + tau (s / tau - log sum_{i != i_c} exp(s(t_c, i) / tau)), with s = s(t_c, i_c).

    The rewards of ground truths, which weigh them in teacher forcing, are the same with ground
    truths as `captions` and their ids as `text_ids`.

    Args:
      captions: `[M, F]` embeddings t_c of the captions.
      images: `[M, F]` embedding i_c of each caption's image.
      texts: the texts t; captions of the same image under other ids are baselines too.
      text_ids: `[M]` int32 each caption's id among them.
      others: the images i.
      image_ids: `[M]` int32 the id of each caption's image among them.
      temperature: tau.
      combine: the sum of both directions, or half of it.
    """
    positive = cosines(captions, images)
    text = decoupled_reward(positive, images, texts, text_ids, temperature=temperature)
    image = decoupled_reward(positive, captions, others, image_ids, temperature=temperature)
    return (text + image) * (1.0 if combine == "sum" else 0.5)


def total_reward(
    similarity: jax.Array,
    regulariser: jax.Array,
    *,
    alpha: float = ALPHA,
    offset: float = 0.0,
) -> jax.Array:
    """Returns r = alpha r_sim + (1 - alpha) r_regu + offset, `[M]`.

    An `offset` keeps rewards from being negative where most captions are closer to others than to
    their image: a negative reward lowers the likelihood of what it weighs.
    """
    return jax.lax.stop_gradient(alpha * similarity + (1 - alpha) * regulariser + offset)


def _once(ids: jax.Array) -> jax.Array:
    """Returns which rows of a pool count, `[N]`: the first of each id that is not negative."""
    same = ids[:, None] == ids[None, :]
    return (jnp.argmax(same, axis=-1) == jnp.arange(len(ids))) & (ids >= 0)
