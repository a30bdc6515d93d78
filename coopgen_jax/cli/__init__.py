"""The command line: generate, compare, train, evaluate, models and plan."""

import contextlib
import dataclasses
import errno
import functools
import operator
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import starmap
from typing import Any

from coopgen_jax.cli import compare_options, evaluate_options, old_flags, train_options
from coopgen_jax.cli.annotate_options import AnnotateOptions
from coopgen_jax.cli.ask import (
    ask,
    first_sentence,
    grouped,
    one_flag,
    subcommand,
    ungrouped,
    value_of,
)
from coopgen_jax.cli.compare_options import CompareOptions
from coopgen_jax.cli.evaluate_options import EvaluateOptions, JudgementOptions, TextsOptions
from coopgen_jax.cli.interrupt import interruptible
from coopgen_jax.cli.options import (
    EXAMPLES,
    GenerateOptions,
    ModelOptions,
    ModelsOptions,
    OutputOptions,
    PlannedOptions,
    PlanOptions,
    PromptOptions,
    WorkOptions,
)
from coopgen_jax.cli.train_options import (
    DiscriminatorOptions,
    GcnOptions,
    LanguageModelOptions,
    TrainOptions,
)
from coopgen_jax.errors import UserError

__all__ = ["main"]

DESCRIPTION = """Cooperative text generation: a language model proposes, a discriminator judges, a
tree search writes. `coopgen generate --help` explains every option, and so do the others';
`coopgen --version` prints the version."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
      arguments: what follows the program's name, `sys.argv[1:]` by default.

    Returns:
      The exit status: 0, or 2 for a mistake of the user's, which stderr tells in one sentence, 130
      when interrupted, 141 when nobody reads the output any more.

    Raises:
      SystemExit: the arguments cannot be parsed, or ask for help.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments == ["--version"]:
        print(f"coopgen {version('coopgen_jax')}")
        return 0
    try:
        with warnings.catch_warnings(), interruptible():
            warnings.showwarning = _show_warning
            _run(_parse(arguments or ["--help"]))
            sys.stdout.flush()
    except UserError as error:
        print(f"coopgen: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("coopgen: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        _close_output()
        return 141
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _close_output()
        print(f"coopgen: error: cannot write ({error.strerror}): free space", file=sys.stderr)
        return 2
    except (AssertionError, RuntimeError):
        if "jax" not in sys.modules:
            raise
        from coopgen_jax.cli.machines import missing_device

        if (sentence := missing_device()) is None:
            raise
        print(f"coopgen: error: {sentence}", file=sys.stderr)
        return 2
    return 0


def _close_output() -> None:
    """Sends the rest to nowhere: the interpreter flushes once more when it ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


Options = (
    GenerateOptions
    | CompareOptions
    | ModelsOptions
    | PlannedOptions
    | TrainOptions
    | EvaluateOptions
)


def _parse(arguments: list[str]) -> Options:
    command, rest = arguments[0], arguments[1:]
    if command == "generate":
        return _parse_generate(rest)
    if command == "plan":
        return _parse_plan(rest)
    if command == "train":
        return _parse_train(rest)
    if command == "evaluate":
        return _parse_evaluate(rest)
    kinds = {
        "generate": GenerateOptions,
        "compare": CompareOptions,
        "models": ModelsOptions,
        "plan": PlanOptions,
        "train": TrainOptions,
        "evaluate": EvaluateOptions,
    }
    if command not in (*kinds, "--help", "-h"):
        raise UserError(f"there is no command {command}: known are {', '.join(kinds)}")
    found: Options = ask(
        functools.reduce(operator.or_, starmap(subcommand, kinds.items())),
        prog="coopgen",
        arguments=arguments,
        description=DESCRIPTION,
        examples=compare_options.EXAMPLES if command == "compare" else "",
    )
    return found


def _parse_generate(arguments: list[str]) -> GenerateOptions:
    from coopgen_jax.cli import method_flags as flags

    arguments = old_flags.without_policy(old_flags.renamed(arguments, old_flags.METHODS))
    name, preset = value_of("--method", arguments), value_of("--preset", arguments)
    method = flags.method_of(name or "mcts", preset)
    flags.check_foreign(method, arguments)
    common = {
        "prompt": PromptOptions,
        "model": ModelOptions,
        "work": WorkOptions,
        "output": OutputOptions,
    }
    asked = {"method": one_flag("method", str, method.name, "The decoder, by its name.")}
    wants_help = {"--help", "-h"} & set(arguments)
    own = flags.groups_of(method)
    if wants_help:
        # One page for what all methods share, and one for each method.
        groups, text = (own, f"{method.line} {SHARED_HELP}") if name else (common, _methods())
    else:
        groups, text = common | asked | own, ""
    read = ask(
        grouped("Options", groups),
        prog=f"coopgen generate --method {name}" if name and wants_help else "coopgen generate",
        arguments=["--help"] if wants_help else arguments,
        description=text,
        examples="" if name else EXAMPLES,
    )
    values = ungrouped(read)
    settings, words = flags.given_settings(method, values, arguments)
    known = {field.name for field in dataclasses.fields(GenerateOptions)}
    shared = {option: value for option, value in values.items() if option in known}
    return GenerateOptions(**shared, settings=settings, words=words)


