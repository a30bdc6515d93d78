"""CLIP as a guide: how likely a text makes its own image among others.

p(own image | text) is the softmax of the cosines of the text with the images, over a temperature
(Radford et al. 2021, arXiv 2103.00020, section 2.3, of one direction). A text that scores high says
what tells its image from the others: a decoder that is guided by it writes distinctive captions,
and nothing is trained. Chaffin, Kijak, Claveau, "Distinctive Image Captioning" (2024, arXiv
2402.13936), train captioners by the same quantity.

The images of a row come with its prompt, as its context. What reads the texts is a describer: a
record of functions like those of a discriminator, that says a vector of unit length in place of
log-probabilities. One reads the tree by its own causal network out of a slot cache, the other reads
every text anew, with its own tokenizer.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from coopgen_jax.discriminators.causal import reading_causally
from coopgen_jax.discriminators.discriminator import LEAST, Discriminator
from coopgen_jax.discriminators.host.rereading import reading_anew
from coopgen_jax.discriminators.host.retokenise import Crossing
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.errors import UserError
from coopgen_jax.models.affine import affine
from coopgen_jax.models.attention import NEGATIVE
from coopgen_jax.models.clip import text_vectors, unit
from coopgen_jax.models.language_model import Bound, Nodes, Prompt
from coopgen_jax.models.pretrained.image_networks import LoadedClip
from coopgen_jax.models.slots import Capacity
from coopgen_jax.models.transformer import DecoderConfig, init_decoder
from coopgen_jax.tokenizer import Tokenizer

# Whether a text speaks of another image, or of its row's own.
CLASSES = ("other", "image")


@struct.dataclass
class ImageContext:
    """The images that a row's texts choose among.

    Attributes:
      images: `[B, M, F]` vectors, of which the first is the row's own image.
      mask: `[B, M]` bool, true at real images.
    """

    images: jax.Array
    mask: jax.Array


def image_context(images: Any, others: Any = None, mask: Any = None) -> ImageContext:
    """Returns the context of rows.

    Args:
      images: `[B, F]` the vector of each row's own image.
      others: what it competes with: `[M, F]` for all rows, `[B, M, F]` for each, or None for the
        images of the other rows.
      mask: `[B, M]` true at real ones of the others, None where all are.

    Raises:
      UserError: a row has no image beside its own.
    """
    own = jnp.asarray(images, jnp.float32)
    count = len(own)
    if others is None:
        # Row i has the images i + 1, i + 2, ... around to i - 1.
        turned = (jnp.arange(count)[:, None] + jnp.arange(1, count)[None]) % max(count, 1)
        beside = own[turned]
    else:
        beside = jnp.asarray(others, jnp.float32)
        if beside.ndim == 2:
            beside = jnp.broadcast_to(beside[None], (count, *beside.shape))
    there = jnp.ones(beside.shape[:2], bool) if mask is None else jnp.asarray(mask, bool)
    if not beside.shape[1] or not there.any(axis=1).all():
        raise UserError("an image stands alone: give others that it competes with")
    front = jnp.ones((count, 1), bool)
    whole = jnp.concatenate([own[:, None], beside], axis=1)
    return ImageContext(whole, jnp.concatenate([front, there], axis=1))


def log_choice(vectors: jax.Array, context: ImageContext, log_scale: jax.Array) -> jax.Array:
    """Returns log p of another image and of the own one, `[B, ..., 2]` float32.

    Args:
      vectors: `[B, ..., F]` of texts; images of unlike directions are alike to one of zeros.
      context: the images of each row.
      log_scale: `[]` logarithm of what cosines are multiplied by, the inverse of the temperature.
    """
    images = unit(context.images)
    flat = vectors.reshape(len(images), -1, vectors.shape[-1]).astype(jnp.float32)
    logits = jnp.einsum("bnf,bmf->bnm", flat, images) * jnp.exp(log_scale).reshape(1, 1, 1)
    logits = jnp.where(context.mask[:, None, :], logits, NEGATIVE)
    log_p = jax.nn.log_softmax(logits, axis=-1)
    other = jax.scipy.special.logsumexp(log_p[..., 1:], axis=-1)
    both = jnp.maximum(jnp.stack([other, log_p[..., 0]], axis=-1), jnp.log(LEAST))
    return both.reshape(*vectors.shape[:-1], 2)


def image_guide(describer: Discriminator) -> Discriminator:
    """Returns the discriminator that chooses among images by what a describer says of texts.

    Its params are `{"text": those of the describer, "log_scale": []}`. Of a bare prompt that is not
    read every image is as likely.
    """
    children, prefixes = describer.evaluate_children, describer.evaluate_prefixes
    return replace(
        describer,
        init=Bound(_init, describer),
        evaluate=Bound(_evaluate, describer.evaluate),
        evaluate_children=children and Bound(_evaluate_children, children),
        evaluate_prefixes=prefixes and Bound(_evaluate_prefixes, prefixes),
        classes=CLASSES,
    )


def _context(prompt: Prompt) -> ImageContext:
    if not isinstance(prompt.context, ImageContext):
        raise UserError(
            "this guide tells images from one another and its prompts have none: give "
            "context=image_context(...)"
        )
    return prompt.context


def _init(
    describer: Discriminator,
    params: Any,
    prompt: Prompt,
    hidden: jax.Array,
    *,
    capacity: Capacity,
) -> tuple[jax.Array, Any]:
    context = _context(prompt)
    vectors, state = describer.init(params["text"], prompt, hidden, capacity=capacity)
    if not describer.reads_prompt:
        vectors = jnp.zeros_like(vectors)
    return log_choice(vectors, context, params["log_scale"]), (state, context)


def _evaluate(evaluate: Callable, params: Any, state: Any, nodes: Nodes) -> tuple[jax.Array, Any]:
    own, context = state
    vectors, own = evaluate(params["text"], own, nodes)
    return log_choice(vectors, context, params["log_scale"]), (own, context)


def _evaluate_children(
    evaluate_children: Callable,
    params: Any,
    state: Any,
    nodes: Nodes,
    candidates: jax.Array | None,
) -> jax.Array:
    own, context = state
    vectors = evaluate_children(params["text"], own, nodes, candidates)
    return log_choice(vectors, context, params["log_scale"])


def _evaluate_prefixes(
    evaluate_prefixes: Callable,
    params: Any,
    prompt: Prompt,
    tokens: jax.Array,
    lengths: jax.Array,
    hidden: jax.Array,
) -> jax.Array:
    vectors = evaluate_prefixes(params["text"], prompt, tokens, lengths, hidden)
    return log_choice(vectors, _context(prompt), params["log_scale"])


def _numbers(width: int) -> tuple[str, ...]:
    return tuple(map(str, range(width)))


@dataclass(frozen=True)
class CausalTextConfig:
    """A causal network that describes texts by vectors.

    Attributes:
      network: of the decoder; its tokens are those of the language model it guides.
      width: `F`, of the vectors.
      start_token: the continuation alone is read, behind this token; None to read the prompt and
        the continuation.
    """

    network: DecoderConfig
    width: int
    start_token: int | None = None

    def say(self, params: Any, states: jax.Array) -> jax.Array:
        """Returns the unit vectors `[..., F]` of states `[..., E]`."""
        return unit(affine(states, params["projection"], "float32"))

    def bare(self, batch: int) -> jax.Array:
        """Returns the vectors of texts of which nothing has been read, zeros `[B, F]`."""
        return jnp.zeros((batch, self.width), jnp.float32)


def describing_causally(config: CausalTextConfig) -> Discriminator:
    """Returns a describer that reads each token once; its params are those of `init_describer`."""
    return reading_causally(config, _numbers(config.width))


def init_describer(key: jax.Array, config: CausalTextConfig) -> dict[str, Any]:
    """Returns random parameters: those of the `network`, and the `projection` `[E, F]`."""
    network_key, own_key = jax.random.split(key)
    width = config.network.width
    kernel = width**-0.5 * jax.random.normal(own_key, (width, config.width), jnp.float32)
    return {"network": init_decoder(network_key, config.network), "projection": {"kernel": kernel}}


def describing_anew(
    read: Callable, width: int, crossing: Crossing, *, reads_prompt: bool = False
) -> Discriminator:
    """Returns a describer that reads every text anew, with its own tokenizer.

    Args:
      read: `(params, tokens [n, S], mask [n, S]) -> unit vectors [n, F]`; equal where it reads
        alike.
      width: `F`.
      crossing: from the language model's tokens to those that are read.
      reads_prompt: whether prompt and continuation are described, or the continuation alone.
    """
    return reading_anew(read, _numbers(width), crossing, reads_prompt=reads_prompt, silent=0.0)


def clip_guide(
    clip: LoadedClip, *, tokenizer: Tokenizer, reads_prompt: bool = False
) -> LoadedDiscriminator:
    """Returns the guide that a CLIP or a SigLIP is.

    Its classes are "other" and "image". `generate` takes the images of its prompts as
    `context=image_context(...)` of `image_vectors`. Of a SigLIP the scale alone counts: its bias is
    the same for all images. Of a text that is too long the last tokens are read.

    Args:
      clip: the loaded network.
      tokenizer: that of the language model which it is to guide.
      reads_prompt: whether it judges the prompt and the continuation, or the continuation alone.
    """
    config = clip.config
    crossing = Crossing(tokenizer, clip.tokenizer, width=config.text.context, alone=True)
    read = Bound(text_vectors, config)
    describer = describing_anew(read, config.width, crossing, reads_prompt=reads_prompt)
    text = {name: clip.params[name] for name in ("text", "text_projection")}
    params = {"text": text, "log_scale": clip.params["logit_scale"].reshape(())}
    card = {"kind": "clip", "name": clip.name, "sha256": clip.sha256}
    return LoadedDiscriminator(image_guide(describer), params, card, (crossing,))
