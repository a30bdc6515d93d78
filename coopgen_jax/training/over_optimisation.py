"""How far a guide overrates the texts that a search has chosen by it.

A search looks for what its guide likes, mistakes included, so what a guide says of searched texts
is too high (Goodhart's law; for reward models Gao et al. 2023, arXiv 2210.10760). The measure here
is the gap to a teacher on texts that neither the guide nor its training has seen.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from coopgen_jax.data.labelled import Continuation
from coopgen_jax.evaluation.discriminator_accuracy import BINS
from coopgen_jax.evaluation.metrics import bootstrap_interval

# Tokens read, from and to; None is without end.
LENGTHS = ((1, 4), (5, 8), (9, 16), (17, None))


@dataclass(frozen=True, eq=False)
class Visited:
    """Texts that a language model wrote in one round, half of them by a search.

    Attributes:
      prompts: `n` prompts.
      texts: their `n` continuations, none of them empty.
      targets: `[n]` the number of the class that was asked for.
      searched: `[n]` bool the texts that a search has chosen by the guide; the others are samples.
      guide: `[n, C]` p(class | text) by the guide, as it judged the text while it was written.
      written: the tokens of every prompt and of its continuation.
    """

    prompts: tuple[str, ...]
    texts: tuple[str, ...]
    targets: np.ndarray
    searched: np.ndarray
    guide: np.ndarray
    written: tuple[Continuation, ...] = ()


def gap_of(visited: Visited, teacher: np.ndarray) -> dict[str, Any]:
    """Returns how far a guide and its teacher are apart.

    Args:
      visited: the texts, with what the guide says of them.
      teacher: `[n, C]` p(class | text) by the teacher.

    Returns:
      Of the searched texts: their number, the mean probability of the target by "guide" and
      "teacher", the "gap" between both with its interval of 95 % (bootstrap over the texts), and
      the "agreement", the share whose likeliest class is the same. Of the samples the
      "sampled_gap", None without any.
    """
    rows = np.arange(len(visited.targets))
    guide, truth = (said[rows, visited.targets] for said in (visited.guide, teacher))
    chosen = visited.searched
    same = visited.guide.argmax(axis=-1) == teacher.argmax(axis=-1)
    others = (guide - truth)[~chosen]
    return {
        "texts": int(chosen.sum()),
        "guide": float(guide[chosen].mean()),
        "teacher": float(truth[chosen].mean()),
        "gap": float((guide - truth)[chosen].mean()),
        "interval": list(bootstrap_interval((guide - truth)[chosen])),
        "agreement": float(same[chosen].mean()),
        "sampled_gap": float(others.mean()) if len(others) else None,
    }


def by_prefix_length(
    guide: np.ndarray, teacher: np.ndarray, targets: np.ndarray
) -> dict[str, dict[str, Any]]:
    """Returns how well a guide is calibrated on prefixes of texts, by tokens read.

    Args:
      guide: `[n, T, C]` p(class | the first t + 1 tokens), NaN behind a text's end.
      teacher: `[n, C]` p(class | text), which is the truth of every prefix of the text.
      targets: `[n]` class numbers.

    Returns:
      By the lengths in `LENGTHS` the number of prefixes, the mean probability of the target by
      "guide" and "teacher", and the expected calibration "error" of that probability.
    """
    rows = np.arange(len(targets))
    said = guide[rows, :, targets]
    truth = np.broadcast_to(teacher[rows, targets][:, None], said.shape)
    found = {}
    for first, last in LENGTHS:
        part, own = said[:, first - 1 : last], truth[:, first - 1 : last]
        there = ~np.isnan(part)
        if there.any():
            name = f"{first}-{last}" if last else f"{first}+"
            found[name] = {
                "prefixes": int(there.sum()),
                "guide": float(part[there].mean()),
                "teacher": float(own[there].mean()),
                "error": soft_calibration_error(part[there], own[there]),
            }
    return found


def soft_calibration_error(said: np.ndarray, truth: np.ndarray) -> float:
    """Returns the expected calibration error of probabilities `[n]` against true ones `[n]`.

    It is the mean over equal parts of (0, 1), weighed by how many of `said` lie in each, of the
    distance between both means (Guo et al. 2017, arXiv 1706.04599, equation 3, with probabilities
    for labels).
    """
    bins = np.minimum((said * BINS).astype(int), BINS - 1)
    gaps = (abs((said - truth)[bins == number].sum()) for number in range(BINS))
    return float(sum(gaps) / len(said))
