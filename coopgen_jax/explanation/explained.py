"""What an explanation is: words with weights by class, and the texts behind them."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.stats import spearmanr

from coopgen_jax.errors import UserError
from coopgen_jax.explanation.reaction import BlackBox, Reaction, reactions, strongest
from coopgen_jax.explanation.surrogate import Surrogate, SurrogateSettings, fit_surrogate
from coopgen_jax.files import read_json, strict, write_json

FILE = "explanation.json"
# Texts that each word of a vocabulary is put into before the strongest are tried.
SCREENED = 4
Order = Literal["weight", "reaction", "considered"]


@dataclass(frozen=True)
class Word:
    """A term of an explanation, for one class.

    Attributes:
      term: The word, or a sequence of them.
      weight: Its weight in the linear model, in nats per unit of tf-idf; 0 where too few texts have
        it.
      low, high: The 95 % interval of the weight; None without one.
      texts: How many of the class's texts have it.
      reaction: How far it moves the classifier when it is put into texts; None where that was not
        tried.
      considered: How far it moved the classifier where the language model considered it; None
        where it was not, or too seldom.
    """

    term: str
    weight: float
    low: float | None
    high: float | None
    texts: int
    reaction: Reaction | None = None
    considered: Reaction | None = None


@dataclass(frozen=True, eq=False)
class Explanation:
    """What tells the texts apart that a classifier accepts as one class or another.

    Attributes:
      classes: The names of the `C` classes.
      texts: The `n` texts.
      labels: `[n]` the class that each was written for.
      probabilities: `[n, C]` what the classifier says of each.
      surrogate: The linear model.
      settings: How it was fitted.
      sample_weights: `[n]` what each text counts; None for one each.
      tried: Of terms that were put into texts, the reactions of the `C` classes.
      considered: Of words that the language model considered, written or not, the reactions of the
        `C` classes where they stood behind a text; see `effects_of_words`.
      settling: Of growing numbers of texts a class, how many of the strongest words they share with
        the number before; see `settling`.
      about: What the texts were written with, and what that cost.
    """

    classes: tuple[str, ...]
    texts: tuple[str, ...]
    labels: np.ndarray
    probabilities: np.ndarray
    surrogate: Surrogate
    settings: SurrogateSettings
    sample_weights: np.ndarray | None = None
    tried: dict[str, tuple[Reaction, ...]] = field(default_factory=dict)
    considered: dict[str, tuple[Reaction, ...]] = field(default_factory=dict)
    settling: tuple[dict[str, Any], ...] = ()
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def weights(self) -> dict[str, dict[str, float]]:
        """The weights of all terms by class."""
        rows = zip(self.classes, self.surrogate.weights.tolist(), strict=True)
        return {name: dict(zip(self.surrogate.terms, row, strict=True)) for name, row in rows}

    @property
    def reactions(self) -> dict[str, dict[str, float]]:
        """The mean reactions to the terms that were tried, by class, in nats of log-odds."""
        return self._by_class(self.tried, "mean")

    @property
    def sure_reactions(self) -> dict[str, dict[str, float]]:
        """By how much at least the terms that were tried move the classifier, by class.

        It is the lower end of the 95 % interval, in nats of log-odds.
        """
        return self._by_class(self.tried, "low")

    @property
    def sure_effects(self) -> dict[str, dict[str, float]]:
        """By how much at least words moved the classifier where they were considered, by class.

        It is the lower end of the 95 % interval, in nats of log-odds.
        """
        return self._by_class(self.considered, "low")

    def _by_class(
        self, found: dict[str, tuple[Reaction, ...]], part: str
    ) -> dict[str, dict[str, float]]:
        return {
            name: {term: getattr(own[label], part) for term, own in found.items()}
            for label, name in enumerate(self.classes)
        }

    @property
    def intervals(self) -> dict[str, dict[str, tuple[float, float]]]:
        """The 95 % intervals of the weights of all terms by class; NaN without a bootstrap."""
        ends = np.stack([self.surrogate.low, self.surrogate.high], axis=-1).tolist()
        terms = self.surrogate.terms
        return {
            name: {term: (low, high) for term, (low, high) in zip(terms, row, strict=True)}
            for name, row in zip(self.classes, ends, strict=True)
        }

    @property
    def fit(self) -> dict[str, Any]:
        """How well the linear model tells the texts apart, and how well the classifier does."""
        says = self.probabilities.argmax(axis=1) == self.labels
        return {
            "accuracy": self.surrogate.accuracy,
            "texts": {name: int((self.labels == c).sum()) for c, name in enumerate(self.classes)},
            "accepted": {
                name: float(says[self.labels == c].mean()) for c, name in enumerate(self.classes)
            },
            "confidence": {
                name: float(self.probabilities[self.labels == c, c].mean())
                for c, name in enumerate(self.classes)
            },
        }

    def number_of(self, name: str) -> int:
        """Returns the number of a class; raises UserError where there is none of that name."""
        if name not in self.classes:
            raise UserError(f"there is no class {name}: known are {', '.join(self.classes)}")
        return self.classes.index(name)

    def top_words(
        self, name: str, k: int = 20, *, by: Order = "weight", moving: bool = False
    ) -> list[Word]:
        """Returns the `k` strongest terms of a class, strongest first.

        They are the heaviest of the linear model; `by` "reaction" those that move the classifier
        most surely when they are put into texts; `by` "considered" those that did where the
        language model considered them. Surely means by the lower end of the interval. Of the two
        last ones texts need not have the word. With `moving` they are those alone that were tried
        and move the classifier.
        """
        label = self.number_of(name)
        weighty = {one.term: one for one in words_by_weight(self.surrogate, label)}
        terms = list(weighty)
        if by == "reaction":
            terms = strongest(self.sure_reactions[name], len(self.tried))
        elif by == "considered":
            terms = strongest(self.sure_effects[name], len(self.considered))
        found = [
            replace(
                weighty.get(term) or Word(term, 0.0, None, None, 0),
                reaction=self.tried[term][label] if term in self.tried else None,
                considered=self.considered[term][label] if term in self.considered else None,
            )
            for term in terms
        ]
        if moving:
            found = [one for one in found if one.reaction is not None and one.reaction.moves]
        return found[:k]

    def contrast(self, one: str, other: str, k: int = 20) -> tuple[list[Word], list[Word]]:
        """Returns the strongest terms of one class against another one, and of that against it.

        The linear model is fitted to the texts of these two classes alone.
        """
        pair = [self.number_of(one), self.number_of(other)]
        if pair[0] == pair[1]:
            raise UserError(f"{one} is contrasted with itself: name two classes")
        rows = np.flatnonzero(np.isin(self.labels, pair))
        fitted = fit_surrogate(
            [self.texts[row] for row in rows],
            (self.labels[rows] == pair[1]).astype(int),
            2,
            self.settings,
            sample_weights=None if self.sample_weights is None else self.sample_weights[rows],
        )
        return words_by_weight(fitted, 0)[:k], words_by_weight(fitted, 1)[:k]

    def compare(self, other: "Explanation", k: int = 100) -> dict[str, dict[str, float]]:
        """Returns how far two explanations of the same classes agree, by class.

        `shared` is the share of the `k` strongest terms that both have, `spearman` the rank
        correlation of the weights of the terms that are among the strongest of either; a term that
        an explanation does not have weighs 0 there.
        """
        if self.classes != other.classes:
            raise UserError(
                f"the classes differ ({', '.join(self.classes)} and {', '.join(other.classes)}): "
                "compare explanations of the same classes"
            )
        found = {}
        for name in self.classes:
            tops = [[word.term for word in one.top_words(name, k)] for one in (self, other)]
            union = list(dict.fromkeys([*tops[0], *tops[1]]))
            weights = [
                [one.weights[name].get(term, 0.0) for term in union] for one in (self, other)
            ]
            found[name] = {
                "shared": len(set(tops[0]) & set(tops[1])) / max(len(tops[0]), len(tops[1])),
                "spearman": float(spearmanr(*weights).statistic),
                "terms": len(union),
            }
        return found

    def with_reactions(
        self,
        black_box: BlackBox,
        *,
        k: int = 50,
        uses: int = 20,
        seed: int = 0,
        vocabulary: Sequence[str] = (),
    ) -> "Explanation":
        """Returns the explanation with terms tried: each is put into `uses` of the texts.

        They are the `k` heaviest of every class and the `k` that moved the classifier most surely
        where they were considered. Of a `vocabulary` all words are put into a few texts first, and
        the `k` are tried that moved the classifier most.
        """
        terms = [word.term for name in self.classes for word in self.top_words(name, k)]
        for sure in self.sure_effects.values():
            terms += strongest(sure, k)
        if vocabulary:
            means = np.array([
                [one.mean for one in own]
                for own in reactions(black_box, self.texts, vocabulary, uses=SCREENED, seed=seed)
            ])  # fmt: skip
            for own in means.T.tolist():
                terms += strongest(dict(zip(vocabulary, own, strict=True)), k)
        terms = list(dict.fromkeys(terms))
        found = reactions(black_box, self.texts, terms, uses=uses, seed=seed)
        return replace(self, tried=self.tried | dict(zip(terms, map(tuple, found), strict=True)))

    def save(self, folder: str | Path) -> None:
        """Writes the explanation into a folder, which is made; its texts are in the file too."""
        write_json(Path(folder) / FILE, strict(_on_disc(self)))


def words_by_weight(fitted: Surrogate, label: int) -> list[Word]:
    """Returns all terms with a weight above 0 for a class, the heaviest first, then by spelling."""
    order = sorted(
        np.flatnonzero(fitted.weights[label] > 0),
        key=lambda place: (-fitted.weights[label, place], fitted.terms[place]),
    )
    return [
        Word(
            fitted.terms[place],
            float(fitted.weights[label, place]),
            _number(fitted.low[label, place]),
            _number(fitted.high[label, place]),
            int(fitted.counts[label, place]),
        )
        for place in order
    ]


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def explain_texts(
    texts: Sequence[str],
    labels: Sequence[int] | np.ndarray,
    probabilities: np.ndarray,
    classes: Sequence[str],
    settings: SurrogateSettings | None = None,
    *,
    sample_weights: np.ndarray | None = None,
    about: dict[str, Any] | None = None,
) -> Explanation:
    """Returns the explanation that texts give which were written for classes.

    Args:
      texts: `n` texts.
      labels: `[n]` the class that each was written for.
      probabilities: `[n, C]` what the classifier says of each.
      classes: the names of the `C` classes.
      settings: how the linear model is fitted.
      sample_weights: `[n]` what each text counts; None for one each.
      about: what is to be told of how they were written.

    Raises:
      UserError: a class has no text, or no word stands in enough of them.
    """
    settings = settings or SurrogateSettings()
    labels = np.asarray(labels)
    fitted = fit_surrogate(texts, labels, len(classes), settings, sample_weights=sample_weights)
    return Explanation(
        tuple(classes), tuple(texts), labels, np.asarray(probabilities), fitted, settings,
        sample_weights, about=about or {},
    )  # fmt: skip


def load_explanation(folder: str | Path) -> Explanation:
    """Loads what `Explanation.save` wrote; raises UserError where a folder holds no explanation."""
    path = Path(folder) / FILE
    if not path.is_file():
        raise UserError(f"{folder} holds no explanation: make one with coopgen explain")
    found = read_json(path, way_out="explain again with the same --out")
    try:
        arrays = {name: np.asarray(found["surrogate"][name], float) for name in _ARRAYS}
        arrays["counts"] = arrays["counts"].astype(int)
        fitted = Surrogate(
            terms=tuple(found["surrogate"]["terms"]),
            accuracy=found["surrogate"]["accuracy"],
            **arrays,
        )
        return Explanation(
            classes=tuple(found["classes"]),
            texts=tuple(found["texts"]),
            labels=np.asarray(found["labels"], int),
            probabilities=np.asarray(found["probabilities"], float),
            surrogate=fitted,
            settings=SurrogateSettings(**found["settings"]),
            sample_weights=(
                None if found["sample_weights"] is None else np.asarray(found["sample_weights"])
            ),
            tried=_reactions(found["tried"]),
            considered=_reactions(found["considered"]),
            settling=tuple(found["settling"]),
            about=found["about"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no explanation of this version: explain again") from error


def _reactions(rows: dict[str, list[list[Any]]]) -> dict[str, tuple[Reaction, ...]]:
    return {term: tuple(_reaction(*ends) for ends in own) for term, own in rows.items()}


def _reaction(mean: float, low: float | None, high: float | None) -> Reaction:
    """Returns a reaction; in files an interval without ends, as of a single text, has None."""
    return Reaction(mean, -np.inf if low is None else low, np.inf if high is None else high)


def _plain(found: dict[str, tuple[Reaction, ...]]) -> dict[str, list[list[float]]]:
    return {term: [[one.mean, one.low, one.high] for one in own] for term, own in found.items()}


_ARRAYS = ("weights", "low", "high", "bias", "counts")


def _on_disc(one: Explanation) -> dict[str, Any]:
    fitted = one.surrogate
    return {
        "classes": list(one.classes),
        "fit": one.fit,
        "about": one.about,
        "settling": list(one.settling),
        "settings": {part.name: getattr(one.settings, part.name) for part in fields(one.settings)},
        "surrogate": {
            "terms": list(fitted.terms),
            "accuracy": fitted.accuracy,
            **{name: getattr(fitted, name).tolist() for name in _ARRAYS},
        },
        "tried": _plain(one.tried),
        "considered": _plain(one.considered),
        "sample_weights": None if one.sample_weights is None else one.sample_weights.tolist(),
        "labels": one.labels.tolist(),
        "probabilities": one.probabilities.tolist(),
        "texts": list(one.texts),
    }


_ORDERS: tuple[tuple[str, Order], ...] = (
    ("words", "weight"),
    ("reactions", "reaction"),
    ("considered", "considered"),
)


def as_json(one: Explanation, k: int, contrast: tuple[str, str] | None = None) -> str:
    """Returns the `k` strongest words of every class in every order, fit and cost, as JSON."""
    found: dict[str, Any] = {"classes": list(one.classes), "fit": one.fit, "about": one.about}
    for key, by in _ORDERS:
        tops = {name: one.top_words(name, k, by=by) for name in one.classes}
        found[key] = {name: [asdict(word) for word in own] for name, own in tops.items()}
    if contrast is not None:
        pairs = zip(contrast, one.contrast(*contrast, k), strict=True)
        found["contrast"] = {name: [asdict(word) for word in own] for name, own in pairs}
    return json.dumps(strict(found | {"settling": list(one.settling)}), indent=1)
