"""`coopgen evaluate captions --clip`: pictures, captions and heads in, retrieval out."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import coopgen_jax as cg
import coopgen_jax.cli.evaluate_captions as command
from coopgen_jax.models.pretrained import image_networks, loaded_model
from tests.cli.running import run, sentence
from tests.clip_heads_folder import write_clip_heads
from tests.docs.tiny_world import TINY_LITE, write_backbone, write_encoder

COLOURS = {"red": (200, 20, 20), "blue": (10, 10, 220), "green": (0, 180, 0), "grey": (90, 90, 90)}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    write_backbone(folder / "backbone")
    write_encoder(folder / "encoder")
    (folder / "photos").mkdir()
    for name, colour in COLOURS.items():
        Image.new("RGB", (20, 16), colour).save(folder / "photos" / f"{name}.png")
    captions = {"red": "a b", "blue": "b c a", "green": "c", "grey": "a a"}
    rows = [{"image": f"{name}.png", "caption": text} for name, text in captions.items()]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "captions.jsonl").write_text(lines, encoding="utf-8")
    human = "".join(f"{name}.png,{text} c\n" for name, text in captions.items())
    (folder / "references.csv").write_text(f"image,caption\n{human}", encoding="utf-8")
    return folder


@pytest.fixture
def world(built, tmp_path, monkeypatch):
    kinds = {"image network": "backbone", "encoder": "encoder"}
    monkeypatch.setattr(loaded_model, "fetch", lambda packaged: built / kinds[packaged.kind])
    monkeypatch.setattr(image_networks, "LITE0", TINY_LITE)
    shutil.copytree(built, tmp_path / "world")
    monkeypatch.chdir(tmp_path / "world")
    write_clip_heads(
        tmp_path / "world" / "heads",
        backbone="efficientnet-lite0",
        encoder="minilm-l6",
        captions=("a b c",),
    )
    return tmp_path / "world"


ASK = ("evaluate", "captions", "captions.jsonl", "--clip", "heads", "--images", "photos")
ASK += ("--states", "states")


def test_captions_and_images_find_one_another(world, capsys):
    status, out, err = run(capsys, *ASK, "--references", "references.csv")
    assert status == 0
    lines = {line.split("  ")[0]: line for line in out.splitlines()}
    assert lines["images to choose among"].split()[-1] == "4"
    assert {"R@1, text to image", "MRR, image to text", "CLIP-S", "RefCLIP-S"} <= set(lines)
    assert err.splitlines()[-1] == (
        "coopgen: note: heads was trained on 1 image of the 4 that have references (red.png): its "
        "figures of them are too high, take a CLIP that was trained on others"
    )
    # The states are there for the next time, which reads no picture.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("coopgen_jax.data.image_states.pixels_of", None)
        again = run(capsys, *ASK, "--references", "references.csv", "--json", "--out", "it.json")
    report = json.loads(again[1])
    assert again[0] == 0 and report == json.loads((world / "it.json").read_text())
    found = report["methods"][0]["retrieval"]["text_to_image"]["recall_1"]["value"]
    assert f"{found:.3f} [" in lines["R@1, text to image"]
    assert report["clip"]["name"] == "heads" and len(report["clip"]["sha256"]) == 64
    assert report["methods"][0]["retrieval"]["text_to_image"]["recall_5"]["value"] == 1
    # Each caption is that of the picture whose name it has.
    rows = [json.loads(line) for line in (world / "captions.jsonl").read_text().splitlines()]
    scorer = cg.load_clip_vectors("heads")
    paths = [world / "photos" / row["image"] for row in rows]
    images = scorer.images(cg.read_image_states(scorer.backbone(), paths).states)
    texts = scorer.texts([row["caption"] for row in rows])
    own, other = (
        np.mean(1 / (cosines > np.diag(cosines)[None]).sum(axis=0, initial=1))
        for cosines in (texts @ images.T, texts @ images[::-1].T)
    )
    found = report["methods"][0]["retrieval"]["image_to_text"]["reciprocal_rank"]["value"]
    assert found == pytest.approx(own) and own != pytest.approx(other)


def test_what_cannot_be_used_is_counted_and_named(world, capsys):
    (world / "photos" / "red.png").write_bytes(b"<html>")
    with (world / "captions.jsonl").open("a") as file:
        file.write('{"image": "gone.png", "caption": "a"}\n{"caption": "b"}\n')
        file.write(json.dumps({"image": "no\0name.png", "caption": "a"}) + "\n")
    status, out, err = run(capsys, *ASK)
    assert status == 0 and "CIDEr-D" not in out
    notes = err.replace("coopgen: note: ", "").splitlines()
    assert "captions.jsonl: 1 row left out (line 6: a caption without image)" in notes
    said = "photos: 3 images left out (red.png: it is not a picture that can be read, gone.png: "
    assert any(line.startswith(said) for line in notes)
    assert any("3 images without a picture that can be read, left out" in line for line in notes)
    assert notes[-1].startswith("whether heads was trained on these images is unknown")


def test_mistakes_are_named_before_an_image_is_read(world, capsys, monkeypatch):
    monkeypatch.setattr(command, "see", lambda *_, **__: pytest.fail("it was read"))
    plain = ("evaluate", "captions", "captions.jsonl")
    for name in ("--images", "--states"):
        said = sentence(capsys, *plain, name, "photos")
        assert f"{name} is for retrieval: name what sees the images by --clip" in said
    assert "--images none is no folder here" in sentence(capsys, *plain, "--clip", "heads",
                                                         "--images", "none")  # fmt: skip
    assert "nowhere" in sentence(capsys, *plain, "--clip", "nowhere")
    assert "there is no method 'b'" in sentence(capsys, *ASK, "--against", "b")
    (world / "references.csv").write_text("image,caption\nother.png,a\n")
    assert "has references" in sentence(capsys, *ASK, "--references", "references.csv")


def test_a_folder_without_the_images_is_named(world, capsys):
    said = sentence(capsys, *ASK[:5], "--images", "heads", "--states", "states")
    assert "--images heads has fewer than 2 images of the captions (4 images left out" in said
