"""What is wrong with options before anything is loaded."""

import math
from dataclasses import fields

from coopgen_jax.cli.ask import flag
from coopgen_jax.cli.guides import check_wishes
from coopgen_jax.cli.machines import check_machines
from coopgen_jax.cli.model_options import check_combining, names_target
from coopgen_jax.cli.options import GenerateOptions
from coopgen_jax.comparison.method_run import check_targets
from coopgen_jax.decoding.decoder_settings import DecoderSettings
from coopgen_jax.decoding.mcts.mcts_config import ByValues, MCTSConfig
from coopgen_jax.decoding.methods.pplm_config import PPLMConfig
from coopgen_jax.decoding.methods.smc import SMCConfig
from coopgen_jax.errors import UserError
from coopgen_jax.tools.trace import SUFFIXES

SEEDS = 1 << 32


def check_options(options: GenerateOptions) -> None:
    """Raises UserError where an option is out of its range, whatever the method's settings."""
    given = {field.name: getattr(options, field.name) for field in fields(options)}
    for name, value in (given | dict(options.settings)).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{flag(name)} is {value}: give a finite number")
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
    if not all(word.strip() for word in options.words.get("bad_words", ())):
        raise UserError("--bad-words has an empty word: leave it out")
    if not all(options.words.get("stop", ())):
        raise UserError("--stop has an empty text: leave it out")
    if options.batch_size < 1:
        raise UserError(f"--batch-size is {options.batch_size}: give 1 or more")
    kl = options.settings.get("kl")
    if options.method == "mcts" and kl and options.reference is None:
        raise UserError("--kl is what leaving a --reference costs: name that language model too")
    if options.reference is not None and options.method != "mcts":
        raise UserError(
            f"--reference means nothing to --method {options.method}: leave one of them out"
        )
    if options.reference is not None and kl is None:
        raise UserError("--reference needs --kl, what leaving it costs, such as 0.1")
    check_machines(options)
    check_combining(options)
    if options.target is not None and options.discriminator == "none" and not names_target(options):
        raise UserError("--target means nothing without a discriminator: leave one of them out")
    if options.settings.get("mirostat_rate") and not options.settings.get("mirostat"):
        raise UserError("--mirostat-rate needs --mirostat, the surprise to steer to")


def check_target(options: GenerateOptions, config: DecoderSettings) -> None:
    """Raises UserError where a method lacks its discriminator or its target, or has another's."""
    by_bag = isinstance(config, PPLMConfig) and bool(options.words.get("bag"))
    if options.discriminator == "none":
        _check_unguided(options, config, by_bag=by_bag)
    elif options.target is None and config.guided and not by_bag:
        raise UserError(
            f"--method {options.method} needs a --target, such as positive: the class to write "
            "towards"
        )
    if isinstance(config, SMCConfig) and config.samples < 2:
        raise UserError("--method smc weighs particles against each other: give --samples 8, say")


def _check_unguided(options: GenerateOptions, config: DecoderSettings, *, by_bag: bool) -> None:
    if isinstance(config, MCTSConfig):
        if config.value.alpha == 1:
            other = "" if isinstance(config.choice, ByValues) else ", or an --alpha below 1"
            raise UserError(
                "without a discriminator the search has nothing to go by: choose a "
                f"--discriminator{other}"
            )
        asking = {"rollout": config.rollout, "foresight_power": config.foresight_power}
        for setting, value in asking.items():
            if value:
                raise UserError(
                    f"{flag(setting)} asks the discriminator: choose one, or leave it out"
                )
        return
    if not config.guided or by_bag:
        return
    if hasattr(config, "alpha"):
        raise UserError(
            f"--method {options.method} compares texts by a discriminator: choose one, or --alpha 0"
        )
    other = ", or a --bag of words" if isinstance(config, PPLMConfig) else ""
    raise UserError(
        f"--method {options.method} goes by a discriminator: choose one and a --target{other}"
    )


def check_class(options: GenerateOptions) -> None:
    """Raises UserError where the target is no class of the discriminator, by its card."""
    if options.wishes:
        check_wishes(options.wishes)
        return
    guide, target = options.discriminator, options.target
    if target is not None and guide != "none" and not names_target(options):
        check_targets(guide, (target,))
