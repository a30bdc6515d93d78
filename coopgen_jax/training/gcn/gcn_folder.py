"""What cooperative training leaves: a language model, and its discriminator in a folder below."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from coopgen_jax.files import replacing, write_json
from coopgen_jax.models.pretrained.loaded_model import LoadedModel
from coopgen_jax.models.pretrained.saving import save_model
from coopgen_jax.training.card import save_head
from coopgen_jax.training.gcn.gcn_config import GcnConfig
from coopgen_jax.training.gcn.gcn_networks import CLASSES, Networks
from coopgen_jax.training.recipes.full_network import full_network


def deliver(
    folder: Path,
    models: tuple[LoadedModel, LoadedModel],
    networks: Networks,
    learnt: Any,
    fixed: Any,
    config: GcnConfig,
    card: dict[str, Any],
    dtype: str,
) -> None:
    """Writes both networks, begun as `models`; the card comes last.

    Raises:
      UserError: something cannot be written; see `files.replacing`.
    """
    if jax.process_index() != 0:
        return
    model, judge = models
    if config.objective != "mle":
        _deliver_judge(folder / "judge", judge, networks, learnt, fixed, card, dtype)
    written = full_network(networks.join, learnt["generator"], fixed["generator"])
    save_model(folder, model.config, written, model.tokenizer, dtype=dtype)
    write_json(folder / "card.json", card)


def _deliver_judge(
    folder: Path,
    model: LoadedModel,
    networks: Networks,
    learnt: Any,
    fixed: Any,
    card: dict[str, Any],
    dtype: str,
) -> None:
    """Writes the discriminator; its card comes last."""
    judge = networks.judge_join(learnt["judge"], fixed["judge"])
    save_model(
        folder / "network",
        model.config,
        full_network(lambda own, _: own, judge["network"], None),
        model.tokenizer,
        dtype=dtype,
    )
    said = ("trained", "objective", "steps", "seed", "half")
    judging = {
        "kind": "causal",
        "classes": list(CLASSES),
        "hidden": [],
        "reads_prompt": True,
        "start_token": None,
        "model": model.name,
        "model_sha256": model.sha256,
        **{name: card[name] for name in said if name in card},
    }
    with replacing(folder / "rows.npy") as (rows,):
        rows.write_bytes((folder.parent / "rows.npy").read_bytes())
    save_head(folder, jax.tree.map(np.asarray, judge["head"]), judging)
