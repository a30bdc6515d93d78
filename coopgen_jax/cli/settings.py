"""From options to the settings of a decoder."""

import math
from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any

from coopgen_jax.cli.combining import check_combining
from coopgen_jax.cli.machines import check_machines
from coopgen_jax.cli.options import GenerateOptions, PlanOptions
from coopgen_jax.cli.words import read_words
from coopgen_jax.decoding.beam import BeamConfig
from coopgen_jax.decoding.blockwise import BlockwiseConfig
from coopgen_jax.decoding.das import DASConfig
from coopgen_jax.decoding.fudge import FudgeConfig
from coopgen_jax.decoding.gedi import GediConfig
from coopgen_jax.decoding.mcts_config import MCTSConfig
from coopgen_jax.decoding.pplm_config import PPLMConfig
from coopgen_jax.decoding.presets import PRESETS, Decoding
from coopgen_jax.decoding.rerank import RerankConfig
from coopgen_jax.decoding.sampling import SamplingConfig
from coopgen_jax.decoding.smc import SMCConfig
from coopgen_jax.decoding.stochastic_beam import StochasticBeamConfig
from coopgen_jax.errors import UserError
from coopgen_jax.search.config import SearchConfig
from coopgen_jax.trace import SUFFIXES

OF_SEARCH = (
    "simulations",
    "wave",
    "policy",
    "candidates",
    "considered",
    "value_scale",
    "depth",
    "c_puct",
    "enough",
)
GUIDED = ("alpha",)
OF_MCTS = ("width", "visit_temperature", "rollout", "rollout_confidence")
OF_SAMPLING = ("top_k", "top_p", "min_p", "typical_p", "eta", "mirostat", "mirostat_rate")
OF_PLAIN = ("bad_words", "begin_with")
OF_RERANK = ("of",)
OF_FUDGE = ("candidates", "strength", "score", "look_ahead")
OF_GEDI = ("strength", "filter_p", "target_p")
OF_PPLM = ("step_size", "iterations", "kl", "fusion", "window")
OF_SMC = ("power", "threshold", "resampling")
OF_BEAMS = ("beams", "groups", "diversity", "length_penalty")
OF_BLOCKS = ("block", "of", "temperature", "top_k", "top_p")
OF_DAS = ("beams", "candidates", "alpha", "length_penalty", "no_repeat_ngram")
SHARED = ("temperature", "repetition_penalty", "no_repeat_ngram")
# What each method takes of all that only some methods take.
TAKES: dict[str, tuple[str, ...]] = {
    "mcts": OF_SEARCH + OF_MCTS + GUIDED + SHARED,
    "fudge": OF_FUDGE + SHARED,
    "gedi": (*OF_GEDI, "draw", *SHARED),
    "pplm": (*OF_PPLM, "bag", "top_k", "temperature"),
    "smc": (*OF_SMC, "temperature"),
    "rerank": OF_RERANK + OF_BEAMS + OF_SAMPLING + OF_PLAIN + GUIDED + SHARED,
    "blockwise": OF_BLOCKS,
    "das": OF_DAS,
    "beam": (*OF_BEAMS, "no_repeat_ngram"),
    "stochastic-beam": ("temperature",),
    "sample": OF_SAMPLING + OF_PLAIN + SHARED,
    "greedy": (*OF_PLAIN, "repetition_penalty", "no_repeat_ngram"),
}
SEEDS = 1 << 32
# What `--compare` writes beside every text.
COMPARED_TOP_P = 0.9


def decoder_config(options: GenerateOptions) -> Decoding:
    """Returns the settings that the options ask for; what is left unset is the preset's.

    Raises:
      UserError: an option is out of its range or belongs to another method.
    """
    _check(options)
    try:
        if options.method == "mcts":
            return _mcts(options)
        if options.method == "fudge":
            return _fudge(options)
        if options.method == "gedi":
            return _gedi(options)
        if options.method == "pplm":
            return _pplm(options)
        if options.method == "smc":
            return _particles(options)
        if options.method == "blockwise":
            return _configured(BlockwiseConfig, options)
        if options.method == "das":
            return _das(options)
        if options.method == "stochastic-beam":
            return _configured(StochasticBeamConfig, options)
        by_beams = options.method == "beam" or bool(_given(options, OF_BEAMS))
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
            f"{_flag(option)} {value if isinstance(value, str) else format(value, 'g')}"
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


