"""The experiments read their prompts as they say."""

import json
from pathlib import Path

import pytest

from experiments.sentiment import Config, rows_of

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
