"""Comparisons in Python: what is written, gone on with, refused and measured."""

import itertools
import json
from types import SimpleNamespace

import pytest

import coopgen_jax as cg
from coopgen_jax.comparison import writing
from coopgen_jax.comparison.method_run import MethodRun, announced
from coopgen_jax.comparison.writing import Progress, compare
from coopgen_jax.decoding.rules.shaping import Rules
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.report import (
    ReportSettings,
    check_methods,
    footnotes,
    report_on,
    write_report,
)
from coopgen_jax.models.pretrained.loaded_model import load
from coopgen_jax.models.pretrained.steering import Steering
from tests.cli.judging import write_all

PROMPTS = ["so", "a", "bad", "it is a long prompt", "film"]
TARGETS = ["good", "bad"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_all(tmp_path_factory.mktemp("world"))


def clock():
    """Returns a stand-in for `time` by which every batch takes a second: runs have equal bytes."""
    return SimpleNamespace(perf_counter=itertools.count().__next__)


@pytest.fixture(autouse=True)
def equal_seconds(monkeypatch):
    monkeypatch.setattr(writing, "time", clock())


def two_methods(model, guide, oracle):
    sampled = cg.SamplingConfig(new_tokens=3, rules=Rules(top_p=0.9))
    return [
        MethodRun(
            "sampled", sampled, model=model, discriminator=guide,
            steering=Steering(anti_expert=oracle, expert_weight=0.5),
        ),
        MethodRun(
            "judged", cg.FudgeConfig(new_tokens=3, candidates=4), model=model, discriminator=guide
        ),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def named(world):
    return two_methods(*(str(world / name) for name in ("base", "guide", "oracle")))


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.jsonl")}


@pytest.fixture(scope="module")
def written(named, tmp_path_factory):
    """What a run writes that nobody interrupts."""
    folder = tmp_path_factory.mktemp("written")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "time", clock())
        compare(named, PROMPTS, TARGETS, folder=folder, batch_size=4)
    return folder


def test_two_methods_write_and_are_measured(world, named, written, tmp_path):
    how = ReportSettings(judge=str(world / "judge"), oracle=str(world / "oracle"), force=True)
    check_methods(announced(named, TARGETS), how)
    before, heard = bytes_of(written), []
    methods = compare(
        named, PROMPTS, TARGETS, folder=written, batch_size=4, on_progress=heard.append
    )
    assert heard == [] and bytes_of(written) == before  # all of it is there
    assert [method.name for method in methods] == ["sampled", "judged"]
    asked = {(text.prompt, text.target) for text in methods[0].texts}
    assert asked == {(prompt, target) for prompt in PROMPTS for target in TARGETS}
    measured = []
    report = report_on(methods, how, on_method=measured.append)
    assert measured == ["sampled", "judged"] and report["methods"][1]["paired"]["pairs"] == 10
    write_report(report, tmp_path / "figures", "markdown")
    found = json.loads((tmp_path / "figures.json").read_text())
    assert found["methods"][0]["accuracy"] == report["methods"][0]["accuracy"]
    assert (tmp_path / "figures.md").read_text().startswith("| method | texts | accuracy |")
    assert (tmp_path / "figures.png").exists()
    assert any("itself wrote the texts of sampled" in line for line in footnotes(report))


@pytest.mark.parametrize("last", [1, 2, 3, 4])
def test_what_was_interrupted_gets_the_same_bytes(named, written, tmp_path, last):
    heard: list[Progress] = []

    def interrupt(progress: Progress) -> None:
        heard.append(progress)
        if len(heard) == last:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(named, PROMPTS, TARGETS, folder=tmp_path, batch_size=4, on_progress=interrupt)
    assert bytes_of(tmp_path) != bytes_of(written)
    compare(named, PROMPTS, TARGETS, folder=tmp_path, batch_size=4, on_progress=heard.append)
    assert bytes_of(tmp_path) == bytes_of(written)
    assert heard == [Progress(name, n, 3) for name in ("sampled", "judged") for n in (1, 2, 3)]


def test_loaded_networks_write_what_named_ones_do(world, written, tmp_path):
    base = load(world / "base")
    guide = cg.load_discriminator(world / "guide", language_model=base)
    runs = two_methods(base, guide, load(world / "oracle"))
    for _ in range(2):  # the second finds it all there
        compare(runs, PROMPTS, TARGETS, folder=tmp_path, batch_size=4)
    for name, content in bytes_of(written).items():
        own, *lines = (tmp_path / name).read_bytes().splitlines()
        header, *others = content.splitlines()
        assert lines == others
        own, header = json.loads(own), json.loads(header)
        assert own["settings"] == header["settings"] and own["model"] == header["model"]
    other = cg.load_discriminator(world / "judge", language_model=base)
    with pytest.raises(UserError, match="holds texts of another"):
        compare(two_methods(base, other, base), PROMPTS, TARGETS, folder=tmp_path, batch_size=4)


def test_another_seed_is_another_comparison(named, written):
    before = bytes_of(written)
    with pytest.raises(UserError, match="holds texts of another seed: name another"):
        compare(named, PROMPTS, TARGETS, folder=written, batch_size=4, seed=1)
    assert bytes_of(written) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": []}, "there is no target"),
        ({"targets": ["good", "good"]}, "a target is named twice"),
        ({"targets": ["fine"]}, "fine is unknown to .*guide: its classes are bad, good"),
        ({"batch_size": 0}, "batch_size is 0: give 1 or more"),
        ({"prompts": ["so", "a " * 200]}, "prompt 2 has"),
    ],
)
def test_mistakes_are_refused_before_a_file_is_made(named, tmp_path, change, message):
    given = {"runs": named, "prompts": PROMPTS, "targets": TARGETS, "folder": tmp_path / "new"}
    with pytest.raises(UserError, match=message):
        compare(**given | change)
    assert not list(tmp_path.glob("new/*"))


def test_names_make_files(named, tmp_path):
    twice = [named[0], named[0]]
    with pytest.raises(UserError, match="two methods are called sampled"):
        compare(twice, PROMPTS, TARGETS, folder=tmp_path)
    runs = [MethodRun(name, named[0].config) for name in ("a b", "a-b", "c")]
    one, two, three = (path.name for path in writing.text_files(runs, tmp_path))
    assert (one, three) == ("a-b.jsonl", "c.jsonl")
    assert two.startswith("a-b-") and two not in (one, three)
