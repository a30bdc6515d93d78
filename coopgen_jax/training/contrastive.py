"""The contrastive loss of images and their captions, both ways."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from coopgen_jax.models.attention import NEGATIVE

# (trainable, frozen, batch, key) -> the unit vectors of a batch's images and texts `[B, F]`.
Vectors = Callable[..., tuple[jax.Array, jax.Array]]


def contrastive_terms(
    images: jax.Array, texts: jax.Array, log_scale: jax.Array, image_of: jax.Array, real: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns minus log p of each pair's text among all, and of its image among all, `[B]` each.

    The probabilities are softmaxes of cosines times a scale (Radford et al. 2021, arXiv 2103.00020,
    figure 3). Another caption of the same image is no wrong answer, and is left out.

    Args:
      images: `[B, F]` unit vectors, row `i` belongs to that of the texts.
      texts: `[B, F]` unit vectors.
      log_scale: `[]` logarithm of the scale.
      image_of: `[B]` int32 number of each pair's image.
      real: `[B]` bool, false at pairs that fill up a batch: they are in no sum.
    """
    logits = jnp.einsum("if,tf->it", images, texts) * jnp.exp(log_scale).reshape(1, 1)
    itself = jnp.eye(len(images), dtype=bool)
    seen = (image_of[:, None] != image_of[None]) & real[:, None] & real[None]
    logits = jnp.where(seen | itself, logits, NEGATIVE)
    to_text, to_image = (-jnp.diagonal(jax.nn.log_softmax(logits, axis=axis)) for axis in (1, 0))
    return to_text, to_image


def contrastive_loss(vectors: Vectors, *, training: bool) -> Callable:
    """Returns a loss: the mean of both of `contrastive_terms`, and how often each is right.

    A batch has `label` `[B]`, the number of each pair's image, and a `mask` that is false in rows
    that fill it up. A pair competes with the others that one device has of the batch.
    """

    def loss(trainable: dict, frozen: dict, batch: dict, key: jax.Array) -> dict:
        images, texts = vectors(trainable, frozen, batch, key if training else None)
        real = batch["mask"].any(axis=-1)
        terms = contrastive_terms(images, texts, trainable["log_scale"], batch["label"], real)
        weight = real.astype(jnp.float32)
        total = jnp.sum(weight)
        sums = [jnp.sum(jnp.where(real, term, 0.0)) for term in terms]
        return {
            "loss": ((sums[0] + sums[1]) / 2, total),
            "image_to_text": (sums[0], total),
            "text_to_image": (sums[1], total),
        }

    return loss
