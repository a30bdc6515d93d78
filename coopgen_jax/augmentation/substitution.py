"""What texts that stand in for originals must not pass on: their names and numbers.

Names are looked for by their words, so that one is found where a network would not call it a name.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from coopgen_jax.augmentation.memorisation import cased_words_of
from coopgen_jax.augmentation.named_entities import Namer

# Numbers of so many digits say something about somebody, as years, prices and addresses do.
DIGITS = 3
NUMBER = re.compile(r"\d(?:[.,]?\d)*")
# A part of a person's name is looked for if it has so many letters.
LETTERS = 3
ARTICLES = ("the", "a", "an", "le", "la", "les")

Words = tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Private:
    """The names and the numbers of originals.

    Attributes:
      numbers: the digits of all numbers of three digits or more.
      names: by the words of a name without case, the ways in which they are written.
      longest: the number of words of the longest name.
    """

    numbers: frozenset[str]
    names: dict[Words, frozenset[Words]]
    longest: int

    @property
    def identity(self) -> str:
        """12 hexadecimal digits that tell this content from other."""
        content = [sorted(self.numbers), sorted(sorted(forms) for forms in self.names.values())]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]

    def number_in(self, text: str) -> str | None:
        """Returns the first of the numbers that stands in a text."""
        return next((one for one in numbers_of(text) if one in self.numbers), None)

    def name_in(self, text: str) -> str | None:
        """Returns the first of the names that stands in a text, the longest of several.

        A name counts as it is written in an original, and with a capital letter anywhere: "Apple"
        and "APPLE", but not "apple".
        """
        written = name_words(text)
        for first in range(len(written)):
            for end in range(min(first + self.longest, len(written)), first, -1):
                own = written[first:end]
                forms = self.names.get(tuple(word.casefold() for word in own))
                if forms is not None and (own in forms or _has_capital(own)):
                    return " ".join(own)
        return None


def private_content(originals: Sequence[str], namer: Namer) -> Private:
    """Returns the names and the numbers of originals.

    A part of a person's name counts like the name. Articles in front of a name do not belong to it.
    """
    numbers = {number for text in originals for number in numbers_of(text)}
    forms: dict[Words, set[Words]] = {}
    for names in namer(originals):
        for name in names:
            words = name_words(name.text)
            while words and words[0].casefold() in ARTICLES:
                words = words[1:]
            parts = [words] if words else []
            if name.of_a_person:
                parts += [
                    (word,) for word in words if len(word) >= LETTERS and _has_capital([word])
                ]
            for part in parts:
                forms.setdefault(tuple(word.casefold() for word in part), set()).add(part)
    known = {words: frozenset(written) for words, written in forms.items()}
    return Private(frozenset(numbers), known, max(map(len, known), default=0))


def numbers_of(text: str) -> list[str]:
    """Returns the digits of all numbers of three digits or more: "1000" of "1,000"."""
    found = NUMBER.findall(unicodedata.normalize("NFKC", text))
    digits = ["".join(str(unicodedata.digit(one)) for one in number if one.isdigit())
              for number in found]  # fmt: skip
    return [number for number in digits if len(number) >= DIGITS]


def name_words(text: str) -> Words:
    """Returns the words of a text, without what marks the possessive."""
    return tuple(word.removesuffix("'s") for word in cased_words_of(text))


def _has_capital(words: Sequence[str]) -> bool:
    return any(letter.isupper() for word in words for letter in word)
