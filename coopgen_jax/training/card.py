"""What a training leaves of a discriminator: its weights, its card, and the card as a page."""

from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict
from safetensors.numpy import save

from coopgen_jax.files import read_json, replacing, write_json


def save_head(folder: Path, params: Any, card: dict[str, Any]) -> None:
    """Writes `head.safetensors`, `card.json` and `card.md` into `folder`, which is made.

    Kernels and biases are kept in half precision, the standardisation in single precision: a
    centre can be thousands of times the spread around it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    flat = {
        name: np.asarray(value, np.float16 if _halved(name) else np.float32)
        for name, value in flatten_dict(params, sep=".").items()
    }
    # Not `save_file`, whose files only their owner can read.
    weights, path = save(flat), folder / "head.safetensors"
    kept = folder / "card.json"
    if path.is_file() and kept.is_file() and path.read_bytes() == weights:
        # The same weights are as well calibrated as they were.
        before = read_json(kept)
        if "temperature" in before:
            card = {**card, "temperature": before["temperature"]}
    with replacing(path) as (unfinished,):
        unfinished.write_bytes(weights)
    write_card(folder, card)


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """Writes `card.json`, and `card.md` to read; what was there is replaced by all or nothing."""
    with replacing(folder / "card.md") as (unfinished,):
        unfinished.write_text(_card_page(folder.name, card), encoding="utf-8")
    write_json(folder / "card.json", card)


def _halved(name: str) -> bool:
    return "." in name and name.rpartition(".")[2] not in ("centre", "scale")


def _card_page(name: str, card: dict[str, Any]) -> str:
    lines = [f"# {name}", ""]
    tables, unit = card.get("accuracy", {}), card.get("accuracy_unit", "words read")
    apart = ("accuracy", "on_policy")
    lines += [f"- **{key}**: {value}" for key, value in card.items() if key not in apart]
    for data, row in tables.items():
        figures = [f"{value:.3f}" for value in row.values()]
        lines += ["", f"Accuracy on {data}, by {unit}:", "", *_table(list(row), [figures])]
    if "on_policy" in card:
        lines += _rounds_page(card["on_policy"])
    return "\n".join(lines) + "\n"


def _rounds_page(report: dict[str, Any]) -> list[str]:
    """Returns what a page says of rounds of writing and training; see `train_on_policy`."""
    apart = ("rounds", "by_tokens_read")
    lines = ["", "## Rounds of writing and training", ""]
    lines += [f"- **{key}**: {value}" for key, value in report.items() if key not in apart]
    names = ["guide", "teacher", "gap", "agreement"]
    rows = [
        [str(entry["round"]), str(entry["rows"]), *(f"{entry[name]:.3f}" for name in names)]
        for entry in report["rounds"]
    ]
    if rows:
        lines += ["", "Searched texts that the guide was not trained on, by round:", ""]
        lines += _table(["round", "rows", *names], rows)
    names = ["guide", "teacher", "error", "error_before"]
    rows = [
        [length, *(f"{entry[name]:.3f}" for name in names)]
        for length, entry in report.get("by_tokens_read", {}).items()
    ]
    if rows:
        lines += ["", "Their prefixes, by tokens read, at the temperature above:", ""]
        lines += _table(["tokens read", *names], rows)
    return lines


def _table(columns: list[str], rows: list[list[str]]) -> list[str]:
    lines = [f"| {' | '.join(row)} |" for row in (columns, *rows)]
    return [lines[0], "|" + " --- |" * len(columns), *lines[1:]]
