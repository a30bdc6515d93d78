"""The experiments decode by the settings that their results were measured with."""

import json
from pathlib import Path

import pytest

from coopgen_jax.decoding.names_on_disc import settings_on_disc
from experiments import (
    budget,
    conditional_settings,
    gcn_unconditional,
    sentiment,
    waves,
    which_discriminator,
)

# What they were at commit 67dcb48, in the names that files have for them.
MEASURED = json.loads((Path(__file__).parent / "settings.json").read_text(encoding="utf-8"))
FILE = Path("file")


def of_budget():
    return budget.settings(budget.Config(prompts=FILE, judge=FILE))


def of_waves():
    return waves.settings(waves.Config(prompts=FILE, judge=FILE))


def of_sentiment():
    found = sentiment.decoders(sentiment.Config(prompts=FILE, judge=FILE))
    return {name: config for name, (config, _) in found.items()}


def of_discriminators():
    config = which_discriminator.Config(
        data=FILE, work=FILE, prompts=FILE, judge=FILE, shared_trunk="a", bidirectional="b"
    )
    speeds = dict.fromkeys(which_discriminator.KINDS, 100.0)
    found = which_discriminator.searches(config, speeds)
    return {name: config for name, (config, _) in found.items()}


def of_sources():
    config = conditional_settings.Config(data=FILE, work=FILE, name="a", source="s", text="t")
    return conditional_settings.decoders(config)


def of_rounds():
    config = conditional_settings.Config(data=FILE, work=FILE, name="a", source="s", text="t")
    objectives = (conditional_settings.FIRST, "gcn", "selfgan")
    return {name: conditional_settings.round_of(config, name).proposal for name in objectives}


def of_sentences():
    names = ("PLAIN", "NUCLEUS", "TREE", "VALUES")
    return {name: getattr(gcn_unconditional, name) for name in names}


SETTINGS = {
    "budget": of_budget,
    "waves": of_waves,
    "sentiment": of_sentiment,
    "wd": of_discriminators,
    "cs": of_sources,
    "round": of_rounds,
    "gu": of_sentences,
}


@pytest.mark.parametrize("experiment", SETTINGS)
def test_settings_are_those_that_were_measured(experiment):
    found = {f"{experiment} {name}": config for name, config in SETTINGS[experiment]().items()}
    wanted = {name: MEASURED[name] for name in MEASURED if name.startswith(f"{experiment} ")}
    assert json.loads(json.dumps({n: settings_on_disc(c) for n, c in found.items()})) == wanted
