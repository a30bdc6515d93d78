"""Pictures of an explanation: a page that needs nothing else, and a bar chart."""

import html
import re
from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np

from coopgen_jax.explanation.content_words import WORD, words_of
from coopgen_jax.explanation.explained import Explanation, Word

# Of the texts of a class, those that the page shows: the ones that the classifier is surest of.
SHOWN_TEXTS = 6


def render_explanation(
    found: Explanation,
    *,
    top: int = 20,
    contrast: tuple[str, str] | None = None,
    title: str = "Explanation",
) -> str:
    """Returns a self-contained page.

    Args:
      found: the explanation.
      top: words of each class.
      contrast: two classes to tell apart from each other alone; None for none.
      title: what the page is called.

    Raises:
      UserError: a class of the contrast is unknown.
    """
    words = {name: found.top_words(name, top) for name in found.classes}
    parts = {
        "TITLE": html.escape(title),
        "ABOUT": html.escape(sentence(found)),
        "WORDS": "\n".join(_words(name, own) for name, own in words.items()),
        "REACTIONS": _reactions(found, top),
        "CONTRAST": "" if contrast is None else _contrast(found, contrast, top),
        "TEXTS": "\n".join(_texts(found, name, own) for name, own in words.items()),
        "SETTINGS": "\n".join(_row(name, value) for name, value in made(found).items()),
    }
    page = resources.files("coopgen_jax.explanation").joinpath("explanation.html")
    whole = page.read_text("utf-8")
    return re.sub(r"__([A-Z]+)__", lambda mark: parts[mark[1]], whole)


def sentence(found: Explanation) -> str:
    """Returns how much was written, what the classifier says of it, and how well words tell."""
    fit = found.fit
    counts = ", ".join(
        f"{fit['texts'][name]} for {name} (accepted {fit['accepted'][name]:.2f})"
        for name in found.classes
    )
    told = fit["accuracy"]
    unseen = "" if told is None else f" Words tell unseen ones apart in {told:.2f} of the cases."
    return f"Texts written: {counts}.{unseen}"


