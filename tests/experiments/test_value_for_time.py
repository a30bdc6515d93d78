"""Value for time: stages on tiny networks, and figures checked by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest

from coopgen_jax.comparison import writing
from coopgen_jax.comparison.tuning_grid import GRIDS
from coopgen_jax.evaluation.written_texts import Written
from experiments import value_for_time
from experiments.value_for_time import Config, cost, main, prompts_of, tunables, tuned_methods
from experiments.value_for_time_figures import (
    FAMILIES,
    differences,
    family_of,
    figures,
    frontier,
    measured,
    on_target,
    table,
)
from experiments.value_for_time_parts import guide_of, mean_share, of_human, told_of
from tests.cli.judging import write_all

PROMPTS = ["so", "a", "it is a long prompt"]
METHODS = ("sample:top_p=0.9", "rerank:of=8", "rerank:of=2",
           "mcts:preset=default:simulations=4:wave=4", "fudge:candidates=4")  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = write_all(tmp_path_factory.mktemp("world"))
    for name, rows in (("prompts", PROMPTS), ("others", ["bad film a", "good film so"])):
        lines = [json.dumps({"text": text, "kind": "neutral"}) for text in rows]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(autouse=True)
def few(monkeypatch):
    for name in ("rerank", "fudge"):
        monkeypatch.setitem(GRIDS, name, replace(GRIDS[name], settings=GRIDS[name].settings[::3]))


@pytest.fixture
def small_search(monkeypatch):
    presets = value_for_time.cg.PRESETS
    small = {"candidates": 4, "depth": 2, "considered": 4, "wave": 4}
    monkeypatch.setitem(presets, "default", presets["default"].with_settings(**small))


def config_of(world, work, **more):
    given = {
        "judges": (world / "judge", world / "knowing"), "out": work / "out", "methods": METHODS,
        "targets": ("bad", "good"), "model": str(world / "base"), "guide": str(world / "guide"),
        "oracle": str(world / "oracle"), "samples": (2, 8), "simulations": (4,), "particles": (2,),
        "candidates": 4, "new_tokens": 3, "batch_size": 4, "tuning_words": 2, "repeats": 2,
    } | more  # fmt: skip
    return Config(world / "prompts.jsonl", world / "others.jsonl", work, **given)


@pytest.mark.usefixtures("small_search")
def test_all_stages_run_and_an_interrupted_run_goes_on(world, tmp_path, capsys, monkeypatch):
    config = config_of(world, tmp_path)
    main(replace(config, stages=("tune",)))
    assert not (tmp_path / "texts").exists()
    main(config)
    path = tmp_path / "out" / "value_for_time.json"
    found = json.loads(path.read_text())
    assert (tmp_path / "out" / "value_for_time.png").read_bytes().startswith(b"\x89PNG")
    rows = {row["method"]: row for row in found["methods"]}
    assert list(rows) == [name for name in rows if name in METHODS] and len(rows) == len(METHODS)
    for name, row in rows.items():
        assert row["texts"] == 6 and row["chosen"].startswith(name)
        assert set(row["judges"]) == {"judge", "knowing"} and row["perplexity"]["value"] > 1
        assert ("rerank:of=8" in row["against"]) == (name != "rerank:of=8")
    assert ":temperature=" in rows["rerank:of=2"]["chosen"]
    assert set(found["frontier"]) <= set(rows)
    assert "on target, less rerank:of=8" in capsys.readouterr().out
    # All of it is there: nothing is written, and nothing timed.
    monkeypatch.setattr(writing, "generate", lambda *_, **__: pytest.fail("written again"))
    main(config)
    assert json.loads(path.read_text()) == found
    parts_agree(replace(config, stages=("parts",), human=human_of(tmp_path)), rows)


def human_of(folder):
    for name in ("sst2", "amazon_reviews"):
        (folder / name).mkdir()
        (folder / name / "validation.csv").write_text("text,label\ngood film it is,good\nso,bad\n")
    return folder


def parts_agree(config, rows):
    """What the stage `parts` says of texts is what the figures do, and their guide's gap."""
    main(config)
    found = json.loads((config.out / "value_for_time_parts.json").read_text())
    assert [row["method"] for row in found["methods"]] == list(rows)
    for row in found["methods"]:
        figures = rows[row["method"]]
        assert row["perplexity"] == figures["perplexity"] and 0 < row["guide"]["value"] < 1
        for name, judged in row["judges"].items():
            gap, told = judged.pop("gap"), judged.pop("told")
            assert told["on_target"]["value"] == pytest.approx(judged["on_target"]["value"])
            assert judged == figures["judges"][name]
            share = judged["on_target"]["value"]
            assert gap["value"] == pytest.approx(row["guide"]["value"] - share)
    for name, sets in found["human"].items():
        assert found["asked"][name] == pytest.approx(0.95 * mean_share(sets))
    with pytest.raises(SystemExit, match="give their folder with --human"):
        main(replace(config, human=None))


