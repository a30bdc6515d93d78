"""Mined neighbours, against sorting."""

import numpy as np
import pytest

from coopgen_jax.errors import UserError
from coopgen_jax.training.captioning.neighbours import mine_neighbours


def sorted_images(query, own, keys, key_ids, ranks) -> list[int]:
    best: dict[int, float] = {}
    for key, number in zip(keys, key_ids, strict=True):
        best[number] = max(best.get(number, -9.0), float(key @ query))
    order = sorted((number for number in best if number != own), key=lambda n: (-best[n], n))
    return [order[rank - 1] for rank in ranks]


def world(images: int = 23, captions: int = 3) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(1)
    ids = 100 + 7 * np.arange(images)
    keys = rng.integers(-3, 4, (images * captions, 5)).astype(np.float32)
    order = rng.permutation(images * captions)
    queries = rng.integers(-3, 4, (images, 5)).astype(np.float32)
    return queries, ids, keys[order], np.repeat(ids, captions)[order]


@pytest.mark.parametrize("block", [None, 1, 4, 23])
def test_neighbours_are_those_of_sorting_with_every_block_size(block):
    """Small integers are exact and have ties; the own image is left out behind the first block."""
    queries, ids, keys, key_ids = world()
    found = mine_neighbours(queries, ids, keys, key_ids, ranks=(1, 4, 5), block=block)
    wanted = [
        sorted_images(query, own, keys, key_ids, (1, 4, 5))
        for query, own in zip(queries, ids, strict=True)
    ]
    np.testing.assert_array_equal(found, wanted)
    assert not (found == ids[:, None]).any()


def test_a_query_without_keys_has_all_images_as_others():
    queries, _, keys, key_ids = world()
    found = mine_neighbours(queries[:2], np.asarray([1, 9999]), keys, key_ids, ranks=(1,))
    wanted = [sorted_images(query, None, keys, key_ids, (1,)) for query in queries[:2]]
    np.testing.assert_array_equal(found, wanted)


def test_ranks_that_do_not_exist_are_refused():
    queries, ids, keys, key_ids = world(images=5)
    mine_neighbours(queries, ids, keys, key_ids, ranks=(4,))
    with pytest.raises(UserError, match="rank 5 of similar images is asked for, and there are 4"):
        mine_neighbours(queries, ids, keys, key_ids)
    with pytest.raises(ValueError, match="numbers from 1"):
        mine_neighbours(queries, ids, keys, key_ids, ranks=(0, 1))
