"""What texts are like: diversity, repetition, perplexity, and how sure a figure is.

Words are what white space separates, but in self-BLEU, which has a tokeniser of its own.
"""

from collections.abc import Hashable, Sequence

import numpy as np
from nltk.tokenize import NLTKWordTokenizer
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from nltk.translate.bleu_score import corpus_bleu as pooled_bleu
from scipy.stats import bootstrap, norm


def ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    """Returns the `n`-grams of a text's words, in order; none where it has fewer words."""
    words = text.split()
    return [tuple(words[at : at + n]) for at in range(len(words) - n + 1)]


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Returns the share of different n-grams among all n-grams of the texts, NaN without any.

    Distinct-n (Li et al., 2016, arXiv 1510.03055). It falls as texts are added: compare equal
    numbers.
    """
    grams = [gram for text in texts for gram in ngrams(text, n)]
    return len(set(grams)) / len(grams) if grams else float("nan")


def repetition(text: str, n: int) -> float:
    """Returns the share of a text's n-grams that it has had before, 0 where it has none."""
    return seq_rep(text.split(), n)


def seq_rep(tokens: Sequence[Hashable], n: int = 4) -> float:
    """Returns 1 - |different n-grams| / |n-grams| of one continuation, 0 where it has none.

    seq-rep-n (Welleck et al., 2020, arXiv 1908.04319, section 6.1): the share of duplicate n-grams.
    """
    grams = [tuple(tokens[at : at + n]) for at in range(len(tokens) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def self_bleu(texts: Sequence[str], n: int = 5, *, most: int | None = None) -> float:
    """Returns the mean BLEU of every text against all others, NaN for fewer than two texts.

    Self-BLEU (Zhu et al., 2018, arXiv 1802.01886), as PPL-MCTS reports it: uniform weights of 1- to
    `n`-grams, smoothing method 1 of Chen and Cherry (2014). Lower is more diverse. It rises as
    texts are added: compare equal numbers.

    Args:
      texts: the texts.
      n: length of the longest n-grams.
      most: how many of the texts are taken, the first ones; None for all.
    """
    texts = texts[:most]
    if len(texts) < 2:
        return float("nan")
    tokenizer = NLTKWordTokenizer()
    words = [tokenizer.tokenize(text) for text in texts]
    smoothing = SmoothingFunction().method1
    weights = (1 / n,) * n
    scores = []
    for at, hypothesis in enumerate(words):
        others = words[:at] + words[at + 1 :]
        scores.append(
            sentence_bleu(others, hypothesis, weights, smoothing_function=smoothing)
            if hypothesis
            else 0.0
        )
    return float(np.mean(scores))


def bleu(texts: Sequence[str], references: Sequence[Sequence[str]], n: int = 4) -> float:
    """Returns the mean BLEU of every text against references of its own, NaN without texts.

    BLEU (Papineni et al., 2002) of single texts, as in `self_bleu`; with all held-out texts as the
    references of each it is the BLEU of unconditional generation (Zhu et al., 2018, arXiv
    1802.01886). It rises with the references: compare equal numbers.

    Args:
      texts: `m` texts.
      references: `m` lists of references.
      n: length of the longest n-grams.
    """
    tokenizer = NLTKWordTokenizer()
    smoothing, weights = SmoothingFunction().method1, (1 / n,) * n
    # Several texts often have the same references.
    known: dict[int, list[list[str]]] = {}
    scores = []
    for text, own in zip(texts, references, strict=True):
        if id(own) not in known:
            known[id(own)] = [tokenizer.tokenize(reference) for reference in own]
        words = tokenizer.tokenize(text)
        scores.append(
            sentence_bleu(known[id(own)], words, weights, smoothing_function=smoothing)
            if words
            else 0.0
        )
    return float(np.mean(scores)) if scores else float("nan")


def corpus_bleu(texts: Sequence[str], references: Sequence[Sequence[str]], n: int = 4) -> float:
    """Returns BLEU with the n-grams of all texts pooled, NaN without texts.

    This is the BLEU (Papineni et al., 2002) that generation from sources is reported with; `bleu`
    is the mean of single texts. Words and smoothing are those of `self_bleu`.

    Args:
      texts: `m` texts.
      references: `m` lists of references, one or more each.
      n: length of the longest n-grams.
    """
    if not texts:
        return float("nan")
    tokenizer = NLTKWordTokenizer()
    known = [[tokenizer.tokenize(reference) for reference in own] for own in references]
    words = [tokenizer.tokenize(text) for text in texts]
    smoothing = SmoothingFunction().method1
    return float(pooled_bleu(known, words, (1 / n,) * n, smoothing_function=smoothing))


def perplexity(log_probs: Sequence[float], lengths: Sequence[int]) -> float:
    """Returns exp(-sum of log-probabilities / sum of tokens) of a set of texts.

    Args:
      log_probs: natural log-probability of every text.
      lengths: its tokens.
    """
    return float(np.exp(-np.sum(log_probs) / np.sum(lengths)))


def wilson_interval(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Returns Wilson's (1927) interval of a share; (0, 1) without trials."""
    if trials == 0:
        return 0.0, 1.0
    z = norm.ppf(0.5 + level / 2)
    share = successes / trials
    centre = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    spread = np.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    half = float(z / (1 + z**2 / trials) * spread)
    return max(0.0, float(centre) - half), min(1.0, float(centre) + half)


def bootstrap_interval(
    values: Sequence[float], level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Returns the percentile bootstrap interval of a mean; the mean twice where nothing varies."""
    array = np.asarray(values, float)
    if len(array) < 2 or np.ptp(array) == 0:
        mean = float(array.mean())
        return mean, mean
    interval = bootstrap(
        (array,),
        np.mean,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)
