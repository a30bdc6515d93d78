"""Out-of-context pairs, against loops over captions and images."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from coopgen_jax.augmentation.balanced_matching import balanced_matching
from coopgen_jax.augmentation.image_pairs import (
    HARDNESS,
    MEASURES,
    CaptionedVectors,
    PairSettings,
    make_image_pairs,
)
from coopgen_jax.errors import UserError

IMAGES, EACH = 120, 2
KINDS = ("GPE", "ORG", "PERSON")


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def known() -> CaptionedVectors:
    """Images 0 and 1 are copies but for a little, and captions 10 and 30 are equal."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(IMAGES, 6))
    images[1] = images[0] + 0.01
    image_of = np.repeat(np.arange(IMAGES), EACH)
    texts = unit(images[image_of] + rng.normal(size=(IMAGES * EACH, 6)))
    texts[30] = texts[10]
    kinds = [frozenset(kind for kind in KINDS if rng.uniform() < 0.2) for _ in range(IMAGES * EACH)]
    scenes = unit(rng.normal(size=(IMAGES, 4)))
    return CaptionedVectors(texts, unit(images), image_of, scenes, kinds)


def similarity(known, measure: str, caption: int, image: int) -> float:
    """Returns how similar an image is to a caption, -inf where it is no candidate."""
    own = known.image_of[caption]
    of = np.flatnonzero(known.image_of == image)
    if measure == "image-text":
        return float(known.texts[caption] @ known.images[image])
    if measure == "image-image":
        return float(known.images[own] @ known.images[image])
    if measure == "scene":
        silent = all("PERSON" not in known.kinds[row] for row in of)
        return float(known.scenes[own] @ known.scenes[image]) if silent else -np.inf
    if measure == "person":
        of = [row for row in of if known.kinds[row] & known.kinds[caption]]
    return max((float(known.texts[caption] @ known.texts[row]) for row in of), default=-np.inf)


def candidates_of(known, settings, measure, hardness, part, pool) -> np.ndarray:
    """Returns the candidates of a part's captions, nearest first, -1 for none."""
    others = len(pool) - 1
    first = max(0, min(int(HARDNESS[hardness] * others), others - settings.candidates))
    table = np.full((len(part), settings.candidates), -1)
    for row, caption in enumerate(part):
        own = known.image_of[caption]
        fitting = [
            (-similarity(known, measure, caption, image), image)
            for image in pool
            if image != own
            and similarity(known, "image-image", caption, image) <= settings.image_ceiling
            and similarity(known, "text-text", caption, image) <= settings.text_ceiling
        ]
        fitting = sorted(one for one in fitting if one[0] < np.inf)[first:][: settings.candidates]
        table[row, : len(fitting)] = [image for _, image in fitting]
    return table


@pytest.mark.parametrize("measure", MEASURES)
def test_pairs_of_a_measure_are_those_of_loops(known, measure):
    settings = PairSettings((measure,), ("hard", "easy"), candidates=5, folds=2, seed=3)
    pairs = make_image_pairs(known, settings)
    folds = np.full(IMAGES, -1)
    folds[pairs.image] = pairs.fold
    assert len(set(pairs.caption)) == len(pairs.caption) > 40
    np.testing.assert_array_equal(pairs.image, known.image_of[pairs.caption])
    assert (folds[pairs.false_image] == pairs.fold).all(), "a pair left its fold"
    for fold in range(2):
        for band in range(2):
            inside = (pairs.fold == fold) & (pairs.hardness == band)
            true, false = pairs.image[inside], pairs.false_image[inside]
            assert Counter(true) == Counter(false), "an image is not false as often as it is true"
            assert not (true == false).any()
            for caption, image, score in zip(
                pairs.caption[inside], false, pairs.score[inside], strict=True
            ):
                assert abs(similarity(known, measure, caption, image) - score) < 1e-5
                assert similarity(known, "image-image", caption, image) <= 0.95
                assert similarity(known, "text-text", caption, image) <= 0.95


def test_one_part_is_the_best_matching_of_its_candidates(known):
    """All captions are in one part, whose candidates the loops know."""
    for hardness in HARDNESS:
        settings = PairSettings(("text-text",), (hardness,), candidates=4, folds=1)
        pairs = make_image_pairs(known, settings)
        part, pool = np.arange(IMAGES * EACH), np.arange(IMAGES)
        table = candidates_of(known, settings, "text-text", hardness, part, pool)
        scores = np.array(
            [
                [similarity(known, "text-text", caption, image) if image != -1 else -np.inf
                 for image in row]
                for caption, row in enumerate(table)
            ]
        )  # fmt: skip
        chosen = balanced_matching(table, scores, known.image_of)
        used = np.flatnonzero(chosen != -1)
        np.testing.assert_array_equal(pairs.caption, used)
        np.testing.assert_array_equal(pairs.false_image, chosen[used])


