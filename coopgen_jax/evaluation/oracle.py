"""An oracle language model: how likely texts are under a model that has not written them.

A decoder's own model finds what it has searched for likely. The oracle of Chaffin et al. (2022,
arXiv 2109.13582 and 2204.11586) is fine-tuned on other rows of the domain than the guides learn.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from coopgen_jax.errors import UserError
from coopgen_jax.models.language_model import LanguageModel, Prompt
from coopgen_jax.models.networks import language_model
from coopgen_jax.models.pretrained.loaded_model import LoadedModel
from coopgen_jax.models.prompt import bucket, make_prompt


@partial(jax.jit, static_argnums=0)
def _scored(
    network: LanguageModel, params: Any, prompt: Prompt, tokens: jax.Array, mask: jax.Array
) -> jax.Array:
    return network.score(params, prompt, tokens, mask)[:, 0].sum(axis=-1)


def log_likelihoods(
    oracle: LoadedModel, prompts: Sequence[str], texts: Sequence[str], *, batch: int = 16
) -> tuple[np.ndarray, np.ndarray]:
    """Returns how likely `n` continuations of `n` prompts are, `batch` of them read at once.

    Returns:
      log p(text | prompt) `[n]` in nats and the text's number of tokens `[n]`, 0 and 0 where it is
      empty.

    Raises:
      UserError: there are none, as many prompts as texts are not, or they exceed the context.
    """
    if not texts or len(prompts) != len(texts):
        raise UserError(f"{len(prompts)} prompts and {len(texts)} texts: give one text for each")
    rows = oracle.tokenizer.encode_batch(list(texts))
    counts = np.array([len(row) for row in rows])
    network = language_model(oracle.config)
    found = np.zeros(len(rows))
    width = bucket(max(1, int(counts.max())))
    for at in range(0, len(rows), batch):
        there = list(range(at, min(at + batch, len(rows))))
        filled = [*there, *[there[-1]] * (batch - len(there))]
        tokens = np.zeros((batch, 1, width), np.int32)
        mask = np.zeros((batch, 1, width), bool)
        for place, number in enumerate(filled):
            tokens[place, 0, : counts[number]] = rows[number]
            mask[place, 0, : counts[number]] = True
        prompt = make_prompt(
            oracle.tokenizer,
            [prompts[number] for number in filled],
            context=oracle.config.context,
            reserve=width,
        )
        scores = _scored(network, oracle.params, prompt, jnp.asarray(tokens), jnp.asarray(mask))
        found[there] = np.asarray(scores)[: len(there)]
    return found, counts


def oracle_perplexity(oracle: LoadedModel, prompts: Sequence[str], texts: Sequence[str]) -> float:
    """Returns the perplexity of continuations under an oracle: of all their tokens together."""
    log_p, counts = log_likelihoods(oracle, prompts, texts)
    return float(np.exp(-log_p.sum() / max(1, counts.sum())))
