"""From options to settings: the presets, what follows from what, and what is remarked on."""

from dataclasses import fields, replace

import pytest

from coopgen_jax.cli import _parse
from coopgen_jax.cli.options import GenerateOptions
from coopgen_jax.cli.settings import decoder_config
from coopgen_jax.decoding.mcts.mcts_config import Best, ByValues, ByVisits, MCTSConfig, Value
from coopgen_jax.decoding.methods.das import DASConfig
from coopgen_jax.decoding.methods.fudge import FudgeConfig
from coopgen_jax.decoding.methods.gedi import GediConfig
from coopgen_jax.decoding.presets import PRESETS
from coopgen_jax.decoding.rules.shaping import Rules
from coopgen_jax.errors import UserError
from coopgen_jax.search.config import Puct, SearchConfig
from tests.cli.running import GUIDED, generate_json, run
from tests.cli.tiny import WORDS

COMMON = {field.name for field in fields(GenerateOptions)}


def options(**changes: object) -> GenerateOptions:
    """Options with some changed: those of all methods, and settings of the method's own."""
    common = {name: value for name, value in changes.items() if name in COMMON}
    own = {name: value for name, value in changes.items() if name not in COMMON}
    return replace(GenerateOptions(target="one"), **common, settings=own)


@pytest.fixture
def preset(monkeypatch) -> MCTSConfig:
    """A default preset that differs from the configuration's own defaults everywhere it matters."""
    search = SearchConfig(simulations=32, wave=8, candidates=20, c_puct=2.0, reused_nodes=32)
    made = MCTSConfig(
        search=search, rules=Rules(temperature=0.7, repetition_penalty=1.4), value=Value(alpha=0.9)
    )
    monkeypatch.setitem(PRESETS, "default", made)
    return made


def test_what_is_unset_is_the_presets(preset):
    assert decoder_config(options(new_tokens=5)) == replace(preset, new_tokens=5)
    changed = decoder_config(options(alpha=0.0, c_puct=0.0, new_tokens=5))
    expected = replace(preset, search=replace(preset.search, c_puct=0.0)).with_settings(
        new_tokens=5, alpha=0.0
    )
    assert changed == expected


def test_more_candidates_than_tokens_are_all_of_them(capsys):
    most = generate_json(capsys, "film", *GUIDED, "--candidates", len(WORDS))
    more = generate_json(capsys, "film", *GUIDED, "--candidates", 10 * len(WORDS))
    assert more["texts"] == most["texts"]


def test_stating_the_presets_simulations_changes_nothing():
    preset = PRESETS["default"].search
    assert decoder_config(options(simulations=preset.simulations)).search == preset


@pytest.mark.parametrize(
    ("changes", "wave", "kept"),
    [
        ({"simulations": 64}, 8, 64),
        ({"simulations": 20}, 5, 20),
        ({"simulations": 4}, 4, 4),
        ({"simulations": 31}, 1, 31),
        ({"candidates": 5}, 4, 32),
        ({"simulations": 20, "wave": 10}, 10, 20),
    ],
)
def test_wave_and_kept_follow_the_simulations(preset, changes, wave, kept):
    search = decoder_config(options(**changes)).search
    assert (search.wave, search.reused_nodes) == (wave, kept)


def test_what_foresees_is_set_up_as_asked_for():
    gedi = decoder_config(options(method="gedi", filter_p=0.5, no_repeat_ngram=3, new_tokens=5))
    assert gedi == GediConfig(
        new_tokens=5, filter_p=0.5, rules=Rules(repetition_penalty=1.2, no_repeat_ngram=3)
    )
    ahead = decoder_config(options(method="fudge", look_ahead=True, strength=2.0, new_tokens=5))
    assert ahead == FudgeConfig(new_tokens=5, strength=2.0, look_ahead=True)
    wide = decoder_config(options(foresight_power=1.5))
    assert wide == replace(decoder_config(options()), foresight_power=1.5)


