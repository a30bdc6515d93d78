"""A small explanation, whose names and texts look like marks of a page."""

from dataclasses import replace

import numpy as np

from coopgen_jax.explanation.explained import explain_texts
from coopgen_jax.explanation.reaction import Reaction
from coopgen_jax.explanation.surrogate import SurrogateSettings

CLASSES = ("<b>old</b>", "new & fine")
TEXTS = [f"{word} rain <script>alert(1)</script> {other}" for word, other in
         [("sun", "Wind"), ("moon", "stone")] for _ in range(6)]  # fmt: skip
LABELS = [0] * 6 + [1] * 6


def made(**changes):
    p = np.array([[0.9 - 0.01 * n, 0.1 + 0.01 * n] for n in range(6)] * 2)
    p[6:] = p[6:, ::-1]
    found = explain_texts(
        TEXTS, LABELS, p, CLASSES, SurrogateSettings(bootstrap=8, unseen=0.0),
        about={"seconds": 12.0, "model": "tiny", "simulations": 4000},
    )  # fmt: skip
    up, none, down = Reaction(1.25, 1, 1.5), Reaction(0.0, -0.1, 0.1), Reaction(-1.25, -1.5, -1)
    tried = {"sun": (up, down), "wind": (none, none), "comet": (down, up)}
    return replace(found, tried=tried, **changes)
