"""Tuning on tiny networks, under a clock of the tests'."""

import json

import numpy as np
import pytest

import coopgen_jax as cg
from coopgen_jax.comparison import tuning
from coopgen_jax.comparison.method_run import MethodRun
from coopgen_jax.comparison.tuning import Tunable, check_apart, spread, tune
from coopgen_jax.comparison.tuning_grid import Grid
from coopgen_jax.errors import UserError
from coopgen_jax.models.pretrained.loaded_model import load
from tests.cli.judging import write_all

PROMPTS = ["so", "a", "bad"]
TARGETS = ["good", "bad"]
STRENGTHS = (0.0, 4.0, 1.0)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_all(tmp_path_factory.mktemp("world"))


@pytest.fixture(autouse=True)
def timed(monkeypatch):
    """Has a text take as many seconds as candidates are judged; returns what was written."""
    real, written = tuning.lines_of, []

    def lines_of(job, batch, **how):
        written.append((job.run.method.name, batch))
        lines = real(job, batch, **how)
        return [line | {"seconds": float(job.run.config.candidates)} for line in lines]

    monkeypatch.setattr(tuning, "lines_of", lines_of)
    return written


def method(world, **more):
    def run_with(values):
        words = ":".join(f"{name}={value}" for name, value in values.items())
        config = cg.FudgeConfig(new_tokens=3, **values)
        about = {"model": str(world / "base"), "discriminator": str(world / "guide")}
        return MethodRun(f"fudge:{words}", config, **about | more)

    grid = Grid("candidates", (0, 2, 4, 8), tuple({"strength": s} for s in STRENGTHS))
    return Tunable("fudge", grid, run_with)


def tuned(world, folder, **more):
    how = {"seconds_per_text": 5.0, "folder": folder, "batch_size": 4} | more
    (found,) = tune([method(world)], PROMPTS, TARGETS, **how)
    return found


def score(world, strength):
    """Returns mean, error and perplexity of texts that are written and judged anew."""
    base = load(world / "base")
    guide = cg.load_discriminator(world / "guide", language_model=base)
    texts = cg.generate(
        base, PROMPTS * 2, discriminator=guide, target=["good"] * 3 + ["bad"] * 3, batch_size=6,
        config=cg.FudgeConfig(new_tokens=3, candidates=4, strength=strength),
    )  # fmt: skip
    logs = np.log([text.class_probabilities[text.target] for text in texts])
    tokens = sum(len(text.tokens) for text in texts)
    likely = np.exp(-sum(text.log_prob for text in texts) / tokens)
    return logs.mean(), logs.std(ddof=1) / np.sqrt(len(logs)), likely


def test_size_and_strength_are_those_that_fit_and_score_best(world, tmp_path, timed):
    found = tuned(world, tmp_path)
    scores = {strength: score(world, strength) for strength in STRENGTHS}
    best, error, _ = max(scores.values())
    near = [strength for strength in STRENGTHS if scores[strength][0] >= best - error]
    wanted = min(near, key=lambda strength: scores[strength][2])
    assert found.run.name == f"fudge:candidates=4:strength={wanted}"
    assert (found.asked, found.seconds, found.fits) == ("fudge", 4.0, True)
    trials = {trial.name: trial for trial in found.trials}
    for strength, expected in scores.items():
        trial = trials[f"fudge:candidates=4:strength={strength}"]
        measured = (trial.score, trial.error, trial.perplexity)
        assert measured == pytest.approx(expected, rel=1e-4)
    # The size is fitted once; a larger one is timed, and not scored.
    over = trials["fudge:candidates=8:strength=0.0"]
    assert (over.seconds, over.score) == (8.0, None)
    assert "fudge:candidates=8:strength=4.0" not in trials
    # The trials have what the method refuses.
    refused = [trial for trial in found.trials if trial.refused]
    assert len(refused) == 3 and "candidates is 0" in refused[0].refused
    # A batch is timed when it is warm: it is written twice.
    first = [batch for name, batch in timed if name == "fudge:candidates=2:strength=0.0"]
    assert first == [1, 1]
    json.dumps(found.about())


def test_what_was_measured_is_not_measured_again(world, tmp_path, timed):
    whole = tuned(world, tmp_path / "whole")
    count, lines = len(timed), (tmp_path / "whole/fudge.jsonl").read_bytes().splitlines(True)
    assert tuned(world, tmp_path / "whole") == whole and len(timed) == count
    for kept in (1, 3, len(lines) - 1):
        path = tmp_path / str(kept) / "fudge.jsonl"
        path.parent.mkdir()
        path.write_bytes(b"".join(lines[:kept]) + b'{"trial": "fu')
        timed.clear()
        assert tuned(world, path.parent) == whole
        assert 0 < len(timed) < count or kept == 1
        assert path.read_bytes().splitlines(True) == lines


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seconds_per_text": 6.0}, "fudge.jsonl holds trials of another seconds per text"),
        ({"seed": 1}, "holds trials of another seed: name another --out, or delete it"),
        ({"batch_size": 2}, "holds trials of another batch size"),
    ],
)
def test_other_trials_are_refused(world, tmp_path_factory, change, message):
    folder = tmp_path_factory.getbasetemp() / "refused"
    tuned(world, folder)
    before = (folder / "fudge.jsonl").read_bytes()
    with pytest.raises(UserError, match=message):
        tuned(world, folder, **change)
    assert (folder / "fudge.jsonl").read_bytes() == before


def test_what_cannot_fit_is_told(world, tmp_path):
    found = tuned(world, tmp_path, seconds_per_text=1.0)
    assert (found.seconds, found.fits) == (2.0, False)
    assert found.about()["within_budget"] is False


def test_mistakes_are_told_before_a_file_is_made(world, tmp_path):
    with pytest.raises(UserError, match="3 tuning prompts towards 2 targets do not fill a batch"):
        tuned(world, tmp_path / "new", batch_size=7)
    how = {"seconds_per_text": 5.0, "folder": tmp_path / "new", "batch_size": 4}
    with pytest.raises(UserError, match="fudge has no discriminator, by which"):
        tune([method(world, discriminator=None)], PROMPTS, TARGETS, **how)
    impossible = Tunable("fudge", Grid("candidates", (0,)), method(world).run_with)
    with pytest.raises(UserError, match="candidates is 0"):
        tune([impossible], PROMPTS, TARGETS, **how)
    assert not (tmp_path / "new").exists()


def test_prompts_are_not_tuned_on_and_written_from():
    check_apart(["so"], ["a", None, "bad"])
    with pytest.raises(UserError, match="share 1, such as 'So  it': tune on other prompts"):
        check_apart(["a", "So  it"], ["so IT ", None])


def test_rows_are_spread():
    assert spread(list("abcdef"), 3) == ["a", "c", "e"]
    assert spread(list("ab"), 3) == ["a", "b"]