def test_a_limit_of_visits_reaches_the_search(preset):
    search = decoder_config(options(visit_limit=40)).search
    assert search == replace(preset.search, root=Puct(visit_limit=40))


def test_a_pool_is_as_large_as_the_candidates_or_the_beams():
    assert decoder_config(options(method="das")) == DASConfig()
    assert decoder_config(options(method="das", candidates=9)).candidates == 9
    assert decoder_config(options(method="das", beams=30)) == DASConfig(beams=30, candidates=30)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_can_be_chosen(preset):
    assert _parse(["generate", "text", "--preset", preset]).preset == preset
    assert _parse(["plan", "--preset", preset]).preset == preset


def test_halving_compares_no_more_candidates_than_there_are():
    assert decoder_config(options(candidates=5)).search.root.considered == 5
    narrow = decoder_config(options(considered=3)).search
    assert (narrow.root.considered, narrow.wave) == (3, 2)
    assert decoder_config(options(value_scale=0.0)).search.root.value_scale == 0.0


def test_a_preset_that_keeps_nothing_goes_on_so(monkeypatch):
    assert PRESETS["paper"].search.reused_nodes == 0
    search = decoder_config(options(preset="paper", simulations=10)).search
    assert (search.reused_nodes, search.simulations) == (0, 10)


@pytest.mark.parametrize(
    ("changes", "drawn"),
    [
        ({"preset": "values"}, ByValues(1.0, 0.1)),
        ({"preset": "values", "value_power": 0.0}, Best()),
        ({"preset": "values", "visit_temperature": 0.5}, ByVisits(0.5, False, 0.1)),
        ({"preset": "values", "mix_base": 0.4}, ByValues(1.0, 0.4)),
        ({"preset": "ppo"}, ByVisits(1.0, True)),
        ({"preset": "ppo", "value_power": 2.0}, ByValues(2.0)),
        ({"preset": "ppo", "visit_temperature": 0.0}, Best()),
        ({"preset": "ppo", "visit_temperature": 0.5}, ByVisits(0.5, True)),
    ],
)
def test_draws_that_are_asked_for_take_the_place_of_the_presets(changes, drawn):
    assert decoder_config(options(**changes)).choice == drawn


def test_draws_by_values_are_told_of_no_way_around_a_discriminator():
    with pytest.raises(UserError, match=r"choose a --discriminator, or an --alpha below 1$"):
        decoder_config(options(discriminator="none", target=None))
    with pytest.raises(UserError, match=r"nothing to go by: choose a --discriminator$"):
        decoder_config(options(discriminator="none", target=None, preset="values"))


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, False),
        ({"samples": 2}, True),
        ({"samples": 2, "preset": "puct"}, True),
        ({"samples": 2, "method": "greedy"}, True),
        ({"samples": 2, "method": "sample"}, False),
        ({"method": "rerank"}, False),
        ({"samples": 2, "method": "blockwise"}, False),
        ({"samples": 2, "method": "stochastic-beam"}, False),
        ({"method": "pplm", "samples": 2}, False),
        ({"method": "pplm", "samples": 2, "temperature": 0.0}, True),
        ({"method": "rerank", "temperature": 0.0}, True),
        ({"samples": 2, "preset": "puct", "visit_temperature": 1.0}, False),
        ({"samples": 2, "value_power": 1.0}, False),
        ({"samples": 2, "rollout": 2}, False),
        ({"samples": 2, "method": "gedi"}, True),
        ({"samples": 2, "method": "gedi", "draw": True}, False),
    ],
)
def test_samples_that_must_be_equal_are_known(changes, same):
    assert decoder_config(options(**changes)).deterministic is same


def test_samples_that_must_be_equal_are_remarked_on(capsys):
    arguments = ["film", *GUIDED, "--samples", 2, "--model", "nobody"]
    _, _, err = run(capsys, "generate", *arguments)
    assert "samples will all be the same" in err.splitlines()[0]
