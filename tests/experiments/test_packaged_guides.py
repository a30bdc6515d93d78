"""Packaged heads of several classes: the experiment on tiny networks, judged by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest

from coopgen_jax.data.labelled import half_of
from coopgen_jax.evaluation.tfidf_judge import fit_judge
from experiments import packaged_guides
from experiments.packaged_guides import Config, judges_of, main, runs_of
from experiments.train_heads import HEADS
from tests.cli.judging import CLASSES, write_all


@pytest.fixture
def world(tmp_path, monkeypatch):
    folder = write_all(tmp_path / "world")
    guide = str(folder / "guide")
    monkeypatch.setitem(packaged_guides.GUIDES, guide, "letters")
    monkeypatch.setitem(HEADS, guide, HEADS["topic"].__class__(("letters",), CLASSES, None))
    (folder / "letters").mkdir()
    for split in ("train", "validation"):
        rows = [f"film it {('bad', 'good')[n % 2]} is {n},{CLASSES[n % 2]}" for n in range(60)]
        (folder / "letters" / f"{split}.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    lines = [json.dumps({"text": text}) for text in ("so", "a", "film", "it")]
    (folder / "prompts.jsonl").write_text("\n".join(lines) + "\n")
    # Words alone twice: no encoder is read.
    monkeypatch.setattr(packaged_guides, "load_encoder", lambda name: None)
    return folder


def few(config):
    """Settings of searches that are made small; others stay as they are."""
    if not isinstance(config, packaged_guides.cg.MCTSConfig):
        return config
    return config.with_settings(simulations=4, wave=4, candidates=4, depth=2)


def config_of(world, **more):
    given = {"guides": (str(world / "guide"),), "model": str(world / "base"), "new_tokens": 3}
    given |= {"limit": 2, "batch_size": 4, "dtype": "float32", "out": world / "out"} | more
    return Config(world, world / "work", **{"prompts": world / "prompts.jsonl"} | given)


def test_every_method_is_judged_and_a_second_run_writes_nothing(world, monkeypatch):
    names = ("sample", "mcts:preset=values")
    config = config_of(world, methods=names)

    def small(*asked):
        return [replace(run, config=few(run.config)) for run in runs_of(*asked)]

    monkeypatch.setattr(packaged_guides, "runs_of", small)
    main(config)
    found = json.loads((world / "out" / "packaged_guides_web.json").read_text())
    (own,) = found["guides"].values()
    assert own["texts"] == 4
    assert tuple(row["method"] for row in own["methods"]) == names
    for row in own["methods"]:
        assert row["perplexity"]["value"] > 1 and set(row["judges"]) == {"words", "MiniLM"}
        for judge in row["judges"].values():
            parts = [judge[name]["value"] for name in ("on_target", "neither", "against")]
            assert sum(parts) == pytest.approx(1)
    written = {path: path.read_bytes() for path in (world / "work").rglob("*.jsonl")}
    assert len(written) == 2
    main(config)
    assert written == {path: path.read_bytes() for path in written}


def test_judges_learn_from_half_b_and_are_rated_on_validation_rows(world, monkeypatch):
    seen = []

    def spied(rows, encoder):
        seen.append(rows)
        return fit_judge(rows, encoder)

    monkeypatch.setattr(packaged_guides, "fit_judge", spied)
    guide = str(world / "guide")
    judges, right = judges_of(config_of(world), guide)
    assert set(judges) == set(right) == {"words", "MiniLM"} and len(seen) == 2
    rows = (world / "letters" / "train.csv").read_text().splitlines()[1:]
    own = [row.rsplit(",", 1)[0] for row in rows]
    assert set(seen[0].origins) == {text for text in own if half_of(text) == "B"}
    assert right["words"]["value"] == 1 and right["words"]["texts"] == 60
    assert judges["words"].half == "B"


def test_the_best_of_eight_is_chosen_by_the_guide():
    runs = runs_of(Config("a", "b"), "topic")
    assert [run.preset for run in runs] == [None, None, None, "values", "default"]
    assert runs[4].config.search.simulations == 32 and runs[4].config.search.wave == 8
    rerank = runs[1].config
    assert rerank.of == 8 and rerank.rules.temperature == 0.7 and rerank.rules.top_p == 0.9
    assert all(run.discriminator == "topic" and run.config.new_tokens == 24 for run in runs)
    assert np.isclose(runs[2].config.strength, 4)


def test_prompts_are_those_of_the_file_or_openings_of_validation_rows(world):
    guide = str(world / "guide")
    assert packaged_guides.prompts_for(config_of(world, limit=3), guide) == ["so", "a", "film"]
    own = packaged_guides.prompts_for(config_of(world, prompts=None, words=3, limit=9), guide)
    assert own == ["film it bad", "film it good"]
