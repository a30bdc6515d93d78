"""`coopgen train clip`: every mistake in options and data gets its sentence."""

import json

import pytest
from PIL import Image

import coopgen_jax.cli.train_clip as command
from coopgen_jax.models.pretrained.image_networks import load_clip
from tests.cli.running import run, sentence
from tests.models.clip_files import save_clip

SMALL = ("--epochs", "1", "--rows", "4", "--width", "4")


def test_a_folder_of_pictures_becomes_heads(capsys, pictures, tmp_path):
    (pictures / "images" / "lamp.jpg").write_bytes(b"<html>")
    (pictures / "images" / "film.jpg").unlink()
    with (pictures / "train.csv").open("a") as file:
        file.write("film.jpg,\n")
    out = tmp_path / "clip"
    status, printed, err = run(capsys, "train", "clip", "--data", pictures, "--out", out, *SMALL)
    assert status == 0
    assert "clip-heads, 2 steps" in printed and "text to image" in printed
    assert "train.csv: 2 rows left out (" in err
    assert "train.csv: 1 image left out (lamp.jpg: it is not a picture that can be read)" in err
    card = json.loads((out / "card.json").read_text())
    assert card["images"] == 4 and card["retrieval"]["images"] == 2
    # The states are there for the next training, which reads no picture.
    again = run(capsys, "train", "clip", "--data", pictures / "train.csv", "--validation",
                pictures / "validation.csv", "--out", tmp_path / "other", *SMALL, "--json",
                "--quiet")  # fmt: skip
    assert again[0] == 0 and json.loads(again[1])["best"] == card["best"]


def test_a_clip_is_trained_by_additions(capsys, pictures, tmp_path):
    folder, _ = save_clip("clip", tmp_path / "clip")
    for image in (pictures / "images").glob("l*.jpg"):
        image.write_bytes(b"<html>")
    ask = ("train", "clip", "--data", pictures, "--out", tmp_path / "out", "--clip", folder)
    few = ("--epochs", "1", "--rows", "4", "--longest", "12")
    status, printed, err = run(capsys, *ask, *few, "--rank", "2", "--towers", "text")
    assert status == 0 and "clip, 3 steps" in printed and "text to image" in printed
    assert "train.csv: 1 image left out (lamp.jpg: it is not a picture" in err
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert (card["trained"], card["towers"], card["images"]) == ("LoRA of rank 2", ["text"], 5)
    assert card["learning_rate"] == 1e-4 and card["lora"]["rank"] == 2
    assert load_clip(tmp_path / "out").config == load_clip(folder).config
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("coopgen_jax.cli.train_clip.both_coloured", None)
        said = sentence(capsys, *ask, "--longest", "13")
        assert "--longest is 13: this CLIP reads 12 tokens at most" in said
        patch.setattr("coopgen_jax.cli.train_clip.load_clip", None)
        for wrong in ("--width", "--dropout", "--encoder", "--vision"):
            said = sentence(capsys, *ask, wrong, "0" if wrong == "--dropout" else "3")
            assert f"{wrong} says nothing with --clip: leave it out" in said
        assert "--rank is 0: give 1 or more" in sentence(capsys, *ask, "--rank", "0")
    said = sentence(capsys, *ask[:-2], "--rank", "2")
    assert "--rank says nothing without --clip: leave it out" in said


def test_mistakes_are_named_before_anything_is_read(capsys, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "load_backbone", lambda name: pytest.fail("it was loaded"))
    ask = ("train", "clip", "--data", pictures, "--out", tmp_path / "out")
    for wrong, said in (
        (("--rows", "1"), "--rows is 1: a caption competes with others"),
        (("--epochs", "0"), "--epochs is 0"),
        (("--dropout", "1"), "--dropout is 1"),
        (("--longest", "2"), "--longest is 2"),
        (("--width", "0"), "--width is 0"),
    ):
        assert said in sentence(capsys, *ask, *wrong)
    file = ("--data", pictures / "train.csv", "--out", tmp_path / "out")
    assert "--validation must be given" in sentence(capsys, "train", "clip", *file)
    nowhere = ("--data", tmp_path / "nothing", "--out", tmp_path / "out")
    assert "is neither a file nor a folder here" in sentence(capsys, "train", "clip", *nowhere)
    assert not (tmp_path / "out").exists()


def test_data_of_no_use_is_named(capsys, pictures, tmp_path):
    ask = ("train", "clip", "--data", pictures, "--out", tmp_path / "out", *SMALL)
    with pytest.MonkeyPatch.context() as patch:
        # Before any image is read, which takes minutes of thousands.
        patch.setattr("coopgen_jax.cli.train_clip.load_backbone", None)
        said = sentence(capsys, *ask, "--longest", "65", "--quiet")
    assert "--longest is 65: the encoder reads 64 word pieces at most" in said
    for image in (pictures / "images").glob("*.jpg"):
        image.write_bytes(b"")
    Image.new("RGB", (9, 9)).save(pictures / "images" / "film.jpg")
    said = sentence(capsys, *ask, "--quiet")
    assert "train.csv has fewer than 2 images that can be read" in said
    (pictures / "train.csv").write_text("picture,caption\nfilm.jpg,A film\n")
    assert "has no column 'image'" in sentence(capsys, *ask, "--quiet")
    assert not (tmp_path / "out" / "card.json").exists()