SHARED_HELP = "Options that all methods share: coopgen generate --help."


def _methods() -> str:
    """Returns a line for every method."""
    from coopgen_jax.cli.method_flags import methods

    lines = [f"  {method.name:<16} {method.line}" for method in methods().values()]
    return "\n".join(
        [
            first_sentence(GenerateOptions),
            "",
            "methods, each with options of its own (coopgen generate --method NAME --help):",
            *lines,
        ]
    )


def _parse_plan(arguments: list[str]) -> PlannedOptions:
    from coopgen_jax.cli import method_flags as flags

    arguments = old_flags.without_policy(old_flags.renamed(arguments, old_flags.METHODS))
    method = flags.method_of("mcts", value_of("--preset", arguments))
    own = flags.groups_of(method)
    groups = {"plan": PlanOptions, "mcts": own["mcts"], "search": own["search"]}
    read = ask(
        grouped("Options", groups),
        prog="coopgen plan",
        arguments=arguments,
        description=PlanOptions.__doc__ or "",
    )
    values = ungrouped(read)
    settings, _ = flags.given_settings(method, values, arguments)
    known = {field.name for field in dataclasses.fields(PlannedOptions)}
    shared = {option: value for option, value in values.items() if option in known}
    return PlannedOptions(**shared, settings=settings)


def _parse_train(arguments: list[str]) -> TrainOptions:
    kinds = {"discriminator": DiscriminatorOptions, "lm": LanguageModelOptions, "gcn": GcnOptions}
    # Only the options of the kind that is trained are shown.
    kind = value_of("--kind", arguments) or DiscriminatorOptions.kind
    others = tuple(name for name, its in train_options.KINDS.items() if kind not in its)
    arguments = old_flags.renamed(arguments, old_flags.TRAININGS)
    return TrainOptions(
        _ask_kind(
            "train",
            kinds,
            arguments,
            TrainOptions,
            train_options.EXAMPLES,
            hidden={"discriminator": others},
        )
    )


def _parse_evaluate(arguments: list[str]) -> EvaluateOptions:
    kinds = {"discriminator": JudgementOptions, "texts": TextsOptions, "annotate": AnnotateOptions}
    return EvaluateOptions(
        _ask_kind("evaluate", kinds, arguments, EvaluateOptions, evaluate_options.EXAMPLES)
    )


def _ask_kind(
    command: str,
    kinds: dict[str, type],
    arguments: list[str],
    kind: type,
    examples: str,
    hidden: Mapping[str, tuple[str, ...]] | None = None,
) -> Any:
    """Returns the options of a command that has others below it."""
    arguments = arguments or ["--help"]
    if arguments[0] not in (*kinds, "--help", "-h"):
        raise UserError(
            f"there is nothing called {arguments[0]} to {command}: give {' or '.join(kinds)}"
        )
    shown = [subcommand(name, one, (hidden or {}).get(name, ())) for name, one in kinds.items()]
    return ask(
        functools.reduce(operator.or_, shown),
        prog=f"coopgen {command}",
        arguments=arguments,
        description=kind.__doc__ or "",
        examples=examples,
    )


def _run(options: Options) -> None:
    # Help must not wait for the libraries that the work needs.
    if isinstance(options, ModelsOptions):
        from coopgen_jax.cli.models import list_models

        list_models(options)
    elif isinstance(options, CompareOptions):
        from coopgen_jax.cli.compare import run_compare

        run_compare(options)
    elif isinstance(options, PlannedOptions):
        from coopgen_jax.cli.plan import run_plan

        run_plan(options)
    elif isinstance(options, TrainOptions):
        from coopgen_jax.cli.train import run_train

        run_train(options)
    elif isinstance(options, EvaluateOptions):
        from coopgen_jax.cli.evaluate import run_evaluate

        run_evaluate(options)
    else:
        from coopgen_jax.cli.generate import run_generate

        run_generate(options)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"coopgen: warning: {message}", file=sys.stderr)
