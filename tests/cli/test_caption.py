"""`coopgen caption`: pictures in, captions out, guided or not; every mistake is named."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

import coopgen_jax as cg
import coopgen_jax.cli.caption as command
from coopgen_jax.cli.caption_options import OTHERS
from coopgen_jax.cli.printing import CONTROL
from coopgen_jax.data.image_captions import read_image_captions
from coopgen_jax.models.pretrained import image_networks, loaded_model
from tests.cli.running import SMALL_CAPTIONER, run, sentence
from tests.docs.tiny_world import TINY_LITE, write_backbone, write_encoder, write_pictures
from tests.models.clip_files import save_clip
from tests.models.vision_language_files import save_vlm


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with pictures, a captioner, the heads of a small CLIP, and what both stand on."""
    folder = tmp_path_factory.mktemp("world")
    write_backbone(folder / "backbone")
    write_encoder(folder / "encoder")
    write_pictures(folder / "pictures")
    kinds = {"image network": "backbone", "encoder": "encoder"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loaded_model, "fetch", lambda packaged: folder / kinds[packaged.kind])
        patch.setattr(image_networks, "LITE0", TINY_LITE)
        patch.setattr(command, "keep_compilations", lambda folder: None)
        patch.setattr(command, "cache_folder", lambda: folder / "cache")
        patch.setattr("coopgen_jax.cli.captioned_images.cache_folder", lambda: folder / "cache")
        data = ("--data", str(folder / "pictures"), "--quiet")
        captioner, clip = str(folder / "captioner"), str(folder / "clip")
        assert not command_line("train", "captioner", *data, "--out", captioner, *SMALL_CAPTIONER)
        few = ("--epochs", "1", "--rows", "4", "--width", "4")
        assert not command_line("train", "clip", *data, "--out", clip, *few)
        yield folder


def command_line(*words):
    from coopgen_jax.cli import main

    return main(words)


@pytest.fixture
def ask(world):
    name = ("--model", world / "captioner", "--dtype", "float32")
    return ("caption", *name, "--new-tokens", "5")


def test_a_folder_is_captioned_and_evaluated(capsys, world, ask, tmp_path):
    pictures = tmp_path / "pictures"
    shutil.copytree(world / "pictures" / "images", pictures)
    (pictures / "lamp.jpg").write_bytes(b"<html>")
    out = tmp_path / "captions.jsonl"
    status, printed, err = run(capsys, *ask, pictures, "--out", out, "--beams", "2")
    assert status == 0
    assert "1 image left out (lamp.jpg: it is not a picture that can be read)" in err
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(lines) == 7 and [line["image"] for line in lines] == sorted(
        path.name for path in pictures.iterdir() if path.name != "lamp.jpg"
    )
    # What an untrained model writes may move a terminal's cursor.
    shown = [f"{line['image']}: {line['caption']}".translate(CONTROL) for line in lines]
    assert all(line in printed for line in shown)
    # They are the captions that Python writes.
    captioner = cg.load_captioner(world / "captioner")
    paths = [pictures / line["image"] for line in lines]
    states = cg.read_image_states(cg.load_backbone(), paths).states
    assert np.ptp(states, axis=0).max() > 0.1, "the pictures look alike"
    texts = cg.generate(
        captioner.model, captioner.fronts(7), vectors=captioner.vectors(states),
        config=cg.BeamConfig(new_tokens=5, beams=2),
    )  # fmt: skip
    assert [text.text.strip() for text in texts] == [line["caption"] for line in lines]
    likely = np.array([text.log_prob for text in texts])
    np.testing.assert_allclose([line["log_prob"] for line in lines], likely, rtol=1e-4)
    assert np.ptp(likely) > 1e-3 * np.abs(likely).max(), "no order would be seen"
    # The file is one that `evaluate captions` takes.
    references = world / "pictures" / "train.csv"
    status, printed, _ = run(capsys, "evaluate", "captions", out, "--references", references)
    assert status == 0 and "captions" in printed


