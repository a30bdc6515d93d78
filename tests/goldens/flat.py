"""What a command line resolves to, as plain JSON in the names that stood when it was recorded.

Whoever renames settings changes this file, and the record stays as it is.
"""

import shlex
from dataclasses import asdict
from typing import Any

from coopgen_jax.cli import _parse
from coopgen_jax.cli.compare_methods import jobs_of
from coopgen_jax.cli.settings import compared_config, decoder_config
from coopgen_jax.cli.token_options import with_words
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
from tests.cli.tiny import tiny_model
from tests.goldens.comparing import plain

DECODERS = {
    BeamConfig: "beam",
    BlockwiseConfig: "blockwise",
    DASConfig: "das",
    FudgeConfig: "fudge",
    GediConfig: "gedi",
    MCTSConfig: "mcts",
    PPLMConfig: "pplm",
    RerankConfig: "rerank",
    SMCConfig: "smc",
    SamplingConfig: "sampling",
    StochasticBeamConfig: "stochastic-beam",
}
# What a method of `coopgen compare` may have for itself beside the settings of its decoder.
OWN = (
    "discriminator", "model", "target", "reference", "expert", "anti_expert", "expert_weight",
    "negative_prompt", "guidance", "control_code",
)  # fmt: skip


def flat(config: Any) -> dict[str, Any]:
    """Returns a decoder's settings, those of its search or its proposal in them."""
    found = {"decoder": DECODERS[type(config)], **asdict(config)}
    if isinstance(config, RerankConfig):
        found["proposal"] = flat(config.proposal)
    return plain(found)


def generating(line: str) -> dict[str, Any]:
    """Returns what the words behind `coopgen generate` resolve to.

    Raises:
      UserError: they are refused; SystemExit: they cannot be read.
    """
    options = _parse(["generate", *shlex.split(line)])
    found = flat(with_words(decoder_config(options), options, tiny_model().tokenizer))
    if options.compare:
        found["compare"] = flat(compared_config(options))
    return found


def comparing(line: str) -> list[dict[str, Any]]:
    """Returns what the words behind `coopgen compare` resolve to, method by method.

    Raises:
      UserError: they are refused; SystemExit: they cannot be read.
    """
    options = _parse(["compare", "--out", "out", *shlex.split(line)])
    return [
        {
            "name": job.name,
            "file": job.path.as_posix(),
            **{name: getattr(job.options, name) for name in OWN},
            "config": flat(with_words(job.config, job.options, tiny_model().tokenizer)),
        }
        for job in jobs_of(options)
    ]
