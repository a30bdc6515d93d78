"""SmolVLM and Idefics3 as captioners, against the transformers library."""

import json
from functools import partial

import jax
import numpy as np
import pytest
import torch
import transformers

import coopgen_jax as cg
from coopgen_jax.errors import UserError
from coopgen_jax.models.image_connector import (
    ConnectedVisionConfig,
    connected_vectors,
    init_connected_vision,
    pixel_shuffle,
)
from coopgen_jax.models.pretrained.vision_language import (
    QUESTION,
    load_vision_language,
    open_captioner,
)
from coopgen_jax.models.vision import TowerConfig, VisionConfig
from tests.models.clip_files import picture, save_clip, transparent_pictures
from tests.models.model_files import edit
from tests.models.vision_language_files import (
    BEGIN,
    CASES,
    END,
    IMAGE,
    save_picture_settings,
    save_vlm,
)

PICTURES = (picture(0, 40, 23), picture(1, 17, 60), picture(2, 90, 90), picture(3, 26, 26))
PICTURES = (*PICTURES, picture(4, 30, 31))  # One more than are read at once.


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vlms")
    found = {case: save_vlm(case, folder / case) for case in CASES}
    for path, _ in found.values():
        save_picture_settings(path)
    return found


def prepared(folder, question=QUESTION, pictures=PICTURES):
    """What transformers' own processor makes of pictures and a question, unsplit."""
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), eos_token="<|endoftext|>"
    )
    count = load_vision_language(folder).config.vectors
    processor = transformers.Idefics3Processor(
        save_picture_settings(folder),
        tokenizer,
        image_seq_len=count,
        chat_template=(folder / "chat_template.jinja").read_text(),
    )
    talk = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    text = processor.apply_chat_template(talk, add_generation_prompt=True)
    return processor(
        text=[text] * len(pictures),
        images=[[one] for one in pictures],
        do_image_splitting=False,
        return_tensors="pt",
    )


@pytest.mark.parametrize("case", CASES)
def test_whole_captions_are_those_of_transformers(case, saved):
    folder, model = saved[case]
    inputs = prepared(folder)
    with torch.no_grad():
        wanted = model.generate(**inputs, do_sample=False, max_new_tokens=12)
    wanted = wanted[:, inputs["input_ids"].shape[1] :].tolist()
    captioner = load_vision_language(folder)
    vectors = captioner.see(PICTURES)
    found = cg.generate(
        captioner.model,
        captioner.fronts(len(PICTURES)),
        vectors=vectors,
        config=cg.SamplingConfig(new_tokens=12, rules=cg.Rules(temperature=0)),
    )
    ends = [row.index(END) + 1 if END in row else len(row) for row in wanted]
    assert [list(text.tokens) for text in found] == [
        row[:end] for row, end in zip(wanted, ends, strict=True)
    ]
    assert len({tuple(text.tokens) for text in found}) > 1, "all images are alike"


@pytest.mark.parametrize("case", ["smolvlm", "idefics3"])
def test_tower_and_connector_are_those_of_transformers(case, saved):
    folder, model = saved[case]
    inputs = prepared(folder)
    captioner = load_vision_language(folder)
    with torch.no_grad():
        wanted = model.get_image_features(inputs["pixel_values"]).pooler_output
    found = captioner.see(PICTURES)
    ahead = len(captioner.ahead)
    for row, vectors in zip(found, wanted, strict=True):
        np.testing.assert_allclose(row[ahead:], vectors, atol=1e-4, rtol=1e-4)
    assert np.ptp(found[:, ahead:], axis=0).max() > 0.1
    table = model.get_input_embeddings().weight.detach().numpy()
    np.testing.assert_array_equal(found[0, :ahead], table[list(captioner.ahead)])
    # Those are the ids around the image, and no others.
    ids = [*captioner.ahead, *[IMAGE] * captioner.config.vectors, *captioner.behind]
    assert ids == inputs["input_ids"][0].tolist()
    assert (ids[0] == BEGIN) == (case == "idefics3") and ids.count(BEGIN) <= 1


