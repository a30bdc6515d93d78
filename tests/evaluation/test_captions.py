"""The report on captions: its figures are those of the metrics, its notes name what is missing."""

import numpy as np
import pytest

from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.caption_metrics import bleu_counts, bleu_of_counts, cider_d, rouge_l
from coopgen_jax.evaluation.caption_words import caption_words
from coopgen_jax.evaluation.captions import caption_cells, evaluate_captions
from coopgen_jax.evaluation.metrics import self_bleu

THINGS = ("dog", "boat", "train", "lamp", "horse", "clock", "kite", "cup")
PLACES = ("on the grass", "near the sea", "in a room", "at night", "under a tree")


def world(images: int = 40) -> tuple[dict, dict]:
    """Captions and references of some images, of a few words each."""
    rng = np.random.default_rng(0)

    def sentence(thing: str, place: str) -> str:
        return f"{rng.choice(['A', 'The', 'One'])} {thing} stands {place}."

    captions, references = {}, {}
    for number in range(images):
        thing, place = rng.choice(THINGS), rng.choice(PLACES)
        references[f"{number}.jpg"] = tuple(sentence(thing, place) for _ in range(3))
        other = place if rng.random() < 0.7 else rng.choice(PLACES)
        captions[f"{number}.jpg"] = (sentence(thing, other),)
    return captions, references


@pytest.fixture(scope="module")
def report() -> dict:
    captions, references = world()
    worse = dict.fromkeys(captions, ("a thing somewhere",))
    return evaluate_captions({"good": captions, "bad": worse}, references)


def test_figures_are_those_of_the_metrics(report):
    captions, references = world()
    texts = [own[0] for own in captions.values()]
    words = list(map(caption_words, texts))
    known = [list(map(caption_words, own)) for own in references.values()]
    row = report["methods"][0]
    counts = sum(bleu_counts(*pair) for pair in zip(words, known, strict=True))
    wanted = {f"bleu_{n}": value for n, value in enumerate(bleu_of_counts(counts), start=1)} | {
        "rouge_l": np.mean([rouge_l(*pair) for pair in zip(words, known, strict=True)]),
        "cider_d": cider_d(words, known).mean(),
        "self_bleu_5": self_bleu(texts),
        "length": np.mean(list(map(len, words))),
        "different": len(set(map(tuple, words))) / len(words),
    }
    assert {name: row[name]["value"] for name in wanted} == pytest.approx(wanted)
    assert row["images"] == 40 and row["notes"] == []


def test_sameness_is_that_of_words():
    captions = {"1": ("A dog.",), "2": ("a dog",), "3": ("A boat",), "4": ("A wet dog",)}
    row = evaluate_captions({"one": captions})["methods"][0]
    assert row["different"]["value"] == 3 / 4 and row["shared"]["value"] == 2 / 4
    assert row["vocabulary"]["value"] == 4 and row["length"]["value"] == 9 / 4
    # Nothing is compared with references where there are none.
    assert not {"bleu_1", "rouge_l", "cider_d", "retrieval"} & set(row)


def test_intervals_hold_their_figures_and_narrow_with_more_images(report):
    few = evaluate_captions({"few": world(8)[0]}, world(8)[1])["methods"][0]
    for name in ("bleu_1", "bleu_4", "rouge_l", "cider_d"):
        (low, high), value = report["methods"][0][name]["interval"], report["methods"][0][name]
        assert low < value["value"] < high
        assert few[name]["interval"][1] - few[name]["interval"][0] > high - low


def test_methods_are_tested_on_the_same_images(report):
    paired = report["methods"][1]["paired"]
    assert paired["images"] == 40 and paired["cider_d_p_holm"] < 1e-4
    assert report["against"] == "good" and "paired" not in report["methods"][0]


def test_the_table_has_a_figure_a_row(report):
    table = caption_cells(report)
    assert table[0] == ["", "good", "bad"] and table[1] == ["images", "40", "40"]
    assert table[-1] == ["p (CIDEr-D)", "-", "<0.001"]
    assert [row[0] for row in table][2:6] == ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4"]
    assert caption_cells(evaluate_captions({"alone": world()[0]}, world()[1]))[-1][0] == "words"


def test_what_is_missing_is_counted_and_named():
    captions, references = world(6)
    captions["0.jpg"], captions["1.jpg"] = ("...",), ("a dog", "a boat")
    for image in ("2.jpg", "3.jpg"):
        del references[image]
    del captions["5.jpg"]
    row = evaluate_captions({"one": captions}, references)["methods"][0]
    assert row["images"] == 3
    assert row["notes"] == [
        "2 images without references, left out (2.jpg, 3.jpg)",
        "1 image with references but without caption (5.jpg)",
        "1 image with a caption without words, which scores 0 (0.jpg)",
        "1 image with several captions, of which the first counts (1.jpg)",
    ]


def test_files_that_do_not_go_together_are_refused():
    captions, references = world(3)
    with pytest.raises(UserError, match="no image of one has references: both files must call"):
        evaluate_captions({"one": {"x.jpg": ("a dog",)}}, references)
    with pytest.raises(UserError, match="there is no method 'two'"):
        evaluate_captions({"one": captions}, references, against="two")


def test_one_image_has_figures_without_spread():
    row = evaluate_captions({"one": {"a": ("a dog",)}}, {"a": ("a wet dog",)})["methods"][0]
    assert row["bleu_1"]["interval"] == [row["bleu_1"]["value"]] * 2
    assert row["cider_d"]["value"] == 0
