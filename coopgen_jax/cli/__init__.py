"""The command line: generate, compare, train, evaluate, models and plan."""

import contextlib
import errno
import os
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated

from coopgen_jax.cli import compare_options, evaluate_options, train_options
from coopgen_jax.cli.annotate_options import AnnotateOptions
from coopgen_jax.cli.compare_options import CompareOptions
from coopgen_jax.cli.evaluate_options import EvaluateOptions, JudgementOptions, TextsOptions
from coopgen_jax.cli.options import EXAMPLES, GenerateOptions, ModelsOptions, PlanOptions
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
        with warnings.catch_warnings():
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
    GenerateOptions | CompareOptions | ModelsOptions | PlanOptions | TrainOptions | EvaluateOptions
)


def _parse(arguments: list[str]) -> Options:
    import tyro

    generate = tyro.conf.subcommand("generate", description=GenerateOptions.__doc__)
    compare = tyro.conf.subcommand("compare", description=CompareOptions.__doc__)
    models = tyro.conf.subcommand("models", description=ModelsOptions.__doc__)
    plan = tyro.conf.subcommand("plan", description=PlanOptions.__doc__)
    if arguments[0] == "train":
        return _parse_train(arguments[1:])
    if arguments[0] == "evaluate":
        return _parse_evaluate(arguments[1:])
    train = tyro.conf.subcommand("train", description=TrainOptions.__doc__)
    evaluate = tyro.conf.subcommand("evaluate", description=EvaluateOptions.__doc__)
    commands = (
        Annotated[GenerateOptions, generate]
        | Annotated[CompareOptions, compare]
        | Annotated[ModelsOptions, models]
        | Annotated[PlanOptions, plan]
        | Annotated[TrainOptions, train]
        | Annotated[EvaluateOptions, evaluate]
    )
    try:
        return tyro.cli(
            commands,  # type: ignore[arg-type]
            prog="coopgen",
            description=DESCRIPTION,
            args=arguments,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    except SystemExit as stop:
        if not stop.code and arguments[0] == "generate":
            print(f"{_presets()}\n{EXAMPLES}", end="")
        if not stop.code and arguments[0] == "compare":
            print(compare_options.EXAMPLES, end="")
        raise


def _parse_train(arguments: list[str]) -> TrainOptions:
    import tyro

    judge = tyro.conf.subcommand("discriminator", description=DiscriminatorOptions.__doc__)
    writer = tyro.conf.subcommand("lm", description=LanguageModelOptions.__doc__)
    both = tyro.conf.subcommand("gcn", description=GcnOptions.__doc__)
    kinds = (
        Annotated[DiscriminatorOptions, judge]
        | Annotated[LanguageModelOptions, writer]
        | Annotated[GcnOptions, both]
    )
    try:
        what = tyro.cli(
            kinds,  # type: ignore[arg-type]
            prog="coopgen train",
            description=TrainOptions.__doc__,
            args=arguments or ["--help"],
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    except SystemExit as stop:
        if not stop.code:
            print(train_options.EXAMPLES, end="")
        raise
    return TrainOptions(what)


def _parse_evaluate(arguments: list[str]) -> EvaluateOptions:
    import tyro

    arguments = arguments or ["--help"]
    if arguments[0] not in ("discriminator", "texts", "annotate", "--help", "-h"):
        raise UserError(
            f"there is nothing called {arguments[0]} to evaluate: give discriminator, texts or "
            "annotate"
        )
    judge = tyro.conf.subcommand("discriminator", description=JudgementOptions.__doc__)
    texts = tyro.conf.subcommand("texts", description=TextsOptions.__doc__)
    people = tyro.conf.subcommand("annotate", description=AnnotateOptions.__doc__)
    kinds = (
        Annotated[JudgementOptions, judge]
        | Annotated[TextsOptions, texts]
        | Annotated[AnnotateOptions, people]
    )
    try:
        what = tyro.cli(
            kinds,  # type: ignore[arg-type]
            prog="coopgen evaluate",
            description=EvaluateOptions.__doc__,
            args=arguments,
            config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes),
        )
    except SystemExit as stop:
        if not stop.code:
            print(evaluate_options.EXAMPLES, end="")
        raise
    return EvaluateOptions(what)


def _presets() -> str:
    """Returns what the presets stand for."""
    from coopgen_jax.cli.settings import preset_values

    return "presets:\n" + "".join(f"  {line}\n" for line in preset_values())


def _run(options: Options) -> None:
    # Help must not wait for the libraries that the work needs.
    if isinstance(options, ModelsOptions):
        from coopgen_jax.cli.models import list_models

        list_models(options)
    elif isinstance(options, CompareOptions):
        from coopgen_jax.cli.compare import run_compare

        run_compare(options)
    elif isinstance(options, PlanOptions):
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
