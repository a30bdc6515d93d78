"""A small CLIP: one linear head on a frozen backbone's states, one on a frozen text encoder's.

Zhai et al., "LiT: Zero-Shot Transfer with Locked-image text Tuning" (CVPR 2022, arXiv 2111.07991),
freeze the side that sees; here both sides are frozen, and the heads are trained in minutes on a
processor.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from coopgen_jax.discriminators.host.retokenise import Crossing
from coopgen_jax.discriminators.image_guide import describing_anew, image_guide
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.models.affine import affine, array, dense_shape
from coopgen_jax.models.clip import unit
from coopgen_jax.models.encoder import EncoderConfig, encode, mean_pool
from coopgen_jax.models.language_model import Bound
from coopgen_jax.models.pretrained.loaded_model import LoadedEncoder
from coopgen_jax.tokenizer import Tokenizer

Params = dict[str, Any]
# What their cards call them.
KIND = "clip-heads"
SIDES = ("image", "text")


@dataclass(frozen=True)
class ClipHeadsConfig:
    """The shape of the heads.

    Attributes:
      images: width of the backbone's states.
      texts: width of the text encoder's states.
      width: `F`, of the vectors.
      dropout: share of a head's inputs that a step of its training leaves out.
    """

    images: int
    texts: int
    width: int = 512
    dropout: float = 0.4


@dataclass(frozen=True, eq=False)
class LoadedClipHeads:
    """Heads with all that belongs to them.

    Attributes:
      params: of the shapes of `heads_shapes`.
      encoder: the text encoder that they were trained on.
      longest: word pieces that are read of a text, special ones included.
      card: what is known of them.
    """

    params: Params
    encoder: LoadedEncoder
    longest: int
    card: dict[str, Any]


def heads_shapes(config: ClipHeadsConfig) -> Params:
    """Returns the shapes of the parameters: those of the heads, and `log_scale` `[]`."""
    heads = {
        side: {
            "centre": array(inputs),
            "scale": array(inputs),
            "output": dense_shape(inputs, config.width),
        }
        for side, inputs in zip(SIDES, (config.images, config.texts), strict=True)
    }
    return {**heads, "log_scale": array()}


def head_vectors(
    head: Params, states: jax.Array, *, dropout: float = 0.0, key: jax.Array | None = None
) -> jax.Array:
    """Returns the unit vectors `[n, F]` that a head makes of states `[n, E]`.

    A state is standardised first. With a key some of its numbers are left out, as in training.
    """
    x = (states.astype(jnp.float32) - head["centre"][None]) * head["scale"][None]
    if key is not None and dropout > 0:
        kept = jax.random.bernoulli(key, 1 - dropout, x.shape)
        x = jnp.where(kept, x / (1 - dropout), 0.0)
    return unit(affine(x, head["output"], "float32"))


def read_texts(
    encoder: EncoderConfig, params: Params, pieces: jax.Array, mask: jax.Array
) -> jax.Array:
    """Returns the unit vectors `[n, F]` of word pieces `[n, S]`, special ones included."""
    hidden = encode(encoder, params["encoder"], pieces, mask)
    return head_vectors(params["head"], mean_pool(hidden, mask))


def heads_guide(heads: LoadedClipHeads, *, tokenizer: Tokenizer) -> LoadedDiscriminator:
    """Returns the guide that heads are; see `image_guide.clip_guide`.

    Args:
      heads: the loaded heads.
      tokenizer: that of the language model which is guided.
    """
    params, encoder = heads.params, heads.encoder
    crossing = Crossing(tokenizer, encoder.tokenizer, width=heads.longest, alone=True)
    width = params["text"]["output"]["kernel"].shape[-1]
    describer = describing_anew(Bound(read_texts, encoder.config), width, crossing)
    text = {"encoder": encoder.params, "head": params["text"]}
    guided = {"text": text, "log_scale": params["log_scale"], "image": params["image"]}
    return LoadedDiscriminator(image_guide(describer), guided, heads.card, (crossing,))


def image_head_vectors(guide: LoadedDiscriminator, states: Any) -> jax.Array:
    """Returns the unit vectors `[n, F]` of images by the states `[n, E]` of the guide's backbone.

    They are what `image_context` takes.
    """
    return head_vectors(guide.params["image"], jnp.asarray(states))
