"""Command lines resolve to the settings that they resolved to when this was recorded."""

import pytest

from coopgen_jax.errors import UserError
from tests.goldens.comparing import FOLDER, differences, recorded
from tests.goldens.flat import comparing, generating, telling
from tests.goldens.resolved_cases import COMPARE, GENERATE, REFUSED, REFUSED_METHODS

RECORDED = recorded("resolved")
TARGETS = "--target positive negative"


@pytest.fixture(autouse=True)
def beside_the_words(monkeypatch):
    monkeypatch.chdir(FOLDER)


def test_every_command_line_is_recorded():
    assert len(set(GENERATE)) == len(GENERATE) and len(set(COMPARE)) == len(COMPARE)
    assert {"generate " + line for line in GENERATE} | {"compare " + line for line in COMPARE} == (
        set(RECORDED)
    )


@pytest.mark.parametrize("line", GENERATE)
def test_generate_resolves_to_what_was_recorded(line):
    configs = telling(generating(f"text {line}"), RECORDED[f"generate {line}"])
    assert differences(*configs, close=0.0) == []


@pytest.mark.parametrize("methods", COMPARE)
def test_compare_resolves_to_what_was_recorded(methods):
    found = comparing(f"text --methods '{methods}' {TARGETS}")
    recorded_runs = RECORDED[f"compare {methods}"]
    assert len(found) == len(recorded_runs)
    for run, record in zip(found, recorded_runs, strict=True):
        configs = telling(run.pop("config"), record["config"])
        kept = {name: value for name, value in record.items() if name not in ("config", "file")}
        assert differences(*configs, close=0.0) == [] and run == kept


def refused(what, line: str) -> None:
    with pytest.raises((UserError, SystemExit)) as caught:
        what(line)
    # A command line that cannot be parsed ends with the status of a mistake.
    assert not isinstance(caught.value, SystemExit) or caught.value.code == 2


@pytest.mark.parametrize("line", REFUSED)
def test_what_generate_refused_it_refuses(line, capsys):
    refused(generating, f"text {line}")


@pytest.mark.parametrize("methods", REFUSED_METHODS)
def test_methods_that_compare_refused_it_refuses(methods, capsys):
    refused(comparing, f"text --methods '{methods}' {TARGETS}")
