"""A page that shows texts with every token coloured by its score."""

import html
from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np

from coopgen_jax.tokenizer import Tokenizer
from coopgen_jax.watermark.detection import Detection

# Of a longer text the first so many tokens are shown.
MOST_TOKENS = 20_000


def render_page(report: dict[str, Any], found: Sequence[Detection], tokenizer: Tokenizer) -> str:
    """Returns a self-contained page.

    Args:
      report: the figures: `key`, `fpr`, `marked`, and `texts` with their `source`, `prompt`,
        `scheme` and `verdict`.
      found: the detections of the texts, in their order.
      tokenizer: whose tokens they are of.
    """
    page = resources.files("coopgen_jax.watermark").joinpath("page.html").read_text("utf-8")
    spelt = tokenizer.token_bytes
    articles = [
        _article(text, one, spelt) for text, one in zip(report["texts"], found, strict=True)
    ]
    count = len(articles)
    about = (
        f"{report['marked']} of {count} {'text' if count == 1 else 'texts'} marked with key "
        f"{report['key']}, at a false-positive rate of {report['fpr']:g}."
    )
    return page.replace("__ABOUT__", html.escape(about)).replace("__TEXTS__", "\n".join(articles))


def _article(text: dict[str, Any], found: Detection, spelt: Sequence[bytes | None]) -> str:
    scores, ids = found.token_scores[:MOST_TOKENS], found.token_ids[:MOST_TOKENS]
    shares = _shares(scores, text["scheme"])
    tokens = "".join(
        _token(spelt[number] if number < len(spelt) else None, score, share)
        for number, score, share in zip(ids.tolist(), scores.tolist(), shares, strict=True)
    )
    more = found.tokens - len(ids)
    rest = f'<p class="soft">{more} more tokens are not shown.</p>' if more else ""
    figures = [f"log10 p {found.log10_p:.1f}", f"{found.scored} of {found.tokens} tokens scored"]
    if found.message is not None:
        figures.append(f"message {found.message}, log10 p {found.log10_p_message:.1f}")
    if found.passage is not None:
        start, end = found.passage
        figures.append(f"passage {start} to {end}, log10 p {found.log10_p_passage:.1f}")
    kind = "marked" if found.marked else "unmarked"
    return (
        f'<article class="{kind}"><h2>{html.escape(text["source"])}: '
        f'{html.escape(text["verdict"])}</h2><p class="soft">{"; ".join(figures)}</p>'
        f'<p class="text"><span class="soft">{html.escape(text["prompt"])}</span>{tokens}</p>'
        f"{rest}</article>"
    )


def _token(spelling: bytes | None, score: float, share: float | None) -> str:
    name = "\ufffd" if spelling is None else spelling.decode("utf-8", "replace")
    if share is None:
        return f'<span class="none" title="not scored">{html.escape(name)}</span>'
    return f'<span style="--s:{share:.2f}" title="score {score:.2f}">{html.escape(name)}</span>'


def _shares(scores: np.ndarray, scheme: str) -> list[float | None]:
    """Returns scores as shares of a full one, None where there is no score."""
    # An exponential score has no largest: three times its mean is full.
    full = {"greenlist": 1.0, "gumbel": 3.0, "permute-flip": 3.0}
    most = full.get(scheme, max(scores[np.isfinite(scores)].max(initial=0.0), 1e-9))
    return [None if not np.isfinite(score) else float(min(score / most, 1.0)) for score in scores]
