"""The words of captions as COCO's evaluation counts them, without Java.

That evaluation splits captions by Stanford's PTBTokenizer, lower-cases them and drops punctuation.
Here NLTK's tokeniser, which follows the same Penn Treebank rules and needs no data, does it. Where
the two differ, dots do: an abbreviation at the end keeps its dot here as there, and a sentence that
ends inside a caption is split from its dot.
"""

import re

from nltk.tokenize import NLTKWordTokenizer

# What COCO's evaluation drops. It spells brackets in capitals but looks for them behind the change
# to lower case: they stay, as -lrb- and the like, and so they do here.
PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
ABBREVIATION = re.compile(r"\w(\.\w)+")
# A sentence's last word inside a caption.
LAST = re.compile(r"(\w{3,})\.")
TITLES = frozenset(["mrs.", "etc.", "inc.", "ltd.", "ave.", "bros."])
DOTS = re.compile(r"\.+")


def caption_words(caption: str) -> list[str]:
    """Returns the words of a caption in lower case, without punctuation."""
    tokens = NLTKWordTokenizer().tokenize(caption, convert_parentheses=True)
    tokens = [token.lower() for token in tokens]
    words = []
    for place, token in enumerate(tokens):
        if token in PUNCTUATION or DOTS.fullmatch(token):
            continue
        if ABBREVIATION.fullmatch(token) and tokens[place + 1 :] == ["."]:
            token += "."
        last = LAST.fullmatch(token)
        words.append(last[1] if last and token not in TITLES else token)
    return words