def test_hard_pairs_are_more_similar_than_easy_ones(known):
    pairs = make_image_pairs(known, PairSettings(candidates=5, folds=1))
    means = [pairs.score[pairs.hardness == band].mean() for band in range(3)]
    assert means[0] > means[1] + 0.05 > means[2] + 0.1


def test_a_merged_collection_deals_captions_evenly_and_once(known):
    settings = PairSettings(MEASURES, ("hard",), candidates=8, folds=2)
    pairs = make_image_pairs(known, settings)
    assert len(set(pairs.caption)) == len(pairs.caption)
    counts = Counter(pairs.by)
    assert set(counts) == set(range(5)) and min(counts.values()) > 0.6 * max(counts.values())
    for fold in range(2):
        for by in range(5):
            inside = (pairs.fold == fold) & (pairs.by == by)
            assert Counter(pairs.image[inside]) == Counter(pairs.false_image[inside])
    person = pairs.caption[pairs.by == MEASURES.index("person")]
    assert all(known.kinds[caption] for caption in person)
    scene = pairs.by == MEASURES.index("scene")
    shown = set(pairs.image[scene]) | set(pairs.false_image[scene])
    named = [known.kinds[row] for row in range(IMAGES * EACH) if known.image_of[row] in shown]
    assert not any("PERSON" in kinds for kinds in named)


def test_near_duplicates_are_left_out_by_their_ceilings(known):
    """Without ceilings the copies of an image and of a caption are the nearest."""
    open_settings = PairSettings(("image-image",), ("hard",), 1, folds=1, image_ceiling=1.0,
                                 text_ceiling=1.0)  # fmt: skip
    pairs = make_image_pairs(known, open_settings)
    copies = dict(zip(pairs.caption, pairs.false_image, strict=True))
    assert copies[0] == 1 and copies[2] == 0
    closed = make_image_pairs(known, replace(open_settings, image_ceiling=0.95))
    copies = dict(zip(closed.caption, closed.false_image, strict=True))
    assert copies.get(0) != 1 and copies.get(2) != 0
    by_text = replace(open_settings, by=("text-text",))
    pairs = make_image_pairs(known, by_text)
    assert dict(zip(pairs.caption, pairs.false_image, strict=True)).get(10) == 15
    pairs = make_image_pairs(known, replace(by_text, text_ceiling=0.99))
    assert dict(zip(pairs.caption, pairs.false_image, strict=True)).get(10) != 15


def test_the_seed_decides(known):
    settings = PairSettings(("text-text", "scene"), ("hard",), folds=2)
    first, again = (make_image_pairs(known, settings) for _ in range(2))
    other = make_image_pairs(known, replace(settings, seed=1))
    np.testing.assert_array_equal(first.false_image, again.false_image)
    assert first.fold.tolist() != other.fold.tolist()


def test_what_cannot_be_is_refused(known):
    with pytest.raises(UserError, match="there are 120 images for 30 folds of 3 parts, which need"):
        make_image_pairs(known, PairSettings(folds=30))
    with pytest.raises(UserError, match="no caption fits another image"):
        make_image_pairs(known, PairSettings(image_ceiling=-0.999, folds=1))
    with pytest.raises(ValueError, match="kinds"):
        make_image_pairs(replace(known, kinds=None), PairSettings(("person",)))
    with pytest.raises(ValueError, match="scenes"):
        make_image_pairs(replace(known, scenes=None), PairSettings(("scene",)))


@pytest.mark.parametrize("images", [2, 3, 5])
def test_few_images_are_paired(images):
    rng = np.random.default_rng(images)
    vectors = unit(rng.normal(size=(images, 6)))
    known = CaptionedVectors(unit(rng.normal(size=(images, 6))), vectors, np.arange(images))
    settings = PairSettings(hardness=("hard",), folds=1, image_ceiling=1, text_ceiling=1)
    pairs = make_image_pairs(known, settings)
    assert sorted(pairs.image) == sorted(pairs.false_image) == list(range(images))
    assert (pairs.image != pairs.false_image).all()


def test_settings_of_no_use_are_refused():
    for settings in ({"by": ()}, {"by": ("nothing",)}, {"hardness": ()}, {"folds": 0}):
        with pytest.raises(UserError, match=f"{next(iter(settings))} is"):
            PairSettings(**settings)
    bands = PairSettings(by=("text-text",), folds=1)
    assert bands.bands_alike(60) and not bands.bands_alike(120)
