"""Objectives of a captioner, against the exact gradient on a language that can be enumerated."""

import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coopgen_jax.models.language_model import Prompt
from coopgen_jax.testing import ToyLanguage, toy_language_model
from coopgen_jax.training.captioning import rewards
from coopgen_jax.training.captioning.baselines import caption_advantage, group_baseline
from coopgen_jax.training.captioning.caption_objectives import (
    Captions,
    objective_weights,
    weighted_captions_loss,
    weights_of,
)

TOY, LONGEST, IMAGES, WIDTH = ToyLanguage(vocab_size=3, states=7), 3, 2, 4
END = TOY.vocab_size - 1
KEY = jax.random.key(0)
# A reference of every image, as its place among all captions.
REFERENCES = np.asarray([3, 8])


def all_captions() -> tuple[np.ndarray, np.ndarray]:
    """Returns tokens `[S, T]` and mask of every caption that ends, or is cut at the longest."""
    rows = []
    for length in range(1, LONGEST + 1):
        for words in itertools.product(range(END), repeat=length - 1):
            ends = range(END + 1) if length == LONGEST else (END,)
            rows += [(*words, last) for last in ends]
    mask = [[place < len(row) for place in range(LONGEST)] for row in rows]
    return np.asarray([[*row, *[0] * (LONGEST - len(row))] for row in rows]), np.asarray(mask)


TOKENS, MASK = all_captions()
COUNT, LENGTH = len(TOKENS), MASK.sum(axis=-1)
SCORE = toy_language_model(TOY).score


def likelihoods(params, batch):
    """Log p of every token `[B, S]` of captions, behind a prompt that is their image's number."""
    image = batch["image"][:, None]
    prompt = Prompt(image, jnp.ones_like(image, bool), jnp.arange(len(image)))
    return SCORE(params, prompt, batch["tokens"][:, None], batch["mask"][:, None])[:, 0]


# One row for every caption of every image.
BATCH = {
    "image": jnp.repeat(jnp.arange(IMAGES), COUNT),
    "tokens": jnp.tile(jnp.asarray(TOKENS), (IMAGES, 1)),
    "mask": jnp.tile(jnp.asarray(MASK), (IMAGES, 1)),
}
LOSS = weighted_captions_loss(likelihoods)


@jax.jit
def log_probs(params) -> jax.Array:
    return likelihoods(params, BATCH).sum(axis=-1).reshape(IMAGES, COUNT)


@jax.jit
def mean_loss(params, weight):
    total, rows = LOSS(params, None, {**BATCH, "weight": weight}, KEY)["loss"]
    return total / rows


@pytest.fixture(scope="module")
def world() -> SimpleNamespace:
    """Toy embeddings, and the reward of every caption for every image, `[images, captions]`."""
    rng = np.random.default_rng(0)

    def unit(rows: int) -> jax.Array:
        drawn = rng.standard_normal((rows, WIDTH)).astype(np.float32)
        return jnp.asarray(drawn / np.linalg.norm(drawn, axis=-1, keepdims=True))

    images, texts = unit(IMAGES), unit(COUNT)
    params = {"logits": jnp.asarray(TOY.tables(3)["logits"]) / 2}
    number = jnp.arange(IMAGES)
    pool = rewards.pool_of((texts[REFERENCES], REFERENCES))
    reward = jnp.stack(
        [
            rewards.bidirectional_reward(
                texts,
                jnp.tile(image, (COUNT, 1)),
                pool,
                jnp.arange(COUNT),
                rewards.RewardPool(images, number),
                jnp.full(COUNT, place),
                temperature=0.1,
            )
            for place, image in enumerate(images)
        ]
    )
    log_p = log_probs(params)
    greedy = jnp.take_along_axis(reward, jnp.argmax(log_p, axis=-1)[:, None], axis=-1)
    group = group_baseline(
        (texts @ images[::-1].T).T[..., None], jnp.ones((*reward.shape, 1), bool)
    )
    return SimpleNamespace(
        params=params, reward=reward, p=jnp.exp(log_p), group=group,
        greedy=jnp.broadcast_to(greedy, reward.shape),
    )  # fmt: skip


