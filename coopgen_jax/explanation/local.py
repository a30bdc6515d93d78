"""Explanations of single texts, which need data: LIME and KernelSHAP over words.

They are what Therapy is compared with. Both put words out of a text, ask the classifier, and fit a
weighted linear model to what it says; they differ in what is put out and in what it weighs.

- LIME: Ribeiro, Singh and Guestrin (2016, arXiv 1602.04938), section 3.4, with the constants of the
  authors' package: distance 100 (1 - cos), kernel width 25, ridge penalty 1.
- KernelSHAP: Lundberg and Lee (2017, arXiv 1705.07874), theorem 2: the weighted least squares whose
  solution are the Shapley values.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
from sklearn.linear_model import Ridge

from coopgen_jax.errors import UserError
from coopgen_jax.explanation.content_words import WORD, words_of
from coopgen_jax.explanation.reaction import BlackBox, asked

KERNEL_WIDTH = 25.0


@dataclass(frozen=True)
class SplitText:
    """A text as its different words, each of which can be put out.

    Attributes:
      parts: words and what stands between them, in turn; joined they are the text.
      words: the `d` different words, in the order in which they come first.
    """

    parts: tuple[str, ...]
    words: tuple[str, ...]

    def without(self, kept: np.ndarray) -> str:
        """Returns the text with those words `[d]` alone that are kept, at all of their places."""
        out = {word for word, keep in zip(self.words, kept, strict=True) if not keep}
        return "".join(part for part in self.parts if part not in out)


Split = Callable[[str], SplitText]


def split_text(text: str) -> SplitText:
    """Splits a text at what is no letter, digit or underscore."""
    parts = re.split(r"(\W+)", text)
    words = dict.fromkeys(part for part in parts[::2] if part)
    return SplitText(tuple(parts), tuple(words))


def split_words(text: str) -> SplitText:
    """Splits a text at what is no word of an explanation, which keeps contractions whole."""
    parts: list[str] = []
    at = 0
    for found in WORD.finditer(text):
        parts += [text[at : found.start()], found[0]]
        at = found.end()
    words = dict.fromkeys(parts[1::2])
    return SplitText((*parts, text[at:]), tuple(words))


def lime_masks(count: int, samples: int, rng: np.random.Generator) -> np.ndarray:
    """Returns which of `d` = `count` words are kept `[samples, d]`; the first row keeps all.

    How many are put out is uniform on 1 to d, and which they are is drawn without replacement.
    """
    masks = np.ones((samples, count))
    for row in range(1, samples):
        masks[row, rng.choice(count, rng.integers(1, count + 1), replace=False)] = 0
    return masks


def lime_values(masks: np.ndarray, said: np.ndarray) -> np.ndarray:
    """Returns LIME's weights `[d, C]` of `d` words.

    Args:
      masks: `[n, d]` which words were kept; the first row is the text itself.
      said: `[n, C]` what the classifier said.
    """
    norms = np.sqrt(masks.sum(axis=1) * masks.shape[1])
    cosine = np.where(norms > 0, masks.sum(axis=1) / np.where(norms > 0, norms, 1), 0.0)
    weights = np.sqrt(np.exp(-((100 * (1 - cosine)) ** 2) / KERNEL_WIDTH**2))
    fitted = Ridge(alpha=1.0).fit(masks, said, sample_weight=weights)
    return np.atleast_2d(fitted.coef_).reshape(said.shape[1], -1).T


def shap_masks(count: int, samples: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns which of `d` = `count` words are kept `[n, d]`, and what each row weighs `[n]`.

    Where `samples` suffice they are all subsets but the empty and the full one, with
    the Shapley kernel (d - 1) / (C(d, s) s (d - s)) of their size s. Else that many are drawn by
    the kernel, a subset together with its complement, and each weighs as often as it was drawn.
    """
    if 2**count - 2 <= samples:
        rows, weights = [], []
        for size in range(1, count):
            for kept in combinations(range(count), size):
                rows.append(np.isin(np.arange(count), kept).astype(float))
                weights.append((count - 1) / (comb(count, size) * size * (count - size)))
        return np.array(rows).reshape(-1, count), np.array(weights)
    sizes = np.arange(1, count)
    shares = (count - 1) / (sizes * (count - sizes))
    drawn = rng.choice(sizes, samples // 2, p=shares / shares.sum())
    rows = []
    for size in drawn:
        row = np.zeros(count)
        row[rng.choice(count, size, replace=False)] = 1
        rows += [row, 1 - row]
    found, times = np.unique(np.array(rows), axis=0, return_counts=True)
    return found, times / times.sum()


def shap_values(
    masks: np.ndarray, weights: np.ndarray, said: np.ndarray, empty: np.ndarray, full: np.ndarray
) -> np.ndarray:
    """Returns the Shapley values `[d, C]` of `d` words, which add up to `full - empty`.

    Args:
      masks: `[n, d]` which words were kept.
      weights: `[n]` what each row weighs.
      said: `[n, C]` what the classifier said of the rows.
      empty: `[C]` what it says of no word.
      full: `[C]` what it says of all words.
    """
    total = full - empty
    if masks.shape[1] == 1:
        return total[None]
    # The last word takes what the others leave, so that the sum holds exactly.
    inputs = masks[:, :-1] - masks[:, -1:]
    outputs = said - empty - masks[:, -1:] * total
    weighted = inputs * weights[:, None]
    solved = np.linalg.lstsq(inputs.T @ weighted, weighted.T @ outputs, rcond=None)[0]
    return np.concatenate([solved, (total - solved.sum(axis=0))[None]])


def lime(
    black_box: BlackBox, text: str, *, samples: int = 1000, seed: int = 0, split: Split = split_text
) -> tuple[tuple[str, ...], np.ndarray]:
    """Returns the `d` words of a text and LIME's weights of them `[d, C]`.

    Raises UserError where the text has no word, or `samples` is below 2.
    """
    parts = _parts(text, split, samples)
    masks = lime_masks(len(parts.words), samples, np.random.default_rng(seed))
    said = asked(black_box, [parts.without(row) for row in masks])
    return parts.words, lime_values(masks, said)


def kernel_shap(
    black_box: BlackBox, text: str, *, samples: int = 1000, seed: int = 0, split: Split = split_text
) -> tuple[tuple[str, ...], np.ndarray]:
    """Returns the `d` words of a text and their Shapley values `[d, C]` of the probabilities.

    They are exact where 2^d - 2 is at most `samples`, of a text of up to nine words by default.
    Raises UserError where the text has no word, or `samples` is below 2.
    """
    parts = _parts(text, split, samples)
    count = len(parts.words)
    masks, weights = shap_masks(count, samples, np.random.default_rng(seed))
    ends = np.stack([np.zeros(count), np.ones(count)])
    said = asked(black_box, [parts.without(row) for row in (*ends, *masks)])
    return parts.words, shap_values(masks, weights, said[2:], said[0], said[1])


def over_texts(
    local: str, black_box: BlackBox, texts: Sequence[str], *, samples: int = 300, seed: int = 0
) -> list[dict[str, float]]:
    """Returns one explanation for all texts: a weight for every word, by class.

    A word's weight is the mean of its local weights over the texts that have it. Words are those
    that other explanations have: in lower case, contractions whole.

    Args:
      local: "lime" or "shap".
      black_box: the classifier.
      texts: texts to explain; those without a word are left out.
      samples: what is asked of the classifier for each.
      seed: of what is drawn.

    Raises:
      UserError: no text has a word, or `samples` is below 2.
    """
    method = {"lime": lime, "shap": kernel_shap}[local]
    sums: defaultdict[str, np.ndarray | float] = defaultdict(float)
    times: defaultdict[str, int] = defaultdict(int)
    classes = 0
    for number, text in enumerate(texts):
        if not split_words(text).words:
            continue
        words, values = method(
            black_box, text, samples=samples, seed=seed + number, split=split_words
        )
        classes = values.shape[1]
        own: dict[str, np.ndarray] = {}
        for word, value in zip(words, values, strict=True):
            (name,) = words_of(word)
            own[name] = own.get(name, 0) + value
        for word, value in own.items():
            sums[word] = sums[word] + value
            times[word] += 1
    if not sums:
        raise UserError("no text has a word: there is nothing to explain")
    return [
        {word: float(np.asarray(total)[label] / times[word]) for word, total in sums.items()}
        for label in range(classes)
    ]


def _parts(text: str, split: Split, samples: int) -> SplitText:
    if samples < 2:
        raise UserError(f"samples is {samples}: give 2 or more")
    parts = split(text)
    if not parts.words:
        raise UserError(f"{text!r} has no word: there is nothing to explain")
    return parts
