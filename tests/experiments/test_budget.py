"""The settings of the budget's experiment are what their names say."""

from pathlib import Path

import pytest

from coopgen_jax.decoding.flat_settings import flat
from coopgen_jax.search.config import Halving
from experiments.budget import LINES, Config, settings


def config(**changes) -> Config:
    return Config(prompts=Path("prompts"), judge=Path("judge"), **changes)


def test_every_line_changes_what_it_is_named_after():
    found = settings(config())
    assert {name.partition("=")[0] for name in found} == set(LINES)
    for name, search in found.items():
        line, _, value = name.partition("=")
        if line in ("PUCT", "halving"):
            assert search.search.simulations == int(value)
            assert isinstance(search.search.root, Halving) == (line == "halving")
        elif line in ("wave", "c_puct"):
            assert getattr(search.search, line) == float(value)
        else:
            assert flat(search).get(line, 0) == float(value)
    # The lines cross: what is not changed is alike on all of them.
    assert found["halving=32"] == found["wave=8"] == found["alpha=1.0"]
    assert found["PUCT=32"] == found["c_puct=0.5"] == found["rollout=0"]


def test_an_unknown_line_is_named():
    with pytest.raises(SystemExit, match="--lines depth is unknown: choose from PUCT"):
        settings(config(lines=("depth",)))
