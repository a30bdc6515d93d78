"""Images and captions read from files, and what is left out of them."""

import json
from pathlib import Path

import pytest

from coopgen_jax.data.image_captions import read_image_captions
from coopgen_jax.errors import UserError

TABLE = """image,caption
b.jpg,A dog runs .
a.jpg," A cat, asleep "
b.jpg,The dog is wet .
,Nobody knows what this shows .
c.jpg,
d.jpg
"""
BROKEN = (
    "row 4: a caption without image",
    "row 5: an empty caption",
    "row 6: 1 fields instead of 2",
)


def write(path: Path, content: object) -> Path:
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_table_has_a_caption_a_row(tmp_path):
    found = read_image_captions(write(tmp_path / "rows.csv", TABLE))
    assert found.captions == {
        "b.jpg": ("A dog runs .", "The dog is wet ."),
        "a.jpg": ("A cat, asleep",),
    }
    assert list(found.captions) == ["b.jpg", "a.jpg"] and found.broken == BROKEN


def test_an_empty_caption_may_be_kept(tmp_path):
    found = read_image_captions(write(tmp_path / "rows.csv", TABLE), empty=True)
    assert found.captions["c.jpg"] == ("",) and len(found.broken) == 2


def test_an_image_without_file_is_named(tmp_path):
    (tmp_path / "a.jpg").touch()
    found = read_image_captions(write(tmp_path / "rows.csv", TABLE), folder=tmp_path)
    assert list(found.captions) == ["a.jpg"]
    assert found.broken == (*BROKEN, f"b.jpg: there is no such file in {tmp_path}")


def test_the_document_of_caption_is_read(tmp_path):
    entries = [{"image": "a.jpg", "caption": "A cat", "sample": 0}, {"image": "b.jpg"}, 7]
    path = write(tmp_path / "rows.JSON", {"settings": {}, "captions": entries})
    found = read_image_captions(path)
    assert found.captions == {"a.jpg": ("A cat",)}
    assert found.broken == ("caption 2: no caption that is a string", "caption 3: no JSON object")
    assert read_image_captions(write(tmp_path / "rows.CSV", TABLE)).broken == BROKEN


def test_json_lines_have_columns_by_name(tmp_path):
    rows = [
        {"file": "a.jpg", "text": "A cat"},
        {"file": 7, "text": "A dog"},
        {"file": "c", "text": 3},
    ]
    path = write(tmp_path / "rows.jsonl", "\n".join(map(json.dumps, rows)))
    found = read_image_captions(path, image="file", caption="text")
    assert found.captions == {"a.jpg": ("A cat",), "7": ("A dog",)}
    assert found.broken == ("line 3: no caption that is a string",)


def test_cocos_form_joins_images_and_annotations(tmp_path):
    content = {
        "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 9, "file_name": "b.jpg"}],
        "annotations": [
            {"id": 1, "image_id": 9, "caption": "A dog"},
            {"id": 2, "image_id": 7, "caption": "A cat"},
            {"id": 3, "image_id": 8, "caption": "A ghost"},
            {"id": 4, "image_id": 9, "caption": "The dog"},
            "nothing",
        ],
    }
    found = read_image_captions(write(tmp_path / "coco.json", content))
    assert found.captions == {"b.jpg": ("A dog", "The dog"), "a.jpg": ("A cat",)}
    assert found.broken == (
        "annotation 3: a caption without image",
        "annotation 5: no JSON object",
    )


def test_true_is_no_number_of_an_image(tmp_path):
    content = {
        "images": [{"id": 1, "file_name": "a.jpg"}, {"id": True, "file_name": "b.jpg"}],
        "annotations": [{"image_id": True, "caption": "x"}, {"image_id": 1, "caption": "y"}],
    }
    found = read_image_captions(write(tmp_path / "coco.json", content))
    assert found.captions == {"a.jpg": ("y",)} and len(found.broken) == 1


def test_what_can_be_no_name_of_a_file_is_named(tmp_path):
    name = "a long caption in the column of images " * 10
    path = write(tmp_path / "rows.csv", f"image,caption\n{name},x\na.jpg,y\n")
    (tmp_path / "a.jpg").write_bytes(b"")
    found = read_image_captions(path, folder=tmp_path)
    assert found.captions == {"a.jpg": ("y",)} and "there is no such file" in found.broken[0]


def test_a_list_of_results_calls_images_by_number(tmp_path):
    content = [{"image_id": 7, "caption": "A cat"}, {"image_id": 9, "caption": "A dog"}]
    found = read_image_captions(write(tmp_path / "results.json", content))
    assert found.captions == {"7": ("A cat",), "9": ("A dog",)}


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("rows.csv", "image,text\na.jpg,A cat\n", "has no column 'caption', only image, text"),
        ("rows.csv", "image,caption\n,A cat\n", "holds no sound caption of an image \\(row 1"),
        ("coco.json", "{", "is not JSON"),
        ("coco.json", "[" * 200_000, "is not JSON"),
        ("coco.json", {"images": []}, "is not in COCO's form"),
        ("coco.json", [], "holds no sound caption of an image$"),
        ("rows.xml", "<a/>", "is of an unknown kind"),
    ],
)
def test_a_file_of_no_use_is_refused(tmp_path, name, content, message):
    with pytest.raises(UserError, match=message):
        read_image_captions(write(tmp_path / name, content))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.json is not a file"):
        read_image_captions(tmp_path / "none.json")
