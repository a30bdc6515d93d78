"""Retrieval by captions and CLIP-S, against counting by hand under a scorer of known vectors."""

import dataclasses

import numpy as np
import pytest

from coopgen_jax.data.fingerprint import fingerprint
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.caption_retrieval import caption_retrieval
from coopgen_jax.evaluation.captions import caption_cells, evaluate_captions
from coopgen_jax.evaluation.clip_vectors import ClipVectors
from coopgen_jax.evaluation.significance import signed_rank

WIDTH = 5


def vector(text: str) -> np.ndarray:
    """The unit vector of a text: one drawn for each of its letters and their places."""
    drawn = sum(
        np.random.default_rng([place, ord(letter)]).normal(size=WIDTH)
        for place, letter in enumerate(f"{text}.")
    )
    return (drawn / np.linalg.norm(drawn)).astype(np.float32)


def scorer(prefix: str = "", rows: np.ndarray | None = None) -> ClipVectors:
    def texts(strings):
        return np.array([vector(text) for text in strings], np.float32).reshape(-1, WIDTH)

    return ClipVectors("it", "0", lambda: None, np.asarray, texts, prefix, rows)


@pytest.fixture(scope="module")
def world() -> dict:
    rng = np.random.default_rng(1)
    names = [f"{number}.jpg" for number in range(12)]
    drawn = rng.normal(size=(12, WIDTH))
    images = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)
    words = ["".join(rng.choice(list("abcdefgh"), 4)) for _ in range(12)]
    return {
        "images": dict(zip(names, images, strict=True)),
        "captions": {name: (word,) for name, word in zip(names, words, strict=True)},
        "references": {
            name: tuple(f"{word}{more}" for more in "xyz"[: 1 + number % 3])
            for number, (name, word) in enumerate(zip(names, words, strict=True))
        },
    }


def test_ranks_are_those_of_counting(world):
    found = caption_retrieval({"one": world["captions"]}, scorer(), world["images"])
    row = found["methods"]["one"]
    seen = np.stack(list(world["images"].values()))
    said = np.stack([vector(text) for (text,) in world["captions"].values()])
    cosines = said @ seen.T
    for way, scores in (("text_to_image", cosines), ("image_to_text", cosines.T)):
        ranks = np.array([1 + np.sum(own > own[at]) for at, own in enumerate(scores)])
        for cut in (1, 5, 10):
            value = row["retrieval"][way][f"recall_{cut}"]["value"]
            assert value == pytest.approx(np.mean(ranks <= cut))
        low, high = row["retrieval"][way]["reciprocal_rank"]["interval"]
        value = row["retrieval"][way]["reciprocal_rank"]["value"]
        assert value == pytest.approx(np.mean(1 / ranks)) and low < value < high
    assert found["gallery"] == row["retrieval"]["images"] == 12 and "ref_clip_s" not in row


def test_clip_s_reads_captions_behind_its_prefix(world):
    references = dict(list(world["references"].items())[2:])
    found = caption_retrieval(
        {"one": world["captions"]}, scorer("of "), world["images"], references
    )["methods"]["one"]
    plain, both = [], []
    for name, (text,) in world["captions"].items():
        own = vector(f"of {text}")
        clip = 2.5 * max(float(own @ world["images"][name]), 0)
        plain.append(clip)
        if name in references:
            near = [float(own @ vector(f"of {other}")) for other in references[name]]
            best = max(0.0, *near) if len(near) > 1 else max(0.0, near[0])
            both.append(2 * clip * best / (clip + best) if clip * best else 0.0)
    assert found["clip_s"]["value"] == pytest.approx(np.mean(plain), abs=1e-6)
    assert found["ref_clip_s"]["value"] == pytest.approx(np.mean(both), abs=1e-6)
    # Retrieval reads them bare.
    bare = caption_retrieval({"one": world["captions"]}, scorer(), world["images"])
    assert found["retrieval"] == bare["methods"]["one"]["retrieval"]


def test_equal_captions_share_their_ranks(world):
    """Of captions that all say the same each finds its image first in a twelfth of the cases."""
    same = dict.fromkeys(world["captions"], ("abcd",))
    row = caption_retrieval({"one": same}, scorer(), world["images"])["methods"]["one"]
    way = row["retrieval"]["image_to_text"]
    assert way["recall_1"]["value"] == pytest.approx(1 / 12)
    assert way["recall_1"]["interval"] == pytest.approx([1 / 12] * 2)
    assert way["reciprocal_rank"]["value"] == pytest.approx(np.mean(1 / np.arange(1, 13)))
    assert row["retrieval"]["text_to_image"]["recall_1"]["value"] == pytest.approx(1 / 12)


def test_a_caption_without_words_finds_nothing_but_by_chance(world):
    silent = dict.fromkeys(world["captions"], ("...",))
    row = caption_retrieval({"one": silent}, scorer(), world["images"])["methods"]["one"]
    for way in ("text_to_image", "image_to_text"):
        assert row["retrieval"][way]["recall_5"]["value"] == pytest.approx(5 / 12)
    assert row["clip_s"] == {"value": 0.0, "interval": [0.0, 0.0]}
    one = {**world["captions"], "0.jpg": ("",)}
    found = caption_retrieval({"one": one}, scorer(), world["images"])["methods"]["one"]
    said = np.stack([vector(text) for (text,) in one.values()])
    scores = (said @ np.stack(list(world["images"].values())).T).T
    scores[:, 0] = -np.inf
    ranks = [1 + np.sum(own > own[at]) for at, own in enumerate(scores)]
    assert ranks[0] == 12
    value = found["retrieval"]["image_to_text"]["reciprocal_rank"]["value"]
    assert value == pytest.approx(np.mean(1 / np.array(ranks)))


