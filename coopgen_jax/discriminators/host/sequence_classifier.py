"""A Hugging Face sequence classifier as a discriminator: it reads each node's text anew.

It was trained on whole texts and knows nothing of unfinished ones. It judges the continuation
alone, as a text that begins there; see `rereading` for what that costs.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from coopgen_jax.discriminators.host.rereading import rereading
from coopgen_jax.discriminators.host.retokenise import Crossing
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.models.language_model import Bound
from coopgen_jax.models.pretrained.classifiers import LoadedClassifier, load_classifier
from coopgen_jax.models.text_classifier import TextClassifierConfig, class_scores
from coopgen_jax.tokenizer import Tokenizer

KIND = "sequence-classification"
# Of a longer text the last tokens are read.
LONGEST = 512


@dataclass(frozen=True)
class ClassifierJudge:
    """What reads: a network's shapes, and what its outputs are (`classifiers.About.kind`)."""

    config: TextClassifierConfig
    kind: str


def sequence_classifier(
    folder: Path, *, name: str, tokenizer: Tokenizer, dtype: str = "float32"
) -> LoadedDiscriminator:
    """Loads the sequence classifier in a Hugging Face folder as a discriminator.

    Args:
      folder: of one of the families `classifiers.FAMILIES`.
      name: what it is called.
      tokenizer: the language model's.
      dtype: of its parameters and of products with them.

    Returns:
      The discriminator. Its parameters are `network` and `head`, and of a reward also `centre`, the
      reward that counts as 1/2, and `scale`, how many rewards make one unit of log-odds.

    Raises:
      UserError: see `load_classifier`.
    """
    loaded = load_classifier(folder, dtype=dtype)
    about = loaded.about
    crossing = Crossing(tokenizer, loaded.tokenizer, width=longest_read(loaded), alone=True)
    judge, params = classifier_judge(loaded)
    read = Bound(read_text, judge)
    card = {
        "kind": KIND,
        "name": name,
        "family": about.family,
        "classes": list(about.classes),
        "outputs": about.kind,
        "reads_prompt": False,
        "sha256": loaded.sha256,
        "dtype": dtype,
        "licence": loaded.licence,
    }
    return LoadedDiscriminator(rereading(read, about.classes, crossing), params, card, (crossing,))


def longest_read(loaded: LoadedClassifier) -> int:
    """Returns how many tokens of a text a classifier reads at most, special ones included."""
    return min(loaded.config.network.context, LONGEST)


def classifier_judge(loaded: LoadedClassifier) -> tuple[ClassifierJudge, dict[str, Any]]:
    """Returns what `read_text` reads by, and its parameters."""
    params = loaded.params
    if loaded.about.kind == "reward":
        params = params | {"centre": jnp.float32(0), "scale": jnp.float32(1)}
    return ClassifierJudge(loaded.config, loaded.about.kind), params


def read_text(judge: ClassifierJudge, params: Any, tokens: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns log p(class | text) `[n, C]` of tokens `[n, S]`, padded behind the last.

    Classes of a multi-label classifier have a probability each; a reward r counts as
    sigmoid((r - centre) / scale).
    """
    scores = class_scores(judge.config, params, tokens, mask)
    if judge.kind == "reward":
        return jax.nn.log_sigmoid((scores - params["centre"]) / params["scale"])
    if judge.kind == "multi-label":
        return jax.nn.log_sigmoid(scores)
    return jax.nn.log_softmax(scores)