def made(found: Explanation) -> dict[str, Any]:
    """Returns what an explanation was made with and what it cost, a line each."""
    about = found.about
    rows: dict[str, Any] = {
        name.replace("_", " "): f"{value:,.0f}" if isinstance(value, float) else f"{value:,}"
        for name, value in about.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    for name in ("model", "discriminator", "method"):
        if about.get(name):
            rows[name] = about[name]
    for name, share in found.fit["confidence"].items():
        rows[f"mean p({name})"] = f"{share:.3f}"
    sizes = about.get("effective_sample_size") or {}
    for name, size in sizes.items():
        rows[f"effective sample size of {name}"] = f"{size:.1f}"
    for step in found.settling:
        if step["shared"] is not None:
            rows[f"words that stayed at {step['texts']} texts a class"] = f"{step['shared']:.2f}"
    return rows


def bar_chart(found: Explanation, *, top: int = 15) -> Any:
    """Returns a matplotlib figure: the strongest words of every class, with their intervals."""
    from matplotlib.figure import Figure

    columns = len(found.classes)
    figure = Figure(figsize=(3.4 * columns, 0.28 * top + 1.0), layout="constrained")
    for place, name in enumerate(found.classes, start=1):
        axes = figure.add_subplot(1, columns, place)
        words = found.top_words(name, top)[::-1]
        heights = np.array([word.weight for word in words])
        colours = [
            "0.7" if word.reaction is not None and not word.reaction.moves else "tab:blue"
            for word in words
        ]
        axes.barh(range(len(words)), heights, color=colours)
        if words and words[0].low is not None:
            low = np.array([word.low for word in words], float)
            high = np.array([word.high for word in words], float)
            spans = np.maximum(np.stack([heights - low, high - heights]), 0)
            axes.errorbar(heights, range(len(words)), xerr=spans, fmt="none", ecolor="0.2", lw=0.8)
        axes.set_yticks(range(len(words)), [word.term for word in words])
        axes.set_title(name)
        axes.set_xlabel("weight")
    return figure


def _words(name: str, words: Sequence[Word]) -> str:
    most = max((word.high if word.high is not None else word.weight for word in words), default=1.0)
    rows = "\n".join(_word(word, max(most, 1e-9)) for word in words)
    return _table(name, _heads("weight", "texts", "moves"), rows)


def _table(name: str, heads: str, rows: str) -> str:
    return (
        f"<section><h3>{html.escape(name)}</h3><table><tr><th>word</th><th></th>{heads}</tr>\n"
        f"{rows}\n</table></section>"
    )


def _heads(*names: str) -> str:
    return "".join(f'<th class="number">{name}</th>' for name in names)


def _word(word: Word, most: float) -> str:
    moves = "" if word.reaction is None else f"{word.reaction.mean:+.2f}"
    still = ' class="still"' if word.reaction is not None and not word.reaction.moves else ""
    low, high = (None if end is None else end / most for end in (word.low, word.high))
    return (
        f'<tr{still}><td class="word">{html.escape(word.term)}</td><td>'
        f"{_track(word.weight / most, low, high)}</td>"
        f'<td class="number">{word.weight:.2f}</td><td class="number">{word.texts}</td>'
        f'<td class="number">{moves}</td></tr>'
    )


def _reactions(found: Explanation, top: int) -> str:
    """Returns what moves the classifier most, for every class; nothing where none was tried."""
    if not found.tried:
        return ""
    sections = []
    for name in found.classes:
        words = found.top_words(name, top, by="reaction", moving=True)
        most = max((word.reaction.high for word in words if word.reaction), default=1.0)
        rows = "\n".join(_reaction(word, most) for word in words)
        sections.append(_table(name, _heads("moves", "texts"), rows))
    joined = "\n".join(sections)
    return f'<h2>Words that move the classifier</h2>\n<div class="columns">\n{joined}\n</div>'


def _reaction(word: Word, most: float) -> str:
    assert word.reaction is not None
    one = word.reaction
    return (
        f'<tr><td class="word">{html.escape(word.term)}</td><td>'
        f"{_track(one.mean / most, one.low / most, one.high / most)}</td>"
        f'<td class="number">{one.mean:+.2f}</td><td class="number">{word.texts}</td></tr>'
    )


def _track(share: float, low: float | None, high: float | None) -> str:
    """Returns a bar and its interval, as shares of the longest."""
    spread = ""
    if low is not None and high is not None:
        low, high = (min(max(end, 0.0), 1.0) for end in (low, high))
        spread = f'<span class="range" style="--l:{low:.3f};--h:{high:.3f}"></span>'
    share = min(max(share, 0.0), 1.0)
    bar = f'<span class="bar" style="--w:{share:.3f}"></span>'
    return f'<div class="track">{bar}{spread}</div>'


def _contrast(found: Explanation, pair: tuple[str, str], top: int) -> str:
    both = zip(pair, found.contrast(*pair, top), strict=True)
    sections = "\n".join(_words(name, words) for name, words in both)
    title = html.escape(f"{pair[0]} against {pair[1]}")
    return f'<h2>{title}</h2>\n<div class="columns">\n{sections}\n</div>'


def _texts(found: Explanation, name: str, words: Sequence[Word]) -> str:
    label = found.number_of(name)
    rows = np.flatnonzero(found.labels == label)
    order = rows[np.argsort(-found.probabilities[rows, label], kind="stable")][:SHOWN_TEXTS]
    most = max((word.weight for word in words), default=1.0)
    strength = {word.term: word.weight / most for word in words if " " not in word.term}
    said = [f"p({html.escape(name)}) {found.probabilities[row, label]:.3f}" for row in order]
    shown = "\n".join(
        f'<p class="text">{_marked(found.texts[row], strength)} <span class="soft">{p}</span></p>'
        for row, p in zip(order, said, strict=True)
    )
    return f"<section><h3>{html.escape(name)}</h3>{shown}</section>"


def _marked(text: str, strength: dict[str, float]) -> str:
    """Returns a text as HTML, its strong words marked."""
    parts, at = [], 0
    for match in WORD.finditer(text):
        (word,) = words_of(match[0])[:1] or ("",)
        if word in strength:
            parts.append(html.escape(text[at : match.start()]))
            parts.append(f'<b style="--s:{strength[word]:.2f}">{html.escape(match[0])}</b>')
            at = match.end()
    return "".join([*parts, html.escape(text[at:])])


def _row(name: str, value: Any) -> str:
    return f"<tr><th>{html.escape(str(name))}</th><td>{html.escape(str(value))}</td></tr>"