def gradient_of(weight, params) -> np.ndarray:
    return np.asarray(jax.grad(mean_loss)(params, weight)["logits"])


def exact(world, worth: np.ndarray) -> np.ndarray:
    """The gradient of minus the expected worth `[images, captions]` of a caption, enumerated."""

    def expected(params):
        return -jnp.mean(jnp.sum(jnp.exp(log_probs(params)) * worth, axis=-1))

    return np.asarray(jax.grad(expected)(world.params)["logits"])


def drawn_in_pairs(world, baseline: str, *, per_token: bool) -> jax.Array:
    """The expected weight of every row where two captions of every image are drawn.

    All pairs of captions are weighed, by the probability with which they are drawn.
    """
    first, second = (np.ravel(x) for x in np.meshgrid(np.arange(COUNT), np.arange(COUNT)))
    pairs = jnp.asarray(np.stack([first, second], axis=-1))

    @jax.jit
    def of_image(image):
        def weigh(pair):
            condition = jnp.zeros(2, jnp.int32)
            a = caption_advantage(
                world.reward[image][pair], condition, baseline=baseline,
                greedy=world.greedy[image][pair], group=world.group[image][pair],
            )  # fmt: skip
            captions = Captions(a, condition, jnp.asarray(LENGTH)[pair])
            return weights_of(captions, per_token=per_token)

        found = jax.vmap(weigh)(pairs) * world.p[image][pairs].prod(axis=-1)[:, None]
        return jnp.zeros(COUNT).at[pairs].add(found)

    weight = jnp.concatenate([of_image(image) for image in range(IMAGES)]) / IMAGES
    return weight * IMAGES * COUNT


def test_the_captions_are_the_whole_language(world):
    np.testing.assert_allclose(world.p.sum(axis=-1), 1, rtol=1e-5)


@pytest.mark.parametrize("baseline", ["none", "leave-one-out", "greedy"])
def test_without_token_means_samples_climb_the_expected_reward(world, baseline):
    """A baseline that does not depend on the caption does not change where the gradient leads."""
    weight = drawn_in_pairs(world, baseline, per_token=False)
    found, wanted = gradient_of(weight, world.params), exact(world, world.reward)
    np.testing.assert_allclose(found, wanted, atol=2e-6)
    assert np.abs(wanted).max() > 1e-2


def test_the_models_own_mean_shrinks_the_gradient(world):
    found = gradient_of(drawn_in_pairs(world, "mean", per_token=False), world.params)
    np.testing.assert_allclose(found, exact(world, world.reward) / 2, atol=2e-6)


@pytest.mark.parametrize("baseline", ["none", "leave-one-out", "greedy", "group", "strongest"])
def test_token_means_climb_the_expected_advantage_of_a_token(world, baseline):
    mean = jnp.sum(world.p * world.reward, axis=-1, keepdims=True)
    against = {
        "none": 0.0,
        "leave-one-out": mean,
        "greedy": world.greedy,
        "group": world.group,
        "strongest": jnp.maximum(world.greedy, world.group),
    }[baseline]
    worth = np.asarray(world.reward - against) / LENGTH
    found = gradient_of(drawn_in_pairs(world, baseline, per_token=True), world.params)
    np.testing.assert_allclose(found, exact(world, worth), atol=2e-6)


def test_the_strongest_baseline_is_each_of_the_two_somewhere(world):
    assert (world.greedy > world.group).any() and (world.greedy < world.group).any()


