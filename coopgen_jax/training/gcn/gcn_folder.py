"""What cooperative training writes: a language model, and its discriminator in a folder below."""

from pathlib import Path
from typing import Any

import jax

from coopgen_jax.files import replacing, write_json
from coopgen_jax.models.pretrained.loaded_model import LoadedModel
from coopgen_jax.models.pretrained.saving import save_model
from coopgen_jax.training.gcn.gcn_config import GcnConfig
from coopgen_jax.training.gcn.gcn_networks import CLASSES, Networks
from coopgen_jax.training.objectives import all_trainable
from coopgen_jax.training.recipes.full_network import full_network, save_discriminator


def deliver(
    folder: Path,
    models: tuple[LoadedModel, LoadedModel],
    networks: Networks,
    trainable: Any,
    frozen: Any,
    config: GcnConfig,
    card: dict[str, Any],
    dtype: str,
) -> None:
    """Writes both networks, begun as `models`; the card comes last. See `files.replacing`."""
    if jax.process_index() != 0:
        return
    model, discriminator = models
    if config.objective != "mle":
        params = networks.discriminator_join(trainable["discriminator"], frozen["discriminator"])
        _deliver_discriminator(folder / "judge", discriminator, params, card, dtype)
    written = full_network(networks.join, trainable["generator"], frozen["generator"])
    save_model(folder, model.config, written, model.tokenizer, dtype=dtype)
    write_json(folder / "card.json", card)


def _deliver_discriminator(
    folder: Path, model: LoadedModel, params: Any, card: dict[str, Any], dtype: str
) -> None:
    shared = ("trained", "objective", "steps", "seed", "half")
    discriminator_card = {
        "kind": "causal",
        "classes": list(CLASSES),
        "hidden": [],
        "reads_prompt": True,
        "start_token": None,
        "model": model.name,
        "model_sha256": model.sha256,
        **{name: card[name] for name in shared if name in card},
    }
    with replacing(folder / "rows.npy") as (rows,):
        rows.write_bytes((folder.parent / "rows.npy").read_bytes())
    weights = {**params, "network": full_network(all_trainable, params["network"], None)}
    save_discriminator(model, dtype, folder, weights, discriminator_card)
