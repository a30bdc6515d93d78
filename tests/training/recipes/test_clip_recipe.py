"""Two heads that bring images and captions together: trained, kept, loaded, and as a guide."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import coopgen_jax as cg
from coopgen_jax.data.batches import BatchConfig
from coopgen_jax.data.image_states import Captioned
from coopgen_jax.discriminators.clip_heads import head_vectors, image_head_vectors
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.sentence_features import sentence_features
from coopgen_jax.models.encoder import EncoderConfig, init_encoder
from coopgen_jax.models.pretrained.image_networks import LoadedBackbone
from coopgen_jax.models.pretrained.loaded_model import load_encoder
from coopgen_jax.models.pretrained.saving import save_encoder
from coopgen_jax.models.prompt import with_context
from coopgen_jax.parallel.mesh import make_mesh
from coopgen_jax.training.loop import LoopConfig
from coopgen_jax.training.recipes import clip_recipe, train_clip
from coopgen_jax.training.run import RecipeConfig
from tests.parallel.parallel_models import model

CONFIG = RecipeConfig(
    loop=LoopConfig(steps=60, validate_every=20, save_every=20),
    batch=BatchConfig(rows=16, longest=12),
    learning_rate=2e-2,
    dropout=0.1,
    lora=None,
)


@pytest.fixture(scope="module")
def encoder(tiny_encoder, tmp_path_factory):
    config = EncoderConfig(vocab_size=6, layers=1, width=16, heads=2, ffn_width=8, context=32)
    params = init_encoder(jax.random.key(0), config)
    params["embedding"]["word"] *= 50
    folder = tmp_path_factory.mktemp("encoder") / "it"
    save_encoder(folder, config, params, tiny_encoder.tokenizer, dtype="float32")
    return load_encoder(folder)


def captioned(count, seed):
    """Images that are the shares of three words, and two captions of those words each."""
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.ones(3), count)
    captions = [" ".join(rng.choice(["a", "b", "c"], 8, p=own)) for own in shares for _ in range(2)]
    mixed = np.random.default_rng(0).normal(size=(3, 5))
    states = (shares @ mixed).astype(np.float32)
    return Captioned(states, tuple(captions), np.repeat(np.arange(count), 2))


TRAINING, VALIDATION = captioned(60, 1), captioned(20, 2)


@pytest.fixture(scope="module")
def train(encoder):
    backbone = LoadedBackbone(None, None, None, "seen", "b" * 64, None)

    class Seen(LoadedBackbone):
        width = 5

    backbone = Seen(**vars(backbone))

    def run(folder, training=TRAINING, config=CONFIG):
        return train_clip(
            backbone, encoder, training, VALIDATION, config, width=6, folder=folder,
            mesh=make_mesh(1),
        )  # fmt: skip

    return run


@pytest.fixture(scope="module")
def trained(train, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip") / "heads"
    return folder, train(folder)


def test_images_and_captions_find_one_another(trained):
    folder, card = trained
    assert json.loads((folder / "card.json").read_text()) == card
    found = card["retrieval"]
    assert found["images"] == 20 and card["images"] == 60
    # By chance an image is the first of 20 in one of 20 cases.
    for way in ("image_to_text", "text_to_image"):
        assert found[way]["recall_5"]["value"] > 0.45, (way, found[way])
        assert found[way]["recall_1"]["value"] > 0.1
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["split"] == "validation"]
    assert losses[-1] < 0.9 * np.log(16) and card["best"]["loss"] <= min(losses) + 1e-6


def test_a_loaded_guide_says_what_its_heads_say(trained, encoder):
    folder, _ = trained
    language = model()
    guide = cg.load_discriminator(folder, language_model=language)
    images = image_head_vectors(guide, VALIDATION.states[:3])
    texts = ("a a b", "c", "b b b c")
    states = jnp.asarray(sentence_features(encoder, texts, longest=12))
    vectors = np.asarray(head_vectors(guide.params["text"]["head"], states))
    context = cg.image_context(images)
    tokens = [language.tokenizer.encode(f" {text}") for text in texts]
    scale = float(jnp.exp(guide.params["log_scale"]))
    ask = guide.discriminator.evaluate_prefixes
    for row, ids in enumerate(tokens):
        prompt = with_context(cg.make_prompt(language.tokenizer, ["x"]), context, [row])
        said = ask(guide.params, prompt, jnp.asarray([ids]), jnp.asarray([[len(ids)]]), None)
        cosines = np.roll(np.asarray(images), -row, axis=0) @ vectors[row]
        weights = np.exp(scale * cosines)
        np.testing.assert_allclose(np.exp(said)[0, 0, 1], weights[0] / weights.sum(), rtol=2e-3)


def test_a_run_that_was_stopped_goes_on_to_the_same_heads(train, trained, tmp_path):
    half = replace(CONFIG, loop=replace(CONFIG.loop, budget_minutes=1e-9))
    assert train(tmp_path / "it", config=half)["stopped"] == "budget"
    card = train(tmp_path / "it")
    assert card["steps"] == 60 and card["best"] == trained[1]["best"]
    whole, again = ((folder / "head.safetensors").read_bytes()
                    for folder in (trained[0], tmp_path / "it"))  # fmt: skip
    assert whole == again


def test_features_that_are_known_are_not_computed_again(
    train, trained, encoder, tmp_path, monkeypatch
):
    known = sentence_features(encoder, TRAINING.captions, longest=12)
    read = []

    def features(encoder, captions, *, longest):
        read.append(captions)
        return sentence_features(encoder, captions, longest=longest)

    monkeypatch.setattr(clip_recipe, "sentence_features", features)
    train(tmp_path / "it", training=replace(TRAINING, features=known))
    # Those of the validation captions alone were missing.
    assert read == [VALIDATION.captions]
    one, other = ((folder / "head.safetensors").read_bytes()
                  for folder in (trained[0], tmp_path / "it"))  # fmt: skip
    assert one == other
    with pytest.raises(UserError, match=r"have the shape \(120, 5\): give 120 rows of 16"):
        train(tmp_path / "other", training=replace(TRAINING, features=known[:, :5]))


def test_a_folder_is_for_one_training(train, trained):
    with pytest.raises(UserError, match="another set of images and captions"):
        train(trained[0], training=captioned(60, 3))


def test_a_damaged_folder_is_refused(trained, tmp_path):
    folder, card = trained
    for name, change, said in (
        ("width", {"width": 7}, "has the shape"),
        ("encoder", {"encoder": 3}, "card is damaged"),
    ):
        broken = tmp_path / name
        broken.mkdir()
        (broken / "head.safetensors").write_bytes((folder / "head.safetensors").read_bytes())
        (broken / "card.json").write_text(json.dumps(card | change))
        with pytest.raises(UserError, match=said):
            cg.load_discriminator(broken, language_model=model())
