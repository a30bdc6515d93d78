"""What a discriminator of `coopgen train` stands on, and its shape, from the options."""

from dataclasses import asdict
from typing import Any

from coopgen_jax.cli.train_options import DiscriminatorOptions
from coopgen_jax.models.pretrained.loaded_model import LoadedModel, load, load_encoder
from coopgen_jax.training.recipes.shared_trunk_recipe import TrunkConfig


def trunk_of(what: DiscriminatorOptions, depth: int) -> TrunkConfig:
    """Returns what stands on a language model of `depth` layers; UserError where nothing can."""
    taps = what.taps or tuple(sorted({0, depth // 3, 2 * depth // 3, depth}))
    return TrunkConfig(taps, what.layers, what.width, what.look_ahead)


def shape_settings(what: DiscriminatorOptions, writer: LoadedModel) -> dict[str, Any]:
    """Returns the settings of a discriminator that a training does not hold, as plain values.

    The `writer` is the model of --on-policy, and its name needs no second loading.

    Raises:
      UserError: there is no such model, or the settings do not go together.
    """
    if what.kind == "bidirectional":
        return {"base_sha256": load_encoder(what.encoder).sha256, "frozen": what.frozen}
    if what.kind == "shared-trunk":
        return {"base_sha256": writer.sha256, "trunk": asdict(trunk_of(what, writer.config.layers))}
    base = writer if what.model == what.on_policy else load(what.model)
    return {"base_sha256": base.sha256}
