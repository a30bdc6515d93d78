"""The reference of the Python interface: every public name, by the room that it lives in."""

import re
from pathlib import Path

import coopgen_jax
from coopgen_jax import _HOME

ROOMS = {
    "text_generation": "From text to text",
    "models": "Language models",
    "discriminators": "Discriminators",
    "decoding": "Decoders",
    "search": "Search",
    "data": "Data",
    "evaluation": "Evaluation",
    "parallel": "Devices",
    "bulk": "Machines",
    "watermark": "Watermarks",
    "explanation": "Explanations",
    "augmentation": "Synthetic and out-of-context data",
    "training": "Rewards and objectives",
}
REST = "Everything else"

TRAINING = Path(coopgen_jax.__file__).parent / "training"
RECIPE = re.compile(r"^def (train_\w+)", re.MULTILINE)


def python() -> str:
    """Returns the page; mkdocstrings puts the docstrings in."""
    rooms: dict[str, list[str]] = {title: [] for title in (*ROOMS.values(), REST)}
    for name, home in sorted(_HOME.items()):
        title = ROOMS.get(home.split(".")[0], REST)
        known = "load" if name == "load_language_model" else name
        rooms[title].append(entry(f"coopgen_jax.{home}.{known}", f"cg.{name}"))
    parts = [
        "# Python\n",
        "`import coopgen_jax as cg` makes every name below available as `cg.NAME`. "
        "[Shape letters](../contribute/house_rules.md#shape-letters) are the same everywhere.\n",
    ]
    for title, entries in rooms.items():
        if entries:
            parts += [f"## {title}\n", *entries]
    parts += ["## Training\n", *recipes(), "## Testing a network of your own\n", *testing()]
    return "\n".join(parts)


def entry(path: str, heading: str) -> str:
    """Returns what mkdocstrings replaces by the documentation of one object."""
    label = heading.removeprefix("cg.")
    options = {"heading": heading, "toc_label": label, "heading_level": "3"}
    lines = [f"::: {path}", "    options:", *(f"      {key}: {options[key]}" for key in options)]
    return "\n".join(lines) + "\n"


def recipes() -> list[str]:
    """Returns the entries of the functions that train: those called `train_...`."""
    found = []
    for path in sorted(TRAINING.rglob("*.py")):
        home = ".".join(path.relative_to(TRAINING).with_suffix("").parts)
        for name in RECIPE.findall(path.read_text(encoding="utf-8")):
            found.append(entry(f"coopgen_jax.training.{home}.{name}", name))
    return found


def testing() -> list[str]:
    """Returns the entries of what users test their own networks with."""
    from coopgen_jax import testing as room

    return [entry(f"coopgen_jax.testing.{name}", name) for name in room.__all__]
