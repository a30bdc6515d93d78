"""The recipe of language models: maximum likelihood of texts."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from coopgen_jax.data.batches import packed
from coopgen_jax.errors import UserError
from coopgen_jax.files import write_json
from coopgen_jax.models.pretrained.loaded_model import LoadedModel
from coopgen_jax.models.pretrained.saving import save_model
from coopgen_jax.tokenizer import Tokenizer
from coopgen_jax.training.loop import Begin, Listener, Outcome
from coopgen_jax.training.objectives import language_model_loss
from coopgen_jax.training.recipes.full_network import (
    check_network,
    full_network,
    network_card,
    trainable_of,
)
from coopgen_jax.training.recipes.recipe import Recipe, Subject, carry_out
from coopgen_jax.training.run import RecipeConfig, Rows, Run


def train_language_model(
    model: LoadedModel,
    training: Sequence[str],
    validation: Sequence[str],
    config: RecipeConfig,
    *,
    pack: bool = False,
    sources: Sequence[str] | None = None,
    folder: Path,
    mesh: Mesh,
    listener: Listener = lambda done, total, means: None,
    begin: Begin = lambda: None,
) -> dict[str, Any]:
    """Trains a language model by maximum likelihood; `load_language_model` takes the folder.

    Every text is read behind the token that begins a text, if there is one, and closed by the one
    that ends it. For a class-conditional model (CTRL's CC-LM) give texts that begin with the name
    of their class. Nothing is cut to prefixes; the rest is as in `train_causal`.

    Where texts are to `pack`, they are read one behind the other in windows of
    `config.batch.longest` tokens, which leaves no padding and cuts no text short; each is closed by
    the token that ends one, and what is left over behind the last window is dropped. The
    fingerprint of `sources` is kept, the texts that these were cut or made from; None where they
    are complete.
    """
    check_network(model, config, 0)
    config = replace(config, batch=replace(config.batch, shortest=None, balanced=False))
    if pack and not model.tokenizer.end_tokens:
        raise UserError("the model has no token that ends a text: texts cannot be packed")
    length = config.batch.longest if pack else None
    rows = (
        closed_rows(model.tokenizer, training, length),
        closed_rows(model.tokenizer, validation, length),
    )
    texts = training if sources is None else sources
    settings = {"pack": pack, "dtype": model.config.dtype}
    subject = Subject("language model", model.sha256, rows, texts, settings)

    make = partial(_recipe, model, config, mesh)
    return carry_out(
        subject, make, config, folder=folder, mesh=mesh, listener=listener, begin=begin
    )


def closed_rows(tokenizer: Tokenizer, texts: Sequence[str], length: int | None) -> Rows:
    """Returns texts between the tokens that begin and end one; those without a token are left out.

    They are packed into windows of `length`; None gives a row a text.
    """
    front, end = list(tokenizer.begin_tokens), list(tokenizer.end_tokens[:1])
    ids = tokenizer.encode_batch([text.strip() for text in texts])
    rows = [[*front, *row, *end] for row in ids if row]
    if length is not None:
        # What begins a text and what ends one are often the same token, which then stands once.
        bare = [row for row in ids if row] if front == end else [row[:-1] for row in rows]
        rows = packed(bare, length=length, end=end[0]).tolist()
    return Rows(rows, [0] * len(rows))


def _recipe(model: LoadedModel, config: RecipeConfig, mesh: Mesh) -> Recipe:
    trainable, frozen, join = trainable_of(model, config.lora, mesh, seed=config.batch.seed)
    loss = language_model_loss(model.config, join=join)

    def deliver(folder: Path, weights: Any, card: dict[str, Any]) -> None:
        save_model(folder, model.config, weights, model.tokenizer, dtype=config.saved_dtype)
        write_json(folder / "card.json", card)

    return Recipe(
        objective=(loss, loss),
        trainable=trainable,
        frozen=frozen,
        card=network_card(model, config.lora),
        measure=perplexity_entry,
        export=partial(full_network, join),
        deliver=deliver,
        dtype=model.config.dtype,
    )


def perplexity_entry(run: Run, outcome: Outcome) -> dict[str, Any]:
    """Returns the perplexity of the best validation for a card, None where there was none."""
    return {"perplexity": float(np.exp(outcome.best["loss"])) if outcome.best else None}
