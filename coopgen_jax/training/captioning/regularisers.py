"""What keeps a rewarded captioner's language human: small networks on unit embeddings.

The discriminator reads an image and a caption and says whether a person wrote the caption for it;
it is trained while the captioner is, on references and on what the captioner has just written. The
grammar head reads a caption alone and says whether it is sound; it is trained beforehand, on
captions and on the corrupted ones of `captioning.corruptions`.

Both are a `discriminators.head.Head`, and their probability of a human, or sound, caption is the
regulariser of `captioning.rewards.total_reward`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from coopgen_jax.discriminators.head import Head, HeadConfig, classify
from coopgen_jax.errors import UserError
from coopgen_jax.parallel.mesh import share
from coopgen_jax.training import losses
from coopgen_jax.training.captioning.corruptions import corrupt
from coopgen_jax.training.objectives import Join, all_trainable, row_sums
from coopgen_jax.training.step import Loss, Sums, begin_on, make_step

# Adam's rate for the discriminator.
DISCRIMINATOR_RATE = 7e-5


def discriminator_shape(width: int) -> HeadConfig:
    """Returns the discriminator of embeddings of a width F: 2F -> F -> F/2 -> 2.

    Of 512 these are 1024, 512, 256 and 2 units (Chaffin, Kijak and Claveau 2024, arXiv 2402.13936).
    """
    return HeadConfig(("generated", "human"), inputs=2 * width, hidden=(width, width // 2))


def grammar_shape(width: int) -> HeadConfig:
    """Returns the grammar head of text embeddings of a width F: F -> F/2 -> 2.

    Source: Cho et al. 2022, Fine-grained Image Captioning with CLIP Reward, arXiv 2205.13115.
    """
    return HeadConfig(("corrupted", "sound"), inputs=width, hidden=(width // 2,))


def init_regulariser(key: jax.Array, config: HeadConfig) -> Any:
    """Returns random parameters of a discriminator or of a grammar head."""
    return Head(config).init(key, jnp.zeros(config.inputs))["params"]


def paired(images: jax.Array, captions: jax.Array) -> jax.Array:
    """Returns what the discriminator reads, `[M, 2F]`, of `[M, F]` images and their captions."""
    return jnp.concatenate([images, captions], axis=-1)


def regulariser(config: HeadConfig, params: Any, features: jax.Array) -> jax.Array:
    """Returns r_regu, the probability that captions are human, or sound, `[M]`, without a gradient.

    The features are those of `paired` for the discriminator and `[M, F]` embeddings of the captions
    for the grammar head.
    """
    return jax.lax.stop_gradient(jnp.exp(classify(config, params, features)[..., 1]))


def two_kinds(bad: jax.Array, good: jax.Array) -> dict[str, jax.Array]:
    """Returns features `[n, ...]` and `[m, ...]` as a batch for `regulariser_loss`.

    `bad` are those of generated or corrupted captions, `good` those of human ones.
    """
    features = jax.lax.stop_gradient(jnp.concatenate([bad, good]))
    label = jnp.concatenate([jnp.zeros(len(bad), jnp.int32), jnp.ones(len(good), jnp.int32)])
    return {"features": features, "label": label, "mask": jnp.ones((len(label), 1), bool)}


def regulariser_loss(config: HeadConfig, *, join: Join = all_trainable) -> Loss:
    """Returns the binary cross-entropy of a discriminator or a grammar head, in nats a caption.

    A batch has `features` `[B, inputs]`, `label` `[B]` int32, 1 for human or sound captions, and
    `mask` `[B, 1]`, false in rows of padding. A head's standardisation is frozen.
    """

    def loss(trainable: Any, frozen: Any, batch: Any, key: jax.Array) -> Sums:
        params = dict(join(trainable, frozen))
        for name in ("centre", "scale"):
            params[name] = jax.lax.stop_gradient(params[name])
        log_class = classify(config, params, batch["features"])
        each = jax.vmap(losses.cross_entropy)(log_class, batch["label"])
        hits = (jnp.argmax(log_class, axis=-1) == batch["label"]).astype(jnp.float32)
        return row_sums(batch, loss=each, accuracy=hits)

    return loss


def train_grammar(
    captions: Sequence[str],
    embed: Callable[[Sequence[str]], np.ndarray],
    *,
    steps: int = 1000,
    rows: int = 256,
    learning_rate: float = 1e-3,
    seed: int = 0,
    mesh: Mesh,
) -> Any:
    """Returns the parameters of a grammar head trained on captions and on corrupted copies.

    Every caption is corrupted once, in a kind at random.

    Args:
      captions: captions that people wrote.
      embed: from captions to unit embeddings `[m, F]`, on the host.
      steps: Adam's.
      rows: captions of a step, sound ones and corrupted ones each.
      learning_rate: Adam's.
      seed: of everything random.
      mesh: the devices, which divide twice the rows.

    Raises:
      UserError: there are no captions with words.
    """
    words = [own for own in map(str.split, captions) if own]
    if not words:
        raise UserError("there are no captions with words to train a grammar head on")
    rng = np.random.default_rng(seed)
    vocabulary = sorted({word for own in words for word in own})
    sound = embed([" ".join(own) for own in words])
    broken = embed([" ".join(corrupt(own, vocabulary, rng)) for own in words])
    config, optimiser = grammar_shape(sound.shape[1]), optax.adam(learning_rate)
    step = make_step(regulariser_loss(config), optimiser, mesh=mesh)
    state = begin_on(mesh, init_regulariser(jax.random.key(seed), config), optimiser)
    for _ in range(steps):
        chosen = rng.integers(len(words), size=rows)
        batch = two_kinds(jnp.asarray(broken[chosen]), jnp.asarray(sound[chosen]))
        state, _means = step(state, {}, share(batch, mesh), jax.random.key(seed))
    return jax.device_get(state.trainable)
