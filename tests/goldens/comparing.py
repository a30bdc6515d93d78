"""How what is written now is compared with what was recorded."""

import json
import math
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
# Of the sums of a text's log-probabilities. What records and what compares may be processors with
# registers of different width, which add up in another order: 1e-6 on one, this much between two.
CLOSE = 1e-4


def plain(value: Any) -> Any:
    """Returns a value of JSON, numbers that are not finite by name."""
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def recorded(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    return found


def record(name: str, found: dict[str, Any]) -> None:
    """Writes a file with one case a line, so that a change shows as the case that it changes."""
    lines = [f"{json.dumps(key)}: {json.dumps(plain(found[key]))}" for key in found]
    (FOLDER / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")


def differences(found: Any, expected: Any, *, close: float = CLOSE, at: str = "") -> list[str]:
    """Returns where two values of JSON differ: floats by more than a share, all else at all."""
    if isinstance(expected, dict) and isinstance(found, dict):
        if set(found) != set(expected):
            return [f"{at}: has {sorted(found)}, recorded is {sorted(expected)}"]
        return [
            line
            for key in expected
            for line in differences(found[key], expected[key], close=close, at=f"{at}/{key}")
        ]
    if isinstance(expected, list) and isinstance(found, list) and len(found) == len(expected):
        return [
            line
            for number, (new, old) in enumerate(zip(found, expected, strict=True))
            for line in differences(new, old, close=close, at=f"{at}/{number}")
        ]
    if isinstance(expected, float) and isinstance(found, float):
        if abs(found - expected) <= close * max(1.0, abs(expected)):
            return []
    elif type(found) is type(expected) and found == expected:
        return []
    return [f"{at}: {found!r}, recorded is {expected!r}"]
