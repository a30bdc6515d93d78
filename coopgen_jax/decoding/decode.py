"""Which module writes by which settings, and all decoders as one function."""

from typing import Any

import jax

from coopgen_jax.decoding.generation import Generation
from coopgen_jax.decoding.job import Job, write_all
from coopgen_jax.decoding.mcts import ppl_mcts as mcts
from coopgen_jax.decoding.mcts.mcts_config import MCTSConfig
from coopgen_jax.decoding.methods import (
    beam,
    blockwise,
    das,
    fudge,
    gedi,
    pplm,
    rerank,
    sampling,
    smc,
    stochastic_beam,
)
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
from coopgen_jax.decoding.presets import Decoding
from coopgen_jax.discriminators.discriminator import Discriminator
from coopgen_jax.models.language_model import LanguageModel, Prompt

DECODERS: dict[type, Any] = {
    BeamConfig: beam,
    BlockwiseConfig: blockwise,
    DASConfig: das,
    FudgeConfig: fudge,
    GediConfig: gedi,
    MCTSConfig: mcts,
    PPLMConfig: pplm,
    RerankConfig: rerank,
    SMCConfig: smc,
    SamplingConfig: sampling,
    StochasticBeamConfig: stochastic_beam,
}


def decode(
    key: jax.Array,
    prompt: Prompt,
    *,
    language_model: LanguageModel,
    params: Any,
    discriminator: Discriminator | None = None,
    discriminator_params: Any = None,
    target: jax.Array | None = None,
    config: Decoding,
) -> Generation:
    """Writes texts by whichever decoder the settings are of, in one compiled loop.

    Args:
      key: typed key of the whole job.
      prompt: what is to be continued.
      language_model: the network's functions; static under `jit`.
      params: its parameters.
      discriminator: what guides, or only judges, or None; static under `jit`.
      discriminator_params: its parameters.
      target: `[B]` int32 class numbers, None where nothing is asked for.
      config: the decoder's settings; static under `jit`.

    Returns:
      The texts, those that were chosen where the decoder chooses at the end.
    """
    decoder = DECODERS[type(config)]
    job = Job(
        prompt=prompt,
        params=params,
        discriminator_params=discriminator_params,
        target=target,
        language_model=language_model,
        discriminator=discriminator,
        config=config,
    )
    generation = write_all(decoder.begin, decoder.advance, key, job)
    if hasattr(decoder, "finish"):
        chosen: Generation = decoder.finish(job, generation)
        return chosen
    return generation
