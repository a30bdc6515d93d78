"""The regularisers, against sums by hand, finite differences and a world that they can tell."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from coopgen_jax.errors import UserError
from coopgen_jax.parallel.mesh import make_mesh
from coopgen_jax.training.captioning.regularisers import (
    discriminator_shape,
    grammar_shape,
    init_regulariser,
    paired,
    regulariser,
    regulariser_loss,
    train_grammar,
    two_kinds,
)
from coopgen_jax.training.step import begin_on, make_step

WIDTH, ROWS = 8, 12
CONFIG = discriminator_shape(WIDTH)
KEY = jax.random.key(0)


def embeddings(seed: int) -> jax.Array:
    drawn = jax.random.normal(jax.random.key(seed), (ROWS, WIDTH))
    return drawn / jnp.linalg.norm(drawn, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def world():
    """Images, captions that people wrote for them, and captions of a writer."""
    images, human, generated = map(embeddings, (1, 2, 3))
    params = init_regulariser(jax.random.key(4), CONFIG)
    return params, two_kinds(paired(images, generated), paired(images, human))


def by_hand(params, features: np.ndarray) -> np.ndarray:
    """log p of both classes, in double precision."""
    layers = jax.tree.map(lambda leaf: np.asarray(leaf, float), params)
    x = np.asarray(features, float)
    for name in ("hidden_0", "hidden_1"):
        x = np.maximum(x @ layers[name]["kernel"] + layers[name]["bias"], 0)
    x = x @ layers["output"]["kernel"] + layers["output"]["bias"]
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def test_the_networks_have_the_published_shapes():
    config = discriminator_shape(512)
    assert (config.inputs, *config.hidden, len(config.classes)) == (1024, 512, 256, 2)
    assert config.classes[1] == "human" and grammar_shape(512).inputs == 512


def test_the_regulariser_is_the_probability_of_a_human_caption(world):
    params, batch = world
    wanted = np.exp(by_hand(params, batch["features"])[:, 1])
    found = regulariser(CONFIG, params, batch["features"])
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    gradient = jax.grad(lambda x: regulariser(CONFIG, params, x).sum())(batch["features"])
    assert not np.any(gradient)


def test_the_loss_is_binary_cross_entropy(world):
    params, batch = world
    log_class = by_hand(params, batch["features"])
    total, count = regulariser_loss(CONFIG)(params, None, batch, KEY)["loss"]
    wanted = -log_class[:ROWS, 0].sum() - log_class[ROWS:, 1].sum()
    assert float(total) == pytest.approx(wanted, rel=1e-5)
    assert count == 2 * ROWS


def test_the_gradient_is_that_of_finite_differences(world):
    params, batch = world

    @jax.jit
    def loss(params):
        return regulariser_loss(CONFIG)(params, None, batch, KEY)["loss"][0]

    gradient = jax.grad(loss)(params)
    assert not np.any(gradient["centre"]) and not np.any(gradient["scale"])
    trained = {name: params[name] for name in ("hidden_0", "hidden_1", "output")}
    way = jax.tree.map(lambda x: jax.random.normal(KEY, x.shape), trained)
    ahead, behind = (
        float(loss(params | jax.tree.map(lambda x, w, s=side: x + s * 1e-3 * w, trained, way)))
        for side in (1, -1)
    )
    slope = sum(
        jnp.vdot(gradient[name][part], way[name][part]) for name in way for part in way[name]
    )
    assert float(slope) == pytest.approx((ahead - behind) / 2e-3, rel=1e-2)


def test_a_step_knows_nothing_of_the_gradients_before_it(world):
    """Gradients that are added up over steps would make the second update too long."""
    params, batch = world
    mesh, rate, loss = make_mesh(), 0.1, regulariser_loss(CONFIG)
    step = make_step(loss, optax.sgd(rate), mesh=mesh)
    copy = jax.tree.map(jnp.array, params)
    state = begin_on(mesh, jax.tree.map(jnp.array, params), optax.sgd(rate))
    for _ in range(2):
        state, means = step(state, {}, batch, KEY)
        slope = jax.grad(lambda p: loss(p, None, batch, KEY)["loss"][0] / (2 * ROWS))(copy)
        copy = jax.tree.map(lambda x, g: x - rate * g, copy, slope)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), state.trainable, copy)
    assert means["loss"] > 0


def test_a_trained_discriminator_tells_human_captions_of_an_image(world):
    """Its reward is then high for them and low for what was written."""
    params, batch = world
    mesh, optimiser = make_mesh(), optax.adam(1e-2)
    step = make_step(regulariser_loss(CONFIG), optimiser, mesh=mesh)
    state = begin_on(mesh, jax.tree.map(jnp.array, params), optimiser)
    for _ in range(150):
        state, means = step(state, {}, batch, KEY)
    assert means["accuracy"] == 1
    reward = regulariser(CONFIG, state.trainable, batch["features"])
    assert reward[:ROWS].max() < 0.2 and reward[ROWS:].min() > 0.8


def embed(captions) -> np.ndarray:
    """Unit sums of a direction for every pair of words that follow each other."""
    found = []
    for caption in captions:
        words = ["", *caption.split(), ""]
        pairs = [sum(map(ord, one)) + 31 * sum(map(ord, two)) for one, two in pairwise(words)]
        found.append(sum(np.random.default_rng(pair).standard_normal(32) for pair in pairs))
    return np.asarray(found / np.linalg.norm(found, axis=-1, keepdims=True), np.float32)


def test_a_trained_grammar_head_tells_sound_captions():
    captions = [f"the {one} {two}" for one in ("red", "old") for two in ("dog", "boat")]
    how = {"steps": 150, "rows": 32, "learning_rate": 1e-2, "mesh": make_mesh()}
    params = train_grammar(captions * 100, embed, **how)
    broken = ["the the red boat", "boat the red", "red dog", "the old old old dog", "the dog boat"]
    sound, unsound = (
        regulariser(grammar_shape(32), params, jnp.asarray(embed(texts)))
        for texts in (captions, broken)
    )
    assert sound.min() > 0.8 and unsound.mean() < 0.3
    with pytest.raises(UserError, match="no captions with words"):
        train_grammar([" "], embed, mesh=make_mesh())
