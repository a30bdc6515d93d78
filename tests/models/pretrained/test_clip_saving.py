"""A saved CLIP is read again as it was, here and by the transformers library."""

from dataclasses import replace

import jax
import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers

from coopgen_jax.models.pixels import PixelConfig, pixels_of
from coopgen_jax.models.pretrained.clip_saving import save_clip
from coopgen_jax.models.pretrained.image_networks import load_clip
from tests.models import clip_files
from tests.models.clip_files import CASES, picture

PIXELS = PixelConfig(
    size=15, shortest=19, resampling="bilinear", mean=(0.1, 0.2, 0.3), deviation=(0.4, 0.5, 0.6)
)


def saved(case, folder, dtype="float32"):
    original, model = clip_files.save_clip(case, folder / "original")
    clip = load_clip(original)
    kept = (clip.config, clip.params, clip.tokenizer, PIXELS)
    save_clip(folder / "again", *kept, dtype=dtype)
    return clip, model, folder / "again"


@pytest.mark.parametrize("case", CASES)
def test_a_saved_clip_is_the_one_that_was_saved(case, tmp_path):
    clip, model, folder = saved(case, tmp_path)
    again = load_clip(folder)
    assert again.config == clip.config and again.tokenizer == clip.tokenizer
    assert again.tokenizer.wrapping == clip.tokenizer.wrapping
    assert again.pixels == PIXELS
    jax.tree.map(np.testing.assert_array_equal, again.params, clip.params)
    theirs = type(model).from_pretrained(folder).state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(theirs[name], value), name
    assert type(model).from_pretrained(folder).config.text_config.hidden_act == (
        model.config.text_config.hidden_act
    )


def test_pictures_are_prepared_as_saved(tmp_path):
    _, _, folder = saved("clip", tmp_path)
    processor = transformers.CLIPImageProcessorPil.from_pretrained(folder)
    image = picture(0, 40, 23)
    wanted = np.asarray(processor(image, return_tensors="np").pixel_values)[0]
    found = pixels_of(load_clip(folder).pixels, image)
    np.testing.assert_allclose(found, wanted.transpose(1, 2, 0), atol=1e-5)
    # A square without cutting, as SigLIP's.
    clip = load_clip(tmp_path / "original")
    square = replace(PIXELS, shortest=None)
    kept = (clip.config, clip.params, clip.tokenizer, square)
    save_clip(tmp_path / "square", *kept, dtype="float32")
    assert load_clip(tmp_path / "square").pixels == square


def test_half_precision_leaves_the_scale_exact(tmp_path):
    clip, _, folder = saved("siglip", tmp_path, dtype="float16")
    file = safetensors.numpy.load_file(folder / "model.safetensors")
    kinds = {name: array.dtype for name, array in file.items()}
    exact = {name for name, kind in kinds.items() if kind == np.float32}
    assert exact == {"logit_scale", "logit_bias"} and len(kinds) > 40
    np.testing.assert_array_equal(file["logit_scale"], clip.params["logit_scale"])
