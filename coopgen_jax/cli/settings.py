"""From options to the settings of a decoder."""

from collections.abc import Callable, Iterable
from typing import Any

from coopgen_jax.cli.checks import check_options, flag, given
from coopgen_jax.cli.methods import (
    GUIDED,
    OF_BEAMS,
    OF_DAS,
    OF_MCTS,
    OF_PPLM,
    OF_RERANK,
    OF_SAMPLING,
    OF_SEARCH,
    SHARED,
    TAKES,
)
from coopgen_jax.cli.options import GenerateOptions, PlanOptions
from coopgen_jax.cli.token_options import read_words
from coopgen_jax.decoding.decoder_settings import DecoderSettings
from coopgen_jax.decoding.flat_settings import flat
from coopgen_jax.decoding.mcts.mcts_config import ByValues, MCTSConfig
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
from coopgen_jax.decoding.presets import PRESETS
from coopgen_jax.decoding.rules.shaping import Rules
from coopgen_jax.errors import UserError

# What `--compare` writes beside every text.
COMPARED_TOP_P = 0.9


def decoder_config(options: GenerateOptions) -> DecoderSettings:
    """Returns the settings that the options ask for; what is left unset is the preset's.

    Raises:
      UserError: an option is out of its range or belongs to another method.
    """
    check_options(options)
    try:
        return _BUILDERS[options.method](options)
    except ValueError as error:
        raise UserError(str(error)) from error


def preset_values() -> list[str]:
    """Returns a line for every preset with the values that it stands for."""
    lines = []
    for name, preset in PRESETS.items():
        values = flat(preset)
        words = [
            f"{flag(option)} {value if isinstance(value, str) else format(value, 'g')}"
            for option, value in values.items()
            if isinstance(value, str | int | float) and option not in ("new_tokens", "samples")
        ]
        lines.append(f"{name}: {' '.join(words)}")
    return lines


def compared_config(options: GenerateOptions) -> SamplingConfig:
    """Returns the settings of the plain sampling that `--compare` writes beside the texts."""
    return SamplingConfig(options.new_tokens, options.samples, Rules(top_p=COMPARED_TOP_P))


# Options whose settings have other names.
RENAMED = {"width": "foresight_power", "enough": "visit_limit", "full_share": "mix_base"}


def _values(options: GenerateOptions | PlanOptions, names: Iterable[str]) -> dict[str, Any]:
    found = {"new_tokens": options.new_tokens, "samples": options.samples, **given(options, names)}
    return {RENAMED.get(name, name): value for name, value in found.items()}


def _mcts(options: GenerateOptions) -> MCTSConfig:
    if options.policy not in (None, "spread"):
        raise UserError(
            f"--policy {options.policy} is gone: measurements did not tell it from the default"
        )
    names = [name for name in (*OF_SEARCH, *GUIDED, *OF_MCTS, *SHARED) if name != "policy"]
    values = _values(options, names)
    if "kl" in values and not values["kl"]:
        del values["kl"]
    config = PRESETS[options.preset].with_settings(**values)
    if options.discriminator == "none" and (options.alpha is None or config.value.alpha == 1):
        other = "" if isinstance(config.choice, ByValues) else ", or an --alpha below 1"
        raise UserError(
            "without a discriminator the search has nothing to go by: choose a "
            f"--discriminator{other}"
        )
    if options.discriminator == "none" and config.rollout:
        raise UserError("--rollout is read by the discriminator alone: choose one, or leave it out")
    if options.discriminator == "none" and config.foresight_power:
        raise UserError("--width asks the discriminator about tokens: choose one, or leave it out")
    return config


def preset_config(options: PlanOptions) -> MCTSConfig:
    """Returns a preset with what the options of `plan` change.

    Raises:
      ValueError: a setting is out of its range.
    """
    names = [name for name in OF_SEARCH if hasattr(options, name)]
    return PRESETS[options.preset].with_settings(**_values(options, names))


def _sampling(options: GenerateOptions) -> SamplingConfig:
    found = _values(options, OF_SAMPLING + SHARED)
    if options.method == "greedy":
        found["temperature"] = 0.0
    return SamplingConfig().with_settings(**found)


def _pplm(options: GenerateOptions) -> PPLMConfig:
    # Their words need the tokenizer; that there are any is seen before it is loaded.
    for path in options.bag:
        read_words(path)
    return PPLMConfig().with_settings(**_values(options, (*OF_PPLM, "top_k", "temperature")))


def _configured(kind: Any) -> Callable[[GenerateOptions], Any]:
    """Returns how a decoder is set that calls all that its method takes by the same names."""

    def built(options: GenerateOptions) -> Any:
        return kind().with_settings(**_values(options, TAKES[options.method]))

    return built


def _das(options: GenerateOptions) -> DASConfig:
    config = DASConfig().with_settings(**_values(options, OF_DAS))
    if options.discriminator == "none" and config.alpha > 0:
        raise UserError("das scores beams by a discriminator: choose one, or --alpha 0")
    return config


def _rerank(options: GenerateOptions) -> RerankConfig:
    names = OF_RERANK + OF_BEAMS + OF_SAMPLING + GUIDED + SHARED
    if given(options, OF_BEAMS):
        for name in sorted(set(TAKES["sample"]) - set(TAKES["beam"])):
            if getattr(options, name) not in (None, ()):
                raise UserError(f"{flag(name)} means nothing to beams: leave it or --beams out")
    config = RerankConfig().with_settings(**_values(options, names))
    if options.discriminator == "none" and config.alpha > 0:
        raise UserError("re-ranking compares texts by a discriminator: choose one, or --alpha 0")
    return config


_BUILDERS: dict[str, Callable[[GenerateOptions], Any]] = {
    "mcts": _mcts,
    "fudge": _configured(FudgeConfig),
    "gedi": _configured(GediConfig),
    "pplm": _pplm,
    "smc": _configured(SMCConfig),
    "blockwise": _configured(BlockwiseConfig),
    "das": _das,
    "rerank": _rerank,
    "beam": _configured(BeamConfig),
    "sample": _sampling,
    "greedy": _sampling,
    "stochastic-beam": _configured(StochasticBeamConfig),
}
