"""How good written texts are, method by method: the figures of a comparison.

Accuracy is the share of texts that a judge, who reads the continuation alone, finds likeliest of
their target; an empty text is never on target. A judge with a class "neither" tells the others
apart: those that say nothing of the kind, and those against their target. How far a guide overrates
its texts is its mean probability of their targets less the accuracy. Diversity is that of the texts
of one target, the mean over targets: plain decoding writes the same text for all. Differences are
tested on the texts of the same prompts and targets.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.discriminator_accuracy import NEITHER
from coopgen_jax.evaluation.metrics import (
    bootstrap_interval,
    distinct_n,
    perplexity,
    run_rep,
    self_bleu,
    seq_rep,
    wilson_interval,
)
from coopgen_jax.evaluation.oracle import log_likelihoods
from coopgen_jax.evaluation.significance import correct, mcnemar, perplexity_interval, signed_rank
from coopgen_jax.evaluation.text_judges import TextJudge
from coopgen_jax.evaluation.written_texts import Method, Written
from coopgen_jax.models.pretrained.loaded_model import LoadedModel

# Texts of which self-BLEU is taken, the first ones.
BLEU_TEXTS = 1000
REPEATED = 4


def evaluate_texts(
    methods: Sequence[Method],
    *,
    judge: TextJudge | None = None,
    oracle: LoadedModel | None = None,
    against: str | None = None,
    reference: Sequence[str] = (),
    features: Callable[[Sequence[str]], np.ndarray] | None = None,
    listener: Callable[[str], None] = lambda method: None,
) -> dict[str, Any]:
    """Returns the figures of methods.

    Without a judge there is no accuracy, without an oracle no perplexity, and MAUVE (Pillutla et
    al. 2021, arXiv 2102.01454) needs human texts for reference and what reads features `[n, E]` of
    texts. The others are tested `against` one method, the first by default. The listener hears
    the name of every method before it is measured.

    Returns:
      `unit` of lengths ("tokens", or "words" where a file has no tokens), `against`, and
      `methods`: for each a dict with its `method` and number of `texts`, and, as `{"value",
      "interval"}`, what there is of `accuracy`, `neither` and `opposite` (of a judge with a class
      "neither"), `guide_gap` (where files tell what the guide gave each target), `perplexity`,
      `self_bleu_5`, `distinct_1` to 3, `seq_rep_4` (of a text the larger of it and `run_rep`),
      `length`, `seconds_per_token` (with its range over batches), `seconds_per_text`,
      `calls_per_token` (tokens that the language model read for one that was written) and `mauve`;
      `paired` has the number of `pairs` and the p-values against the other method, `accuracy_p`
      (McNemar's, exact) and `perplexity_p` (Wilcoxon's, of mean log-probabilities), each also
      corrected for the number of methods by Holm's rule.

    Raises:
      UserError: two methods share a name, `against` is not among them, or a target is missing or
        unknown to the judge.
    """
    against = check_names([method.name for method in methods], against)
    if judge is not None:
        for method in methods:
            check_targets(method, judge.classes)
    unit = "tokens" if all(t.tokens is not None for m in methods for t in m.texts) else "words"
    rows, measured = [], {}
    for method in methods:
        listener(method.name)
        row, measured[method.name] = _figures(method, unit, judge, oracle)
        if reference and features is not None:
            row["mauve"] = _mauve(features([t.text for t in method.texts]), features(reference))
        rows.append(row)
    others = [row for row in rows if row["method"] != against]
    for row in others:
        row["paired"] = _paired(measured[row["method"]], measured[against])
    for name in ("accuracy_p", "perplexity_p"):
        correct([row["paired"] for row in others], name)
    return {"unit": unit, "against": against, "methods": rows}


def check_names(names: Sequence[str], against: str | None) -> str:
    """Returns whom the others are tested against; UserError where a name is shared or unknown."""
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two methods are called {name}: name one of them as NAME=FILE")
    if against is not None and against not in names:
        raise UserError(f"there is no method {against!r} to compare with: {', '.join(names)}")
    return names[0] if against is None else against


def check_targets(method: Method, classes: tuple[str, ...]) -> None:
    """Raises UserError where a text has no target, or one that is not among the classes."""
    for text in method.texts:
        if text.target is None:
            raise UserError(
                f"texts of {method.name} say no target: name it with --target, or leave --judge out"
            )
        if text.target not in classes:
            raise UserError(
                f"texts of {method.name} have the target {text.target!r}, and the judge knows "
                f"{', '.join(classes)}: rename it with --rename {text.target}=CLASS, or take "
                "another judge"
            )


def _figures(
    method: Method, unit: str, judge: TextJudge | None, oracle: LoadedModel | None
) -> tuple[dict[str, Any], dict[Any, dict[str, Any]]]:
    """Returns a method's row, and what was measured of each text by what it was asked for."""
    texts = method.texts
    written = [text.text for text in texts]
    pieces: list[Sequence[Any]] = [
        text.tokens or () if unit == "tokens" else text.text.split() for text in texts
    ]
    measured: dict[Any, dict[str, Any]] = {key: {} for key in asked_for(texts)}
    row: dict[str, Any] = {"method": method.name, "texts": len(texts)}
    if judge is not None:
        hits, neither = judged_parts(judge, texts)
        parts = {"accuracy": hits}
        if NEITHER in judge.classes:
            parts |= {"neither": neither, "opposite": ~hits & ~neither}
        for name, part in parts.items():
            interval = wilson_interval(int(part.sum()), len(texts))
            row[name] = _valued(float(part.mean()), interval)
        said = [text.guide_probability for text in texts]
        if said and None not in said:
            gaps = np.array(said, float) - hits
            row["guide_gap"] = _valued(float(gaps.mean()), bootstrap_interval(gaps))
        for found, hit in zip(measured.values(), hits, strict=True):
            found["hit"] = bool(hit)
    if oracle is not None:
        log_p, counts = log_likelihoods(oracle, [text.prompt for text in texts], written)
        some = counts > 0
        if some.any():
            kept, lengths = log_p[some], counts[some]
            value = perplexity(kept.tolist(), lengths.tolist())
            row["perplexity"] = _valued(value, perplexity_interval(kept, lengths))
        for found, value, count in zip(measured.values(), log_p, counts, strict=True):
            if count:
                found["mean_log_p"] = value / count
    groups: dict[str | None, list[str]] = defaultdict(list)
    for text in texts:
        groups[text.target].append(text.text)
    diversity = {"self_bleu_5": partial(self_bleu, most=BLEU_TEXTS)}
    diversity |= {f"distinct_{n}": partial(distinct_n, n=n) for n in (1, 2, 3)}
    for name, measure in diversity.items():
        row[name] = _valued(float(np.mean([measure(group) for group in groups.values()])))
    for name, values in {
        f"seq_rep_{REPEATED}": [
            max(seq_rep(piece, REPEATED), run_rep(text, REPEATED))
            for piece, text in zip(pieces, written, strict=True)
        ],
        "length": [float(len(piece)) for piece in pieces],
    }.items():
        row[name] = _valued(float(np.mean(values)), bootstrap_interval(values))
    row |= _cost(texts, pieces)
    return row, measured