def test_methods_are_timed_in_turn_and_the_first_round_does_not_count(world, tmp_path, monkeypatch):
    config = config_of(world, tmp_path, methods=("sample:top_p=0.9", "rerank:of=2"))
    runs = [one.run for one in tuned_methods(config, PROMPTS)]
    asked = []

    def lines_of(job, batch, **_):
        asked.append(job.run.method.name)
        return [{"seconds": float(len(asked))}] * 2

    monkeypatch.setattr(value_for_time, "lines_of", lines_of)
    one, two = (run.name for run in runs)
    assert cost(config, runs, PROMPTS) == {one: [3.0, 5.0], two: [4.0, 6.0]}
    assert asked == [one, two] * 3
    # A third round waits for compilations once more.
    more = cost(replace(config, repeats=3), runs, PROMPTS)
    assert more == {one: [3.0, 5.0, 9.0], two: [4.0, 6.0, 10.0]}


def test_searches_differ_in_root_simulations_and_wave(world, tmp_path):
    config = config_of(world, tmp_path, methods=(), simulations=(16, 64))
    found = {method.name: method.run_with({}).config for method in tunables(config)}
    searches = {name: run.search for name, run in found.items() if name.startswith("mcts")}
    assert len(searches) == 2 * (3 + 2)
    for name, search in searches.items():
        assert f":simulations={search.simulations}:wave={search.wave}" in name
    ahead = config_of(world, tmp_path, methods=(), look_ahead_head=world / "knowing")
    drawn, best = (m for m in tunables(ahead) if "look_ahead=true" in m.name)
    for method, greedy in ((drawn, False), (best, True)):
        run = method.run_with({"strength": 2})
        assert run.config.look_ahead and run.config.greedy == greedy
        assert run.discriminator == str(world / "knowing")
    assert best.run_with({"strength": 2}).config.rules.no_repeat_ngram == 3


class Judge:
    """Finds a text bad, neither or good by its first letter."""

    classes = ("bad", "neither", "good")

    def predict_proba(self, texts):
        return np.eye(3)[["bng".index(text[0]) for text in texts]]


def lines(texts, *, log_prob=-4.0):
    """Returns lines of two prompts towards two targets, good ones first."""
    asked = [("p", "good"), ("q", "good"), ("p", "bad"), ("q", "bad")]
    return [
        {"prompt": prompt, "target": target, "text": text, "number": number,
         "log_prob": log_prob, "tokens": [1, 2]}
        for number, ((prompt, target), text) in enumerate(zip(asked, texts, strict=True))
    ]  # fmt: skip


def test_figures_are_those_of_the_texts():
    one = measured(lines("gnbg"), {"j": Judge()}, None)
    other = measured(lines("bnbg", log_prob=-2.0), {"j": Judge()}, None)
    # The order is that of targets, then of prompts.
    assert one["asked"] == [("p", "bad"), ("q", "bad"), ("p", "good"), ("q", "good")]
    parts = figures(one)["judges"]["j"]
    assert {name: cell["value"] for name, cell in parts.items()} == {
        "on_target": 0.5, "neither": 0.25, "against": 0.25
    }  # fmt: skip
    assert figures(one)["perplexity"]["value"] == pytest.approx(np.exp(2))
    found = differences(one, other)
    # Of two prompts the first gains half a text, and the other nothing.
    assert found["j"] == {"value": 0.25, "interval": [0.0, 0.5]}
    assert found["perplexity_ratio"]["value"] == pytest.approx(np.exp(1))
    assert found["perplexity_ratio"]["interval"] == pytest.approx([np.exp(1)] * 2)
    with pytest.raises(SystemExit, match="wrote other prompts"):
        differences(one, measured(lines("gnbg")[:3], {"j": Judge()}, None))


