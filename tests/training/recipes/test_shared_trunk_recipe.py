"""What a shared trunk reads: its standardisation by hand, and written texts behind prompts."""

from dataclasses import replace

import numpy as np
import pytest

from coopgen_jax.data.batches import BatchConfig
from coopgen_jax.data.frozen_states import front_of, read_states
from coopgen_jax.data.labelled import Labelled, joined, with_shares
from coopgen_jax.errors import UserError
from coopgen_jax.models.pretrained.loaded_model import load
from coopgen_jax.parallel.mesh import make_mesh
from coopgen_jax.training.loop import LoopConfig
from coopgen_jax.training.recipes import shared_trunk_recipe as recipe
from coopgen_jax.training.recipes.shared_trunk_recipe import (
    TrunkConfig,
    _standard,
    train_shared_trunk,
)
from coopgen_jax.training.run import RecipeConfig, Rows, as_written, tokenised

TABLE = (np.random.default_rng(0).normal(2, 3, (12, 2, 5)) * [1, 9, 1, 1, 0]).astype(np.float16)
# A batch holds every row, so that each is counted as often as any other.
ROWS = Rows([[0, 1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11]], [0, 1, 0])
CONFIG = RecipeConfig(LoopConfig(1), BatchConfig(rows=3, longest=16, shortest=None), lora=None)


@pytest.mark.parametrize("layers", [0, 1])
def test_inputs_are_standardised_by_what_is_seen_in_training(layers):
    found = _standard(CONFIG, TrunkConfig((1, 2), layers), TABLE, ROWS)
    states = TABLE.astype(np.float64)
    seen = []
    for row in ROWS.ids:
        for end in range(len(row)):
            last, mean = states[row[end]], states[row[: end + 1]].mean(axis=0)
            seen.append(last.ravel() if layers else np.concatenate([last, mean], -1).ravel())
    np.testing.assert_allclose(found["centre"], np.mean(seen, axis=0), rtol=1e-3, atol=1e-5)
    spread = np.std(seen, axis=0)
    moves = spread > 0
    np.testing.assert_allclose(1 / found["scale"][moves], spread[moves], rtol=1e-3)
    # What never changes must not be divided by nothing.
    assert np.isfinite(found["scale"]).all() and not moves.all()


def test_without_taps_there_is_nothing_to_read():
    with pytest.raises(UserError, match="wants taps: give one layer or more"):
        TrunkConfig(())


def test_a_text_that_the_model_wrote_is_read_behind_its_prompt(places, tmp_path, monkeypatch):
    base = load(places[0] / "base", stacked=True)
    human = Labelled(("ab", "xy"), np.array([0, 1], np.int32), ("high", "low"))
    # Its tokens are those that were written, which no text need give.
    own = with_shares(
        ("abc", "y"), human.classes, np.array([[0.9, 0.1], [0.2, 0.8]]),
        written=(((7, 8, 9), (290, 64, 65, 66)), ((5,), (291,))),
    )  # fmt: skip
    both = joined([human, own])
    assert both.written == (None, None, *own.written) and joined([human, human]).written == ()
    assert both.rows([3, 0]).written == (own.written[1], None)
    assert as_written(base.tokenizer, both)[1] == [[], [], [7, 8, 9], [5]]
    texts = tokenised(base.tokenizer, both).ids
    assert texts == base.tokenizer.encode_batch([" ab", " xy", " abc", " y"])
    seen, real = [], recipe._recipe
    monkeypatch.setattr(recipe, "_recipe", lambda *a: seen.append(a[2]) or real(*a))
    config = RecipeConfig(LoopConfig(1), BatchConfig(rows=4, longest=3), lora=None)
    trunk = TrunkConfig((1, 2), 1, 32, look_ahead=4)
    where = {"folder": tmp_path / "x", "mesh": make_mesh(1)}
    train_shared_trunk(base, both, human, config, trunk, **where)
    (read,) = seen
    front = [texts[0][:3], texts[1][:3]] * 2
    assert read.ids == [*front, [7, 8, 9, 290, 64, 65], [5, 291]]
    training, validation = read.rows
    assert validation.ids == [[0, 1, 2], [3, 4, 5]]
    assert training.ids == [[6, 7, 8], [9, 10, 11], [15, 16, 17], [19]]
    np.testing.assert_allclose(training.labels[2:], own.shares)
    alone = read_states(base, (1, 2), [[7, 8, 9, 290, 64, 65]])[3:]
    np.testing.assert_allclose(read.table[training.ids[2]], alone, rtol=2e-3, atol=2e-3)
    # Behind another prompt it is another training.
    moved = replace(both, written=(None, None, ((7, 8, 8), own.written[0][1]), own.written[1]))
    with pytest.raises(UserError, match="holds a training with another"):
        train_shared_trunk(base, moved, human, config, trunk, **where)


def test_a_prompt_that_exceeds_the_context_is_cut_in_front(places, tmp_path, monkeypatch):
    base = load(places[0] / "base", stacked=True)
    human = Labelled(("ab", "xy"), np.array([0, 1], np.int32), ("high", "low"))
    long = (tuple(range(62)), (64, 65))
    both = joined([human, replace(human, texts=("a", "x"), written=(long, None))])
    seen, real = [], recipe._recipe
    monkeypatch.setattr(recipe, "_recipe", lambda *a: seen.append(a[2]) or real(*a))
    config = RecipeConfig(LoopConfig(1), BatchConfig(rows=4, longest=8), lora=None)
    where = {"folder": tmp_path / "x", "mesh": make_mesh(1)}
    train_shared_trunk(base, both, human, config, TrunkConfig((1,), 0), **where)
    room = base.config.context - 8 - len(front_of(base))
    assert seen[0].ids[4] == [*range(62 - room, 62), 64, 65]