def test_a_clip_guides_away_from_the_others(capsys, world, ask, tmp_path):
    images = world / "pictures" / "images"
    shutil.copy(images / "boat.jpg", tmp_path / "same.jpg")
    guided = (*ask, images / "boat.jpg", "--clip", world / "clip", "--json", "--quiet")
    some = ("--simulations", "4", "--wave", "2", "--candidates", "4", "--depth", "3")
    # The same picture under another name is no other one.
    among = ("--among", images / "film.jpg", tmp_path / "same.jpg", images / "film.jpg")
    status, printed, _ = run(capsys, *guided, *among, *some)
    found = json.loads(printed)
    assert status == 0 and found["settings"]["method"] == "mcts"
    (caption,) = found["captions"]
    # Python writes the same with one other picture.
    captioner = cg.load_captioner(world / "captioner")
    paths = [images / "boat.jpg", images / "film.jpg"]
    states = cg.read_image_states(cg.load_backbone(), paths).states
    guide = cg.load_discriminator(world / "clip", language_model=captioner.model)
    vectors = cg.image_head_vectors(guide, states)
    texts = cg.generate(
        captioner.model, captioner.fronts(1), vectors=captioner.vectors(states[:1]),
        discriminator=guide, target="image", context=cg.image_context(vectors[:1], vectors[1:]),
        config=cg.PRESETS["default"].with_settings(
            new_tokens=5, simulations=4, wave=2, candidates=4, depth=3
        ),
    )  # fmt: skip
    assert caption["caption"] == texts[0].text.strip()
    assert caption["p_image"] == pytest.approx(texts[0].class_probabilities["image"], rel=1e-4)


def test_a_picture_competes_with_those_most_like_it(capsys, world, ask):
    images = world / "pictures" / "images"
    paths = [images / f"{name}.jpg" for name in ("boat", "film", "lamp", "coat")]
    guided = (*ask, *paths[:3], "--among", images, "--clip", world / "clip", "--json", "--quiet")
    plain = ("--method", "sample", "--batch-size", "2")
    found = [json.loads(run(capsys, *guided, *plain, *more)[1])
             for more in (("--others", "2"), ())]  # fmt: skip
    captioner = cg.load_captioner(world / "captioner")
    every = [*paths[:3], *sorted(set(images.iterdir()) - set(paths[:3]))]
    states = cg.read_image_states(cg.load_backbone(), every).states
    guide = cg.load_discriminator(world / "clip", language_model=captioner.model)
    vectors = cg.image_head_vectors(guide, states)
    alike = np.asarray(vectors @ vectors.T) - 9 * np.eye(len(every))
    nearest = np.argsort(-alike, axis=1)[:3]
    for said, count in zip(found, (2, len(every) - 1), strict=True):
        texts = cg.generate(
            captioner.model, captioner.fronts(3), vectors=captioner.vectors(states[:3]),
            discriminator=guide, target="image",
            context=cg.image_context(vectors[:3], vectors[nearest[:, :count]]),
            config=cg.SamplingConfig(new_tokens=5),
        )  # fmt: skip
        wanted = [text.class_probabilities["image"] for text in texts]
        told = [caption["p_image"] for caption in said["captions"]]
        np.testing.assert_allclose(told, wanted, rtol=1e-3)
        assert np.ptp(wanted) > 0.01, "no order would be seen"
    assert [said["clip"]["others"] for said in found] == [2, OTHERS]


def test_a_tuned_clip_guides_too(capsys, world, ask, tmp_path):
    folder, tuned = save_clip("clip", tmp_path / "clip")[0], tmp_path / "tuned"
    few = ("--epochs", "1", "--rows", "4", "--longest", "12", "--towers", "text", "--quiet")
    data = ("--data", world / "pictures", "--clip", folder, "--out", tuned)
    assert run(capsys, "train", "clip", *data, *few)[0] == 0
    images = world / "pictures" / "images"
    guided = (*ask, images / "boat.jpg", images / "film.jpg", "--clip", tuned, "--json", "--quiet")
    status, printed, _ = run(capsys, *guided, "--method", "fudge", "--candidates", "2")
    found = json.loads(printed)
    assert status == 0 and found["clip"]["card"]["trained"] == "LoRA of rank 8"
    assert all(0 < caption["p_image"] < 1 for caption in found["captions"])


