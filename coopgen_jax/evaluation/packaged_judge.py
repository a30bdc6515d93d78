"""The judge that comes with the library, for texts that its own heads have guided.

It judges where no judge is named, and only texts whose guides its card names: those it shares no
training rows with. `NOBODY` leaves accuracy out.
"""

import json
from collections.abc import Iterable
from typing import Any

from coopgen_jax.discriminators.loading import packaged_heads

# What is named for a judge where none is to judge.
NOBODY = "none"


def packaged_judge(guides: Iterable[str]) -> tuple[str, dict[str, Any]] | None:
    """Returns name and card of the packaged judge of all `guides`; None where there is none.

    Guides are names of packaged heads; a folder is not one. Without a guide there is no judge.
    """
    wanted = set(guides)
    for name, folder in packaged_heads().items():
        card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        if wanted and wanted <= set(card.get("judges", ())):
            return name, card
    return None


def sentence_on(name: str, card: dict[str, Any]) -> str:
    """Returns what a report says of a packaged judge that judges unasked."""
    right = ", ".join(
        f"{figures['24']:.2f} of {data}" for data, figures in card["accuracy"].items()
    )
    return (
        f"the packaged judge {name} tells who is on target, as no --judge is named ({NOBODY} "
        f"leaves accuracy out); of 24 tokens of validation texts it is right about {right}"
    )
