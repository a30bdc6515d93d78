"""Settings by flat names: what is found, what changes, and which alternative is chosen."""

from dataclasses import FrozenInstanceError, dataclass, field, make_dataclass, replace
from typing import ClassVar

import pytest

from coopgen_jax.decoding.decode import DECODERS
from coopgen_jax.decoding.flat_settings import changed, flat, settings_of
from coopgen_jax.decoding.mcts.mcts_config import (
    Best,
    ByValues,
    ByVisits,
    MCTSConfig,
    Reference,
    Rollout,
    Value,
)
from coopgen_jax.decoding.methods.rerank import RerankConfig
from coopgen_jax.decoding.presets import PRESETS
from coopgen_jax.decoding.rules.shaping import NO_RULES, Rules
from coopgen_jax.search.config import Halving, Puct, SearchConfig


@dataclass(frozen=True)
class Plain:
    slow: bool = False
    shared: float = 0.5


@dataclass(frozen=True)
class Sharp:
    selected_by: ClassVar[str] = "edge"

    edge: int = 3
    shared: float = 0.1


@dataclass(frozen=True)
class Round:
    selected_by: ClassVar[str] = "radius"

    radius: int = 2
    tilt: int = 1


@dataclass(frozen=True)
class Inner:
    depth: int = 1
    shape: Plain | Sharp | Round = field(default_factory=Plain)

    def __post_init__(self):
        if self.depth < 0:
            raise ValueError(f"depth is {self.depth}")


@dataclass(frozen=True)
class Extra:
    selected_by: ClassVar[str] = "amount"

    amount: int = 1
    colour: str = "red"


@dataclass(frozen=True)
class Outer:
    name: str = "x"
    inner: Inner = field(default_factory=Inner)
    extra: Extra | None = None


def test_settings_of_all_alternatives_are_found_once_with_their_owner():
    found = {setting.name: setting for setting in settings_of(Outer)}
    assert list(found) == [
        "name", "depth", "slow", "shared", "edge", "radius", "tilt", "amount", "colour",
    ]  # fmt: skip
    assert (found["shared"].owner, found["shared"].default) == (Plain, 0.5)
    assert (found["edge"].owner, found["edge"].default, found["edge"].kind) == (Sharp, 3, int)
    assert (found["amount"].owner, found["colour"].kind) == (Extra, str)


def test_flat_values_are_those_that_are_selected():
    assert flat(Outer()) == {"name": "x", "depth": 1, "slow": False, "shared": 0.5}
    full = Outer(inner=Inner(shape=Round(tilt=5)), extra=Extra(colour="blue"))
    assert flat(full) == {
        "name": "x", "depth": 1, "radius": 2, "tilt": 5, "amount": 1, "colour": "blue",
    }  # fmt: skip


def test_a_selector_chooses_and_zero_goes_back():
    sharp = changed(Outer(), {"edge": 7})
    assert sharp == Outer(inner=Inner(shape=Sharp(edge=7, shared=0.5)))
    assert changed(sharp, {"edge": 8}).inner.shape.edge == 8
    assert changed(sharp, {"radius": 4}).inner.shape == Round(radius=4)
    assert changed(sharp, {"radius": 4, "edge": 0, "tilt": 3}).inner.shape == Round(4, 3)
    assert changed(sharp, {"edge": 0}).inner.shape == Plain(shared=0.5)
    assert changed(sharp, {"edge": 0, "slow": True}).inner.shape == Plain(True, 0.5)
    # A zero that deselects what was not selected changes nothing.
    assert changed(Outer(), {"edge": 0}) == Outer()
    assert changed(sharp, {"radius": 0}) == sharp


def test_what_alternatives_share_is_carried_unless_it_is_given():
    odd = Outer(inner=Inner(shape=Plain(shared=0.9)))
    assert changed(odd, {"edge": 1}).inner.shape == Sharp(1, 0.9)
    assert changed(odd, {"edge": 1, "shared": 0.2}).inner.shape == Sharp(1, 0.2)
    assert changed(odd, {"shared": 0.3}).inner.shape == Plain(shared=0.3)


def test_an_optional_record_comes_and_goes_by_its_selector():
    made = changed(Outer(), {"amount": 4, "colour": "green"})
    assert made.extra == Extra(4, "green")
    assert changed(made, {"colour": "blue"}).extra == Extra(4, "blue")
    assert changed(made, {"amount": 0}).extra is None
    assert changed(Outer(), {"amount": 0}).extra is None
    with pytest.raises(ValueError, match=r"^colour says nothing here: give amount with it$"):
        changed(Outer(), {"colour": "blue"})


def test_a_setting_of_what_is_not_selected_is_refused():
    with pytest.raises(ValueError, match=r"^tilt says nothing here: give radius with it$"):
        changed(Outer(), {"tilt": 2})
    sharp = changed(Outer(), {"edge": 1})
    refused = r"^slow says nothing here: give edge 0, or leave it out$"
    with pytest.raises(ValueError, match=refused):
        changed(sharp, {"slow": True})


def test_two_selectors_exclude_each_other():
    with pytest.raises(ValueError, match=r"^edge is 1 and radius is 2: they exclude each other"):
        changed(Outer(), {"edge": 1, "radius": 2})


