"""Therapy: explains a classifier by what cooperative generation writes for each of its classes.

Chaffin and Delaunay (BlackboxNLP 2023): a language model writes texts that the classifier accepts
as one class or another, and the words that tell these texts apart explain the classifier. No data
is needed.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from coopgen_jax.discriminators.host.function import host_function
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.text_judges import DiscriminatorJudge
from coopgen_jax.explanation.class_texts import (
    Progress,
    WritingSettings,
    check_density,
    write_texts,
)
from coopgen_jax.explanation.explained import Explanation, explain_texts
from coopgen_jax.explanation.reaction import BlackBox
from coopgen_jax.explanation.settling import settling
from coopgen_jax.explanation.surrogate import SurrogateSettings
from coopgen_jax.explanation.token_effects import effects_of_words, kept_effects, words_in
from coopgen_jax.models.pretrained.loaded_model import LoadedModel
from coopgen_jax.training.gcn.importance import self_normalised

# Importance weights are cut at so many times their mean.
CLIP = 10.0
# The words whose change is looked at when texts are added.
SETTLED_WORDS = 20


def explain(
    model: LoadedModel,
    classifier: LoadedDiscriminator | Callable[[list[str]], Any],
    *,
    classes: Sequence[str] = (),
    out: str | Path | None = None,
    writing: WritingSettings | None = None,
    surrogate: SurrogateSettings | None = None,
    weighted: bool = False,
    tried: int = 50,
    uses: int = 20,
    vocabulary: bool = False,
    settled: float | None = None,
    budget_minutes: float | None = None,
    black_box: BlackBox | None = None,
    name: str | None = None,
    weights_hash: str | None = None,
    listener: Callable[[Progress], None] = lambda progress: None,
) -> Explanation:
    """Explains a classifier by the texts that a language model writes under it.

    Args:
      model: the language model.
      classifier: a loaded discriminator, or a function from texts to probabilities as
        `cg.host_function` takes it.
      classes: the names of the classes of a function.
      out: a folder for texts and explanation, which is made; the same call goes on where it was
        broken off. None for no files.
      writing: what is written.
      surrogate: how the words are found that tell the texts apart.
      weighted: count every text by its importance weight p(x) p(c|x) / q(x), so that the words are
        of the classifier and the language model and not of how the decoder q chooses. It wants a
        decoder whose draws have a density, such as FUDGE or the preset "values". What q never
        draws, such as what is no candidate of FUDGE, has no weight. Weights are cut at ten times
        their mean (Ionides 2008).
      tried: words of each class that are put into texts to see whether the classifier reacts: so
        many of the heaviest, and so many that moved it most where they were considered; 0 for none.
      uses: texts that each of them is put into; more of them rank words better.
      vocabulary: try words that texts have not and that were not considered too: every content word
        that is a token of the language model is put into four texts first.
      settled: stop writing as soon as, while the number of texts doubled, this share of the twenty
        strongest words of all classes stayed the same; None to write all.
      budget_minutes: begin no batch after so long; the explanation is of what is there.
      black_box: from texts to p(class | text) `[n, C]`, where that is faster than the guide asked
        through the language model's tokens.
      name: what files call the classifier.
      weights_hash: hash of its weights, by which files of another one are refused.
      listener: called after every batch.

    Raises:
      UserError: something is not as it should be, the classifier fails, or too little was written.
    """
    writing, surrogate = writing or WritingSettings(), surrogate or SurrogateSettings()
    guide, judge = _guide(model, classifier, classes, black_box)
    names = guide.discriminator.classes

    def enough(rows: list[dict[str, Any]]) -> bool:
        return settled is not None and _stays(rows, names, surrogate) >= settled

    with tempfile.TemporaryDirectory() as unnamed:
        rows = write_texts(
            model, guide, Path(out or unnamed), writing, guide_name=name,
            guide_weights=weights_hash, weighted=weighted, listener=listener, enough=enough,
            budget_seconds=None if budget_minutes is None else 60 * budget_minutes,
        )  # fmt: skip
        effects = kept_effects(Path(out or unnamed), 1 + rows[-1]["batch"] if rows else 0)
    found = explanation_of(rows, names, surrogate, weighted=weighted)
    steps = settling(list(found.texts), found.labels, len(names), surrogate, k=SETTLED_WORDS)
    considered = effects_of_words(effects, model.tokenizer)
    found = replace(found, settling=tuple(steps), considered=considered)
    if tried:
        words, seed = words_in(model.tokenizer) if vocabulary else (), surrogate.seed
        found = found.with_reactions(judge, k=tried, uses=uses, seed=seed, vocabulary=words)
    if out is not None:
        found.save(out)
    return found


def explanation_of(
    rows: Sequence[dict[str, Any]],
    classes: Sequence[str],
    settings: SurrogateSettings,
    *,
    weighted: bool = False,
) -> Explanation:
    """Returns the explanation that written rows give; see `explain`.

    Texts without a character are left out and counted.
    """
    kept = [row for row in rows if row["text"].strip()]
    if not kept:
        raise UserError("no text was written: give a larger budget")
    labels = np.array([classes.index(row["class"]) for row in kept])
    missing = [name for number, name in enumerate(classes) if number not in labels]
    if missing:
        raise UserError(f"no text was written for {missing[0]}: give a larger budget")
    weights, sizes = None, None
    if weighted:
        weights, sizes = _importance(kept, classes, labels)
    spent = ("seconds", "simulations", "model_tokens", "tokens")
    about: dict[str, Any] = {name: sum(row[name] for row in rows) for name in spent}
    about |= {"empty": len(rows) - len(kept), "weighted": weighted}
    if sizes is not None:
        about["effective_sample_size"] = dict(zip(classes, sizes, strict=True))
    probabilities = np.array([row["probabilities"] for row in kept])
    return explain_texts(
        [row["text"] for row in kept], labels, probabilities, classes, settings,
        sample_weights=weights, about=about,
    )  # fmt: skip


def _guide(
    model: LoadedModel,
    classifier: LoadedDiscriminator | Callable[[list[str]], Any],
    classes: Sequence[str],
    black_box: BlackBox | None,
) -> tuple[LoadedDiscriminator, BlackBox]:
    if isinstance(classifier, LoadedDiscriminator):
        if classes and tuple(classes) != classifier.discriminator.classes:
            known = ", ".join(classifier.discriminator.classes)
            raise UserError(f"the classifier names its classes itself ({known}): leave them out")
        return classifier, black_box or DiscriminatorJudge(model, classifier).predict_proba
    guide = host_function(classifier, classes=classes, tokenizer=model.tokenizer)
    return guide, black_box or DiscriminatorJudge(model, guide).predict_proba


def _importance(
    rows: Sequence[dict[str, Any]], classes: Sequence[str], labels: np.ndarray
) -> tuple[np.ndarray, list[float]]:
    """Returns weights `[n]` with a mean of 1 in every class, and the effective sample sizes."""
    check_density(rows)
    logs = [
        row["log_prob"] + np.log(max(row["guided_by"], 1e-12)) - row["log_proposal"] for row in rows
    ]
    condition = jnp.asarray(labels, jnp.int32)
    shares = self_normalised(jnp.asarray(logs, jnp.float32), condition, clip=CLIP)
    counts = np.bincount(labels, minlength=len(classes))
    # Every class has the same share of a sum of one.
    weights = np.asarray(shares) * len(classes) * counts[labels]
    by_class = [weights[labels == label] for label in range(len(classes))]
    return weights, [float(own.sum() ** 2 / (own**2).sum()) for own in by_class]


def _stays(
    rows: Sequence[dict[str, Any]], classes: Sequence[str], settings: SurrogateSettings
) -> float:
    """Returns the share of the strongest words that the first half of the texts had too."""
    kept = [row for row in rows if row["text"].strip()]
    labels = np.array([classes.index(row["class"]) for row in kept])
    least = min(np.bincount(labels, minlength=len(classes)), default=0)
    if least < 2 * SETTLED_WORDS:
        return 0.0
    sizes = (least // 2, least)
    texts = [row["text"] for row in kept]
    found = settling(texts, labels, len(classes), settings, k=SETTLED_WORDS, sizes=sizes)
    return float(found[-1]["shared"] or 0.0)
