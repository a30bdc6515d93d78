"""Distinctive captioning: stages on tiny pictures, and figures checked by hand."""

import csv
import json
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from coopgen_jax.bulk.growing_file import rows_in
from coopgen_jax.data.labelled import half_of
from coopgen_jax.models.pretrained import image_networks, loaded_model
from experiments import captioning
from experiments.caption_methods import METHODS, REWARDED, decoder_of, reward_of
from experiments.caption_scene import Scene, groups_of
from experiments.captioning import Config, World, main, write_captions
from experiments.captioning_measures import Draws, difference, of_seed, pooled, row_of
from tests.docs.tiny_world import TINY_LITE, write_backbone, write_encoder

COLOURS = {"red": (250, 0, 0), "green": (0, 250, 0), "blue": (0, 0, 250), "grey": (90, 90, 90)}
NAMES = [f"{colour}{number}.jpg" for number in range(4) for colour in COLOURS]
ASKED = ("mle", "wtf-rl", "rerank")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Pictures of one colour with two captions each, and random networks."""
    folder = tmp_path_factory.mktemp("world")
    write_backbone(folder / "backbone")
    write_encoder(folder / "encoder")
    (folder / "data" / "images").mkdir(parents=True)
    for name in NAMES:
        colour = re.split(r"\d", name)[0]
        shade = np.add(COLOURS[colour], 3 * int(name[-5]))
        picture = Image.new("RGB", (16, 16), tuple(shade.tolist()))
        picture.save(folder / "data" / "images" / name)
    for split, names in (("train", NAMES[:12]), ("validation", NAMES[12:])):
        with (folder / "data" / f"{split}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["image", "caption"])
            for name in names:
                colour = re.split(r"\d", name)[0]
                rows.writerows([(name, f"A {colour} wall ."), (name, f"a c {colour} b")])
    return folder


@pytest.fixture(scope="module")
def ready(world):
    with pytest.MonkeyPatch.context() as patch:
        kinds = {"image network": "backbone", "encoder": "encoder"}
        patch.setattr(loaded_model, "fetch", lambda packaged: world / kinds[packaged.kind])
        patch.setattr(image_networks, "LITE0", TINY_LITE)
        yield world


def config_of(world, work, **more):
    given = {
        "out": work / "out", "methods": ASKED, "tuning": 2, "clip_epochs": 1, "clip_width": 4,
        "vocabulary": 270, "layers": 1, "width": 64, "prefix": 1, "rows": 4, "epochs": 0.5,
        "rounds": 2, "round_images": 2, "samples": 2, "grammar_steps": 2, "beams": 2,
        "new_tokens": 3, "guided": 3, "others": 2, "candidates": 3, "simulations": 2,
        "batch_size": 2, "dtype": "float32", "longest": 24,
    } | more  # fmt: skip
    return Config(world / "data", work, **given)


@pytest.mark.slow
def test_all_stages_run_and_an_interrupted_run_goes_on(ready, tmp_path, capsys, monkeypatch):
    config = config_of(ready, tmp_path / "work")
    monkeypatch.setattr(captioning, "CHUNK", 2)
    whole, asked = captioning.cg.generate, []

    def once(*given, **settings):
        asked.append(len(given[1]))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return whole(*given, **settings)

    # The run is broken off between two chunks of captions.
    with monkeypatch.context() as patch:
        patch.setattr(captioning.cg, "generate", once)
        with pytest.raises(KeyboardInterrupt):
            main(config)
    folder = config.folder
    assert len((folder / "captions" / "mle.jsonl").read_text().splitlines()) == 1 + 2
    weights = (folder / "mle" / "head.safetensors").stat().st_mtime_ns
    main(config)
    assert (folder / "mle" / "head.safetensors").stat().st_mtime_ns == weights
    found = json.loads((config.out / "captioning.json").read_text())
    assert (config.out / "captioning.png").read_bytes().startswith(b"\x89PNG")
    assert found["seeds"] == [0] and found["heads"]["all"]["training_images"] == 12
    assert {"heads judge", "reading"} <= found["seconds"]["shared"].keys()
    assert {"mle", "captions rerank"} <= found["seconds"]["seed-0"].keys()
    names = {
        name: [row["method"] for row in gallery["methods"]]
        for name, gallery in found["galleries"].items()
    }
    assert names == {"all": [*ASKED[:2], "human"], "guided": [*ASKED, "human"]}
    for gallery, images in (("all", 4), ("guided", 3)):
        assert found["galleries"][gallery]["images"] == images
    pairs = [row["pair"] for row in found["galleries"]["guided"]["pairs"]]
    assert ["wtf-rl", "mle"] in pairs and ["rerank", "wtf-rl"] in pairs
    assert "teacher forcing" in capsys.readouterr().out
    page = (config.work / "twenty.html").read_text()
    assert "For research only" in page and page.count("<img") == 3
    # All of it is there: nothing is trained, and nothing written.
    for name in ("train_clip", "train_captioner", "train_rewarded_captioner"):
        monkeypatch.setattr(captioning, name, lambda *_, **__: pytest.fail("trained again"))
    monkeypatch.setattr(captioning.cg, "generate", lambda *_, **__: pytest.fail("written again"))
    main(config)
    again = json.loads((config.out / "captioning.json").read_text())
    assert again["galleries"] == found["galleries"]


def test_captions_go_on_behind_the_last_chunk(tmp_path, monkeypatch):
    """The captions of an interrupted run are kept, and the others written."""
    names = tuple(f"{number}.jpg" for number in range(5))
    groups = groups_of([], names, 0)
    scene = Scene(names, np.arange(10.0).reshape(5, 2), ((),) * 5, (), groups)
    monkeypatch.setattr(captioning, "CHUNK", 2)
    told = []

    class Captioner:
        model = None

        def fronts(self, count):
            return [[0]] * count

        def vectors(self, states):
            return states

    class Known(World):
        def captioner(self, name):
            return Captioner()

    def generate(model, fronts, *, vectors, **_):
        told.append(vectors[:, 0].tolist())
        if len(told) == 2:
            raise KeyboardInterrupt
        return [SimpleNamespace(text=f" {row[0]:.0f}") for row in vectors]

    monkeypatch.setattr(captioning.cg, "generate", generate)
    config = Config(tmp_path, tmp_path)
    world = Known(config, None, None, scene)
    with pytest.raises(KeyboardInterrupt):
        write_captions(world, "mle")
    write_captions(world, "mle")
    rows = rows_in(config.folder / "captions" / "mle.jsonl")
    assert [(row["image"], row["caption"]) for row in rows] == [
        (name, str(2 * number)) for number, name in enumerate(names)
    ]
    # The chunk that was broken off was written again, the first one was not.
    assert told == [[0, 2], [4, 6], [4, 6], [8]]


def test_groups_share_no_image():
    training = [f"{number}.jpg" for number in range(60)]
    groups = groups_of(training, ["x.jpg", "y.jpg"], 5)
    found = [int(number) for own in groups.values() for number in own]
    assert sorted(found) == list(range(62))
    assert list(groups["gallery"]) == [60, 61] and len(groups["tuning"]) == 5
    for name, half in (("a", "A"), ("b", "B"), ("tuning", "B")):
        assert all(half_of(training[number]) == half for number in groups[name])
    # The heads that reward and those that measure have no image in common.
    sides = [
        {image for group in captioning.HEADS[name] for image in groups[group].tolist()}
        for name in ("scorer", "judge")
    ]
    assert not sides[0] & sides[1] and len(sides[0] | sides[1]) == 60


def test_rewards_differ_in_what_the_table_says(tmp_path):
    config = Config(tmp_path, tmp_path)
    found = {name: reward_of(config, name, 0.05) for name in REWARDED}
    assert len({str(reward) for reward in found.values()}) == len(found) == 8
    for name, reward in found.items():
        # Only what weighs references is shifted, and all have the scorer's temperature.
        assert (reward.offset > 0) == ("wtf" in reward.objective), name
        assert reward.temperature == 0.05 and reward.proposal.samples == config.samples
        # A baseline that is one caption is compared with what the model itself draws.
        drawn = 1.0 if reward.similarity == "clip-s" else config.temperature
        assert reward.proposal.rules.temperature == drawn
    assert found["rl-alone"].alpha == 1 and found["rl"].alpha == 0.94
    assert found["scst-grammar"].regulariser == "grammar"
    assert found["rl-one-way"].similarity == "one-way"
    assert found["rl-strongest"].baseline == "strongest" and found["scst"].baseline == "greedy"
    assert all(decoder_of(config, name).new_tokens == config.new_tokens for name in METHODS)


# Of three images and their captions the second caption is nearer to the third image than to its
# own.
IMAGES = np.eye(3)
TEXTS = np.asarray([[1.0, 0, 0], [0, 0.6, 0.8], [0, 0, 1.0]])
REFERENCES = [["a dog runs", "the dog runs"], ["a red boat"], ["two men sit on a wall"]]


def test_figures_are_those_of_the_captions():
    captions = ["a dog runs", "a blue boat", "two men sit on a wall"]
    found = of_seed(captions, {"judge": (TEXTS, IMAGES)}, REFERENCES, None)
    assert found.each["text_to_image_recall_1"].tolist() == [1, 0, 1]
    assert found.each["text_to_image_reciprocal_rank"].tolist() == [1, 0.5, 1]
    # Of the third image the third caption is the nearest, and of the second its own.
    assert found.each["image_to_text_recall_1"].tolist() == [1, 1, 1]
    assert found.each["length"].tolist() == [3, 3, 6]
    assert found.each["rouge_l"].tolist() == pytest.approx([1, 2 / 3, 1])
    assert found.each["cider_d"][2] > found.each["cider_d"][1]
    draws = Draws(3)
    row = row_of("rl", found, draws, found)
    assert row["text_to_image_recall_1"]["value"] == pytest.approx(2 / 3)
    assert row["text_to_image_recall_1"]["interval"] == [0, 1]
    assert row["ratio"]["cider_d"] == {"value": 1.0, "interval": [1.0, 1.0]}
    worse = of_seed(["a", "a", "a"], {"judge": (TEXTS[::-1], IMAGES)}, REFERENCES, None)
    more = difference(found, worse, draws)
    # Turned around, no caption finds its image.
    assert worse.each["text_to_image_recall_1"].tolist() == [0, 0, 0]
    assert more["text_to_image_recall_1"]["value"] == pytest.approx(2 / 3)
    assert more["length"] == {"value": 3.0, "interval": [2.0, 5.0]}


def test_seeds_are_pooled_image_by_image():
    one, other = (
        of_seed(captions, {"judge": (TEXTS, IMAGES)}, REFERENCES, None)
        for captions in (["a dog runs", "a boat", "a"], ["a cat", "a boat", "two men sit"])
    )
    both = pooled([one, other])
    assert both.each["rouge_l"].tolist() == pytest.approx(
        ((one.each["rouge_l"] + other.each["rouge_l"]) / 2).tolist()
    )
    assert [part["length"] for part in both.by_seed] == [2.0, pytest.approx(7 / 3)]
    np.testing.assert_array_equal(both.bleu, one.bleu + other.bleu)


def test_a_classifier_takes_half_of_what_it_cannot_tell_and_none_of_nonsense():
    words = ("dog", "boat", "man", "wall", "child")
    human = [f"a {words[n % 5]} and a {words[n * 2 % 5]}" for n in range(50)]
    vectors = {"judge": (np.eye(50), np.eye(50))}
    same = of_seed(human, vectors, None, human).each["human"].mean()
    bad = of_seed(["wall wall wall"] * 50, vectors, None, human).each["human"].mean()
    assert bad == 0 and same == pytest.approx(0.5)


def test_mistakes_are_named(ready, tmp_path):
    config = config_of(ready, tmp_path)
    with pytest.raises(SystemExit, match="--stages dance is unknown: choose from clip, forced"):
        main(replace(config, stages=("dance",)))
    with pytest.raises(SystemExit, match="--methods dance is unknown: choose from mle, wtf"):
        main(replace(config, methods=("dance",)))