def test_a_vision_language_model_is_asked(capsys, world, tmp_path):
    save_vlm("smolvlm", tmp_path / "vlm")
    images = world / "pictures" / "images"
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    Image.new("RGB", (1, 60)).save(tmp_path / "strip.png")
    ask = ("caption", "--model", tmp_path / "vlm", "--new-tokens", "5", "--beams", "2")
    photos = (images / "boat.jpg", tmp_path / "bad.jpg", images / "film.jpg")
    photos = (*photos, tmp_path / "strip.png")
    question = ("--question", "What is it?", "--dtype", "float32")
    status, printed, err = run(capsys, *ask, *photos, *question, "--json")
    assert status == 0
    assert "2 images left out (bad.jpg: it is not a picture that can be read, strip.png: a" in err
    # A trained captioner says the same.
    own = ("--model", world / "captioner", "--new-tokens", "1", "--method", "sample")
    told = next(line for line in err.splitlines() if "left out" in line)
    assert told in run(capsys, "caption", *own, *photos[1:])[2].splitlines()
    captioner = cg.open_captioner(tmp_path / "vlm", question="What is it?")
    texts = cg.generate(
        captioner.model, captioner.fronts(2),
        vectors=captioner.see([cg.open_image(photos[0]), cg.open_image(photos[2])]),
        config=cg.BeamConfig(new_tokens=5, beams=2),
    )  # fmt: skip
    found = json.loads(printed)
    assert [line["image"] for line in found["captions"]] == ["boat.jpg", "film.jpg"]
    assert [line["caption"] for line in found["captions"]] == [text.text.strip() for text in texts]
    likely = np.array([text.log_prob for text in texts])
    told = [line["log_prob"] for line in found["captions"]]
    np.testing.assert_allclose(told, likely, rtol=1e-4)
    assert np.ptp(likely) > 1e-3 * np.abs(likely).max(), "no order would be seen"
    none = "none of the pictures can be read (bad.jpg: it is not a picture that can be read)"
    assert none in sentence(capsys, *ask, tmp_path / "bad.jpg")
    asked = ("--model", world / "captioner", "--question", "?")
    assert "reads no questions" in sentence(capsys, "caption", photos[0], *asked)


def test_captions_go_into_a_table(capsys, world, ask, tmp_path):
    out = tmp_path / "captions.csv"
    pictures = world / "pictures" / "images"
    both = (pictures / "boat.jpg", pictures / "film.jpg")
    status, _, err = run(capsys, *ask, *both, "--method", "sample", "--samples", "2", "--out", out,
                         "--quiet")  # fmt: skip
    assert status == 0 and not err
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["image"], row["sample"]) for row in rows] == [
        ("boat.jpg", "0"), ("boat.jpg", "1"), ("film.jpg", "0"), ("film.jpg", "1"),
    ]  # fmt: skip


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".json", ".CSV"])
def test_captions_are_read_as_they_were_written(tmp_path, suffix):
    captions = {"a.jpg": 'A "cat"\rasleep, or\nnot', "b.jpg": "\u2028 7"}
    entries = [{"image": image, "caption": text, "sample": 0} for image, text in captions.items()]
    path = tmp_path / f"captions{suffix}"
    path.write_text(command._document(path, {"captions": entries}), encoding="utf-8", newline="")
    found = read_image_captions(path)
    assert found.captions == {image: (text.strip(),) for image, text in captions.items()}
    assert not found.broken


def test_a_file_that_is_given_twice_is_one_picture(world, monkeypatch):
    images = world / "pictures" / "images"
    monkeypatch.chdir(images.parent)
    twice = [str(images / "boat.jpg"), "images/boat.jpg", "images/../images/boat.jpg"]
    assert len(command.pictures_of(twice)) == 1
    assert len(command.pictures_of([*twice, "images"])) == len(list(images.iterdir()))


def test_pictures_to_compete_with_may_have_one_name(world, tmp_path):
    images = world / "pictures" / "images"
    shutil.copy(images / "film.jpg", tmp_path / "boat.jpg")
    both = [str(images / "boat.jpg"), str(tmp_path / "boat.jpg"), str(images / "boat.jpg")]
    assert sorted(command.pictures_of(both, named=False)) == sorted(
        (images / "boat.jpg", tmp_path / "boat.jpg")
    )


def test_what_is_wrong_with_a_clip_is_said_before_a_picture_is_read(
    capsys, world, ask, tmp_path, monkeypatch
):
    for name in ("see", "pixels_in"):
        monkeypatch.setattr(command, name, lambda *_, **__: pytest.fail("a picture was read"))
    both = [world / "pictures" / "images" / f"{name}.jpg" for name in ("boat", "film")]
    assert "nowhere" in sentence(capsys, *ask, *both, "--clip", tmp_path / "nowhere")
    among = ("--clip", world / "clip", "--among", tmp_path / "gone")
    assert "gone is neither a picture nor a folder" in sentence(capsys, *ask, *both, *among)


