"""From options to the settings of a decoder."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from coopgen_jax.cli.checks import check_options, flag, given
from coopgen_jax.cli.methods import (
    GUIDED,
    OF_BEAMS,
    OF_DAS,
    OF_GEDI,
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
from coopgen_jax.decoding.presets import PRESETS
from coopgen_jax.errors import UserError
from coopgen_jax.search.config import SearchConfig

# What `--compare` writes beside every text.
COMPARED_TOP_P = 0.9


def decoder_config(options: GenerateOptions) -> DecoderSettings:
    """Returns the settings that the options ask for; what is left unset is the preset's.

    Raises:
      UserError: an option is out of its range or belongs to another method.
    """
    check_options(options)
    try:
        if options.method in _BUILDERS:
            return _BUILDERS[options.method](options)
        by_beams = options.method == "beam" or bool(given(options, OF_BEAMS))
        plain = _beams(options) if by_beams else _sampling(options)
        return _rerank(options, plain) if options.method == "rerank" else plain
    except ValueError as error:
        raise UserError(str(error)) from error


def preset_values() -> list[str]:
    """Returns a line for every preset with the values that it stands for."""
    names = (*SHARED, *GUIDED, *OF_MCTS)
    lines = []
    for name, preset in PRESETS.items():
        values = {option: getattr(preset.search, option) for option in OF_SEARCH}
        values |= {option: getattr(preset, option) for option in names}
        words = [
            f"{flag(option)} {value if isinstance(value, str) else format(value, 'g')}"
            for option, value in values.items()
            if value is not None
        ]
        kept = f"{preset.search.kept} nodes outlive a token" if preset.search.kept else "no reuse"
        lines.append(f"{name}: {' '.join(words)} ({preset.likelihood} likelihood, {kept})")
    return lines


def compared_config(options: GenerateOptions) -> SamplingConfig:
    """Returns the settings of the plain sampling that `--compare` writes beside the texts."""
    return SamplingConfig(
        new_tokens=options.new_tokens, samples=options.samples, top_p=COMPARED_TOP_P
    )


def _mcts(options: GenerateOptions) -> MCTSConfig:
    preset = PRESETS[options.preset]
    search = preset_search(options, preset.search)
    said = given(options, GUIDED + OF_MCTS + SHARED)
    # The whole is checked once, not every option on its own.
    config = replace(
        preset,
        new_tokens=options.new_tokens,
        samples=options.samples,
        search=search,
        **_draws(preset, said) | said,
    )
    if config.rollout_confidence is not None and not config.rollout:
        raise UserError("--rollout-confidence needs --rollout, the tokens to sample at most")
    if options.discriminator == "none" and (options.alpha is None or config.alpha == 1):
        other = "" if config.value_power else ", or an --alpha below 1"
        raise UserError(
            "without a discriminator the search has nothing to go by: choose a "
            f"--discriminator{other}"
        )
    if options.discriminator == "none" and config.rollout:
        raise UserError("--rollout is read by the discriminator alone: choose one, or leave it out")
    if options.discriminator == "none" and config.width:
        raise UserError("--width asks the discriminator about tokens: choose one, or leave it out")
    return config


def _draws(preset: MCTSConfig, said: dict[str, Any]) -> dict[str, Any]:
    """Returns how a preset draws, as far as options that are given leave it to the preset."""
    ways = ("visit_temperature", "value_power")
    asked = any(said.get(way) for way in ways)
    found = {way: said.get(way, 0.0 if asked else getattr(preset, way)) for way in ways}
    by_visits, drawn = found["visit_temperature"] > 0, any(found.values())
    return found | {
        "anneal": preset.anneal and by_visits,
        "full_share": preset.full_share if drawn else 0.0,
    }


def preset_search(options: GenerateOptions | PlanOptions, preset: SearchConfig) -> SearchConfig:
    """Returns a preset's search with what the options change.

    What outlives a token grows with the simulations, halving compares no more candidates than there
    are, and the wave becomes one that divides the simulations and that halving can fill.

    Raises:
      ValueError: a setting is out of its range.
    """
    found = given(options, [name for name in OF_SEARCH if hasattr(options, name)])
    if preset.kept and "simulations" in found:
        found["kept"] = max(found["simulations"] * preset.kept // preset.simulations, 0)
    simulations = found.get("simulations", preset.simulations)
    candidates = found.get("candidates", preset.candidates)
    considered = found.setdefault("considered", max(0, min(preset.considered, candidates)))
    if "wave" not in found and simulations > 0 and candidates > 0:
        widest = min(preset.wave, simulations, candidates, max(considered, 0) or candidates)
        found["wave"] = max(wave for wave in range(1, widest + 1) if simulations % wave == 0)
    return replace(preset, **found)


def _sampling(options: GenerateOptions) -> SamplingConfig:
    found = given(options, OF_SAMPLING + SHARED)
    if options.method == "greedy":
        found["temperature"] = 0.0
    return SamplingConfig(new_tokens=options.new_tokens, samples=options.samples, **found)


def _beams(options: GenerateOptions) -> BeamConfig:
    found = given(options, (*OF_BEAMS, "no_repeat_ngram"))
    if options.method == "rerank":
        for name in sorted(set(TAKES["sample"]) - set(TAKES["beam"])):
            if getattr(options, name) not in (None, ()):
                raise UserError(f"{flag(name)} means nothing to beams: leave it or --beams out")
        return BeamConfig(new_tokens=options.new_tokens, **found)
    return BeamConfig(new_tokens=options.new_tokens, samples=options.samples, **found)


def _gedi(options: GenerateOptions) -> GediConfig:
    found = given(options, OF_GEDI + SHARED) | {"greedy": not options.draw}
    return GediConfig(new_tokens=options.new_tokens, samples=options.samples, **found)


def _pplm(options: GenerateOptions) -> PPLMConfig:
    found = given(options, (*OF_PPLM, "top_k", "temperature"))
    # Their words need the tokenizer; that there are any is seen before it is loaded.
    for path in options.bag:
        read_words(path)
    return PPLMConfig(new_tokens=options.new_tokens, samples=options.samples, **found)


def _configured(kind: Any) -> Callable[[GenerateOptions], Any]:
    """Returns how a decoder is set that calls all that its method takes by the same names."""

    def built(options: GenerateOptions) -> Any:
        found = given(options, TAKES[options.method])
        return kind(new_tokens=options.new_tokens, samples=options.samples, **found)

    return built


def _das(options: GenerateOptions) -> DASConfig:
    found = given(options, OF_DAS)
    beams = found.get("beams", DASConfig.beams)
    # More beams than candidates ask for as many of these.
    pool = found.pop("candidates", max(beams, DASConfig.pool))
    config = DASConfig(new_tokens=options.new_tokens, samples=options.samples, pool=pool, **found)
    if options.discriminator == "none" and config.alpha > 0:
        raise UserError("das scores beams by a discriminator: choose one, or --alpha 0")
    return config


def _rerank(options: GenerateOptions, plain: SamplingConfig | BeamConfig) -> RerankConfig:
    found = given(options, OF_RERANK + GUIDED)
    if isinstance(plain, BeamConfig):
        # All beams are compared unless fewer are asked for.
        found.setdefault("of", max(1, plain.beams * plain.groups // max(1, options.samples)))
    config = RerankConfig(
        new_tokens=options.new_tokens, samples=options.samples, proposal=plain, **found
    )
    if options.discriminator == "none" and config.alpha > 0:
        raise UserError("re-ranking compares texts by a discriminator: choose one, or --alpha 0")
    return config


_BUILDERS: dict[str, Callable[[GenerateOptions], Any]] = {
    "mcts": _mcts,
    "fudge": _configured(FudgeConfig),
    "gedi": _gedi,
    "pplm": _pplm,
    "smc": _configured(SMCConfig),
    "blockwise": _configured(BlockwiseConfig),
    "das": _das,
    "stochastic-beam": _configured(StochasticBeamConfig),
}
