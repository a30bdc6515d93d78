"""States of many texts in one table against reading each text alone."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coopgen_jax.data import frozen_states as states
from coopgen_jax.data.frozen_states import front_of, places, read_states
from coopgen_jax.errors import UserError
from coopgen_jax.models.pretrained.loaded_model import load
from coopgen_jax.models.reading import read
from coopgen_jax.models.transformer import tapped
from coopgen_jax.parallel.platform import made_for
from tests.models.model_files import hf_model, save

# A layer above the highest tap but one is not run; the last layer's state is normalised.
TAPS = (0, 1)
ROWS = [[5, 6, 7, 8, 9, 10, 11, 12, 13], [40], [3, 4], [9, 9, 9]]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load(save(hf_model("llama"), tmp_path_factory.mktemp("model") / "m"), stacked=True)


@pytest.mark.parametrize("taps", [TAPS, (0, 3)])
def test_each_rows_states_are_those_of_reading_it_alone(model, taps):
    told = []
    table = read_states(
        model, taps, ROWS, batch=2, listener=lambda done, total: told.append((done, total))
    )
    assert told == [(2, 4), (4, 4)]
    assert table.shape == (15, 2, model.config.width) and table.dtype == np.float16
    front = front_of(model)
    assert front == model.tokenizer.encode("\n")
    for row, where in zip(ROWS, places(ROWS), strict=True):
        tokens = jnp.asarray([[*front, *row]])
        x, _, streams, _ = read(model.config, model.params, tokens, jnp.ones(tokens.shape, bool))
        alone = tapped(model.config, model.params, x, streams, taps)[0, len(front) :]
        np.testing.assert_allclose(table[where], alone, rtol=2e-3, atol=2e-3)


def test_a_table_is_kept_by_model_taps_and_rows(model, tmp_path):
    first = read_states(model, TAPS, ROWS, folder=tmp_path / "kept")
    (path,) = (tmp_path / "kept").iterdir()
    np.save(path, first + 1)
    np.testing.assert_array_equal(read_states(model, TAPS, ROWS, folder=path.parent), first + 1)
    np.testing.assert_array_equal(read_states(model, TAPS, ROWS), first)
    read_states(model, (0,), ROWS, folder=path.parent)
    read_states(model, TAPS, ROWS[:2], folder=path.parent)
    assert len(list(path.parent.iterdir())) == 3
    half = replace(model, config=replace(model.config, dtype="bfloat16"))
    read_states(half, TAPS, ROWS, folder=path.parent)
    with made_for("gpu"):  # where activations are bfloat16 too
        read_states(half, TAPS, ROWS, folder=path.parent)
    assert len(list(path.parent.iterdir())) == 5


def test_states_that_half_precision_cannot_hold_are_cut(model, monkeypatch):
    def huge(config, taps, dtype, params, tokens, mask):
        return jnp.full((*tokens.shape, len(taps), config.width), jnp.inf, jnp.float16)

    monkeypatch.setattr(states, "_states", huge)
    assert np.isfinite(read_states(model, TAPS, ROWS)).all()


def test_too_many_states_are_refused(model):
    rows = [range(10_000_000)] * 20
    with pytest.raises(UserError, match="the states of 200000000 tokens at 2 taps take 24 GiB"):
        read_states(model, TAPS, rows)


def test_places_count_on_from_a_start():
    assert places([[9, 9], [9]], start=4) == [[4, 5], [6]]
    assert jax.tree.leaves(places([])) == []


def test_rows_that_are_added_behind_are_read_alone_and_a_broken_off_reading_goes_on(
    model, tmp_path, monkeypatch
):
    monkeypatch.setattr(states, "PART", 2)
    folder, batches = tmp_path / "kept", []
    one = states._states
    monkeypatch.setattr(states, "_states", lambda *a: batches.append(a[4].tolist()) or one(*a))
    first = read_states(model, TAPS, ROWS[:2], folder=folder)
    told = []
    table = read_states(model, TAPS, ROWS, folder=folder, listener=lambda *at: told.append(at))
    assert len(batches) == 2 and told == [(4, 4)]
    np.testing.assert_array_equal(table[: len(first)], first)
    np.testing.assert_array_equal(table, read_states(model, TAPS, ROWS))
    monkeypatch.setattr(states, "PART", 512)
    np.testing.assert_allclose(table, read_states(model, TAPS, ROWS), rtol=2e-3, atol=2e-3)
    # What was read before the reading was broken off is not read again.
    monkeypatch.setattr(states, "PART", 2)

    def broken(*arguments):
        if len(batches) == 1:
            raise KeyboardInterrupt
        batches.append(0)
        return one(*arguments)

    batches.clear()
    monkeypatch.setattr(states, "_states", broken)
    with pytest.raises(KeyboardInterrupt):
        read_states(model, TAPS, ROWS, folder=tmp_path / "broken")
    monkeypatch.setattr(states, "_states", lambda *a: batches.append(0) or one(*a))
    again = read_states(model, TAPS, ROWS, folder=tmp_path / "broken")
    assert len(batches) == 2
    np.testing.assert_array_equal(again, table)
