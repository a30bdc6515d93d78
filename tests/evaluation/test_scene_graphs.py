"""Scene-graph F1: tuples of sentences that can be read by eye, and the score by hand."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.captions import caption_cells, evaluate_captions
from coopgen_jax.evaluation.scene_graphs import load_scene_parser, scene_graph_f1, scene_of

IMAGES = json.loads((Path(__file__).parent / "coco_scores.json").read_text(encoding="utf-8"))[
    "images"
]


@pytest.fixture(scope="module")
def parse():
    return load_scene_parser()


def test_sentences_become_things_qualities_and_relations(parse):
    assert parse("Two black dogs run over wet grass .") == {
        ("dog",), ("dog", "two"), ("dog", "black"), ("grass",), ("grass", "wet"),
        ("dog", "run over", "grass"),
    }  # fmt: skip
    assert parse("A woman in a red dress is playing the piano in the large room.") == {
        ("woman",), ("dress",), ("dress", "red"), ("piano",), ("room",), ("room", "large"),
        ("woman", "in", "dress"), ("woman", "play", "piano"), ("woman", "in", "room"),
    }  # fmt: skip
    # A pronoun is no thing, and has no relations.
    assert parse("He holds a blue umbrella") == {("umbrella",), ("umbrella", "blue")}
    assert parse("") == parse("Running .") == frozenset()
    assert parse("A DOG") == parse("the dog") == {("dog",)}


def test_tuples_of_a_graph_leave_out_what_names_nothing():
    def thing(name, *modifiers):
        given = [{"dep": dep, "lemma_span": word} for dep, word in modifiers]
        return {"lemma_head": name, "modifiers": given}

    graph = {
        "entities": [thing("Man", ("det", "a"), ("amod", "Tall")), thing("it"), thing("hat")],
        "relations": [
            {"subject": 0, "object": 2, "lemma_relation": "wear"},
            {"subject": 1, "object": 2, "lemma_relation": "on"},
        ],
    }
    wanted = {("man",), ("man", "tall"), ("hat",), ("man", "wear", "hat")}
    assert scene_of(graph, {1}) == wanted
    assert scene_of(graph, set()) == wanted | {("it",), ("it", "on", "hat")}


def test_the_score_is_f1_of_tuples_with_the_union_of_references(parse):
    captions = ["A black dog runs on grass", "A boat", "...", "A red car"]
    references = [["A dog", "A wet dog runs on the grass"], ["A lamp"], ["A dog"], ["A red car"]]
    # Caption 1: dog, black dog, grass, run on; its references: dog, wet dog, grass, run on.
    own, human = parse(captions[0]), parse(references[0][0]) | parse(references[0][1])
    assert (len(own), len(human), len(own & human)) == (4, 4, 3)
    wanted = [3 / 4, 0, 0, 1]
    found = scene_graph_f1(captions, references, parse=parse)
    assert found["value"] == pytest.approx(np.mean(wanted))
    low, high = found["interval"]
    assert low < found["value"] < high
    for number, score in enumerate(wanted):
        part = slice(number, number + 1)
        one = scene_graph_f1(captions[part], references[part], parse=parse)
        assert one["value"] == pytest.approx(score)


def test_the_report_has_it_under_its_own_name(parse):
    captions = {name: (image["caption"],) for name, image in IMAGES.items()}
    references = {name: tuple(image["references"]) for name, image in IMAGES.items()}

    def metric(texts, human):
        return scene_graph_f1(texts, human, parse=parse)

    shuffled = dict(zip(captions, list(captions.values())[::-1], strict=True))
    methods = {"right": captions, "wrong": shuffled}
    report = evaluate_captions(methods, references, metrics={"scene_graph_f1": metric})
    right, wrong = (row["scene_graph_f1"]["value"] for row in report["methods"])
    assert right > 0.3 > 0.2 > wrong
    table = {line[0]: line[1] for line in caption_cells(report)}
    assert table["scene-graph F1"].startswith(f"{right:.3f} [") and "SPICE" not in table


@pytest.mark.parametrize("name", ["sng_parser", "spacy"])
def test_what_is_not_installed_is_named(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match="scene graphs need SceneGraphParser and spaCy"):
        load_scene_parser()
