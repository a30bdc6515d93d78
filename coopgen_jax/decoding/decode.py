"""All decoders as one function, and which of them writes by which settings."""

from typing import Any

import jax

from coopgen_jax.decoding.decoder_settings import DecoderSettings
from coopgen_jax.decoding.generation import Generation
from coopgen_jax.decoding.job import Decoder, Job, write_all
from coopgen_jax.decoding.mcts.mcts_config import MCTSConfig
from coopgen_jax.decoding.mcts.ppl_mcts import MCTS
from coopgen_jax.decoding.methods.beam import BEAM, BeamConfig
from coopgen_jax.decoding.methods.blockwise import BLOCKWISE, BlockwiseConfig
from coopgen_jax.decoding.methods.das import DAS, DASConfig
from coopgen_jax.decoding.methods.fudge import FUDGE, FudgeConfig
from coopgen_jax.decoding.methods.gedi import GEDI, GediConfig
from coopgen_jax.decoding.methods.pplm import PPLM
from coopgen_jax.decoding.methods.pplm_config import PPLMConfig
from coopgen_jax.decoding.methods.rerank import RERANK, RerankConfig
from coopgen_jax.decoding.methods.sampling import SAMPLING, SamplingConfig
from coopgen_jax.decoding.methods.smc import SMC, SMCConfig
from coopgen_jax.decoding.methods.stochastic_beam import STOCHASTIC_BEAM, StochasticBeamConfig
from coopgen_jax.decoding.rules.watermark import Marking
from coopgen_jax.discriminators.discriminator import Discriminator
from coopgen_jax.models.language_model import LanguageModel, Prompt

# A new decoder is one file and one line here.
DECODERS: dict[type[DecoderSettings], Decoder] = {
    MCTSConfig: MCTS,
    FudgeConfig: FUDGE,
    GediConfig: GEDI,
    PPLMConfig: PPLM,
    SMCConfig: SMC,
    RerankConfig: RERANK,
    BlockwiseConfig: BLOCKWISE,
    DASConfig: DAS,
    BeamConfig: BEAM,
    StochasticBeamConfig: STOCHASTIC_BEAM,
    SamplingConfig: SAMPLING,
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
    reference: LanguageModel | None = None,
    reference_params: Any = None,
    marking: Marking | None = None,
    config: DecoderSettings,
) -> Generation:
    """Writes texts by the decoder that the settings belong to, in one compiled loop.

    Args:
      key: typed key of the whole job.
      prompt: what to continue.
      language_model: the network's functions; static under `jit`.
      params: its parameters.
      discriminator: guides a guided method and judges the texts of any other; None for none; static
        under `jit`.
      discriminator_params: its parameters.
      target: `[B]` int32 class numbers or `[B, C]` weights, a run-time array; None where nothing is
        asked for.
      reference: the language model that a search pays for leaving, or None; static under `jit`.
      reference_params: its parameters.
      marking: what texts are marked with where the rules have a watermark: a secret, and a message
        per prompt; see `marking_of`.
      config: the decoder's settings; static under `jit`.

    Returns:
      The texts; what a method's `log_proposal`, `log_weight` and counters mean is said at its
      settings.

    Raises:
      UserError: the job lacks what the method needs, or the prompts exceed a context.
    """
    decoder = DECODERS[type(config)]
    job = Job(
        prompt=prompt,
        params=params,
        discriminator_params=discriminator_params,
        target=target,
        reference_params=reference_params,
        marking=marking,
        language_model=language_model,
        discriminator=discriminator,
        reference=reference,
        config=config,
    )
    generation = write_all(decoder.begin, decoder.advance, key, job)
    return decoder.finish(job, generation) if decoder.finish else generation


# One name a method, for code that calls them so.
beam_search = blockwise = das = fudge = gedi = mcts = pplm = decode
rerank = sample = smc = stochastic_beam_search = decode
