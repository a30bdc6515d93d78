"""What is wrong with options before anything is loaded."""

import math
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from coopgen_jax.cli.machines import check_machines
from coopgen_jax.cli.methods import TAKES
from coopgen_jax.cli.model_options import check_combining, names_target
from coopgen_jax.cli.options import GenerateOptions, PlanOptions
from coopgen_jax.errors import UserError
from coopgen_jax.tools.trace import SUFFIXES

SEEDS = 1 << 32


def check_options(options: GenerateOptions) -> None:
    """Raises UserError where an option is out of its range or belongs to another method."""
    for field in fields(options):
        value = getattr(options, field.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{flag(field.name)} is {value}: give a finite number")
    foreign = sorted(set().union(*TAKES.values()) - set(TAKES[options.method]))
    for name in foreign:
        value = getattr(options, name)
        if value is not False and value not in (None, ()):
            raise UserError(
                f"{flag(name)} means nothing to --method {options.method}: leave one of them out"
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
    if options.method == "mcts" and options.kl and options.reference is None:
        raise UserError("--kl is what leaving a --reference costs: name that language model too")
    if options.reference is not None and options.kl is None:
        raise UserError("--reference needs --kl, what leaving it costs, such as 0.1")
    check_machines(options)
    check_combining(options)
    confidence = options.rollout_confidence
    if confidence is not None and not 0 < confidence <= 1:
        raise UserError(f"--rollout-confidence is {confidence}: give a probability above 0")
    if options.target is not None and options.discriminator == "none" and not names_target(options):
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


def given(options: GenerateOptions | PlanOptions, names: Iterable[str]) -> dict[str, Any]:
    """Returns the options of these names that have been set."""
    values = {name: getattr(options, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def flag(name: str) -> str:
    """Returns how an option is spelt on the command line."""
    return "--" + name.replace("_", "-")
