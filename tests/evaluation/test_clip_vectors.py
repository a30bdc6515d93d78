"""Vectors of images and texts: those of the networks, whichever kind of scorer makes them."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from coopgen_jax.data.image_states import read_image_states
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation import clip_vectors as module
from coopgen_jax.evaluation.clip_scores import CLIP_S_PREFIX
from coopgen_jax.evaluation.clip_vectors import all_similarities, load_clip_vectors
from coopgen_jax.evaluation.sentence_features import sentence_features
from coopgen_jax.models.clip import image_vectors, text_vectors
from coopgen_jax.models.pixels import pixels_of
from coopgen_jax.models.pretrained.image_networks import load_clip
from coopgen_jax.models.pretrained.loaded_model import load_encoder
from coopgen_jax.models.pretrained.saving import save_encoder
from tests.clip_heads_folder import write_clip_heads
from tests.models.clip_files import picture, save_clip

TEXTS = ("A dog", "Two men by a boat", "It", "A dog", "Two men", "boat")


@pytest.fixture(scope="module")
def world(tiny_encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    for case in ("clip", "siglip"):
        save_clip(case, folder / case)
    for number in range(3):
        picture(number, 20, 16 + number).save(folder / f"{number}.png")
    encoder = tiny_encoder
    save_encoder(
        folder / "encoder", encoder.config, encoder.params, encoder.tokenizer, dtype="float32"
    )
    write_clip_heads(
        folder / "heads",
        backbone=str(folder / "clip"),
        encoder=str(folder / "encoder"),
        captions=("a b",),
    )
    return folder


@pytest.mark.parametrize("case", ["clip", "siglip"])
def test_a_clip_says_what_its_towers_say(case, world, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 2)
    monkeypatch.setattr(module, "STEP", 4)
    found, clip = load_clip_vectors(world / case), load_clip(world / case)
    assert (found.sha256, found.prefix, found.rows) == (clip.sha256, CLIP_S_PREFIX, None)
    seen = read_image_states(found.backbone(), [world / f"{number}.png" for number in range(3)])
    pixels = [pixels_of(clip.pixels, picture(number, 20, 16 + number)) for number in range(3)]
    wanted = jax.jit(image_vectors, static_argnums=0)(clip.config, clip.params, np.stack(pixels))
    np.testing.assert_allclose(found.images(seen.states), wanted, atol=1e-5)
    wanted = jax.jit(text_vectors, static_argnums=0)(clip.config, clip.params, *clip.tokens(TEXTS))
    vectors = found.texts(TEXTS)
    np.testing.assert_allclose(vectors, wanted, atol=1e-5)
    np.testing.assert_array_equal(vectors[0], vectors[3])


def test_heads_say_what_their_formula_says(world):
    found = load_clip_vectors(world / "heads")
    weights = load_file(world / "heads" / "head.safetensors")
    texts = ("a b", "c", "b b b c", "a b")
    encoder = load_encoder(world / "encoder")
    states = {
        "image": np.random.default_rng(0).normal(size=(4, 16)).astype(np.float32),
        "text": sentence_features(encoder, texts, longest=12),
    }
    given = {"image": found.images(states["image"]), "text": found.texts(texts)}
    for side, own in states.items():
        part = {
            name.removeprefix(f"{side}."): values.astype(np.float64)
            for name, values in weights.items()
            if name.startswith(f"{side}.")
        }
        x = (own - part["centre"]) * part["scale"]
        wanted = x @ part["output.kernel"] + part["output.bias"]
        wanted /= np.linalg.norm(wanted, axis=-1, keepdims=True)
        np.testing.assert_allclose(given[side], wanted, atol=2e-5)
    np.testing.assert_array_equal(given["text"][0], given["text"][3])
    assert found.prefix == "" and len(found.rows) == 1
    assert found.backbone().width == 16


def test_equal_rows_have_equal_cosines():
    """Rounding of a product depends on a row's place, and a tie must not."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(37, 33)).astype(np.float32)
    texts = rng.normal(size=(53, 33)).astype(np.float32)
    texts[41], texts[52], images[36] = texts[0], texts[0], images[1]
    found = all_similarities(texts, images)
    np.testing.assert_allclose(found, texts.astype(float) @ images.T, atol=1e-4)
    np.testing.assert_array_equal(found[[41, 52]], found[[0, 0]])
    np.testing.assert_array_equal(found[:, 36], found[:, 1])


def test_what_is_no_scorer_is_refused(world, tmp_path):
    card = json.loads((world / "heads" / "card.json").read_text())
    weights = (world / "heads" / "head.safetensors").read_bytes()

    def changed(**entries):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        (folder / "head.safetensors").write_bytes(weights)
        (folder / "card.json").write_text(json.dumps(card | entries))
        return folder

    with pytest.raises(UserError, match="of kind 'causal', which sees no images"):
        load_clip_vectors(changed(kind="causal"))
    with pytest.raises(UserError, match="has the shape"):
        load_clip_vectors(changed(width=5))
    with pytest.raises(UserError, match="card is damaged"):
        load_clip_vectors(changed(backbone=7))
    with pytest.raises(UserError, match="nowhere"):
        load_clip_vectors(tmp_path / "nowhere")
    with pytest.warns(UserWarning, match="another copy of the backbone"):
        load_clip_vectors(changed(backbone_sha256="0")).backbone()