def test_an_alternative_can_hold_records():
    @dataclass(frozen=True)
    class Deep:
        selected_by: ClassVar[str] = "power"

        power: int = 1
        inner: Inner = field(default_factory=Inner)

    whole = make_dataclass("Whole", [("part", Plain | Deep, Plain())], frozen=True)
    found = changed(whole(), {"power": 2, "depth": 5, "radius": 4})
    assert found.part == Deep(2, Inner(5, Round(4)))
    assert changed(found, {"depth": 6}).part == Deep(2, Inner(6, Round(4)))


def test_unknown_names_and_values_that_a_record_refuses():
    with pytest.raises(TypeError, match="Outer has no corner, size"):
        changed(Outer(), {"size": 1, "corner": 2, "name": "y"})
    with pytest.raises(ValueError, match=r"^depth is -1"):
        changed(Outer(), {"depth": -1, "edge": 2})


def test_records_are_left_as_they_were():
    before = Outer(inner=Inner(shape=Sharp()))
    changed(before, {"name": "y", "depth": 3, "edge": 9, "amount": 2})
    assert before == Outer(inner=Inner(shape=Sharp()))
    assert changed(before, {}) is before
    with pytest.raises(FrozenInstanceError):
        before.name = "z"


@pytest.mark.parametrize("kind", DECODERS)
def test_the_flat_values_of_a_decoder_give_it_back(kind):
    configs = [kind()] + ([*PRESETS.values()] if kind is MCTSConfig else [])
    for config in configs:
        values = flat(config)
        assert set(values) <= {setting.name for setting in settings_of(kind)}
        if kind is RerankConfig:
            # Whose own power of the length has the name of that of its beams.
            del values["length_penalty"]
        assert changed(config, values) == config
        assert config.with_settings(**values) == config


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_reached_from_the_first_by_its_flat_values(name):
    """What is not selected is deselected by its zero, as on a command line."""
    config, default = PRESETS[name], PRESETS["default"]
    off = {"considered": 0, "visit_temperature": 0.0, "value_power": 0.0}
    values = off | flat(config)
    assert default.with_settings(**values) == config


def test_the_search_chooses_by_flags():
    base = MCTSConfig()
    assert base.choice == Best() and base.search.root == Puct()
    visits = base.with_settings(visit_temperature=0.5, mix_base=0.2, anneal=True)
    assert visits.choice == ByVisits(0.5, True, 0.2)
    values = visits.with_settings(visit_temperature=0.0, value_power=2.0)
    assert values.choice == ByValues(2.0, 0.2)
    # One selector takes the other's place, and what both know is carried along.
    assert visits.with_settings(value_power=2.0).choice == ByValues(2.0, 0.2)
    assert values.with_settings(value_power=0.0).choice == Best()
    assert base.with_settings(rollout=3).rollout == Rollout(3)
    assert base.with_settings(kl=0.4).reference == Reference(0.4)
    assert base.with_settings(alpha=0.5, likelihood="product").value == Value(0.5, "product")
    halved = base.with_settings(considered=8, value_scale=0.1)
    assert halved.search.root == Halving(8, 0.1)
    assert halved.with_settings(considered=0, visit_limit=5).search.root == Puct(visit_limit=5)
    for values, told in (
        ({"visit_temperature": 1.0, "value_power": 1.0}, "exclude each other"),
        ({"mix_base": 0.1}, "mix_base says nothing here: give visit_temperature with it"),
        ({"anneal": True}, "anneal says nothing here: give visit_temperature with it"),
        ({"rollout_confidence": 0.9}, "give rollout with it"),
        ({"value_scale": 0.1}, "value_scale says nothing here: give considered with it"),
        ({"considered": 8, "early_stop": True}, "give considered 0, or leave it out"),
    ):
        with pytest.raises(ValueError, match=told):
            base.with_settings(**values)


def test_frozen_settings_keep_what_they_are_given():
    """What follows from settings is a property, so that replacing one forgets nothing."""
    drawn = MCTSConfig(choice=ByVisits(), search=SearchConfig(root=Puct(early_stop=True)))
    assert drawn.search.root.early_stop and not drawn.engine.root.early_stop
    assert replace(drawn, choice=Best()).engine.root.early_stop
    halved = SearchConfig(root=Halving(8))
    assert not halved.stops_early and halved.visit_limit == 0
    assert replace(halved, root=Puct()).stops_early
    rerank = RerankConfig(new_tokens=5, of=3, samples=2)
    assert (rerank.written.new_tokens, rerank.written.samples) == (5, 6)
    assert replace(rerank, new_tokens=9).written.new_tokens == 9
    assert rerank.proposal.new_tokens == RerankConfig().proposal.new_tokens


def test_a_re_ranking_takes_flags_of_its_own_and_of_its_proposal():
    drawn = RerankConfig().with_settings(top_p=0.8, of=4, mix_base=0.1, new_tokens=7)
    assert (drawn.rules, drawn.of, drawn.proposal.mix_base) == (Rules(top_p=0.8), 4, 0.1)
    assert drawn.proposal.rules == NO_RULES
    found = RerankConfig().with_settings(beams=6, length_penalty=0.5)
    assert (found.of, found.proposal.beams, found.proposal.length_penalty) == (6, 6, 0.5)
