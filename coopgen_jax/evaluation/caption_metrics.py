"""Captions against references, in words: BLEU, ROUGE-L and CIDEr-D as COCO's evaluation has them.

The numbers are those of pycocoevalcap, which the literature reports, on the same words. They differ
from those of other libraries: NLTK's and sacrebleu's BLEU give texts that are shorter than an
n-gram another denominator, or smooth; rouge-score's ROUGE-L takes the best reference, where this
one takes the best precision and the best recall, of different references perhaps.

Words are lists of strings; `caption_words` makes them of captions. An empty caption scores 0.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from nltk.translate.bleu_score import closest_ref_length, modified_precision

from coopgen_jax.evaluation.metrics import ngrams

Words = Sequence[str]

# The longest n-grams.
LONGEST = 4
BETA = 1.2
SIGMA = 6.0


def bleu_counts(words: Words, references: Sequence[Words]) -> np.ndarray:
    """Returns what BLEU sums up over captions, `[2 * LONGEST + 2]`.

    They are the clipped matches of 1- to 4-grams, the numbers of such n-grams, the length in words,
    and the length of the reference of the closest length, the shorter one of two.
    """
    orders = range(1, LONGEST + 1)
    matched = [modified_precision(references, words, n).numerator for n in orders]
    there = [max(0, len(words) - n + 1) for n in orders]
    closest = closest_ref_length(references, len(words))
    return np.asarray([*matched, *there, len(words), closest], float)


def bleu_of_counts(counts: np.ndarray) -> np.ndarray:
    """Returns BLEU-1 to BLEU-4 `[..., LONGEST]` of sums of `bleu_counts` `[..., 2 * LONGEST + 2]`.

    BLEU (Papineni et al. 2002) with pycocoevalcap's guards against division by zero: the product
    of the n-gram precisions to the power 1/n, times exp(1 - r/c) where the captions have fewer
    words, c, than their references, r.
    """
    matched, there = counts[..., :LONGEST], counts[..., LONGEST : 2 * LONGEST]
    precision = np.cumprod((matched + 1e-15) / (there + 1e-9), axis=-1)
    bleu = precision ** (1 / np.arange(1, LONGEST + 1))
    ratio = (counts[..., -2] + 1e-15) / (counts[..., -1] + 1e-9)
    return bleu * np.exp(np.minimum(0.0, 1 - 1 / ratio))[..., None]


def rouge_l(words: Words, references: Sequence[Words]) -> float:
    """Returns ROUGE-L of a caption (Lin 2004), from 0 to 1.

    (1 + beta^2) P R / (R + beta^2 P) with beta 1.2, of the longest common subsequence's largest
    share of the caption, P, and of a reference, R, over all references.
    """
    common = [_longest_common(words, own) for own in references]
    if not any(common):
        return 0.0
    precision = max(common) / len(words)
    recall = max(length / len(own) for length, own in zip(common, references, strict=True) if own)
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def _longest_common(one: Words, other: Words) -> int:
    """Returns the length of the longest common subsequence."""
    row = [0] * (len(other) + 1)
    for word in one:
        before = row
        row = [0]
        for place, rival in enumerate(other):
            row.append(before[place] + 1 if word == rival else max(before[place + 1], row[place]))
    return row[-1]


def cider_d(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> np.ndarray:
    """Returns CIDEr-D of every caption, `[n]`, from 0 to 10.

    CIDEr-D (Vedantam et al. 2015, arXiv 1411.5726): 10 times the mean over 1- to 4-grams and over
    references of the cosine of tf-idf vectors, whose products are clipped at the reference's, times
    exp(-(l - l_r)^2 / (2 sigma^2)) with sigma 6 and l, as pycocoevalcap counts it, the 2-grams of a
    text. idf is log(images / images whose references have the n-gram): it comes from these
    references, so that figures of different sets do not compare, and of one image all are 0.
    """
    counted = [[_counts(own) for own in of_image] for of_image in references]
    documents = Counter(gram for of_image in counted for gram in set().union(*of_image))
    log_images = np.log(len(references)) if references else 0.0

    def vector(counts: Counter) -> tuple[dict, list[float], int]:
        found = {gram: n * (log_images - np.log(max(1, documents[gram])))
                 for gram, n in counts.items()}  # fmt: skip
        norms = [0.0] * LONGEST
        for gram, value in found.items():
            norms[len(gram) - 1] += value**2
        pairs = sum(n for gram, n in counts.items() if len(gram) == 2)
        return found, [float(np.sqrt(norm)) for norm in norms], pairs

    def similarity(own: tuple, other: tuple) -> float:
        (mine, my_norms, my_pairs), (theirs, their_norms, their_pairs) = own, other
        products = [0.0] * LONGEST
        for gram, value in mine.items():
            rival = theirs.get(gram, 0.0)
            products[len(gram) - 1] += min(value, rival) * rival
        cosines = [
            product / (one * two) if one and two else 0.0
            for product, one, two in zip(products, my_norms, their_norms, strict=True)
        ]
        return float(np.mean(cosines) * np.exp(-((my_pairs - their_pairs) ** 2) / (2 * SIGMA**2)))

    scores = []
    for words, of_image in zip(captions, counted, strict=True):
        own = vector(_counts(words))
        scores.append(10 * float(np.mean([similarity(own, vector(other)) for other in of_image])))
    return np.asarray(scores)


def _counts(words: Words) -> Counter:
    return Counter(gram for n in range(1, LONGEST + 1) for gram in ngrams(words, n))
