"""`coopgen caption`: pictures in, captions out, guided or not; every mistake is named."""

import csv
import json
import shutil

import pytest

import coopgen_jax as cg
import coopgen_jax.cli.caption as command
from coopgen_jax.cli.printing import CONTROL
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
    texts = cg.generate(
        captioner.model, captioner.fronts(7), vectors=captioner.vectors(states),
        config=cg.BeamConfig(new_tokens=5, beams=2),
    )  # fmt: skip
    assert [text.text.strip() for text in texts] == [line["caption"] for line in lines]
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
        config=cg.MCTSConfig(new_tokens=5).with_settings(
            simulations=4, wave=2, candidates=4, depth=3
        ),
    )  # fmt: skip
    assert caption["caption"] == texts[0].text.strip()
    assert caption["p_image"] == pytest.approx(texts[0].class_probabilities["image"], rel=1e-4)


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
    ask = ("caption", "--model", tmp_path / "vlm", "--new-tokens", "5", "--beams", "2")
    photos = (images / "boat.jpg", tmp_path / "bad.jpg", images / "film.jpg")
    question = ("--question", "What is it?", "--dtype", "float32")
    status, printed, err = run(capsys, *ask, *photos, *question, "--json")
    assert status == 0 and "1 image left out" in err and "bad.jpg" in err
    captioner = cg.open_captioner(tmp_path / "vlm", question="What is it?")
    texts = cg.generate(
        captioner.model, captioner.fronts(2),
        vectors=captioner.see([cg.open_image(photos[0]), cg.open_image(photos[2])]),
        config=cg.BeamConfig(new_tokens=5, beams=2),
    )  # fmt: skip
    found = json.loads(printed)
    assert [line["image"] for line in found["captions"]] == ["boat.jpg", "film.jpg"]
    assert [line["caption"] for line in found["captions"]] == [text.text.strip() for text in texts]
    assert "none of the pictures can be read" in sentence(capsys, *ask, tmp_path / "bad.jpg")
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


def test_mistakes_get_a_sentence(capsys, world, ask, tmp_path):
    boat = world / "pictures" / "images" / "boat.jpg"
    shutil.copy(world / "pictures" / "images" / "film.jpg", tmp_path / "boat.jpg")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
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
        ((boat, "--clip", tmp_path / "none"), "none"),
        ((boat, "--top-p", "0.9"), "--top-p means nothing to --method beam"),
        ((boat, "--seed", "-1"), "--seed is -1"),
        ((boat, "--batch-size", "0"), "--batch-size is 0"),
        ((boat, "--out", tmp_path / "no" / "where.csv"), "--out"),
    ):
        assert said in sentence(capsys, *ask, *wrong), said
    assert "--model is missing" in sentence(capsys, "caption", boat)
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
