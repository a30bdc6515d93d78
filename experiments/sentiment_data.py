"""The labelled texts of the sentiment experiments."""

from pathlib import Path

from coopgen_jax.data.labelled import Labelled, read_labelled

CLASSES = ("negative", "positive")
SETS = ("sst2", "amazon_reviews")


def read_sets(folder: Path, split: str) -> dict[str, Labelled]:
    """Returns the rows of "train" or "validation" of every set, by its name."""
    return {name: read_labelled(folder / name / f"{split}.csv", classes=CLASSES) for name in SETS}
