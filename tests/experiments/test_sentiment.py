"""The experiments read their prompts as they say."""

import json
from pathlib import Path

import numpy as np
import pytest

from experiments.sentiment import Config, draw, figures, rows_of, show

KINDS = ["neutral"] * 6 + ["positive"] * 3 + ["negative"] * 3


def config(tmp_path: Path, limit: int | None) -> Config:
    path = tmp_path / "prompts.jsonl"
    rows = [json.dumps({"text": str(n), "kind": kind}) for n, kind in enumerate(KINDS)]
    path.write_text("\n".join(rows) + "\n\n")
    return Config(prompts=path, judge=tmp_path, limit=limit)


@pytest.mark.parametrize(("limit", "kept"), [(None, 12), (12, 12), (40, 12), (1, 1)])
def test_a_limit_takes_so_many_prompts(tmp_path: Path, limit: int | None, kept: int):
    texts = [row["text"] for row in rows_of(config(tmp_path, limit))]
    assert len(texts) == kept == len(set(texts))


def test_a_limit_takes_prompts_of_every_kind(tmp_path: Path):
    kinds = [row["kind"] for row in rows_of(config(tmp_path, 4))]
    assert kinds == ["neutral", "neutral", "positive", "negative"]


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_below_one_is_named(tmp_path: Path, limit: int):
    with pytest.raises(SystemExit, match=f"--limit is {limit}: give 1 or more"):
        rows_of(config(tmp_path, limit))


class Judge:
    """Finds that a text is as positive as the number that it ends in says."""

    def predict_proba(self, texts: list[str]) -> np.ndarray:
        positive = np.array([float(text.split()[-1]) for text in texts])
        return np.stack([1 - positive, positive], axis=1)


def test_shares_are_by_mood_and_a_mood_without_texts_is_left_out(tmp_path: Path, capsys):
    texts = [
        {"kind": kind, "target": target, "text": f"such a film {positive}", "log_prob": -2.0,
         "tokens": [1, 2], "simulations": 8, "deepest": 3}
        for kind, target, positive in (
            ("neutral", "positive", 0.9), ("neutral", "negative", 0.6),
            ("negative", "negative", 0.2), ("negative", "negative", 0.5),
            ("positive", "positive", 0.7),
        )
    ]  # fmt: skip
    result = {"method": "mcts", "seconds": 10.0, "crossing_seconds": None, "texts": texts}
    row = figures(result, Judge())
    assert "against" not in row
    assert (row["all"]["share"], row["with"]["share"]) == (3 / 5, 2 / 3)
    assert row["neutral"]["share"] == 0.5
    assert row["all"]["mean_probability"] == pytest.approx((0.9 + 0.4 + 0.8 + 0.5 + 0.7) / 5)
    assert row["negative"]["mean_probability"] == pytest.approx((0.4 + 0.8 + 0.5) / 3)
    assert row["perplexity"] == pytest.approx(np.e)
    assert (row["simulations_per_token"], row["seconds_per_text"]) == (4, 2)
    json.dumps(row, allow_nan=False)
    show([row])
    assert "none" in capsys.readouterr().out
    draw([row], tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