def test_human_texts_are_told_in_three_parts_and_by_class():
    written = [Written("", text, "good") for text in ("g", "n", "b", "g")]
    found = of_human(Judge(), [*written, Written("", "b", "bad")])
    assert [found[part]["value"] for part in ("on_target", "neither", "against")] == [0.6, 0.2, 0.2]
    assert {name: cell["value"] for name, cell in found["recall"].items()} == {
        "good": 0.5, "bad": 1.0
    }  # fmt: skip
    # Classes count alike, however many texts they have.
    assert mean_share({"set": found}) == 0.75


def test_texts_that_say_nothing_are_told_apart():
    hits, neither = np.array([True, False, False, False]), np.array([False, True, True, False])
    found = told_of(np.array([0.9, 0.5, 0.7, 0.1]), hits, neither)
    assert found["on_target"]["value"] == 0.5
    assert found["guide_of_neither"] == pytest.approx(0.6)
    assert told_of(np.array([0.9]), np.array([True]), np.array([False]))["guide_of_neither"] is None
    assert told_of(np.array([0.9]), np.array([False]), np.array([True]))["on_target"] is None


def test_what_the_guide_says_is_of_the_target_in_the_order_of_the_figures():
    given = lines("gnbg")
    for number, line in enumerate(given):
        line["class_probabilities"] = {"good": number / 10, "bad": 1 - number / 10}
    assert guide_of(given).tolist() == pytest.approx([0.8, 0.7, 0.0, 0.1])
    assert [target for _, target in measured(given, {}, None)["asked"]] == ["bad"] * 2 + [
        "good"
    ] * 2


def row(name, seconds, share, perplexity):
    judge = {"on_target": {"value": share, "interval": [0, 1]}}
    judge |= {part: {"value": 0.1} for part in ("neither", "against")}
    return {
        "method": name, "chosen": name, "seconds_per_text": {"value": seconds},
        "judges": {"j": judge}, "perplexity": {"value": perplexity}, "against": {},
    }  # fmt: skip


def test_the_frontier_has_what_nothing_beats():
    rows = [row("a", 1, 0.5, 9), row("b", 2, 0.5, 9), row("c", 2, 0.6, 9), row("d", 2, 0.4, 8),
            row("e", 3, 0.6, 9), row("f", 1, 0.5, 9)]  # fmt: skip
    assert frontier(rows) == ["a", "c", "d", "f"]
    assert on_target(rows[2]) == 0.6
    assert table(rows, ["j"]).splitlines()[1].split()[0] == "a"


def test_mistakes_are_named(world, tmp_path):
    with pytest.raises(SystemExit, match="--methods dance is unknown: choose from sample:top_p"):
        tunables(config_of(world, tmp_path, methods=("dance",)))
    with pytest.raises(SystemExit, match="--stages dance is unknown"):
        main(config_of(world, tmp_path, stages=("dance",)))
    with pytest.raises(SystemExit, match="3 prompts towards 2 targets do not fill a batch of 8"):
        main(config_of(world, tmp_path, batch_size=8))
    assert prompts_of(world / "prompts.jsonl") == PROMPTS


def test_a_head_that_is_asked_ahead_has_a_line_of_its_own():
    assert family_of("fudge:candidates=20:look_ahead=true:greedy=true") == "look-ahead"
    assert family_of("fudge:candidates=20") == "fudge" and family_of("mcts:wave=8") == "mcts"
    assert {"look-ahead", "fudge", "mcts"} <= FAMILIES.keys()
