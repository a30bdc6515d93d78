"""CLIP-S and RefCLIP-S: how well captions fit their images, by vectors of unit length.

Hessel et al., "CLIPScore: A Reference-free Evaluation Metric for Image Captioning" (2021, arXiv
2104.08718). They measure captions, and can reward them in training: gradients are stopped.

`M` captions are scored, each with its own image; `F` is the width of a vector.
"""

import jax
import jax.numpy as jnp

# The weight of CLIP-S.
CLIP_S_WEIGHT = 2.5
# What the paper puts in front of every caption and reference.
CLIP_S_PREFIX = "A photo depicts "


def clip_s(captions: jax.Array, images: jax.Array, *, weight: float = CLIP_S_WEIGHT) -> jax.Array:
    """Returns CLIP-S = w max(cos(c, v), 0), `[M]` (Hessel et al. 2021, arXiv 2104.08718)."""
    return jax.lax.stop_gradient(weight * jnp.maximum(cosines(captions, images), 0.0))


def ref_clip_s(
    captions: jax.Array,
    images: jax.Array,
    references: jax.Array,
    counted: jax.Array,
    *,
    weight: float = CLIP_S_WEIGHT,
) -> jax.Array:
    """Returns RefCLIP-S, the harmonic mean of CLIP-S and max(max_r cos(c, r), 0), `[M]`.

    Source: Hessel et al. 2021, arXiv 2104.08718. It is 0 where either of the two is, as where a
    caption has no reference.

    Args:
      captions: `[M, F]`.
      images: `[M, F]`.
      references: `[M, K, F]` embeddings of each image's reference captions.
      counted: `[M, K]` bool, which of them there are.
      weight: that of CLIP-S.
    """
    image = clip_s(captions, images, weight=weight)
    scores = jax.vmap(lambda caption, own: all_cosines(own, caption))(captions, references)
    best = jnp.max(jnp.where(counted, scores, 0.0), axis=-1, initial=0.0)
    both = image + best
    return jax.lax.stop_gradient(
        jnp.where(both > 0, 2 * image * best / jnp.where(both > 0, both, 1.0), 0.0)
    )


def cosines(captions: jax.Array, images: jax.Array) -> jax.Array:
    """Returns the cosine of every caption with its image, `[M]` float32, of unit `[M, F]`."""
    return jnp.sum(captions.astype(jnp.float32) * images.astype(jnp.float32), axis=-1)


def all_cosines(one: jax.Array, other: jax.Array) -> jax.Array:
    """Returns the cosines of all rows of one with all columns of the other, float32."""
    # An accelerator's default product has three digits, and tau divides by a hundredth.
    return jnp.matmul(
        one.astype(jnp.float32), other.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST
    )
