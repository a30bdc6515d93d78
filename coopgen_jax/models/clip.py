"""CLIP and SigLIP: an image and a text become vectors of one space, whose cosine is a similarity.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (2021, arXiv
2103.00020), and Zhai et al., "Sigmoid Loss for Language Image Pre-Training" (2023, arXiv
2303.15343). CLIP's text tower is causal and is read at the token that ends the text, and both sides
are projected. SigLIP's reads a padded text in both directions and is read at its last place; its
logits have a bias.

Shape letters: `B` images or texts, `S` tokens, `V` vocabulary, `F` width of the common space.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from coopgen_jax.models.affine import affine, layer_norm
from coopgen_jax.models.vision import (
    TowerConfig,
    VisionConfig,
    init_tower,
    init_vision,
    random_dense,
    random_norm,
    run_tower,
    see,
)

Params = dict[str, Any]
# What a trained CLIP begins with: a temperature of 0.07.
FIRST_SCALE = 2.6592600369327779


@dataclass(frozen=True)
class ClipTextConfig:
    """The shape of the side that reads texts.

    Attributes:
      tower: its blocks.
      vocab_size: `V`.
      context: longest text in tokens, special ones included.
      causal: whether a token sees those in front of it alone, and the text is read at its first
        `end_token`; else all see all, padding too, and the text is read at its last place.
      end_token: the token at which a causal text is read; None for the one of the highest id.
      pad_token: what fills a text that is read in both directions.
    """

    tower: TowerConfig
    vocab_size: int
    context: int
    causal: bool = True
    end_token: int | None = None
    pad_token: int = 1


@dataclass(frozen=True)
class ClipConfig:
    """The shape of a CLIP, or of a SigLIP, whose vision transformer is `attentive`.

    Attributes:
      vision: the side that sees images.
      text: the side that reads texts.
      width: `F`; that of the vision transformer's tower for a SigLIP, which projects texts alone.
    """

    vision: VisionConfig
    text: ClipTextConfig
    width: int

    def __post_init__(self) -> None:
        if self.vision.attentive and self.width != self.vision.tower.width:
            raise ValueError(
                f"images become {self.vision.tower.width} numbers, and texts {self.width}"
            )


def init_clip(key: jax.Array, config: ClipConfig) -> Params:
    """Returns random parameters.

    The tree is `{"vision": ..., "text": {"token" [V, E], "position" [context, E], "layers": {...},
    "output_norm": {...}}, "text_projection": {"kernel" [E, F]}, "logit_scale" []}`; CLIP's has an
    `image_projection` as well, SigLIP's a bias of its text projection and a `logit_bias`, which is
    `[1]` as its scale is.
    """
    keys = jax.random.split(key, 6)
    text, tower = config.text, config.text.tower
    tables = {"token": text.vocab_size, "position": text.context}
    params: Params = {
        "vision": init_vision(keys[0], config.vision),
        "text": {
            **{
                name: 0.02 * jax.random.normal(one, (rows, tower.width), jnp.float32)
                for one, (name, rows) in zip(keys[1:3], tables.items(), strict=True)
            },
            "layers": init_tower(keys[3], tower),
            "output_norm": random_norm(tower.width),
        },
        "text_projection": random_dense(keys[4], tower.width, config.width),
        "logit_scale": jnp.float32(FIRST_SCALE),
    }
    if config.vision.attentive:
        return {**params, "logit_scale": jnp.full(1, FIRST_SCALE), "logit_bias": jnp.zeros(1)}
    params["image_projection"] = random_dense(keys[5], config.vision.tower.width, config.width)
    for name in ("image_projection", "text_projection"):
        del params[name]["bias"]
    return params


def unit(vectors: jax.Array) -> jax.Array:
    """Returns vectors `[..., F]` of length 1 in float32; a vector of zeros stays one."""
    vectors = vectors.astype(jnp.float32)
    square = jnp.sum(jnp.square(vectors), axis=-1, keepdims=True)
    # The gradient of a root is not finite at zero.
    return vectors * jax.lax.rsqrt(jnp.maximum(square, 1e-24))


def image_vectors(config: ClipConfig, params: Params, pixels: jax.Array) -> jax.Array:
    """Returns the unit vectors `[B, F]` of images; see `vision.see` for their pixels."""
    state = see(config.vision, params["vision"], pixels)[1]
    if not config.vision.attentive:
        state = affine(state, params["image_projection"], config.vision.tower.dtype)
    return unit(state)


def text_vectors(
    config: ClipConfig, params: Params, tokens: jax.Array, mask: jax.Array
) -> jax.Array:
    """Returns the unit vectors `[B, F]` of texts.

    Args:
      config: the network's shape.
      params: those of `init_clip`.
      tokens: `[B, S]` int32, special ones included, padded behind the last.
      mask: `[B, S]` true at real tokens.

    Raises:
      ValueError: the texts are longer than the context.
    """
    text, tower, weights = config.text, config.text.tower, params["text"]
    length = tokens.shape[1]
    if length > text.context:
        raise ValueError(f"{length} tokens do not fit a context of {text.context}")
    if not text.causal:
        tokens = jnp.where(mask, tokens, text.pad_token)
        tokens = jnp.pad(
            tokens, ((0, 0), (0, text.context - length)), constant_values=text.pad_token
        )
        length = text.context
    x = weights["token"][tokens].astype(jnp.float32)
    x = x + weights["position"][None, :length].astype(jnp.float32)
    visible = jnp.ones((length, length), bool)
    visible = (jnp.tril(visible) if text.causal else visible)[None]
    x = run_tower(tower, weights["layers"], x, visible)
    x = layer_norm(x, weights["output_norm"], tower.norm_epsilon)
    state = x[:, -1]
    if text.causal:
        state = jnp.take_along_axis(x, _ends(text, tokens, mask)[:, None, None], axis=1)[:, 0]
    return unit(affine(state, params["text_projection"], tower.dtype))


def _ends(config: ClipTextConfig, tokens: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns where texts `[B, S]` end: at their first end token, or at their last token."""
    if config.end_token is None:
        return jnp.argmax(jnp.where(mask, tokens, -1), axis=-1)
    ends = (tokens == config.end_token) & mask
    last = jnp.maximum(jnp.sum(mask, axis=-1) - 1, 0)
    return jnp.where(ends.any(axis=-1), jnp.argmax(ends, axis=-1), last)


def match_logits(params: Params, images: jax.Array, texts: jax.Array) -> jax.Array:
    """Returns the logits `[images, texts]` with which unit vectors belong together, float32.

    They are `exp(logit_scale) * cosine`, and with SigLIP plus `logit_bias`.
    """
    cosine = jnp.einsum("if,tf->it", images.astype(jnp.float32), texts.astype(jnp.float32))
    logits = cosine * jnp.exp(params["logit_scale"]).reshape(1, 1)
    return logits + params["logit_bias"].reshape(1, 1) if "logit_bias" in params else logits
