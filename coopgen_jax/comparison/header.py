"""What texts depend on: the first line of a file of texts, and the settings that results name."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import jax
import numpy as np

from coopgen_jax.comparison.method_run import MethodRun, guide_name
from coopgen_jax.comparison.names_on_disc import settings_on_disc
from coopgen_jax.decoding.decoder_settings import DecoderSettings
from coopgen_jax.decoding.mcts.mcts_config import MCTSConfig
from coopgen_jax.decoding.methods.beam import BeamConfig
from coopgen_jax.decoding.methods.blockwise import BlockwiseConfig
from coopgen_jax.decoding.methods.das import DASConfig
from coopgen_jax.decoding.methods.fudge import FudgeConfig
from coopgen_jax.decoding.methods.gedi import GediConfig
from coopgen_jax.decoding.methods.pplm_config import PPLMConfig
from coopgen_jax.decoding.methods.rerank import RerankConfig
from coopgen_jax.decoding.methods.sampling import SamplingConfig
from coopgen_jax.decoding.methods.smc import SMCConfig
from coopgen_jax.decoding.methods.stochastic_beam import StochasticBeamConfig
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.evaluation.independence import learnt
from coopgen_jax.models.pretrained.combined_model import CombinedModel
from coopgen_jax.models.pretrained.loaded_model import LoadedModel
from coopgen_jax.models.pretrained.steering import Steering, name_of

METHODS: dict[type, str] = {
    BeamConfig: "beam",
    BlockwiseConfig: "blockwise",
    DASConfig: "das",
    FudgeConfig: "fudge",
    GediConfig: "gedi",
    MCTSConfig: "mcts",
    PPLMConfig: "pplm",
    RerankConfig: "rerank",
    SMCConfig: "smc",
    SamplingConfig: "sample",
    StochasticBeamConfig: "stochastic-beam",
}


def settings_of(
    config: DecoderSettings,
    *,
    target: Any,
    seed: int,
    batch_size: int,
    dtype: str,
    chat: bool,
    method: str | None = None,
    preset: str | None = None,
    steering: Steering | None = None,
    reference: str | None = None,
    machines: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Returns all that texts depend on beside prompts and weights, in the names that files use.

    Args:
      config: settings of the decoder.
      target: the class asked for, or a list of several, or None.
      seed: of the run.
      batch_size: prompts worked on at once.
      dtype: number format of the language model.
      chat: whether prompts are put into its chat template.
      method: the decoder's name, None for what the config says.
      preset: name of the settings that those of a search began as.
      steering: what is combined with the language model.
      reference: name of the model that a search is charged for leaving.
      machines: devices and hosts, for results that tell them.
    """
    return {
        "method": method or METHODS[type(config)],
        "target": target,
        "preset": preset if isinstance(config, MCTSConfig) else None,
        "seed": seed,
        "batch_size": batch_size,
        **(machines or {}),
        "dtype": dtype,
        "chat": chat,
        **(steering or Steering()).settings(),
        "reference": reference,
        **settings_on_disc(config),
    }


def header_of(
    run: MethodRun,
    config: DecoderSettings,
    asked: Sequence[tuple[str, str]],
    *,
    writers: Mapping[str, LoadedModel],
    guide: LoadedDiscriminator | None,
    reference: LoadedModel | None,
    seed: int,
    batch_size: int,
    chat: bool,
) -> dict[str, Any]:
    """Returns the first line of a method's file.

    Args:
      run: the method.
      config: its settings, words in them as tokens.
      asked: every prompt with the target that it is continued towards.
      writers: the model that writes by target, or one for all of them.
      guide: the method's discriminator, or None.
      reference: the model that is charged for leaving, or None.
      seed: of the comparison.
      batch_size: prompts worked on at once.
      chat: whether prompts are put into the chat template.
    """
    models = list(writers.values())
    settings = settings_of(
        config,
        target=list(dict.fromkeys(target for _, target in asked)),
        seed=seed,
        batch_size=batch_size,
        dtype=models[0].config.dtype,
        chat=chat,
        method=run.method,
        preset=run.preset,
        steering=run.steering,
        reference=name_of(run.reference),
    )
    # Settings that came later are left out where they are not used: older files are gone on with.
    if settings["reference"] is None:
        del settings["reference"]
    if config.weighted:
        settings["kept"] = "one by weight"
    about = [about_model(model) for model in models]
    header = {
        "settings": settings,
        "model": about[0],
        "models": about[1:],
        "discriminator": about_guide(guide_name(run), guide),
        "prompts": {"sha256": hashlib.sha256(json.dumps(asked).encode()).hexdigest()},
        "weights": {"discriminator": _weights(run.discriminator)},
    }
    if reference is not None:
        header["reference"] = about_model(reference)
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
        return None if guide is None else learnt(guide).weights
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(guide.params):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()
