"""The table of what is tried."""

from dataclasses import replace

import pytest

from coopgen_jax.cli.compare_methods import tunables_of
from coopgen_jax.cli.compare_options import CompareOptions
from coopgen_jax.cli.method_flags import methods
from coopgen_jax.comparison.tuning import candidates_of
from coopgen_jax.comparison.tuning_grid import GRIDS, Grid, grid_of
from coopgen_jax.decoding.presets import PRESETS

GRID = Grid("of", (2, 4), ({"a": 1, "b": 1}, {"a": 1, "b": 2}, {"a": 2, "b": 1}))


def test_every_setting_is_tried_at_every_size():
    assert GRID.values()[0] == [{"of": 2, "a": 1, "b": 1}, {"of": 4, "a": 1, "b": 1}]
    assert len(GRID.values()) == 3
    assert Grid().values() == [[{}]]


def test_what_is_given_stays_as_it_is():
    assert GRID.without({"a": 7}).settings == ({"b": 1}, {"b": 2})
    assert GRID.without({"a": 7}).sizes == (2, 4)
    fixed = GRID.without({"of": 3, "b": 1})
    assert fixed.values() == [[{"a": 1}], [{"a": 2}]]


def test_a_line_of_the_table_may_be_for_a_setting():
    strengths = [setting["strength"] for setting in grid_of("fudge", {"score": "value"}).settings]
    assert strengths == [5, 10, 20, 40]
    assert grid_of("fudge", {"score": "log"}).settings == GRIDS["fudge"].settings
    assert grid_of("rerank", {"beams": "4"}) == Grid()
    assert grid_of("greedy", {}) == Grid()
    presets = [setting["preset"] for setting in grid_of("mcts", {}).settings]
    assert presets == list(PRESETS)


@pytest.mark.parametrize("name", list(GRIDS))
def test_the_methods_take_all_that_the_table_says(name):
    text = f"{name}=2" if name == "rerank:beams" else name
    assert text.partition(":")[0] in methods()
    (method,) = tunables_of(CompareOptions(text, "x", target=("positive",)))
    rows, refused = candidates_of(method)
    assert refused == [] and len(rows) == len(method.grid.settings)
    for row in rows:
        costs = [getattr(run.config, method.grid.size, None) for run in row]
        if name == "mcts":
            costs = [run.config.search.simulations for run in row]
        if method.grid.size and name != "rerank:beams":
            assert costs == list(method.grid.sizes)


def test_presets_that_differ_in_size_alone_are_tried_once(monkeypatch):
    fast = PRESETS["default"].with_settings(simulations=32)
    monkeypatch.setitem(PRESETS, "fast", fast)
    monkeypatch.setitem(PRESETS, "narrow", fast.with_settings(wave=4))
    values = tuple({"preset": name} for name in ("default", "fast", "narrow"))
    monkeypatch.setitem(GRIDS, "mcts", replace(GRIDS["mcts"], settings=values))
    (method,) = tunables_of(CompareOptions("mcts", "x", target=("positive",)))
    rows, refused = candidates_of(method)
    assert [row[0].preset for row in rows] == ["default", "narrow"] and refused == []
