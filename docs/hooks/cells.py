"""What an experiment left, and how its figures stand in the cells of a table."""

import json
from collections.abc import Iterable, Sequence
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[2] / "experiments" / "results"


def read(name: str) -> Any:
    """Returns what an experiment has left in its JSON file."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def fixed(value: float, decimals: int) -> str:
    """Returns a number with so many decimals; a tie is rounded up, as readers do it."""
    exact = Decimal(repr(round(value, 9)))
    return str(exact.quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP))


def share(value: float, decimals: int = 2) -> str:
    """Returns a share of 1 with no zero in front."""
    text = fixed(value, decimals)
    return text.removeprefix("0") if text.startswith("0.") else text


def interval(cell: dict[str, Any], key: str = "value") -> str:
    """Returns a share with its 95 % interval."""
    low, high = cell["interval"]
    return f"{share(cell[key])} [{share(low)}, {share(high)}]"


def rounded(value: float) -> str:
    """Returns a perplexity: one decimal below 100, none above."""
    return fixed(value, 1) if value < 100 else fixed(value, 0)