def test_pictures_are_prepared_as_by_transformers(saved):
    folder, _ = saved["smolvlm"]
    captioner = load_vision_language(folder)
    pictures = [*PICTURES, *transparent_pictures()]
    wanted = prepared(folder, pictures=pictures)["pixel_values"][:, 0]
    wanted = wanted.permute(0, 2, 3, 1).numpy()
    for image, pixels in zip(pictures, wanted, strict=True):
        found = cg.pixels_of(captioner.pixels, image, longest=captioner.longest)
        np.testing.assert_allclose(found, pixels, atol=1e-5)
    # Scaled once, a small picture is another one.
    once = cg.pixels_of(captioner.pixels, PICTURES[0])
    assert np.abs(once - wanted[0]).max() > 1e-2


def test_another_question_stands_behind_the_image(saved):
    folder, _ = saved["idefics3"]
    captioner = load_vision_language(folder).asking("Where?")
    ids = prepared(folder, "Where?")["input_ids"][0].tolist()
    assert [*captioner.ahead, *captioner.behind] == [one for one in ids if one != IMAGE]
    assert captioner.fronts(2) == [list(captioner.behind)] * 2
    assert captioner.model.tokenizer.decode(captioner.behind).startswith("Where?")
    with pytest.raises(UserError, match="question holds the special token '<image>'"):
        captioner.asking("What is <image>?")


