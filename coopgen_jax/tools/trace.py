"""What the search did: the tree of every token as plain JSON, and as a page to look at.

A `Recorder` is a listener of `generate`; `document` joins what it heard with the finished texts,
and `render_html` puts a document into one self-contained page.
"""

import json
import math
from collections.abc import Callable, Sequence
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from coopgen_jax.errors import UserError
from coopgen_jax.search.tree import Tree
from coopgen_jax.tokenizer import Tokenizer

if TYPE_CHECKING:
    from coopgen_jax.text_generation import Step, Text

FORMAT = "coopgen trace 1"
SUFFIXES = (".json", ".html")
# How many of the candidates that were never tried are named.
BEST = 3


def token_names(tokenizer: Tokenizer) -> Callable[[int], str]:
    """Returns a function that tells how a single token is shown.

    Ordinary tokens are their text, with the spaces that they bring. A special token is its name,
    and one that holds a part of a character is its bytes, as "<0xE2><0x96>".
    """

    @cache
    def name(number: int) -> str:
        if number >= tokenizer.vocab_size:
            return f"<{number}>"
        text = tokenizer.token_bytes[number]
        if text is None:
            return str(tokenizer.core.id_to_token(number) or f"<{number}>")
        try:
            return text.decode()
        except UnicodeDecodeError:
            return "".join(f"<0x{byte:02X}>" for byte in text)

    return name


def number(value: Any) -> float | None:
    """Returns a float of six digits for JSON, None where it is not finite."""
    value = float(value)
    return float(f"{value:.6g}") if math.isfinite(value) else None


def nested(tree: Tree, name: Callable[[int], str], classes: Sequence[str]) -> dict[str, Any]:
    """Returns one tree, in NumPy with fields `[N, ...]`, as nested dictionaries.

    Returns:
      The root. A node has `token` and `id` (None at the root, as `prior`, its prior among its
      parent's candidates, and `log_prob`, its log-probability under the plain language model, and
      with a reference language model `reward`, what the step to it earns),
      `depth`, `visits`, `value` (the mean over its visits), `own_value`, `classes` (p(class |
      text)), `terminal`, `children` by falling visits, and `unexpanded`: the `count` of candidates
      that were never tried, the sum of their `prior`, and the `best` of them.
    """
    nodes: dict[int, dict[str, Any]] = {}
    # A child's index is higher than its parent's.
    for index in np.flatnonzero(tree.visits > 0)[::-1].tolist():
        own = tree.children[index]
        children = [nodes[child] for child in own[own >= 0].tolist()]
        children.sort(key=lambda child: (-child["visits"], -(child["prior"] or 0.0)))
        rank, parent = int(tree.rank[index]), int(tree.parent[index])
        is_root = index == 0
        token = int(tree.token[index])
        nodes[index] = {
            "token": None if is_root else name(token),
            "id": None if is_root else token,
            "depth": int(tree.depth[index]),
            "prior": None if is_root else number(tree.priors[parent, rank]),
            "log_prob": None if is_root else number(tree.log_probs[parent, rank]),
            **_reward(tree, parent, rank),
            "visits": int(tree.visits[index]),
            "value": number(tree.value_sum[index] / tree.visits[index]),
            "own_value": number(tree.value[index]),
            "classes": _probabilities(tree.log_class[index], classes),
            "terminal": bool(tree.terminal[index]),
            "children": children,
            "unexpanded": _unexpanded(tree, index, name),
        }
    return nodes[0]


def _reward(tree: Tree, parent: int, rank: int) -> dict[str, float | None]:
    if tree.rewards is None:
        return {}
    return {"reward": number(tree.rewards[parent, rank]) if rank >= 0 else None}


def _unexpanded(tree: Tree, index: int, name: Callable[[int], str]) -> dict[str, Any]:
    if tree.terminal[index]:
        return {"count": 0, "prior": 0.0, "best": []}
    ranks = np.flatnonzero((tree.children[index] < 0) & (tree.priors[index] > 0))
    return {
        "count": len(ranks),
        "prior": number(tree.priors[index, ranks].sum()),
        "best": [
            {
                "token": name(int(tree.tokens[index, rank])),
                "id": int(tree.tokens[index, rank]),
                "prior": number(tree.priors[index, rank]),
            }
            for rank in ranks[:BEST].tolist()
        ],
    }


def _probabilities(log_class: Any, classes: Sequence[str]) -> dict[str, float | None]:
    return {name: number(np.exp(log_p)) for name, log_p in zip(classes, log_class, strict=True)}


class Recorder:
    """A listener of `generate` that keeps the search tree of every token of every text."""

    def __init__(self, tokenizer: Tokenizer, classes: Sequence[str] = ()) -> None:
        self.tokenizer = tokenizer
        self.classes = tuple(classes)
        self.name = token_names(tokenizer)
        self.steps: dict[tuple[int, int], list[dict[str, Any]]] = {}

    def __call__(self, step: "Step") -> None:
        """Reads the trees of one step back from the device, which may soon overwrite them."""
        if step.tree is None:
            raise UserError("only the search has a tree to trace: choose the method mcts")
        generation, tree = jax.device_get((step.generation, step.tree))
        for row, prompt in enumerate(step.prompts):
            for sample in range(generation.length.shape[1]):
                # A text that had ended before has no longer grown.
                if generation.length[row, sample] != step.step:
                    continue
                tokens = generation.tokens[row, sample, : step.step].tolist()
                one = jax.tree.map(lambda leaf, at=(row, sample): leaf[at], tree)
                self.steps.setdefault((prompt, sample), []).append(
                    {
                        "before": self.tokenizer.continuation(tokens[:-1]),
                        "token": self.name(tokens[-1]),
                        "id": tokens[-1],
                        "classes": _probabilities(generation.log_class[row, sample], self.classes),
                        "root": nested(one, self.name, self.classes),
                    }
                )


def document(recorder: Recorder, texts: Sequence["Text"], **about: Any) -> dict[str, Any]:
    """Returns everything that was recorded while the texts were written, as plain JSON.

    Returns:
      `format`, `classes`, what `about` says, and `texts`: each with its prompt, figures and
      `steps`, one per token: the continuation `before` it, the `token` that was written, the
      `classes`' probabilities with it, and the `root` of its tree (see `nested`).
    """
    return {
        "format": FORMAT,
        **about,
        "classes": list(recorder.classes),
        "texts": [
            {
                "prompt": text.prompt,
                "text": text.text,
                "number": text.number,
                "sample": text.sample,
                "target": text.target,
                "log_prob": number(text.log_prob),
                "perplexity": number(text.perplexity),
                "steps": recorder.steps.get((text.number, text.sample), []),
            }
            for text in texts
        ],
    }


def render_html(trace: dict[str, Any]) -> str:
    """Returns a page that shows a document, with everything it needs inside."""
    page = resources.files("coopgen_jax.tools").joinpath("trace.html").read_text(encoding="utf-8")
    data = json.dumps(trace, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # Nothing in a token may end the script element that holds it.
    for letter in "<>&\u2028\u2029":
        data = data.replace(letter, f"\\u{ord(letter):04x}")
    before, after = page.split("__TRACE__")
    return before + data + after
