"""A round of rewarded captioning, on toy images whose captions are bags of words."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import coopgen_jax as cg
from coopgen_jax.data.batches import pad
from coopgen_jax.errors import UserError
from coopgen_jax.models.image_prefix import ImagePrefixConfig, init_image_prefix
from coopgen_jax.parallel.mesh import make_mesh
from coopgen_jax.training.captioning.caption_round import (
    CaptionerState,
    CaptionRound,
    Scorer,
    weigh_captions,
)
from coopgen_jax.training.captioning.captioner_recipe import caption_rows
from coopgen_jax.training.captioning.regularisers import (
    discriminator_shape,
    grammar_shape,
    init_regulariser,
)
from coopgen_jax.training.captioning.reward_config import RewardConfig
from coopgen_jax.training.objectives import all_trainable
from coopgen_jax.training.recipes.scratch import ScratchConfig, fresh_model, train_tokenizer
from coopgen_jax.training.step import begin_on

COLOURS, THINGS = ("red", "blue", "green", "old"), ("dog", "boat", "lamp")
WORDS = [*COLOURS, *THINGS]
SHOWN = [f"{colour} {thing}" for colour in COLOURS for thing in THINGS]
IMAGES = len(SHOWN)
# Half of the references name the thing alone: only a reward prefers the colour.
REFERENCES = [(number, f"A {name}") for number, text in enumerate(SHOWN)
              for name in (text, text.split()[1])]  # fmt: skip
FEATURES = np.asarray([np.eye(7)[n // 3] + np.eye(7)[4 + n % 3] for n in range(IMAGES)], np.float32)
KEY = jax.random.key(0)


def embed(captions) -> np.ndarray:
    """Unit vectors of the toy's words, and of how much else there is."""
    found = np.asarray(
        [
            [*(float(word in text.split()) for word in WORDS), 0.3 + 0.1 * len(text.split())]
            for text in captions
        ],
        np.float32,
    )
    return found / np.linalg.norm(found, axis=-1, keepdims=True)


SCORER = Scorer(embed(SHOWN), np.zeros((IMAGES, 0), int), embed)
SAMPLES = cg.SamplingConfig(new_tokens=6, samples=2)


@pytest.fixture(scope="module")
def world():
    tokenizer = train_tokenizer([f"A {text}" for text in SHOWN], 290)
    model = fresh_model(tokenizer, ScratchConfig(layers=1, width=64, context=24))
    shape = ImagePrefixConfig(inputs=7, tokens=1, width=64, hidden=32)
    rows = caption_rows(tokenizer, REFERENCES, IMAGES)
    batch = pad(rows.ids, rows.labels, np.arange(len(REFERENCES)))
    optimisers = optax.adam(2e-3), optax.adam(1e-3)
    mesh = make_mesh()
    make = partial(
        CaptionRound, model.config, shape, tokenizer,
        optimisers=optimisers, join=all_trainable, mesh=mesh,
    )  # fmt: skip

    def begin():
        captioner = {
            "network": jax.tree.map(jnp.array, model.params),
            "prefix": init_image_prefix(jax.random.key(1), shape),
        }
        judge = init_regulariser(jax.random.key(2), discriminator_shape(len(WORDS) + 1))
        states = [
            begin_on(mesh, trainable, optimiser)
            for trainable, optimiser in zip((captioner, judge), optimisers, strict=True)
        ]
        return CaptionerState(*states, jnp.int32(0))

    return make, begin, batch, {"features": jnp.asarray(FEATURES)}


@pytest.fixture(scope="module")
def forced(world):
    """A captioner that teacher forcing has taught, of which every test takes a copy."""
    make, begin, batch, frozen = world
    forcing = make(RewardConfig("mle", proposal=SAMPLES), SCORER)
    state, losses = begin(), []
    for _ in range(60):
        state, means = forcing(state, frozen, batch, KEY)
        losses.append(float(means["loss"]))
    assert losses[-1] < 0.5 * losses[0] and int(state.step) == 60
    return lambda: jax.tree.map(jnp.copy, state)