def test_all_methods_choose_among_the_same_images(world):
    fewer = dict(list(world["captions"].items())[:8])
    images = {name: own for name, own in world["images"].items() if name != "0.jpg"}
    found = caption_retrieval({"all": world["captions"], "few": fewer}, scorer(), images)
    assert found["gallery"] == 7
    few = found["methods"]["few"]
    assert few["retrieval"].pop("paired") == {
        f"{way}_p{corrected}": 1.0
        for way in ("image_to_text", "text_to_image")
        for corrected in ("", "_holm")
    }
    assert found["methods"]["all"] == few
    assert found["notes"][:3] == [
        "all: 1 image without a picture that can be read, left out of retrieval (0.jpg)",
        "all: 4 images that another method has no caption of, left out of retrieval (8.jpg, "
        "9.jpg, 10.jpg, ...)",
        "few: 1 image without a picture that can be read, left out of retrieval (0.jpg)",
    ]
    with pytest.raises(UserError, match="fewer than 2 images have a picture"):
        caption_retrieval({"one": world["captions"]}, scorer(), {"0.jpg": images["1.jpg"]})


def test_methods_are_tested_on_their_ranks(world):
    """Captions whose vectors are those of their images find them all."""
    right = {name: (f"right {name}",) for name in world["captions"]}
    own = {f"right {name}": vector for name, vector in world["images"].items()}

    def texts(strings):
        return np.array([own[text] if text in own else vector(text) for text in strings])

    methods = {"one": world["captions"], "right": right, "other": world["references"]}
    clip = ClipVectors("it", "0", lambda: None, np.asarray, texts)
    report = evaluate_captions(methods, clip=clip, images=world["images"], against="other")
    rows = {row["method"]: row["retrieval"] for row in report["methods"]}
    assert (
        rows["right"]["text_to_image"]["recall_1"]["value"] == 1 and "paired" not in rows["other"]
    )
    seen, ranks = np.stack(list(world["images"].values())), {}
    for name, captions in methods.items():
        cosines = texts([first for first, *_ in captions.values()]) @ seen.T
        ranks[name] = 1 / (1 + np.sum(cosines > np.diag(cosines)[:, None], axis=-1))
    plain = {name: signed_rank(ranks[name], ranks["other"]) for name in ("one", "right")}
    for name, value in plain.items():
        assert rows[name]["paired"]["text_to_image_p"] == pytest.approx(value)
    holm = sorted(plain.values())[0] * 2
    assert rows["right"]["paired"]["text_to_image_p_holm"] == pytest.approx(holm)
    table = {line[0]: line[1:] for line in caption_cells(report)}
    assert table["p (MRR, text to image)"][1:] == [f"{holm:.3f}", "-"]


def test_images_that_the_scorer_was_trained_on_are_named(world):
    given = ({"one": world["captions"]}, world["images"], world["references"])

    def last(rows):
        return caption_retrieval(given[0], scorer(rows=rows), given[1], given[2])["notes"][-1]

    other = fingerprint(["something else", world["references"]["2.jpg"][0]])
    assert last(other) == "it was trained on none of the 12 images that have references"
    tuned = dataclasses.replace(scorer(rows=other), tuned=True)
    said = caption_retrieval(given[0], tuned, given[1], given[2])["notes"][-1]
    assert said.startswith("it was tuned on none of the 12") and said.endswith("is unknown")
    both = [text for name in ("2.jpg", "5.jpg") for text in world["references"][name]]
    assert last(fingerprint(both)) == (
        "it was trained on 2 images of the 12 that have references (2.jpg, 5.jpg): its figures of "
        "them are too high, take a CLIP that was trained on others"
    )
    assert last(None) == "which images it was trained on is unknown"
    alone = caption_retrieval(given[0], scorer(rows=other), given[1])["notes"]
    assert alone == [
        "whether it was trained on these images is unknown: references would tell by their captions"
    ]


def test_the_report_has_both_writing_and_retrieval(world):
    methods = {"one": world["captions"]}
    report = evaluate_captions(methods, world["references"], clip=scorer(), images=world["images"])
    wanted = caption_retrieval(methods, scorer(), world["images"], world["references"])
    row = report["methods"][0]
    assert report["gallery"] == 12 and wanted["methods"]["one"].items() <= row.items()
    table = {line[0]: line[1] for line in caption_cells(report)}
    assert table["images to choose among"] == "12" and table["CIDEr-D"]
    value = row["retrieval"]["text_to_image"]["recall_5"]
    low, high = value["interval"]
    assert table["R@5, text to image"] == f"{value['value']:.3f} [{low:.3f}, {high:.3f}]"
    alone = evaluate_captions(methods, clip=scorer(), images=world["images"])
    assert "cider_d" not in alone["methods"][0] and "ref_clip_s" not in alone["methods"][0]
    assert alone["methods"][0]["retrieval"] == row["retrieval"]
    assert "CIDEr-D" not in {line[0] for line in caption_cells(alone)}
