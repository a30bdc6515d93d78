"""Similar images, against loops over all images and keys."""

import numpy as np
import pytest

from coopgen_jax.evaluation import similar_images as module
from coopgen_jax.evaluation.similar_images import Comparison, similar_images


def slow(by, own, images, ranks, unlike=(), kinds=None):
    """Returns the ranks of every query, found image by image."""

    def similarity(compared, query, image, allowed=None):
        own_keys = [
            float(key @ compared.queries[query])
            for number, key in enumerate(compared.keys)
            if compared.images[number] == image and (allowed is None or allowed[number])
        ]
        return max(own_keys, default=-np.inf)

    numbers, scores = [], []
    for query in range(len(by.queries)):
        allowed = None if kinds is None else [bits & kinds[0][query] for bits in kinds[1]]
        row = []
        for image in range(images):
            score = similarity(by, query, image, allowed)
            alike = any(similarity(other, query, image) > top for other, top in unlike)
            if image != own[query] and score > -np.inf and not alike:
                row.append((-score, image))
        row.sort()
        there = [row[rank - 1] if rank <= len(row) else (np.inf, -1) for rank in ranks]
        numbers.append([image for _, image in there])
        scores.append([-score for score, _ in there])
    return np.array(numbers), np.array(scores)


def comparison(seed: int, queries: int, keys: int, images: int) -> Comparison:
    """Small integers: inner products are exact, and some are equal."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(-3, 4, (queries, 5)).astype(np.float32)
    columns = rng.integers(-3, 4, (keys, 5)).astype(np.float32)
    return Comparison(rows, columns, rng.integers(0, images, keys))


QUERIES, IMAGES = 13, 9


def world() -> tuple[Comparison, np.ndarray]:
    own = np.random.default_rng(5).integers(-1, IMAGES, QUERIES)
    return comparison(0, QUERIES, 31, IMAGES), own


@pytest.mark.parametrize("block", [None, 4])
def test_images_are_those_of_a_search_one_by_one(block):
    by, own = world()
    rng = np.random.default_rng(2)
    kinds = (
        rng.integers(0, 8, QUERIES).astype(np.int32),
        rng.integers(0, 8, len(by.keys)).astype(np.int32),
    )
    unlike = ((comparison(1, QUERIES, 20, IMAGES), 8.0), (comparison(2, QUERIES, 9, IMAGES), 10.0))
    for more in ({}, {"kinds": kinds}, {"unlike": unlike}, {"kinds": kinds, "unlike": unlike}):
        found = similar_images(by, own, IMAGES, ranks=(1, 3, 8, 12), block=block, **more)
        wanted = slow(by, own, IMAGES, (1, 3, 8, 12), **more)
        np.testing.assert_array_equal(found[0], wanted[0])
        np.testing.assert_array_equal(found[1], wanted[1])
    assert (found[0] == -1).any() and (found[0][:, 0] >= 0).any()


def test_similarities_in_memory_are_bounded_and_compiled_once(monkeypatch):
    """Blocks of 4 queries: 31 keys, 20 keys and 9 images fill 960 bytes."""
    by, own = world()
    shapes = []
    inner = module._nearest

    def watched(queries, *rest, **static):
        shapes.append((len(queries[0]), sum(len(keys) for keys in rest[2]) + static["images"]))
        return inner(queries, *rest, **static)

    monkeypatch.setattr(module, "_nearest", watched)
    monkeypatch.setattr(module, "BYTES", 1000)
    before = inner._cache_size()
    unlike = ((comparison(1, QUERIES, 20, IMAGES), 8.0),)
    found, _ = similar_images(by, own, IMAGES, ranks=(2,), unlike=unlike)
    assert len(found) == QUERIES and len(shapes) == 4
    assert all(4 * rows * columns <= 1000 for rows, columns in shapes)
    assert inner._cache_size() == before + 1


def test_ranks_start_at_one_and_no_queries_have_no_images():
    by, own = world()
    with pytest.raises(ValueError, match="numbers from 1"):
        similar_images(by, own, IMAGES, ranks=(0,))
    none = Comparison(by.queries[:0], by.keys, by.images)
    assert similar_images(none, own[:0], IMAGES, ranks=(1, 2))[0].shape == (0, 2)