def captions(world, places: np.ndarray) -> Captions:
    """Some captions of the images, one row after another, and a row of padding."""
    image = np.repeat(np.arange(IMAGES), len(places[0]))
    chosen = world.reward[image, places.ravel()]
    return Captions(
        jnp.append(chosen, jnp.nan),
        jnp.append(jnp.asarray(image), -1),
        jnp.append(jnp.asarray(LENGTH)[places.ravel()], 0),
    )


def rows(places: np.ndarray) -> dict:
    """The same captions as a batch."""
    image = np.append(np.repeat(np.arange(IMAGES), len(places[0])), 0)
    tokens = np.concatenate([TOKENS[places.ravel()], np.zeros((1, LONGEST), int)])
    mask = np.concatenate([MASK[places.ravel()], np.zeros((1, LONGEST), bool)])
    return {name: jnp.asarray(x) for name, x in
            {"image": image, "tokens": tokens, "mask": mask}.items()}  # fmt: skip


WRITTEN = np.asarray([[0, 5, 5], [9, 2, 10]])
OBJECTIVES = ("mle", "rl", "wtf", "wtf-rl")


def loss_of(world, objective: str):
    written, references = captions(world, WRITTEN), captions(world, REFERENCES[:, None])
    weight = objective_weights(objective, written=written, references=references)
    parts = [rows(WRITTEN)] if objective in ("rl", "wtf-rl") else []
    parts += [rows(REFERENCES[:, None])] if objective != "rl" else []
    batch = jax.tree.map(lambda *x: jnp.concatenate(x), *parts) | {"weight": weight}

    def loss(params):
        total, count = LOSS(params, None, batch, KEY)["loss"]
        return total / count

    return loss


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_loss_is_the_formula_over_real_tokens(world, objective):
    log_p = np.asarray(log_probs(world.params), np.float64)

    def term(places, worth) -> float:
        return -np.mean(
            [
                np.mean([worth[b, x] * log_p[b, x] / LENGTH[x] for x in places[b]])
                for b in range(IMAGES)
            ]
        )

    reward, ones = np.asarray(world.reward, np.float64), np.ones((IMAGES, COUNT))
    forced = REFERENCES[:, None]
    rl, wtf = term(WRITTEN, reward), term(forced, reward)
    wanted = {"mle": term(forced, ones), "rl": rl, "wtf": wtf, "wtf-rl": rl + wtf}[objective]
    assert float(jax.jit(loss_of(world, objective))(world.params)) == pytest.approx(
        wanted, rel=1e-5
    )


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_gradient_is_that_of_finite_differences(world, objective):
    loss, step = jax.jit(loss_of(world, objective)), 2e-2
    gradient = jax.grad(loss)(world.params)["logits"]
    for seed in range(3):
        way = jax.random.normal(jax.random.key(seed), gradient.shape)
        ahead, behind = (
            float(loss({"logits": world.params["logits"] + side * step * way})) for side in (1, -1)
        )
        assert float(jnp.vdot(gradient, way)) == pytest.approx(
            (ahead - behind) / (2 * step), rel=2e-3, abs=2e-4
        )


def test_what_an_objective_needs_is_asked_for(world):
    with pytest.raises(ValueError, match="wtf-rl needs captions that are missing"):
        objective_weights("wtf-rl", written=captions(world, WRITTEN))
    with pytest.raises(ValueError, match="no objective 'scst'"):
        objective_weights("scst")
    with pytest.raises(ValueError, match="group baseline needs"):
        caption_advantage(jnp.ones(2), jnp.zeros(2, jnp.int32), baseline="group")
    with pytest.raises(ValueError, match="strongest baseline needs"):
        ones = jnp.ones(2)
        caption_advantage(ones, jnp.zeros(2, jnp.int32), baseline="strongest", group=ones)


def test_a_caption_without_similar_images_has_no_group():
    scores = jnp.asarray([[0.5, 0.1], [0.4, 0.2]])
    found = group_baseline(scores, jnp.asarray([[True, True], [False, False]]))
    np.testing.assert_allclose(found, [0.3, 0.0], rtol=1e-6)
