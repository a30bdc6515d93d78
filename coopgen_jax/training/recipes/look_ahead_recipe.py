"""The recipe of a look-ahead head on a guide that stays as it is: it learns from searches alone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.discriminators.trunk_layers import TrunkLayersConfig, init_trunk_layers
from coopgen_jax.models.language_model import Bound
from coopgen_jax.models.pretrained.loaded_model import LoadedModel
from coopgen_jax.parallel.mesh import place
from coopgen_jax.training.card import save_head
from coopgen_jax.training.decisions import decision_table
from coopgen_jax.training.loop import Begin, Listener
from coopgen_jax.training.objectives import look_ahead_loss
from coopgen_jax.training.recipes.recipe import Recipe, Subject, carry_out
from coopgen_jax.training.run import RecipeConfig, Rows
from coopgen_jax.training.searched_rows import SearchedRows

LOOK_AHEAD = ("queries", "keys")
# What the guide's card says that stays true of the guide with a look-ahead head.
KEPT = (
    "classes", "hidden", "reads_prompt", "model", "model_sha256", "taps", "layers", "width",
    "before", "context", "accuracy", "accuracy_unit", "data", "terms", "licence",
)  # fmt: skip


def shape_of(guide: LoadedDiscriminator, model: LoadedModel) -> TrunkLayersConfig | None:
    """Returns the shape of a guide that a look-ahead head can stand on, None where it cannot.

    That is small layers on the states of this very language model.
    """
    judging = guide.discriminator.evaluate
    shape = judging.config if isinstance(judging, Bound) else None
    fits = isinstance(shape, TrunkLayersConfig) and guide.card.get("model_sha256") == model.sha256
    return shape if fits and isinstance(shape, TrunkLayersConfig) else None


def train_look_ahead(
    model: LoadedModel,
    guide: LoadedDiscriminator,
    searched: SearchedRows,
    config: RecipeConfig,
    *,
    look_ahead: int,
    folder: Path,
    mesh: Mesh,
    listener: Listener = lambda done, total, means: None,
    begin: Begin = lambda: None,
    states: Path | None = None,
) -> dict[str, Any]:
    """Trains a look-ahead head on a guide, whose own judgements stay what they are.

    The guide, for which there is a `shape_of`, and the language model are frozen. The head has keys
    of `look_ahead` numbers, and a tenth of the searched prompts is validated on. The other
    arguments are those of `train_shared_trunk`.

    Returns:
      The card, with what the guide's says of its judgements.
    """
    own = shape_of(guide, model)
    assert own is not None
    shape = replace(own, look_ahead=look_ahead)
    parts = searched.parts
    rows = [Rows([text.tokens for text in part], [text.shares for text in part]) for part in parts]
    subject = Subject(
        kind="shared-trunk",
        source=model.sha256,
        rows=(rows[0], rows[1]),
        texts=searched.prompts,
        settings={
            "classes": searched.classes,
            "dtype": model.config.dtype,
            "look_ahead": look_ahead,
            "searched_sha256": searched.sha256,
        },
        teacher=searched.guide,
    )

    def join(trainable: Any, frozen: Any) -> Any:
        return {**frozen["guide"], **trainable}

    def make() -> Recipe:
        embedding = np.asarray(model.params["embedding"])
        table = decision_table([*parts[0], *parts[1]], searched.classes, embedding, 0)
        kept = {name: leaf for name, leaf in guide.params.items() if name not in LOOK_AHEAD}
        kept.pop("vocabulary", None)
        frozen = {
            "states": searched.states(model, shape.taps, states), "searched": table, "guide": kept,
        }  # fmt: skip
        drawn = init_trunk_layers(jax.random.key(config.batch.seed), shape)
        loss = look_ahead_loss(shape, join=join)
        return Recipe(
            objective=(loss, loss),
            trainable={name: drawn[name] for name in LOOK_AHEAD},
            frozen=place(frozen, mesh),
            card={
                **{name: guide.card[name] for name in KEPT if name in guide.card},
                "look_ahead": look_ahead,
                "searches": searched.card,
            },
            measure=lambda run, outcome: {},
            export=lambda *both: jax.tree.map(np.asarray, join(*both)),
            deliver=save_head,
            rows=searched.rows(0),
        )

    return carry_out(
        subject, make, config, folder=folder, mesh=mesh, listener=listener, begin=begin
    )
