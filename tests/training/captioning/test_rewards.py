"""Rewards of captions, against sums written out by hand in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coopgen_jax.evaluation.clip_scores import clip_s
from coopgen_jax.training.captioning import rewards

IMAGES, WIDTH, TAU = 4, 6, 0.05


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    drawn = rng.standard_normal(shape)
    return (drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def world() -> dict[str, np.ndarray]:
    """Captions, ground truths and greedy captions of four images, and two mined images of each."""
    rng = np.random.default_rng(0)
    return {
        "captions": unit(rng, IMAGES, WIDTH),
        "truths": unit(rng, IMAGES, WIDTH),
        "greedy": unit(rng, IMAGES, WIDTH),
        "images": unit(rng, IMAGES, WIDTH),
        "mined": unit(rng, 2 * IMAGES, WIDTH),
    }


def pools(world) -> dict:
    """The pools of a batch; images have the global ids 10 to 13, and mined ones 20 to 27."""
    number = np.arange(IMAGES)
    return {
        "texts": rewards.pool_of(
            (world["captions"], number),
            (world["truths"], number + IMAGES),
            (world["greedy"], number + 2 * IMAGES),
        ),
        "others": rewards.pool_of(
            (world["images"], number + 10), (world["mined"], np.arange(2 * IMAGES) + 20)
        ),
        "image_ids": jnp.asarray(number + 10),
    }


def by_hand(caption: np.ndarray, image: np.ndarray, texts: list, images: list, tau=TAU) -> list:
    """Returns both directions of one reward; the lists are without the caption and the image."""
    s = np.dot(caption.astype(float), image)
    text = tau * (
        s / tau - np.log(sum(np.exp(np.dot(t.astype(float), image) / tau) for t in texts))
    )
    rows = [np.exp(np.dot(caption.astype(float), i) / tau) for i in images]
    return [text, tau * (s / tau - np.log(sum(rows)))]


@pytest.mark.parametrize("kind, first", [("captions", 0), ("truths", IMAGES)])
def test_the_reward_is_the_papers_sum_of_both_directions(world, kind, first):
    rows = [*world["captions"], *world["truths"], *world["greedy"]]
    seen = [*world["images"], *world["mined"]]
    own = jnp.arange(IMAGES) + first
    given = (world[kind], world["images"])
    both, mean = (
        rewards.bidirectional_reward(
            *given, text_ids=own, temperature=TAU, combine=combine, **pools(world)
        )
        for combine in ("sum", "mean")
    )
    one = rewards.unidirectional_reward(
        *given, texts=pools(world)["texts"], text_ids=own, temperature=TAU
    )
    for number in range(IMAGES):
        # Ground truth and greedy caption of the same image stay among the baselines.
        texts = [row for place, row in enumerate(rows) if place != number + first]
        images = [row for place, row in enumerate(seen) if place != number]
        directions = by_hand(world[kind][number], world["images"][number], texts, images)
        assert both[number] == pytest.approx(sum(directions), abs=2e-6)
        assert mean[number] == pytest.approx(sum(directions) / 2, abs=2e-6)
        assert one[number] == pytest.approx(directions[0], abs=2e-6)


def test_an_element_counts_once_and_padding_never(world):
    """A neighbour of several images is one image, and a mined copy of the own one is no rival."""
    given = {"text_ids": jnp.arange(IMAGES), "temperature": TAU, **pools(world)}
    plain = rewards.bidirectional_reward(world["captions"], world["images"], **given)
    others = given.pop("others")
    again = rewards.pool_of(
        (others.embeddings, others.ids),
        (world["mined"][:3], np.asarray([20, 21, 22])),
        (world["images"], np.arange(IMAGES) + 10),
        (world["images"], np.full(IMAGES, -1)),
    )
    more = rewards.bidirectional_reward(world["captions"], world["images"], others=again, **given)
    np.testing.assert_allclose(more, plain, atol=1e-6)


def test_without_another_element_a_direction_is_zero(world):
    alone = rewards.RewardPool(jnp.asarray(world["captions"][:1]), jnp.zeros(1, jnp.int32))
    reward = rewards.unidirectional_reward(
        world["captions"][:1], world["images"][:1], alone, jnp.zeros(1, jnp.int32)
    )
    assert reward == 0


def test_nothing_cancels_where_the_positive_has_nearly_all_of_the_sum():
    """Subtracting the positive from the full sum fails in single precision; masking it does not."""
    tau, own, others = 0.01, 0.9, np.asarray([0.1, 0.12, 0.05], np.float32)
    # Two-dimensional unit vectors with these cosines to the image.
    scores = np.asarray([own, *others])
    texts = np.stack([scores, np.sqrt(1 - scores**2)], axis=-1).astype(np.float32)
    image = np.asarray([[1.0, 0.0]], np.float32)
    exact = tau * (
        np.float64(texts[0, 0]) / tau - np.log(np.exp(texts[1:, 0].astype(float) / tau).sum())
    )

    logits = jnp.asarray(texts[:, 0]) / tau
    total = jax.nn.logsumexp(logits)
    subtracted = tau * (logits[0] - (total + jnp.log1p(-jnp.exp(logits[0] - total))))
    assert not np.isfinite(subtracted)

    pool = rewards.RewardPool(jnp.asarray(texts), jnp.arange(4))
    found = rewards.unidirectional_reward(texts[:1], image, pool, jnp.asarray([0]))
    assert found[0] == pytest.approx(exact, rel=1e-6)


def test_the_closest_element_is_the_baseline():
    """The reward lies between s - max, and that less tau log of the number of others."""
    scores = jnp.asarray([[0.3, 0.25, -0.4]])
    counted = jnp.asarray([[True, True, True]])
    found = rewards.log_sum_exp_of_others(scores, counted, temperature=0.01)[0]
    assert 0.3 <= found <= 0.3 + 0.01 * np.log(3)
    nothing = rewards.log_sum_exp_of_others(scores, ~counted, temperature=0.01)
    assert nothing[0] == -np.inf


def test_the_total_mixes_both_and_no_gradient_flows(world):
    total = rewards.total_reward(jnp.asarray([0.5]), jnp.asarray([0.2]), alpha=0.94, offset=0.0125)
    assert total[0] == pytest.approx(0.94 * 0.5 + 0.06 * 0.2 + 0.0125)

    def reward(captions):
        given = {"text_ids": jnp.arange(IMAGES), **pools(world)}
        both = rewards.bidirectional_reward(captions, world["images"], **given)
        score = clip_s(captions, world["images"])
        return jnp.sum(rewards.total_reward(both, score))

    assert not np.any(jax.grad(reward)(jnp.asarray(world["captions"])))
