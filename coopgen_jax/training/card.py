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
    lines += [f"- **{key}**: {value}" for key, value in card.items() if key != "accuracy"]
    for data, row in tables.items():
        figures = " | ".join(f"{value:.3f}" for value in row.values())
        lines += ["", f"Accuracy on {data}, by {unit}:", ""]
        lines += [f"| {' | '.join(row)} |", "|" + " --- |" * len(row), f"| {figures} |"]
    return "\n".join(lines) + "\n"
