"""CLIP and SigLIP against the transformers library, and how pictures are prepared for them."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from PIL import Image

from coopgen_jax.errors import UserError
from coopgen_jax.models.clip import image_vectors, init_clip, match_logits, text_vectors, unit
from coopgen_jax.models.pixels import PixelConfig, pixels_of
from coopgen_jax.models.pretrained.image_networks import load_clip
from coopgen_jax.models.vision import see
from tests.models.classifier_files import END
from tests.models.clip_files import (
    CASES,
    picture,
    save_clip,
    save_preparation,
    transparent_pictures,
)
from tests.models.model_files import edit

TEXTS = ("A dog", "Two men", "It")
see_jit = jax.jit(see, static_argnums=0)
image_jit = jax.jit(image_vectors, static_argnums=0)
text_jit = jax.jit(text_vectors, static_argnums=0)


def padded(rows, fill=0):
    mask = np.arange(max(map(len, rows)))[None] < np.array([len(row) for row in rows])[:, None]
    tokens = np.full(mask.shape, fill, np.int32)
    tokens[mask] = np.concatenate(rows)
    return jnp.asarray(tokens), jnp.asarray(mask)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    return {case: save_clip(case, folder / case) for case in CASES}


def expected(model, case, tokens, pixels):
    tokens = torch.tensor(np.asarray(tokens)).long()
    if case == "siglip":
        short = model.config.text_config.max_position_embeddings - tokens.shape[1]
        pad = model.config.text_config.pad_token_id
        tokens = torch.nn.functional.pad(tokens, (0, short), value=pad)
    images = torch.tensor(np.asarray(pixels)).permute(0, 3, 1, 2)
    with torch.no_grad():
        return model(input_ids=tokens, pixel_values=images)


@pytest.mark.parametrize("case", CASES)
def test_vectors_and_logits_are_those_of_transformers(case, saved):
    folder, model = saved[case]
    loaded = load_clip(folder)
    rows = loaded.tokenizer.encode_batch(TEXTS, special=True)
    assert {len(row) for row in rows} == {4, 7, 9}
    tokens, mask = padded(rows, loaded.config.text.pad_token)
    pixels = jax.random.normal(jax.random.key(0), (3, 15, 15, 3))
    wanted = expected(model, case, tokens, pixels)
    images = image_jit(loaded.config, loaded.params, pixels)
    texts = text_jit(loaded.config, loaded.params, tokens, mask)
    close = partial(np.testing.assert_allclose, atol=1e-4, rtol=1e-4)
    close(images, wanted.image_embeds)
    close(texts, wanted.text_embeds)
    close(match_logits(loaded.params, images, texts), wanted.logits_per_image)
    assert np.ptp(np.asarray(images), axis=0).max() > 0.1
    # The states of the patches: behind SigLIP's norm; CLIP's own leave that norm out.
    states = see_jit(loaded.config.vision, loaded.params["vision"], pixels)[0]
    hidden = wanted.vision_model_output.last_hidden_state
    if case != "siglip":
        hidden = model.vision_model.post_layernorm(hidden)[:, 1:]
    close(states, hidden.detach())
    # What stands in the padding is not read.
    again = text_jit(loaded.config, loaded.params, jnp.where(mask, tokens, 7), mask)
    np.testing.assert_allclose(again, texts, atol=1e-6)


def test_a_causal_text_is_read_at_its_first_end(saved):
    loaded = load_clip(saved["clip"][0])
    rows = [[258, 65, 66, END], [258, 65, 66, END, 70, END], [258, 65, 66]]
    vectors = text_jit(loaded.config, loaded.params, *padded(rows, 0))
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    assert np.abs(vectors[0] - vectors[2]).max() > 1e-2


def test_random_parameters_are_those_of_a_loaded_network(saved):
    for case in ("clip", "siglip"):
        loaded = load_clip(saved[case][0])
        drawn = jax.eval_shape(partial(init_clip, config=loaded.config), jax.random.key(0))
        shapes = [jax.tree.map(lambda leaf: leaf.shape, tree) for tree in (drawn, loaded.params)]
        assert shapes[0] == shapes[1]


def test_half_precision_is_near_and_keeps_norms_and_scale(saved):
    folder, _ = saved["siglip"]
    full, half = load_clip(folder), load_clip(folder, dtype="bfloat16")
    assert half.params["vision"]["layers"]["up"]["kernel"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(half.params["logit_scale"], full.params["logit_scale"])
    pixels = jax.random.normal(jax.random.key(0), (2, 15, 15, 3))
    rough, exact = (image_jit(one.config, one.params, pixels) for one in (half, full))
    assert rough.dtype == jnp.float32
    assert 0 < np.abs(rough - exact).max() < 0.05


def test_a_long_text_keeps_what_ends_it(saved):
    loaded = load_clip(saved["clip"][0])
    tokens, mask = loaded.tokens(["abcdefghijklmnop", "a"])
    first, *rest, last = np.asarray(tokens[0]).tolist()
    assert len(rest) == 10 and mask[0].all() and mask[1].sum() == 3
    assert rest == loaded.tokenizer.encode("abcdefghij") and (first, last) == (258, END)
    wanted, seen = padded(loaded.tokenizer.encode_batch(["abcdefghij", "a"], special=True))
    np.testing.assert_array_equal(tokens, wanted)
    np.testing.assert_array_equal(mask, seen)


def test_a_vector_of_zeros_has_a_finite_gradient():
    gradient = jax.grad(lambda x: unit(x).sum())(jnp.zeros(3))
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(unit(jnp.array([3.0, 4.0])), [0.6, 0.8], rtol=1e-6)


@pytest.mark.parametrize(("case", "family"), [("clip", "CLIP"), ("siglip", "Siglip")])
def test_pictures_are_prepared_as_by_transformers(case, family, saved):
    folder, _ = saved[case]
    processor = save_preparation(folder, family, 15)
    config = load_clip(folder).pixels
    for image in (picture(0, 40, 23), picture(1, 17, 60).convert("L"), *transparent_pictures()):
        wanted = np.asarray(processor(image, return_tensors="np").pixel_values)[0]
        found = pixels_of(config, image)
        np.testing.assert_allclose(found, wanted.transpose(1, 2, 0), atol=1e-5)


def test_sixteen_bits_are_read_as_their_upper_eight():
    config = PixelConfig(size=8)
    grey = picture(0, 30, 20).convert("L")
    fine = np.asarray(grey).astype(np.uint16) * 256 + 200
    for order in ("<u2", ">u2"):
        image = Image.fromarray(fine.astype(order))
        assert image.mode in ("I;16", "I;16B")
        np.testing.assert_array_equal(pixels_of(config, image), pixels_of(config, grey))
    assert np.ptp(pixels_of(config, grey)) > 0.5
    for mode in ("I", "F"):
        with pytest.raises(UserError, match="32 bits, of which none is known to be white"):
            pixels_of(config, grey.convert(mode))


def test_a_picture_is_turned_upright():
    image = picture(0, 30, 20)
    turned = Image.Exif()
    turned[0x0112] = 6  # The camera lay on its side.
    lying = image.rotate(90, expand=True)
    lying.info["exif"] = turned.tobytes()
    config = PixelConfig(size=8)
    np.testing.assert_array_equal(pixels_of(config, lying), pixels_of(config, image))


def test_texts_and_pictures_of_another_size_are_refused(saved):
    loaded = load_clip(saved["clip"][0])
    with pytest.raises(ValueError, match="13 tokens do not fit a context of 12"):
        text_vectors(loaded.config, loaded.params, *padded([[5] * 13], 0))
    with pytest.raises(ValueError, match=r"\(8, 8, 3\), not \(15, 15, 3\)"):
        image_vectors(loaded.config, loaded.params, jnp.zeros((1, 8, 8, 3)))


def _preparation(folder: Path, **entries):
    save_preparation(folder, "CLIP", 15)
    (folder / "config.json").rename(folder / "kept.json")
    (folder / "preprocessor_config.json").rename(folder / "config.json")
    edit(folder, **entries)
    (folder / "config.json").rename(folder / "preprocessor_config.json")
    (folder / "kept.json").rename(folder / "config.json")


BROKEN = {
    "another family": (lambda f: edit(f, model_type="blip"), "'blip'.*clip, siglip"),
    "no table": (lambda f: edit(f, text_config=[1]), "text_config is no table"),
    "activation": (
        lambda f: edit(f, vision_config={"hidden_act": "swish"}),
        "hidden_act = 'swish'",
    ),
    "heads": (
        lambda f: edit(f, vision_config={"num_attention_heads": 5}),
        "768 is not a multiple of 5 heads",
    ),
    "a size that is none": (
        lambda f: edit(f, vision_config={"image_size": "big"}),
        "damaged or not a model",
    ),
    "patches": (lambda f: edit(f, vision_config={"patch_size": 400}), "400 pixels do not fit"),
    "grey": (lambda f: edit(f, vision_config={"num_channels": 1}), "num_channels = 1"),
    "another width": (lambda f: edit(f, projection_dim=11), r"\[10, 16\].*\[11, 16\]"),
    "another size of pictures": (
        lambda f: _preparation(f, crop_size={"height": 8, "width": 8}),
        "prepared for 8 pixels, not 15",
    ),
    "another filter": (lambda f: _preparation(f, resample=9), "resample = 9.*0, 1, 2, 3, 4, 5"),
    "colours": (lambda f: _preparation(f, image_mean=[0.5]), "damaged or not a model"),
}


@pytest.mark.parametrize("break_it", BROKEN)
def test_a_wrong_folder_is_refused_in_one_sentence(break_it, tmp_path):
    folder, _ = save_clip("clip", tmp_path / "it")
    change, said = BROKEN[break_it]
    change(folder)
    with pytest.raises(UserError, match=said) as refused:
        load_clip(folder)
    assert "\n" not in str(refused.value)
