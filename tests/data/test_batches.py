"""Batches: a pure function of their number, cut, balanced, shared by processes."""

import numpy as np
import pytest

from coopgen_jax.data.batches import MULTIPLE, BatchConfig, in_order, packed, training_batches
from coopgen_jax.errors import UserError

ROWS = [[n + 1] * (1 + n % 7) for n in range(20)]
LABELS = [0] * 15 + [1] * 5


def texts(batch):
    return [row[mask].tolist() for row, mask in zip(batch["tokens"], batch["mask"], strict=True)]


def batches(**changes):
    return training_batches(ROWS, LABELS, BatchConfig(rows=5, longest=6, **changes))


def test_every_text_is_read_once_in_an_epoch_in_an_order_of_its_own():
    found = batches(shortest=None)
    first, second = (
        [text for number in range(at, at + 4) for text in texts(found[number])] for at in (0, 4)
    )
    cut = [row[:6] for row in ROWS]
    assert sorted(first) == sorted(second) == sorted(cut)
    assert first != second != cut
    other = batches(shortest=None, seed=1)
    assert texts(other[0]) != texts(found[0])


def test_a_batch_is_a_function_of_its_number():
    one, other = batches(), batches()
    backwards = {number: other[number] for number in reversed(range(9))}
    for number in range(9):
        for name, array in one[number].items():
            np.testing.assert_array_equal(array, backwards[number][name])


def test_a_batch_is_cut_to_one_random_length_of_prefixes():
    found, lengths = batches(shortest=2), set()
    for number in range(60):
        batch = found[number]
        longest = max(map(len, texts(batch)))
        lengths.add(longest)
        for text, label in zip(texts(batch), batch["label"], strict=True):
            row = ROWS[text[0] - 1]
            assert text == row[: min(longest, len(row))]
            assert label == LABELS[text[0] - 1]
        assert batch["tokens"].shape == (5, MULTIPLE) and batch["index"].tolist() == [0, 1, 2, 3, 4]
    assert lengths == {2, 3, 4, 5, 6}


def test_every_class_is_drawn_as_often_where_balanced():
    found = batches(balanced=True)
    labels = np.concatenate([found[number]["label"] for number in range(40)])
    assert labels.mean() == pytest.approx(0.5, abs=0.01)
    plain = np.concatenate([batches()[number]["label"] for number in range(4)])
    assert plain.mean() == 0.25


def test_processes_share_the_rows_of_the_same_batch():
    config = BatchConfig(rows=6, longest=6)
    whole = training_batches(ROWS, LABELS, config)
    parts = [
        training_batches(ROWS, LABELS, config, process=number, processes=3) for number in range(3)
    ]
    for number in range(12):
        for name, array in whole[number].items():
            joined = np.concatenate([part[number][name] for part in parts])
            np.testing.assert_array_equal(joined, array)


def test_all_rows_in_order_with_the_last_batch_filled_up():
    found = in_order(ROWS, LABELS, size=8, longest=4)
    assert [len(batch["tokens"]) for batch in found] == [8, 8, 8]
    seen = [text for batch in found for text in texts(batch)]
    assert sorted(text for text in seen if text) == sorted(row[:4] for row in ROWS)
    assert seen[-4:] == [[]] * 4
    assert [len(text) for text in seen[:20]] == sorted(len(row[:4]) for row in ROWS)


def test_packed_windows_hold_all_tokens_in_order():
    windows = packed(ROWS, length=8, end=99)
    stream = [number for row in ROWS for number in (*row, 99)]
    assert windows.shape == (len(stream) // 8, 8)
    assert windows.reshape(-1).tolist() == stream[: windows.size]


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: BatchConfig(rows=0), "batches of 0 rows"),
        (lambda: BatchConfig(shortest=0), "the shortest cut is 0 tokens: it must be 1 to 64"),
        (lambda: BatchConfig(shortest=65), "the shortest cut is 65"),
        (lambda: training_batches([], [], BatchConfig()), "there are no texts"),
        (lambda: training_batches([[1], []], [0, 1], BatchConfig()), "has no tokens"),
        (
            lambda: training_batches(ROWS, LABELS, BatchConfig(rows=5), processes=2),
            "5 rows cannot be shared by 2 processes: give a multiple of 2",
        ),
        (lambda: packed([[1]], length=8, end=0), "have 2 tokens: windows of 8 need at least one"),
    ],
)
def test_mistakes_are_told(call, sentence):
    with pytest.raises(UserError, match=sentence):
        call()
