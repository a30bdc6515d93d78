"""What the training scripts of sentiment heads and judge share: data, report and card."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from coopgen_jax.data.labelled import Labelled, read_labelled
from coopgen_jax.discriminators.head import HeadConfig
from coopgen_jax.training.card import save_head

CLASSES = ("negative", "positive")
SOURCES = {
    "sst2": "Stanford Sentiment Treebank, two classes (Socher et al. 2013); research only",
    "amazon_reviews": "Multi-domain sentiment (Blitzer et al. 2007); research only",
}


def read_sets(folder: Path, split: str) -> dict[str, Labelled]:
    """Returns the rows of "train" or "validation" of every source, by its name."""
    return {
        name: read_labelled(folder / name / f"{split}.csv", classes=CLASSES) for name in SOURCES
    }


def progress(what: str) -> Callable[[int, int], None]:
    """Returns a listener that prints a line at every tenth of a long work."""
    shown = 0

    def listen(done: int, total: int) -> None:
        nonlocal shown
        if (tenth := 10 * done // total) > shown:
            shown = tenth
            print(f"{what}: {done} of {total}", flush=True)

    return listen


def publish(
    folder: Path,
    head: HeadConfig,
    params: Any,
    card: Mapping[str, Any],
    *,
    loss: float,
    accuracy: Mapping[str, Mapping[str, float]],
) -> None:
    """Prints the report and writes the head with its card.

    Args:
      folder: the head's folder, which is made; its name is the head's.
      head: the head's shape.
      params: its weights.
      card: what is particular to its kind, "kind" and "recipe" among it.
      loss: on the validation rows, in nats.
      accuracy: by source, then by the length of what was read.
    """
    for name, row in accuracy.items():
        print(name, "  ".join(f"{length}: {share:.3f}" for length, share in row.items()))
    save_head(
        folder,
        params,
        {
            "kind": card["kind"],
            "name": folder.name,
            "licence": "Apache-2.0",
            "classes": list(CLASSES),
            "hidden": list(head.hidden),
            "reads_prompt": False,
            "data": SOURCES,
            "terms": "trained on data licensed for research only",
            **card,
            "validation_loss": round(loss, 4),
            "accuracy": {
                name: {length: round(share, 4) for length, share in row.items()}
                for name, row in accuracy.items()
            },
        },
    )
    print(f"wrote {folder}")
