"""What texts are like: diversity, repetition, perplexity, and how sure a figure is.

Words are what white space separates, but in self-BLEU, which has a tokeniser of its own.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence

import numpy as np
from nltk.tokenize import NLTKWordTokenizer
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from nltk.translate.bleu_score import corpus_bleu as pooled_bleu
from scipy.stats import bootstrap, norm

SMOOTHING = SmoothingFunction().method1


def ngrams(tokens: Sequence[Hashable], n: int) -> list[tuple[Hashable, ...]]:
    """Returns the `n`-grams of tokens, in order; none where they are fewer."""
    return [tuple(tokens[at : at + n]) for at in range(len(tokens) - n + 1)]


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Returns the share of different n-grams among all n-grams of the texts, NaN without any.

    Distinct-n (Li et al., 2016, arXiv 1510.03055). It falls as texts are added: compare equal
    numbers.
    """
    grams = [gram for text in texts for gram in ngrams(text.split(), n)]
    return len(set(grams)) / len(grams) if grams else float("nan")


def seq_rep(tokens: Sequence[Hashable], n: int = 4) -> float:
    """Returns 1 - |different n-grams| / |n-grams| of one continuation, 0 where it has none.

    seq-rep-n (Welleck et al., 2020, arXiv 1908.04319, section 6.1): the share of duplicate n-grams.
    """
    grams = ngrams(tokens, n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def run_rep(text: str, n: int = 4) -> float:
    """Returns the share of n-grams of one character that stood in a text before, 0 without any.

    It is the `seq_rep` of runs of one character, which tokens hide: of `# ## ###` and of `=  =   =`
    no two tokens need be alike. Words of one repeated character are spelled out, white space of any
    width separates, and of all n-grams those count that are one character n times and stood there
    before.
    """
    signs: list[str] = []
    for word in text.split():
        signs += word if len(set(word)) == 1 else [word]
    grams = ngrams(signs, n)
    runs = [gram for gram in grams if len(str(gram[0])) == 1 and len(set(gram)) == 1]
    return (len(runs) - len(set(runs))) / len(grams) if grams else 0.0


def self_bleu(texts: Sequence[str], n: int = 5, *, most: int | None = None) -> float:
    """Returns the mean BLEU of every text against all others, NaN for fewer than two texts.

    Self-BLEU (Zhu et al., 2018, arXiv 1802.01886), as PPL-MCTS reports it: uniform weights of 1- to
    `n`-grams, smoothing method 1 of Chen and Cherry (2014). Lower is more diverse. It rises as
    texts are added: compare equal numbers. Only the first `most` texts are taken, all by default.
    """
    words = _words(texts[:most])
    if len(words) < 2:
        return float("nan")
    return _mean_bleu(words, (words[:at] + words[at + 1 :] for at in range(len(words))), n)


def bleu(texts: Sequence[str], references: Sequence[Sequence[str]], n: int = 4) -> float:
    """Returns the mean BLEU of every text against references of its own, NaN without texts.

    BLEU (Papineni et al., 2002) of single texts, as in `self_bleu`; with all held-out texts as the
    references of each it is the BLEU of unconditional generation (Zhu et al., 2018, arXiv
    1802.01886). It rises with the references: compare equal numbers.
    """
    # Several texts often have the same references.
    different = {id(own): own for own in references}
    known = {key: _words(own) for key, own in different.items()}
    return _mean_bleu(_words(texts), (known[id(own)] for own in references), n)


def corpus_bleu(texts: Sequence[str], references: Sequence[Sequence[str]], n: int = 4) -> float:
    """Returns BLEU with the n-grams of all texts pooled, NaN without texts.

    This is the BLEU (Papineni et al., 2002) that generation from sources is reported with; `bleu`
    is the mean of single texts. Words and smoothing are those of `self_bleu`. Every text has one
    reference or more.
    """
    if not texts:
        return float("nan")
    known = [_words(own) for own in references]
    return float(pooled_bleu(known, _words(texts), (1 / n,) * n, smoothing_function=SMOOTHING))


def _words(texts: Sequence[str]) -> list[list[str]]:
    tokenizer = NLTKWordTokenizer()
    return [tokenizer.tokenize(text) for text in texts]


def _mean_bleu(words: list[list[str]], references: Iterable[list[list[str]]], n: int) -> float:
    scores = [
        sentence_bleu(others, own, (1 / n,) * n, smoothing_function=SMOOTHING) if own else 0.0
        for own, others in zip(words, references, strict=True)
    ]
    return float(np.mean(scores)) if scores else float("nan")


def perplexity(log_probs: Sequence[float], lengths: Sequence[int]) -> float:
    """Returns exp(-sum of natural log-probabilities / sum of tokens) of a set of texts."""
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


def bootstrap_interval(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Returns the 95 % interval of a mean; the mean twice where nothing varies."""
    array = np.asarray(values, float)
    if len(array) < 2 or np.ptp(array) == 0:
        mean = float(array.mean())
        return mean, mean
    return percentile_interval((array,), np.mean)


def percentile_interval(
    columns: Sequence[np.ndarray], statistic: Callable[..., np.ndarray]
) -> tuple[float, float]:
    """Returns the 95 % percentile bootstrap interval of a statistic of columns, rows drawn."""
    # All samples of few rows are drawn in one batch; of many rows they would fill the memory.
    entries = len(columns) * len(columns[0])
    found = bootstrap(
        columns,
        statistic,
        batch=None if entries <= 2**12 else max(1, 2**22 // entries),
        paired=len(columns) > 1,
        confidence_level=0.95,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)