def is_redundant(config: Decoding) -> bool:
    """Tells whether all samples of a prompt are bound to be the same."""
    if isinstance(config, RerankConfig):
        return is_redundant(config.written)
    if config.samples == 1:
        return False
    if isinstance(config, SamplingConfig | PPLMConfig):
        return config.temperature == 0
    if isinstance(config, MCTSConfig):
        return config.visit_temperature == 0 and config.rollout == 0
    if isinstance(config, GediConfig):
        return config.greedy
    return isinstance(config, FudgeConfig) and (config.greedy or config.candidates == 1)


def _check(options: GenerateOptions) -> None:
    for field in fields(options):
        value = getattr(options, field.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{_flag(field.name)} is {value}: give a finite number")
    foreign = sorted(set().union(*TAKES.values()) - set(TAKES[options.method]))
    for name in foreign:
        value = getattr(options, name)
        if value is not False and value not in (None, ()):
            raise UserError(
                f"{_flag(name)} means nothing to --method {options.method}: leave one of them out"
            )
    if options.trace and options.method != "mcts":
        raise UserError(
            f"--trace shows search trees and --method {options.method} grows none: leave one of "
            "them out"
        )
    if options.trace and options.trace.suffix not in SUFFIXES:
        raise UserError(f"--trace {options.trace} must end in {' or '.join(SUFFIXES)}")
    if options.trace and options.out and options.trace.resolve() == options.out.resolve():
        raise UserError(f"--out and --trace both write {options.out}: give each a file of its own")
    if not 0 <= options.seed < SEEDS:
        raise UserError(f"--seed is {options.seed}: give a number from 0 to {SEEDS - 1}")
    if not all(word.strip() for word in options.bad_words):
        raise UserError("--bad-words has an empty word: leave it out")
    if options.batch_size < 1:
        raise UserError(f"--batch-size is {options.batch_size}: give 1 or more")
    check_machines(options)
    check_combining(options)
    confidence = options.rollout_confidence
    if confidence is not None and not 0 < confidence <= 1:
        raise UserError(f"--rollout-confidence is {confidence}: give a probability above 0")
    if options.target is not None and options.discriminator == "none":
        raise UserError("--target means nothing without a discriminator: leave one of them out")
    if options.mirostat_rate is not None and not options.mirostat:
        raise UserError("--mirostat-rate needs --mirostat, the surprise to steer to")
    if options.method in ("fudge", "gedi", "smc", "blockwise") and options.discriminator == "none":
        raise UserError(
            f"--method {options.method} goes by a discriminator: choose one and a --target"
        )
    if options.method == "pplm" and options.discriminator == "none" and not options.bag:
        raise UserError("--method pplm goes by a discriminator and a --target, or a --bag of words")
    guided = (
        options.method in ("mcts", "fudge", "gedi", "smc", "blockwise")
        or (options.method in ("rerank", "das") and options.alpha != 0)
        or (options.method == "pplm" and not options.bag)
    )
    if guided and options.discriminator != "none" and options.target is None:
        raise UserError(
            f"--method {options.method} needs a --target, such as positive: the class to write "
            "towards"
        )
    if options.method == "smc" and options.samples < 2:
        raise UserError("--method smc weighs particles against each other: give --samples 8, say")


def _given(options: GenerateOptions | PlanOptions, names: Iterable[str]) -> dict[str, Any]:
    values = {name: getattr(options, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _mcts(options: GenerateOptions) -> MCTSConfig:
    preset = PRESETS[options.preset]
    search = preset_search(options, preset.search)
    # The whole is checked once, not every option on its own.
    config = replace(
        preset,
        anneal=preset.anneal and options.visit_temperature != 0,
        new_tokens=options.new_tokens,
        samples=options.samples,
        search=search,
        **_given(options, GUIDED + OF_MCTS + SHARED),
    )
    if config.rollout_confidence is not None and not config.rollout:
        raise UserError("--rollout-confidence needs --rollout, the tokens to sample at most")
    if options.discriminator == "none" and (options.alpha is None or config.alpha == 1):
        raise UserError(
            "without a discriminator the search has nothing to go by: choose a --discriminator, "
            "or an --alpha below 1"
        )
    if options.discriminator == "none" and config.rollout:
        raise UserError("--rollout is read by the discriminator alone: choose one, or leave it out")
    if options.discriminator == "none" and config.width:
        raise UserError("--width asks the discriminator about tokens: choose one, or leave it out")
    return config


def preset_search(options: GenerateOptions | PlanOptions, preset: SearchConfig) -> SearchConfig:
    """Returns a preset's search with what the options change.

    What outlives a token grows with the simulations, halving compares no more candidates than there
    are, and the wave becomes one that divides the simulations and that halving can fill.

    Raises:
      ValueError: a setting is out of its range.
    """
    given = _given(options, [name for name in OF_SEARCH if hasattr(options, name)])
    if preset.kept and "simulations" in given:
        given["kept"] = max(given["simulations"] * preset.kept // preset.simulations, 0)
    simulations = given.get("simulations", preset.simulations)
    candidates = given.get("candidates", preset.candidates)
    considered = given.setdefault("considered", max(0, min(preset.considered, candidates)))
    if "wave" not in given and simulations > 0 and candidates > 0:
        widest = min(preset.wave, simulations, candidates, max(considered, 0) or candidates)
        given["wave"] = max(wave for wave in range(1, widest + 1) if simulations % wave == 0)
    return replace(preset, **given)


def _sampling(options: GenerateOptions) -> SamplingConfig:
    given = _given(options, OF_SAMPLING + SHARED)
    if options.method == "greedy":
        given["temperature"] = 0.0
    return SamplingConfig(new_tokens=options.new_tokens, samples=options.samples, **given)


def _beams(options: GenerateOptions) -> BeamConfig:
    given = _given(options, (*OF_BEAMS, "no_repeat_ngram"))
    if options.method == "rerank":
        for name in sorted(set(TAKES["sample"]) - set(TAKES["beam"])):
            if getattr(options, name) not in (None, ()):
                raise UserError(f"{_flag(name)} means nothing to beams: leave it or --beams out")
        return BeamConfig(new_tokens=options.new_tokens, **given)
    return BeamConfig(new_tokens=options.new_tokens, samples=options.samples, **given)


def _fudge(options: GenerateOptions) -> FudgeConfig:
    given = _given(options, OF_FUDGE + SHARED)
    return FudgeConfig(new_tokens=options.new_tokens, samples=options.samples, **given)


def _gedi(options: GenerateOptions) -> GediConfig:
    given = _given(options, OF_GEDI + SHARED) | {"greedy": not options.draw}
    return GediConfig(new_tokens=options.new_tokens, samples=options.samples, **given)


def _pplm(options: GenerateOptions) -> PPLMConfig:
    given = _given(options, (*OF_PPLM, "top_k", "temperature"))
    # Their words need the tokenizer; that there are any is seen before it is loaded.
    for path in options.bag:
        read_words(path)
    return PPLMConfig(new_tokens=options.new_tokens, samples=options.samples, **given)


def _particles(options: GenerateOptions) -> SMCConfig:
    given = _given(options, (*OF_SMC, "temperature"))
    return SMCConfig(new_tokens=options.new_tokens, samples=options.samples, **given)


def _configured(kind: Any, options: GenerateOptions) -> Any:
    """Returns the settings of a decoder that calls all that its method takes by the same names."""
    given = _given(options, TAKES[options.method])
    return kind(new_tokens=options.new_tokens, samples=options.samples, **given)


def _das(options: GenerateOptions) -> DASConfig:
    given = _given(options, OF_DAS)
    beams = given.get("beams", DASConfig.beams)
    # More beams than candidates ask for as many of these.
    pool = given.pop("candidates", max(beams, DASConfig.pool))
    config = DASConfig(new_tokens=options.new_tokens, samples=options.samples, pool=pool, **given)
    if options.discriminator == "none" and config.alpha > 0:
        raise UserError("das scores beams by a discriminator: choose one, or --alpha 0")
    return config


def _rerank(options: GenerateOptions, plain: SamplingConfig | BeamConfig) -> RerankConfig:
    given = _given(options, OF_RERANK + GUIDED)
    if isinstance(plain, BeamConfig):
        # All beams are compared unless fewer are asked for.
        given.setdefault("of", max(1, plain.beams * plain.groups // max(1, options.samples)))
    config = RerankConfig(proposal=plain, samples=options.samples, **given)
    if options.discriminator == "none" and config.alpha > 0:
        raise UserError("re-ranking compares texts by a discriminator: choose one, or --alpha 0")
    return config


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
