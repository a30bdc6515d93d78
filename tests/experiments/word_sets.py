"""Data sets of the tiny model whose tokens are words."""

import csv

import numpy as np

from tests.explanation.word_model import WORDS


def write_set(folder, classes, count, seed):
    """Texts of six words, two of which are of their class."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for split in ("train", "validation"):
        with (folder / f"{split}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("text", "label"))
            for number in range(count):
                label = number % len(classes)
                own = WORDS[label * 10 : label * 10 + 6]
                words = [*rng.choice(own, 2), *rng.choice(WORDS[100:], 4)]
                rows.writerow((" ".join(words), classes[label]))
