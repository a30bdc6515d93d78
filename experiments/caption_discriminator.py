"""The discriminator that keeps language in `experiments.captioning`, in front of the rounds."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import coopgen_jax as cg
from coopgen_jax.models.pretrained.captioner import LoadedCaptioner
from coopgen_jax.parallel.mesh import share
from coopgen_jax.training.captioning.regularisers import (
    discriminator_shape,
    init_regulariser,
    paired,
    regulariser,
    regulariser_loss,
    two_kinds,
)
from coopgen_jax.training.card import save_head
from coopgen_jax.training.recipes.begin_head import standardisation
from coopgen_jax.training.step import begin_on, make_step
from experiments.caption_scene import Heads, load_params

if TYPE_CHECKING:
    from experiments.captioning import Config, World


def first_discriminator(
    world: "World", heads: Heads, captioner: LoadedCaptioner, human: list[tuple[int, str]]
) -> Any:
    """Returns the discriminator in front of the rounds, trained once for all methods.

    It tells captions that the teacher-forced captioner draws, one an image, from human ones. Its
    accuracy on images that it has not seen is printed.
    """
    config, scene = world.config, world.scene
    folder = config.folder / "discriminator"
    if not (folder / "card.json").exists():
        texts = dict(reversed(human))
        aside = {image: scene.captions[image][0] for image in scene.of("tuning")}
        images = [*texts, *aside]
        drawn = cg.generate(
            captioner.model, captioner.fronts(len(images)), seed=config.seed,
            vectors=captioner.vectors(scene.states[images]), batch_size=4 * config.batch_size,
            config=cg.SamplingConfig(new_tokens=config.new_tokens),
        )  # fmt: skip
        read = heads.reader(64)
        seen = jnp.asarray(heads.images(scene.states[images]))
        kinds = [
            np.asarray(paired(seen, jnp.asarray(read(captions))))
            for captions in ([text.text.strip() for text in drawn], [*texts.values(),
                                                                     *aside.values()])
        ]  # fmt: skip
        params, accuracy = fit_discriminator(kinds, len(texts), config)
        print(f"discriminator: right about {accuracy:.2f} of unseen captions", flush=True)
        save_head(folder, params, {"kind": "caption discriminator", "accuracy_unseen": accuracy})
    return load_params(folder)


def fit_discriminator(kinds: list[np.ndarray], count: int, config: "Config") -> tuple[Any, float]:
    """Returns a discriminator's parameters, and how often it is right about the rows not read.

    Args:
      kinds: what `paired` makes of generated captions and of human ones, `[n, 2F]` each.
      count: rows of each that are trained on, the first ones.
      config: steps and seed.
    """
    shape, optimiser = discriminator_shape(kinds[0].shape[1] // 2), optax.adam(1e-3)
    rng, mesh = np.random.default_rng(config.seed), cg.make_mesh(1)
    begun = init_regulariser(jax.random.key(config.seed), shape)
    begun |= standardisation([kind[:count] for kind in kinds])
    step = make_step(regulariser_loss(shape), optimiser, mesh=mesh)
    state = begin_on(mesh, begun, optimiser)
    for _ in range(config.discriminator_steps):
        chosen = rng.integers(count, size=128)
        batch = two_kinds(*(jnp.asarray(kind[chosen]) for kind in kinds))
        state, _means = step(state, {}, share(batch, mesh), jax.random.key(config.seed))
    params = jax.device_get(state.trainable)
    said = [np.asarray(regulariser(shape, params, kind[count:])) > 0.5 for kind in kinds]
    return params, float((np.mean(~said[0]) + np.mean(said[1])) / 2)
