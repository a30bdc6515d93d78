"""A captioner of twenty toy images: trained until it knows them, loaded, and decoded."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import coopgen_jax as cg
from coopgen_jax.data.batches import BatchConfig, pad
from coopgen_jax.errors import UserError
from coopgen_jax.models.decoder import language_model
from coopgen_jax.models.efficientnet import LITE0
from coopgen_jax.models.image_prefix import ImagePrefixConfig, image_prefix, init_image_prefix
from coopgen_jax.models.language_model import Prompt
from coopgen_jax.models.pretrained.captioner import load_captioner
from coopgen_jax.models.pretrained.image_networks import LITE0_PIXELS, LoadedBackbone
from coopgen_jax.models.prompt import behind_vectors
from coopgen_jax.models.transformer import init_decoder
from coopgen_jax.parallel.mesh import make_mesh
from coopgen_jax.testing import TINY_LLAMA
from coopgen_jax.training.captioning.caption_objectives import (
    Captions,
    objective_weights,
    weighted_captions_loss,
)
from coopgen_jax.training.captioning.captioner_recipe import (
    caption_log_likelihoods,
    captioner_loss,
    train_captioner,
)
from coopgen_jax.training.loop import LoopConfig
from coopgen_jax.training.recipes.scratch import ScratchConfig, fresh_model, train_tokenizer
from coopgen_jax.training.run import RecipeConfig
from tests.compiled import compiled

COLOURS, THINGS = ("red", "blue", "green", "old"), ("dog", "boat", "lamp", "kite", "train")
CAPTIONS = [f"A {colour} {thing}" for colour in COLOURS for thing in THINGS]
IMAGES = len(CAPTIONS)
# Four numbers for the colour, five for the thing.
FEATURES = np.asarray(
    [np.eye(9)[number // 5] + np.eye(9)[4 + number % 5] for number in range(IMAGES)], np.float32
)
CONFIG = RecipeConfig(
    LoopConfig(steps=120, validate_every=120, save_every=120, log_every=60),
    BatchConfig(rows=IMAGES, longest=16),
    lora=None,
    learning_rate=3e-3,
    saved_dtype="float32",
)
BACKBONE = LoadedBackbone(
    dataclasses.replace(LITE0, width=9), {}, LITE0_PIXELS, "colours-and-things", "f00d", None
)
TINY = dataclasses.replace(TINY_LLAMA, layers=1)
SHAPE = ImagePrefixConfig(inputs=9, tokens=2, width=TINY.width, hidden=6)
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def model():
    tokenizer = train_tokenizer(CAPTIONS, 290)
    return fresh_model(tokenizer, ScratchConfig(layers=1, width=64, context=32))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("captioner") / "captioner"


@pytest.fixture(scope="module")
def captioner(model, folder):
    captions = list(enumerate(CAPTIONS))
    job = (model, FEATURES, captions, captions[::3], CONFIG)
    card = train_captioner(*job, backbone=BACKBONE, tokens=2, folder=folder, mesh=make_mesh())
    loaded = load_captioner(folder)
    assert loaded.card == card and card["kind"] == "captioner" and card["perplexity"] < 1.1
    return loaded


@pytest.mark.parametrize(
    "config",
    [
        cg.SamplingConfig(new_tokens=10, rules=cg.Rules(temperature=0.1)),
        cg.BeamConfig(new_tokens=10, beams=2),
    ],
    ids=["sample", "beam"],
)
def test_a_captioner_that_knows_its_images_writes_their_captions(captioner, config):
    # The images in another order, in batches of several lengths of prompt.
    order = np.random.default_rng(0).permutation(IMAGES)
    texts = cg.generate(
        captioner.model,
        captioner.fronts(IMAGES),
        vectors=captioner.vectors(FEATURES[order]),
        config=config,
        batch_size=8,
    )
    assert [text.text for text in texts] == [CAPTIONS[number] for number in order]
    assert all(text.finished for text in texts)


def test_what_does_not_fit_is_refused(captioner):
    config = cg.SamplingConfig(new_tokens=4)
    with pytest.raises(UserError, match="rows of 9"):
        captioner.vectors(FEATURES[:, :5])
    vectors = captioner.vectors(FEATURES)
    for wrong in (vectors[:3], vectors[..., :8], vectors[:, :0], vectors[0].tolist()):
        with pytest.raises(UserError, match="vectors have the shape"):
            cg.generate(captioner.model, captioner.fronts(IMAGES), vectors=wrong, config=config)
    with pytest.raises(UserError, match="prompt 1 has 1 tokens"):
        long = cg.SamplingConfig(new_tokens=30)
        cg.generate(captioner.model, captioner.fronts(IMAGES), vectors=vectors, config=long)


@pytest.mark.parametrize(
    "captions, features, more, message",
    [
        ([(0, "A dog"), (1, " ")], FEATURES, {}, "a caption of image 1 is empty"),
        ([(20, "A dog")], FEATURES, {}, "is of image 20, and there are 20"),
        ([(0, "A dog")], FEATURES[0], {}, "a row of finite numbers for every image"),
        ([(0, "A dog")], FEATURES, {"tokens": 0}, "a prefix of 0 vectors says nothing"),
        ([(0, "A dog")], FEATURES, {"tokens": 16}, "exceed the network's context of 32"),
    ],
)
def test_data_of_no_use_are_refused(model, tmp_path, captions, features, more, message):
    job = (model, features, captions, captions, CONFIG)
    with pytest.raises(UserError, match=message):
        train_captioner(*job, **more, folder=tmp_path / "x", mesh=make_mesh())
    assert not (tmp_path / "x").exists()


def test_the_card_names_the_backbone_and_no_other_is_taken(captioner, model, tmp_path):
    assert captioner.vision == {"backbone": "colours-and-things", "backbone_sha256": "f00d"}
    captioner.check_backbone(BACKBONE)
    other = dataclasses.replace(BACKBONE, sha256="beef")
    with pytest.raises(UserError, match="trained with colours-and-things, and colours-and-things"):
        captioner.check_backbone(other)
    elsewhere = dataclasses.replace(captioner, card={"kind": "captioner"})
    with pytest.raises(UserError, match="trained with features that no backbone of ours made"):
        elsewhere.check_backbone(BACKBONE)
    job = (model, FEATURES[:, :5], [(0, "A dog")], [(1, "A boat")], CONFIG)
    with pytest.raises(UserError, match="rows of 5, and colours-and-things makes rows of 9"):
        train_captioner(*job, backbone=BACKBONE, folder=tmp_path / "x", mesh=make_mesh())


def test_folders_of_other_things_are_refused(tmp_path):
    with pytest.raises(UserError, match="it has no card"):
        load_captioner(tmp_path)
    (tmp_path / "card.json").write_text('{"kind": "causal"}')
    with pytest.raises(UserError, match="holds a causal, no captioner"):
        load_captioner(tmp_path)
    (tmp_path / "card.json").write_text('{"kind": "captioner"}')
    with pytest.raises(UserError, match="is damaged"):
        load_captioner(tmp_path)


@pytest.fixture(scope="module")
def tiny():
    """A random captioner, and a batch of captions with a row of padding."""
    params = {
        "network": init_decoder(jax.random.key(1), TINY),
        "prefix": init_image_prefix(jax.random.key(2), SHAPE),
    }
    rows = [[1, 5, 9, 2], [1, 7, 2], [1, 8, 3, 4, 2], []]
    batch = jax.tree.map(jnp.asarray, pad(rows, [4, 0, 7, 0], np.arange(4)))
    return params, batch, rows


def likelihoods(params, batch):
    features = jnp.asarray(FEATURES)[batch["label"]]
    given = batch["tokens"], batch["mask"]
    return caption_log_likelihoods(TINY, SHAPE, params, features, *given)


def test_likelihoods_are_the_scores_behind_the_prefix(tiny):
    params, batch, rows = tiny
    found = jax.jit(likelihoods)(params, batch)
    vectors = image_prefix(SHAPE, params["prefix"], jnp.asarray(FEATURES)[batch["label"]])
    front = Prompt(jnp.ones((4, 1), jnp.int32), jnp.ones((4, 1), bool), jnp.arange(4))
    texts, there = batch["tokens"][:, None, 1:], batch["mask"][:, None, 1:]
    score = compiled(language_model(TINY)).score
    wanted = score(params["network"], behind_vectors(front, vectors), texts, there)[:, 0]
    np.testing.assert_allclose(found[:, 1:], wanted, atol=1e-4)
    assert not found[:, 0].any() and not found[3].any()
    frozen = {"features": jnp.asarray(FEATURES)}
    total, tokens = captioner_loss(TINY, SHAPE)(params, frozen, batch, KEY)["loss"]
    assert float(total) == pytest.approx(-float(wanted.sum()), rel=1e-4)
    assert tokens == sum(map(len, rows)) - 3


@pytest.mark.parametrize("objective", ["mle", "rl"])
def test_the_weighted_gradient_of_a_real_network_is_that_of_finite_differences(tiny, objective):
    params, batch, _ = tiny
    captions = Captions(
        jnp.asarray([0.7, -0.2, 0.4, 0.0]), jnp.asarray([0, 1, 2, -1]), jnp.asarray([3, 2, 4, 0])
    )
    weight = objective_weights(objective, written=captions, references=captions)
    given = {**batch, "weight": weight}

    def mean_loss(params):
        total, rows = weighted_captions_loss(likelihoods)(params, None, given, KEY)["loss"]
        return total / rows

    loss, gradient = jax.jit(mean_loss), jax.jit(jax.grad(mean_loss))(params)
    leaves, shape = jax.tree.flatten(params)
    keys = jax.random.split(KEY, len(leaves))
    way = [jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    # Along the gradient, so that the slope is not lost in rounding.
    steep = jax.tree.leaves(gradient)
    way = [w / 50 + g / jnp.linalg.norm(g.ravel()) for w, g in zip(way, steep, strict=True)]
    step = 2e-3
    ahead, behind = (
        float(loss(jax.tree.unflatten(shape, [x + side * step * w for x, w in
                                              zip(leaves, way, strict=True)])))
        for side in (1, -1)
    )  # fmt: skip
    slope = sum(float(jnp.vdot(g, w)) for g, w in zip(steep, way, strict=True))
    assert slope == pytest.approx((ahead - behind) / (2 * step), rel=2e-2)


def test_other_features_are_another_training(model, folder, captioner):
    captions = list(enumerate(CAPTIONS))
    job = (model, FEATURES + 1, captions, captions[::3], CONFIG)
    with pytest.raises(UserError, match="holds a training with another set of features"):
        train_captioner(*job, tokens=2, folder=folder, mesh=make_mesh())
