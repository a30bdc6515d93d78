"""Texts as counts of words: what an explanation weighs.

A word keeps what an apostrophe joins (*don't*, *l'amour*), so that no fragments of contractions
become words. What is left out stands in `STOP_WORDS`, and is no more than that.
"""

import re

from sklearn.feature_extraction.text import TfidfVectorizer

CURLY = "\N{RIGHT SINGLE QUOTATION MARK}"
WORD = re.compile(rf"[^\W\d_]+(?:['{CURLY}][^\W\d_]+)*")
# Articles, pronouns, prepositions, conjunctions and auxiliaries of English: words that stand in
# every text. A negation is none of them: "not" tells classes apart.
_STOP_WORDS = """
    a an the this that these those it its it's he she they we you i me him her us them my your his
    our their who which what there here and or but if so as than then of in on at to from by for
    with about into over after before between through during out up down off is are was were be been
    being am has have had having do does did will would can could shall should may might must i'm
    i've i'd i'll you're you've we're we've they're they've he's she's that's there's also just
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())


def words_of(text: str) -> list[str]:
    """Returns the words of a text in their order: lower case, one sign for an apostrophe."""
    return [word.replace(CURLY, "'") for word in WORD.findall(text.lower())]


def without_words(text: str, out: set[str]) -> str:
    """Returns a text without words, at all of their places, spelt as `words_of` gives them."""
    return WORD.sub(lambda found: "" if words_of(found[0])[0] in out else found[0], text)


def content_words(text: str) -> list[str]:
    """Returns the words of a text that are no stop words and have more than one letter."""
    return [word for word in words_of(text) if len(word) > 1 and word not in STOP_WORDS]


def vectorizer(*, ngrams: int = 1, min_count: int = 2) -> TfidfVectorizer:
    """Returns what turns texts into tf-idf of content words and sequences of up to `ngrams`.

    A term is left out that fewer than `min_count` texts have. The weights are scikit-learn's: a
    count times (1 + log((1 + n) / (1 + texts that have it))), and rows of unit length.
    """
    return TfidfVectorizer(
        analyzer=_Terms(ngrams), min_df=min_count, lowercase=False, token_pattern=None
    )


class _Terms:
    """Words of a text and sequences of them; an object, so that a vectorizer can be copied."""

    def __init__(self, ngrams: int) -> None:
        self.ngrams = ngrams

    def __call__(self, text: str) -> list[str]:
        words = content_words(text)
        return [
            " ".join(words[start : start + length])
            for length in range(1, self.ngrams + 1)
            for start in range(len(words) - length + 1)
        ]