def on_target(judge: TextJudge, texts: Sequence[Written]) -> np.ndarray:
    """Returns whether a judge, who knows all targets, finds each text likeliest of its own."""
    return judged_parts(judge, texts)[0]


def judged_parts(judge: TextJudge, texts: Sequence[Written]) -> tuple[np.ndarray, np.ndarray]:
    """Returns which texts `[n]` are on their targets, and which have no class or no words.

    The judge knows all targets. One without a class "neither" finds it of empty texts alone.
    """
    p = judge.predict_proba([text.text for text in texts])
    wanted = np.array([judge.classes.index(str(text.target)) for text in texts])
    there = np.array([bool(text.text.strip()) for text in texts])
    if p.shape[1] == 1:
        # A reward of one class is on target where it says more likely than not.
        return there & (p[:, 0] > 0.5), ~there
    chosen = p.argmax(axis=1)
    calm = judge.classes.index(NEITHER) if NEITHER in judge.classes else -1
    return there & (chosen == wanted), ~there | (chosen == calm)


def _cost(texts: Sequence[Written], pieces: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """Returns seconds per token and text, and network calls per token, where the files tell them.

    Of several batches the median counts; the first of a width, which waits for the compilation, is
    left out where there are others.
    """
    found: dict[str, Any] = {}
    if all(text.seconds is not None for text in texts):
        seconds: dict[Any, float] = defaultdict(float)
        tokens: dict[Any, int] = defaultdict(int)
        counts = Counter(text.batch for text in texts)
        for text, piece in zip(texts, pieces, strict=True):
            seconds[text.batch] += text.seconds or 0.0
            tokens[text.batch] += len(piece)
        first = dict(reversed([(text.width, text.batch) for text in texts]))
        later = [batch for batch in seconds if batch not in first.values()]
        rates = [seconds[batch] / tokens[batch] for batch in later or seconds if tokens[batch]]
        if rates:
            spread = {"batches": len(rates), "range": [min(rates), max(rates)]}
            found["seconds_per_token"] = _valued(float(np.median(rates))) | spread
            each = [seconds[batch] / counts[batch] for batch in later or seconds]
            found["seconds_per_text"] = _valued(float(np.median(each)))
    total = sum(map(len, pieces))
    if total and all(text.model_tokens is not None for text in texts):
        found["calls_per_token"] = _valued(sum(text.model_tokens or 0 for text in texts) / total)
    return found


def asked_for(texts: Sequence[Written]) -> list[tuple[str, str | None, int]]:
    """Returns what each text was asked for: its prompt, its target, and which of those it is."""
    seen: dict[tuple[str, str | None], Iterator[int]] = defaultdict(itertools.count)
    return [(t.prompt, t.target, next(seen[t.prompt, t.target])) for t in texts]


def _paired(one: dict[Any, dict[str, Any]], other: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    """Returns the tests of two methods on what both have written."""
    common = [key for key in one if key in other]
    found: dict[str, Any] = {"pairs": len(common)}
    tests = (("accuracy_p", "hit", mcnemar), ("perplexity_p", "mean_log_p", signed_rank))
    for name, measure, test in tests:
        both = [key for key in common if measure in one[key] and measure in other[key]]
        if both:
            first, second = ([side[key][measure] for key in both] for side in (one, other))
            found[name] = test(first, second)
    return found


def _mauve(features: np.ndarray, reference: np.ndarray) -> dict[str, Any]:
    try:
        from mauve import compute_mauve
    except ImportError as error:
        raise UserError("MAUVE needs its library: pip install mauve-text") from error
    found = compute_mauve(p_features=features, q_features=reference, verbose=False)
    return _valued(float(found.mauve))


def _valued(value: float, interval: tuple[float, float] | None = None) -> dict[str, Any]:
    return {"value": value, "interval": None if interval is None else list(interval)}