def test_damaged_captioners_are_named(capsys, world, tmp_path):
    boat = world / "pictures" / "images" / "boat.jpg"
    card = json.loads((world / "captioner" / "card.json").read_text())
    for number, (entries, said) in enumerate((
        ({"backbone": 7}, "backbone is 7"),
        ({"width": -1}, "width is -1"),
        ({"inputs": 0}, "inputs is 0"),
        ({"tokens": True}, "tokens is True"),
        ({"hidden": "4"}, "hidden is '4'"),
    )):  # fmt: skip
        folder = tmp_path / str(number)
        shutil.copytree(world / "captioner", folder)
        (folder / "card.json").write_text(json.dumps(card | entries))
        found = sentence(capsys, "caption", boat, "--model", folder)
        assert found == f"{folder} is damaged ({said}): train the captioner anew"
    (folder / "card.json").write_text(json.dumps(card))
    weights = load_file(folder / "head.safetensors")
    save_file(weights | {"scale": np.nan * weights["scale"]}, folder / "head.safetensors")
    found = sentence(capsys, "caption", boat, "--model", folder)
    assert "is damaged (scale is not finite): train the captioner anew" in found
    shutil.rmtree(folder / "network")
    found = sentence(capsys, "caption", boat, "--model", folder)
    assert "is damaged (it has no network): train the captioner anew" in found


def test_help_says_what_the_method_is_and_where_shared_options_stand(capsys):
    for words, said in (
        ((), ("by beam search, or by a tree search where --clip guides", "the other pictures)")),
        (("--method", "fudge"), ("Options that all methods share: coopgen caption --help.",)),
    ):
        with pytest.raises(SystemExit):
            command_line("caption", *words, "--help")
        printed = " ".join(capsys.readouterr().out.replace("│", " ").split())
        assert all(one in printed for one in said), printed


def test_mistakes_get_a_sentence(capsys, world, ask, tmp_path):
    boat = world / "pictures" / "images" / "boat.jpg"
    shutil.copy(world / "pictures" / "images" / "film.jpg", tmp_path / "boat.jpg")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    copy = shutil.copy(boat, tmp_path / "copy.jpg")
    clip = ("--clip", world / "clip")
    for wrong, said in (
        ((), "there are no pictures"),
        ((tmp_path / "none.jpg",), "is neither a picture nor a folder here"),
        ((tmp_path / "empty",), "has no pictures"),
        ((boat, tmp_path / "boat.jpg"), "have one name, by which captions are known"),
        ((tmp_path / "bad.jpg",), "none of the pictures can be read (bad.jpg"),
        ((boat, "--among", boat), "--among means nothing without a guide"),
        ((boat, "--method", "mcts"), "--method mcts is guided by images: give --clip"),
        ((boat, "--clip", world / "clip"), "a picture stands alone"),
        ((boat, "--clip", world / "clip", "--among", boat), "a picture stands alone"),
        ((boat, copy, *clip), "a picture stands alone"),
        ((boat, "--others", "3"), "--others means nothing without a guide"),
        ((boat, "--others", "0", *clip), "--others is 0: give 1 or more"),
        ((boat, "--clip", ""), "--clip is empty"),
        ((boat, ""), "a picture has an empty name"),
        ((boat, "--method", "gedi"), "a CLIP cannot guide --method gedi"),
        ((boat, "--method", "gedi", *clip), "a CLIP cannot guide --method gedi"),
        ((boat, "--method", "pplm"), "a CLIP cannot guide --method pplm"),
        ((boat, "--method", "pplm", *clip), "a CLIP cannot guide --method pplm"),
        ((boat, "--out", tmp_path / "it.txt"), "it.txt is of an unknown kind: give a file that"),
        ((boat, "--top-p", "0.9"), "--top-p means nothing to --method beam"),
        ((boat, "--seed", "-1"), "--seed is -1"),
        ((boat, "--batch-size", "0"), "--batch-size is 0"),
        ((boat, "--out", tmp_path / "no" / "where.csv"), "--out"),
    ):
        assert said in sentence(capsys, *ask, *wrong), said
    assert "--model is missing" in sentence(capsys, "caption", boat)
    assert "--model is missing" in sentence(capsys, "caption", boat, "--model", "")
    assert "has no config.json" in sentence(capsys, "caption", boat, "--model", tmp_path)


def test_a_captioner_of_another_backbone_is_refused(capsys, world, ask, tmp_path):
    other = tmp_path / "captioner"
    shutil.copytree(world / "captioner", other)
    card = json.loads((other / "card.json").read_text())
    boat = world / "pictures" / "images" / "boat.jpg"
    (other / "card.json").write_text(json.dumps(card | {"backbone_sha256": "beef"}))
    said = sentence(capsys, "caption", boat, "--model", other)
    assert "this captioner was trained with efficientnet-lite0" in said
    del card["backbone"]
    (other / "card.json").write_text(json.dumps(card))
    assert "features of elsewhere" in sentence(capsys, "caption", boat, "--model", other)