def cosine(run, state, batch, frozen) -> np.ndarray:
    """The similarity of some written captions with all images, `[captions, images]`."""
    given = batch["label"], state.captioner.trainable, frozen
    generation = jax.device_get(run.write(KEY, *given))
    return embed(run._texts(generation)) @ SCORER.images.T


@pytest.mark.parametrize(
    "config, rounds",
    [
        (RewardConfig("rl", similarity="clip-s", alpha=1.0, baseline="leave-one-out",
                      proposal=SAMPLES), 14),
        (RewardConfig("wtf-rl", temperature=0.1, alpha=0.9, offset=0.3, proposal=SAMPLES), 30),
    ],
    ids=["rl", "wtf-rl"],
)  # fmt: skip
def test_rewards_teach_what_references_leave_open(world, forced, config, rounds):
    """Half of the references do not name the colour, and the captions come to fit better."""
    make, _, batch, frozen = world
    run, state = make(config, SCORER), forced()
    own = np.repeat(batch["label"], SAMPLES.samples)
    before = cosine(run, state, batch, frozen)
    for _ in range(rounds):
        state, means = run(state, frozen, batch, KEY)
    after = cosine(run, state, batch, frozen)
    fits = [found[np.arange(len(own)), own].mean() for found in (before, after)]
    assert fits[1] > fits[0] + 0.03
    assert 0 <= means["human"] <= 1 and ("discriminator_loss" in means) == (config.alpha < 1)
    if config.objective == "wtf-rl":
        # The references that tell images apart weigh most: their colours are written.
        hits = [(found.argmax(axis=-1) == own).mean() for found in (before, after)]
        assert hits[1] > hits[0] + 0.1


def test_a_round_is_a_function_of_its_state_and_batch(world, forced):
    make, _, batch, frozen = world
    run = make(RewardConfig("wtf", temperature=0.1, proposal=SAMPLES), SCORER)
    ends = [run(forced(), frozen, batch, KEY) for _ in range(2)]
    jax.tree.map(np.testing.assert_array_equal, ends[0], ends[1])
    moved = jax.tree.map(
        lambda x, y: bool((x != y).any()), ends[0][0].trainable, forced().trainable
    )
    assert moved["captioner"]["network"]["embedding"]
    assert moved["discriminator"]["output"]["kernel"]


def test_a_reference_that_was_cut_keeps_its_last_word(world, forced):
    make, _, batch, frozen = world
    heard = []

    def listening(captions):
        heard.extend(captions)
        return embed(captions)

    scorer = Scorer(SCORER.images, SCORER.neighbours, listening)
    # The last token of every row, which ends it, lies behind the cut.
    ends = batch["mask"].sum(axis=-1)
    cut = batch | {"mask": np.arange(batch["mask"].shape[1])[None] < ends[:, None] - 1}
    make(RewardConfig("wtf", temperature=0.1, proposal=SAMPLES), scorer)(forced(), frozen, cut, KEY)
    assert {text for _, text in REFERENCES} <= set(heard)


def unit(seed: int, *shape: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).standard_normal(shape)
    return (drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)).astype(np.float32)


def log_sum(tau, scores) -> float:
    return tau * np.log(np.exp(np.asarray(scores, float) / tau).sum())


