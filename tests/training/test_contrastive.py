"""The contrastive loss against NumPy by hand and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np

from coopgen_jax.models.clip import unit
from coopgen_jax.training.contrastive import contrastive_loss, contrastive_terms


def drawn(count, seed=0):
    rng = np.random.default_rng(seed)
    images, texts = rng.normal(size=(2, count, 4)).astype(np.float32)
    return unit(jnp.asarray(images)), unit(jnp.asarray(texts))


def by_hand(images, texts, scale, image_of, real):
    """Minus log p of each real pair's text and image, by loops."""
    terms = []
    for row in np.flatnonzero(real):
        others = [n for n in np.flatnonzero(real) if image_of[n] != image_of[row]]
        own = np.exp(scale * images[row] @ texts[row])
        to_texts = sum(np.exp(scale * images[row] @ texts[n]) for n in others)
        to_images = sum(np.exp(scale * images[n] @ texts[row]) for n in others)
        terms.append((-np.log(own / (own + to_texts)), -np.log(own / (own + to_images))))
    return np.array(terms)


def test_terms_are_those_by_hand():
    images, texts = drawn(6)
    image_of, real = np.array([0, 1, 0, 2, 3, 3]), np.array([1, 1, 1, 1, 1, 0], bool)
    found = contrastive_terms(images, texts, jnp.log(3.0), jnp.asarray(image_of), jnp.asarray(real))
    wanted = by_hand(np.asarray(images), np.asarray(texts), 3.0, image_of, real)
    np.testing.assert_allclose(np.stack(found, axis=-1)[real], wanted, rtol=1e-5)


def test_the_loss_is_the_mean_over_real_pairs_and_both_ways():
    images, texts = drawn(4, seed=1)
    batch = {
        "label": jnp.array([0, 1, 2, 0]),
        "mask": jnp.array([[True], [True], [True], [False]]),
    }
    loss = contrastive_loss(lambda *_: (images, texts), training=False)
    sums = loss({"log_scale": jnp.log(2.0)}, {}, batch, jax.random.key(0))
    mask = np.array([1, 1, 1, 0], bool)
    terms = by_hand(np.asarray(images), np.asarray(texts), 2.0, np.array([0, 1, 2, 0]), mask)
    means = {name: float(total / weight) for name, (total, weight) in sums.items()}
    np.testing.assert_allclose(means["loss"], terms.mean(), rtol=1e-5)
    np.testing.assert_allclose(means["image_to_text"], terms[:, 0].mean(), rtol=1e-5)
    np.testing.assert_allclose(means["text_to_image"], terms[:, 1].mean(), rtol=1e-5)


def test_only_training_has_a_key_to_leave_numbers_out_by():
    keys = []
    batch = {"label": jnp.arange(2), "mask": jnp.ones((2, 1), bool)}
    for training in (True, False):
        loss = contrastive_loss(lambda *given: keys.append(given[3]) or drawn(2), training=training)
        loss({"log_scale": jnp.zeros(())}, {}, batch, jax.random.key(7))
    assert keys[0] is not None and keys[1] is None


def test_the_gradient_is_that_of_finite_differences():
    images, texts = drawn(3, seed=2)
    image_of, real = jnp.array([0, 1, 1]), jnp.array([True, True, True])

    def total(log_scale, kernel):
        moved = unit(images @ kernel)
        return sum(
            term.sum() for term in contrastive_terms(moved, texts, log_scale, image_of, real)
        )

    at = jnp.float32(0.7), jnp.eye(4) + 0.1 * jax.random.normal(jax.random.key(0), (4, 4))
    by_scale, by_kernel = jax.grad(total, argnums=(0, 1))(*at)
    step = 1e-2
    slope = (total(at[0] + step, at[1]) - total(at[0] - step, at[1])) / (2 * step)
    np.testing.assert_allclose(by_scale, slope, rtol=1e-2)
    direction = jax.random.normal(jax.random.key(1), (4, 4))
    slope = (total(at[0], at[1] + step * direction) - total(at[0], at[1] - step * direction)) / (
        2 * step
    )
    np.testing.assert_allclose(jnp.sum(by_kernel * direction), slope, rtol=1e-2)