def test_squares_of_patches_are_joined():
    """Patches that are numbered row by row, each with two numbers."""
    states = np.arange(16 * 2, dtype=np.float32).reshape(1, 16, 2)
    found = np.asarray(pixel_shuffle(states, 2))[0]
    squares = [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    wanted = [[2 * patch + one for patch in square for one in (0, 1)] for square in squares]
    np.testing.assert_array_equal(found, wanted)


def test_random_parameters_are_those_of_a_loaded_network(saved):
    captioner = load_vision_language(saved["smolvlm"][0])
    drawn = jax.eval_shape(
        partial(init_connected_vision, config=captioner.config), jax.random.key(0)
    )
    shapes = [jax.tree.map(lambda leaf: leaf.shape, tree) for tree in (drawn, captioner.params)]
    assert shapes[0] == shapes[1]


def test_shapes_that_do_not_fit_are_refused():
    tower = TowerConfig(layers=1, width=4, heads=1, ffn_width=4)
    with pytest.raises(ValueError, match="5 rows of patches are not a multiple of 2"):
        ConnectedVisionConfig(VisionConfig(tower, 10, 2, attentive=True), 2, 8)
    with pytest.raises(ValueError, match="CLIP"):
        ConnectedVisionConfig(VisionConfig(tower, 8, 2), 2, 8)
    config = ConnectedVisionConfig(VisionConfig(tower, 8, 2, attentive=True), 2, 8)
    read = partial(jax.eval_shape, partial(connected_vectors, config))
    params = jax.eval_shape(partial(init_connected_vision, config=config), jax.random.key(0))
    assert read(params, np.zeros((3, 8, 8, 3), np.float32)).shape == (3, config.vectors, 8)
    with pytest.raises(ValueError, match=r"\(6, 6, 3\), not \(8, 8, 3\)"):
        read(params, np.zeros((1, 6, 6, 3), np.float32))


def test_half_precision_is_near(saved):
    full, half = (
        load_vision_language(saved["smolvlm"][0], dtype=dtype) for dtype in ("float32", "bfloat16")
    )
    exact, rough = full.see(PICTURES[:2]), half.see(PICTURES[:2])
    assert rough.dtype == np.float32
    assert 0 < np.abs(rough - exact).max() < 0.1 * np.abs(exact).max()


def test_what_is_no_image_is_refused(saved):
    captioner = load_vision_language(saved["smolvlm"][0])
    with pytest.raises(UserError, match=r"\(2, 8, 8, 3\): this model reads \[n, 26, 26, 3\]"):
        captioner.vectors(np.zeros((2, 8, 8, 3)))
    with pytest.raises(UserError, match="there is no picture"):
        captioner.see([])


def test_a_model_without_template_reads_the_question_behind_the_image(tmp_path):
    folder, _ = save_vlm("smolvlm", tmp_path / "it")
    (folder / "chat_template.jinja").unlink()
    plain = load_vision_language(folder, question=" It shows")
    tokenizer = plain.model.tokenizer
    assert tokenizer.decode(plain.behind, skip_special=False).endswith("image> It shows")
    assert tokenizer.decode(plain.ahead, False) == "<fake_token_around_image><global-img>"
    # Older folders keep the template in a file of another kind.
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": "Q <image> A:"}))
    asked = load_vision_language(folder)
    assert tokenizer.decode(asked.behind, skip_special=False).endswith(" A:")
    # Ends of texts that only the language model's own settings declare.
    (folder / "generation_config.json").unlink()
    assert load_vision_language(folder).model.config.end_tokens[0] == END


def test_either_captioner_is_opened(saved, tmp_path):
    folder, _ = saved["smolvlm"]
    opened = open_captioner(folder, question="Where?")
    assert opened.behind == load_vision_language(folder, question="Where?").behind
    (tmp_path / "card.json").write_text('{"kind": "head"}')
    with pytest.raises(UserError, match="holds a head, no captioner"):
        open_captioner(tmp_path)
    with pytest.raises(UserError, match="reads no questions"):
        open_captioner(tmp_path, question="Where?")
    with pytest.raises(UserError, match="there is no captioner 'nowhere'"):
        open_captioner("nowhere")


def _pickled(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"")


def _pictures(folder, **entries):
    save_picture_settings(folder)
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


BROKEN = {
    "another family": (lambda f: edit(f, model_type="llava"), "'llava'.*idefics3, smolvlm"),
    "pickles": (_pickled, "pickles are never opened.*AutoModelForImageTextToText"),
    "tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "has no tokenizer.json"),
    "no table": (lambda f: edit(f, text_config=[1]), "text_config is no table"),
    "another language model": (
        lambda f: edit(f, text_config={"model_type": "phi3"}),
        "'phi3', which is not implemented",
    ),
    "another width": (
        lambda f: edit(f, scale_factor=2),
        r"connector.*\[32, 144\] where its configuration asks for \[32, 64\]",
    ),
    "squares": (lambda f: edit(f, scale_factor=4), "6 rows of patches are not a multiple of 4"),
    "no such token": (lambda f: edit(f, image_token_id=299), "no token that stands for an image"),
    "another size": (
        lambda f: _pictures(f, max_image_size={"longest_edge": 8}),
        "prepared for 8 pixels, not 26",
    ),
    "colours as they are": (lambda f: _pictures(f, do_normalize=False), "do_normalize = False"),
    "no place for the image": (
        lambda f: (f / "chat_template.jinja").write_text("{{ messages[0].role }}"),
        r"has 0 places for the image \(<image>\)",
    ),
}


@pytest.mark.parametrize("break_it", BROKEN)
def test_a_wrong_folder_is_refused_in_one_sentence(break_it, tmp_path):
    folder, _ = save_vlm("smolvlm", tmp_path / "it")
    change, said = BROKEN[break_it]
    change(folder)
    with pytest.raises(UserError, match=said) as refused:
        load_vision_language(folder)
    assert "\n" not in str(refused.value)


def test_a_clip_is_no_captioner(tmp_path):
    folder, _ = save_clip("siglip", tmp_path / "it")
    with pytest.raises(UserError, match=r"'siglip'.*idefics3, smolvlm"):
        open_captioner(folder)
