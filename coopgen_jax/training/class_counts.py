"""The classes of a set of texts as sentences for the user, before they are trained on."""

import numpy as np

from coopgen_jax.data.labelled import Labelled

# Names that programs give to a label that is missing.
MISSING = ("nan", "none", "null", "n/a", "<na>")


def class_counts(data: Labelled) -> str:
    """Returns how many texts every class has, as "60 texts of 2 classes: high 20, low 40"."""
    counts = np.bincount(data.labels, minlength=len(data.classes))
    each = ", ".join(f"{name} {n}" for name, n in zip(data.classes, counts, strict=True))
    return f"{len(data.texts)} texts of {len(data.classes)} classes: {each}"


def doubtful_classes(data: Labelled) -> list[str]:
    """Returns what is likely to be a mistake in the classes of training texts, a sentence each."""
    found = []
    same: dict[str, list[str]] = {}
    for name in data.classes:
        same.setdefault(name.casefold(), []).append(name)
    for names in same.values():
        if len(names) > 1:
            found.append(
                f"the classes {' and '.join(names)} differ only by case: give them one name if "
                "they are one class"
            )
    for name in data.classes:
        if name.casefold() in MISSING:
            found.append(
                f"a class is called {name}, as labels are that are missing: remove its rows if "
                "they have no label"
            )
    counts = np.bincount(data.labels, minlength=len(data.classes))
    for name, count in zip(data.classes, counts, strict=True):
        if not count:
            found.append(f"no text has the class {name}: leave it out, or add texts of it")
    return found
