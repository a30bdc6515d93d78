"""What texts depend on: the first line of a file of texts, and the settings that results name."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import jax
import numpy as np

from coopgen_jax.comparison.loaded_run import LoadedRun, Reading
from coopgen_jax.comparison.method_run import guide_name
from coopgen_jax.decoding.decoder_settings import DecoderSettings
from coopgen_jax.decoding.mcts.mcts_config import MCTSConfig
from coopgen_jax.decoding.names_on_disc import settings_on_disc
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.evaluation.independence import trained_on
from coopgen_jax.models.pretrained.combined_model import CombinedModel
from coopgen_jax.models.pretrained.loaded_model import LoadedModel
from coopgen_jax.models.pretrained.steering import Steering, name_of


def settings_of(
    config: DecoderSettings,
    *,
    target: Any,
    seed: int,
    batch_size: int,
    dtype: str,
    chat: bool,
    control_strings: bool = False,
    method: str | None = None,
    preset: str | None = None,
    steering: Steering | None = None,
    reference: str | None = None,
    machines: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Returns all that texts depend on beside prompts and weights, in the names that files use.

    The target is a class, a list of several, or None. Where there is no `method`, the config says
    which it is; `machines` are devices and hosts, for results that tell them.
    """
    return {
        "method": method or method_of(config),
        "target": target,
        "preset": preset if isinstance(config, MCTSConfig) else None,
        "seed": seed,
        "batch_size": batch_size,
        **(machines or {}),
        "dtype": dtype,
        "chat": chat,
        # What is not asked for is not recorded, so that files from before it can be continued.
        **({"control_strings": True} if control_strings else {}),
        **(steering or Steering()).settings(),
        "reference": reference,
        **settings_on_disc(config),
    }


def method_of(config: DecoderSettings) -> str:
    """Returns a decoder's name, after its settings: "stochastic-beam" of StochasticBeamConfig."""
    name = type(config).__name__.removesuffix("Config")
    return config.method or re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()


def header_of(
    run: LoadedRun,
    asked: Sequence[tuple[str | None, str]],
    reading: Reading,
    *,
    seed: int,
    batch_size: int,
) -> dict[str, Any]:
    """Returns the first line of a method's file; `asked` is every prompt with its target."""
    method = run.method
    settings = settings_of(
        run.config,
        target=list(dict.fromkeys(target for _, target in asked)),
        seed=seed,
        batch_size=batch_size,
        dtype=run.models[0].config.dtype,
        chat=reading.chat,
        control_strings=reading.control_strings,
        method=method.method,
        preset=method.preset,
        steering=method.steering,
        reference=name_of(method.reference),
    )
    # What came later is left out where it is not used: older files are gone on with.
    if settings["reference"] is None:
        del settings["reference"]
    if run.config.weighted:
        settings["kept"] = "one by weight"
    about = [about_model(model) for model in run.models]
    header = {
        "settings": settings,
        "model": about[0],
        "models": about[1:],
        "discriminator": about_guide(guide_name(method), run.guide),
        "prompts": {"sha256": hashlib.sha256(json.dumps(asked).encode()).hexdigest()},
        "weights": {"discriminator": _weights(method.discriminator)},
    }
    if run.reference is not None:
        header["reference"] = about_model(run.reference)
    parsed: dict[str, Any] = json.loads(json.dumps(header, default=str))
    return parsed


def about_model(model: LoadedModel) -> dict[str, Any]:
    """Returns what results say of a model, and of all that it is combined of."""
    found: dict[str, Any] = {"name": model.name, "sha256": model.sha256, "licence": model.licence}
    if model.tokenizer.close_tokens:
        found["encodes_prompt"] = True
    if isinstance(model, CombinedModel):
        found["networks"] = [about_model(network) for network in model.networks]
        found["parts"] = [asdict(part) for part in model.parts]
    return found


def about_guide(name: str | None, guide: LoadedDiscriminator | None) -> dict[str, Any] | None:
    """Returns what results say of a discriminator, None where there is none."""
    if guide is None:
        return None
    return {"name": name, "classes": list(guide.discriminator.classes), "card": guide.card}


def _weights(guide: str | LoadedDiscriminator | None) -> str | None:
    """Returns a hash of a discriminator's weights, of its files where it is named."""
    if isinstance(guide, str | None):
        return None if guide is None else trained_on(guide).weights
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(guide.params):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()