@pytest.mark.parametrize("similarity", ["contrastive", "clip-s"])
def test_weights_are_those_of_the_formulas(similarity):
    """Two images; of each two written captions, a reference, a greedy caption, two neighbours."""
    count, samples, tau = 2, 2, 0.2
    texts, images, near = unit(0, 8, 5), unit(1, count, 5), unit(2, count, 2, 5)
    judge = discriminator_shape(5)
    params = init_regulariser(jax.random.key(3), judge)
    lengths = np.asarray([3, 4, 5, 6]), np.asarray([7, 8])
    baseline = "strongest" if similarity == "clip-s" else "greedy"
    config = RewardConfig(
        similarity=similarity, temperature=tau, alpha=0.8, offset=0.1, baseline=baseline,
        proposal=SAMPLES,
    )  # fmt: skip
    weight, seen, means = weigh_captions(
        config, judge, params, texts, jnp.asarray([4, 9]), images,
        jnp.asarray([[9, 6], [7, 6]]), near, tuple(map(jnp.asarray, lengths)),
    )  # fmt: skip

    place = [0, 0, 1, 1, 0, 1, 0, 1]
    human = np.exp(_log_human(params, np.concatenate([images[place], texts], axis=-1)))
    # Image 9 is in the batch, and 6 was mined twice: the first of each counts.
    known = {4: images[0], 9: images[1], 6: near[0, 1], 7: near[1, 0]}
    total = []
    for number, (text, at) in enumerate(zip(texts, place, strict=True)):
        s = float(text @ images[at])
        if similarity == "clip-s":
            found = 2.5 * max(s, 0)
        else:
            rivals = [t @ images[at] for other, t in enumerate(texts) if other != number]
            others = [text @ i for name, i in known.items() if name != (4, 9)[at]]
            found = 2 * s - log_sum(tau, rivals) - log_sum(tau, others)
        total.append(0.8 * found + 0.2 * human[number] + 0.1)
    wanted = []
    for number in range(4):
        at = place[number]
        against = total[6 + at]
        if similarity == "clip-s":
            group = np.mean([2.5 * max(float(texts[number] @ i), 0) for i in near[at]])
            against = max(against, 0.8 * group + 0.2 * human[number] + 0.1)
        wanted.append((total[number] - against) / (count * samples * lengths[0][number]))
    wanted += [total[4 + at] / (count * lengths[1][at]) for at in range(count)]
    np.testing.assert_allclose(weight, 6 * np.asarray(wanted), rtol=2e-4, atol=1e-5)
    assert float(means["reward"]) == pytest.approx(np.mean(total[:4]), rel=1e-4)
    # The discriminator sees a written caption of every image and its reference.
    np.testing.assert_allclose(seen["features"][:, 5:], texts[[0, 2, 4, 5]], atol=1e-6)
    assert seen["label"].tolist() == [0, 0, 1, 1]


def test_a_grammar_head_reads_captions_alone():
    texts, images = unit(0, 6, 5), unit(1, 2, 5)
    judge = grammar_shape(5)
    params = init_regulariser(jax.random.key(3), judge)
    config = RewardConfig("rl", regulariser="grammar", alpha=0.0, proposal=SAMPLES)
    _, seen, means = weigh_captions(
        config, judge, params, texts, jnp.arange(2), images, jnp.zeros((2, 0), jnp.int32),
        jnp.zeros((2, 0, 5)), (jnp.ones(2, jnp.int32), jnp.ones(2, jnp.int32)),
    )  # fmt: skip
    wanted = np.exp(_log_human(params, texts[:2])).mean()
    assert float(means["reward"]) == pytest.approx(wanted, rel=1e-5)
    np.testing.assert_array_equal(seen["features"], texts[:4])


def _log_human(params, features) -> np.ndarray:
    x = np.asarray(features, float)
    layers = jax.tree.map(lambda leaf: np.asarray(leaf, float), params)
    for name in sorted(name for name in layers if name.startswith("hidden")):
        x = np.maximum(x @ layers[name]["kernel"] + layers[name]["bias"], 0)
    x = x @ layers["output"]["kernel"] + layers["output"]["bias"]
    return x[:, 1] - np.log(np.exp(x).sum(axis=-1))


@pytest.mark.parametrize(
    "more, message",
    [
        ({"objective": "scst"}, "there is no objective 'scst': choose one of mle, rl"),
        ({"alpha": 1.5}, "alpha is 1.5: give a share"),
        ({"temperature": 0.0}, "it must be above 0"),
        ({"baseline": "group"}, "give similarity clip-s with it"),
        ({"proposal": cg.FudgeConfig()}, "written without a guide"),
    ],
)
def test_settings_that_mean_nothing_are_refused(more, message):
    with pytest.raises(UserError, match=message):
        RewardConfig(**more)


def test_a_group_needs_similar_images(world):
    config = RewardConfig(similarity="clip-s", baseline="strongest", proposal=SAMPLES)
    with pytest.raises(UserError, match="needs similar images"):
        world[0](config, SCORER)
