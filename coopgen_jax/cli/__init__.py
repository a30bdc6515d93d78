"""The command line: a command a file, its options in a file that imports nothing slow."""

import contextlib
import dataclasses
import errno
import functools
import operator
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import version
from itertools import starmap
from typing import Any, TypeVar

from coopgen_jax.cli import (
    augment_options,
    caption_options,
    compare_options,
    evaluate_options,
    explain_options,
    mismatch_options,
    old_flags,
    train_options,
    watermark_options,
)
from coopgen_jax.cli.annotate_options import AnnotateOptions
from coopgen_jax.cli.ask import (
    ask,
    described,
    first_sentence,
    grouped,
    one_flag,
    subcommand,
    ungrouped,
    value_of,
)
from coopgen_jax.cli.augment_options import AugmentOptions, SyntheticOptions
from coopgen_jax.cli.caption_options import CaptionOptions, CaptionWorkOptions, PhotoOptions
from coopgen_jax.cli.captioner_options import CaptionerOptions
from coopgen_jax.cli.clip_options import ClipOptions
from coopgen_jax.cli.compare_options import CompareOptions
from coopgen_jax.cli.evaluate_options import (
    CaptionsOptions,
    EvaluateOptions,
    JudgementOptions,
    TextsOptions,
)
from coopgen_jax.cli.explain_options import ExplainOptions, ShowOptions, TrialOptions
from coopgen_jax.cli.interrupt import interruptible
from coopgen_jax.cli.mismatch_options import MismatchOptions
from coopgen_jax.cli.options import (
    EXAMPLES,
    GenerateOptions,
    GuideOptions,
    MarkOptions,
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
from coopgen_jax.cli.watermark_options import (
    DetectOptions,
    KeyOptions,
    MarkingOptions,
    WatermarkOptions,
)
from coopgen_jax.errors import UserError

__all__ = ["main"]

DESCRIPTION = """Cooperative text generation: a language model proposes, a discriminator judges, a
tree search writes. `coopgen generate --help` explains every option, and so do the others';
`coopgen --version` prints the version."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command: what follows the program's name, `sys.argv[1:]` by default.

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
        return _mistake(error)
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
        return _mistake(f"cannot write ({error.strerror}): free space")
    except (AssertionError, RuntimeError):
        if "jax" not in sys.modules:
            raise
        from coopgen_jax.cli.machines import missing_device

        if (sentence := missing_device()) is None:
            raise
        return _mistake(sentence)
    return 0


def _mistake(sentence: object) -> int:
    print(f"coopgen: error: {sentence}", file=sys.stderr)
    return 2


def _close_output() -> None:
    """Sends the rest to nowhere: the interpreter flushes once more when it ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


_Kind = TypeVar("_Kind", bound=Any)


def _parse(arguments: list[str]) -> Any:
    command = arguments[0]
    parsers: dict[str, Callable[[list[str]], Any]] = {
        "generate": _parse_generate,
        "plan": _parse_plan,
        "train": _parse_train,
        "evaluate": _parse_evaluate,
        "watermark": _parse_watermark,
        "explain": _parse_explain,
        "augment": _parse_augment,
        "caption": _parse_caption,
    }
    if command in parsers:
        return parsers[command](arguments[1:])
    kinds = {
        "generate": GenerateOptions,
        "caption": CaptionOptions,
        "compare": CompareOptions,
        "models": ModelsOptions,
        "plan": PlanOptions,
        "train": TrainOptions,
        "evaluate": EvaluateOptions,
        "watermark": WatermarkOptions,
        "explain": ExplainOptions,
        "augment": AugmentOptions,
        "mismatch": MismatchOptions,
    }
    if command not in (*kinds, "--help", "-h"):
        raise UserError(f"there is no command {command}: known are {', '.join(kinds)}")
    flags = [argument.partition("=")[0] for argument in arguments]
    if command == "compare" and flags.count("--discriminator") > 1:
        raise UserError("compare is guided by one --discriminator towards --target: name it once")
    examples = {"compare": compare_options.EXAMPLES, "mismatch": mismatch_options.EXAMPLES}
    return ask(
        functools.reduce(operator.or_, starmap(subcommand, kinds.items())),
        prog="coopgen",
        arguments=arguments,
        description=DESCRIPTION,
        examples=examples.get(command, ""),
    )


def _parse_generate(arguments: list[str]) -> GenerateOptions:
    arguments = old_flags.without_policy(old_flags.renamed(arguments, old_flags.METHODS))
    common = {
        "prompt": PromptOptions,
        "model": ModelOptions,
        "guide": GuideOptions,
        "mark": MarkOptions,
        "work": WorkOptions,
        "output": OutputOptions,
    }
    return _by_method(GenerateOptions, "generate", "mcts", common, arguments, EXAMPLES)


def _parse_caption(arguments: list[str]) -> CaptionOptions:
    guided = any(argument.partition("=")[0] == "--clip" for argument in arguments)
    method = caption_options.GUIDED_METHOD if guided else caption_options.METHOD
    common = {"pictures": PhotoOptions, "work": CaptionWorkOptions}
    return _by_method(
        CaptionOptions, "caption", method, common, arguments, caption_options.EXAMPLES
    )


def _by_method(
    kind: type[_Kind],
    command: str,
    default: str,
    common: dict[str, type],
    arguments: list[str],
    examples: str,
) -> _Kind:
    """Returns the options of a command that has a page of help for each method."""
    from coopgen_jax.cli import method_flags as flags

    name, preset = value_of("--method", arguments), value_of("--preset", arguments)
    method = flags.method_of(name or default, preset)
    flags.check_foreign(method, arguments)
    asked = {"method": one_flag("method", str, method.name, "The decoder, by its name.")}
    own, prog = flags.groups_of(method), f"coopgen {command}"
    groups, text = common | asked | own, ""
    if {"--help", "-h"} & set(arguments):
        # One page for what all methods share, and one for each method.
        arguments, groups = ["--help"], own if name else common
        text = f"{method.line} Options that all methods share: {prog} --help."
        prog, text = (f"{prog} --method {name}", text) if name else (prog, _methods(kind, command))
    return _ask_method(
        kind, method, groups, prog=prog, arguments=arguments, description=text,
        examples="" if name else examples,
    )  # fmt: skip


def _methods(kind: type, command: str) -> str:
    from coopgen_jax.cli.method_flags import methods

    lines = [first_sentence(kind), ""]
    lines.append(f"methods, each with its options (coopgen {command} --method NAME --help):")
    lines += [f"  {method.name:<16} {method.line}" for method in methods().values()]
    return "\n".join(lines)


def _parse_plan(arguments: list[str]) -> PlannedOptions:
    from coopgen_jax.cli import method_flags as flags

    arguments = old_flags.without_policy(old_flags.renamed(arguments, old_flags.METHODS))
    method = flags.method_of("mcts", value_of("--preset", arguments))
    own = flags.groups_of(method)
    groups = {"plan": PlanOptions, "mcts": own["mcts"], "search": own["search"]}
    return _ask_method(
        PlannedOptions,
        method,
        groups,
        prog="coopgen plan",
        arguments=arguments,
        description=PlanOptions.__doc__ or "",
    )


def _ask_method(
    kind: type[_Kind], method: Any, groups: Mapping[str, type], *, arguments: list[str], **page: str
) -> _Kind:
    """Returns the options of a command that writes by a method, with those of the method."""
    from coopgen_jax.cli.method_flags import given_settings

    values = ungrouped(ask(grouped("Options", groups), arguments=arguments, **page))
    values["settings"], values["words"] = given_settings(method, values, arguments)
    if "discriminator" in values:
        from coopgen_jax.cli.guides import guide_options

        values |= guide_options(values)
    known = {field.name for field in dataclasses.fields(kind)}
    return kind(**{name: value for name, value in values.items() if name in known})


def _parse_train(arguments: list[str]) -> TrainOptions:
    kinds = {
        "discriminator": DiscriminatorOptions,
        "lm": LanguageModelOptions,
        "gcn": GcnOptions,
        "clip": ClipOptions,
        "captioner": CaptionerOptions,
    }
    # Only the options of the kind that is trained are shown.
    kind = value_of("--kind", arguments) or DiscriminatorOptions.kind
    others = tuple(name for name, its in train_options.KINDS.items() if kind not in its)
    arguments = old_flags.renamed(arguments, old_flags.TRAININGS)
    hidden = {"discriminator": others}
    return _ask_kind("train", TrainOptions, kinds, arguments, train_options.EXAMPLES, hidden)


def _parse_evaluate(arguments: list[str]) -> EvaluateOptions:
    kinds = {
        "discriminator": JudgementOptions,
        "texts": TextsOptions,
        "captions": CaptionsOptions,
        "annotate": AnnotateOptions,
    }
    return _ask_kind("evaluate", EvaluateOptions, kinds, arguments, evaluate_options.EXAMPLES)


def _parse_watermark(arguments: list[str]) -> WatermarkOptions:
    kinds = {"key": KeyOptions, "detect": DetectOptions, "evaluate": MarkingOptions}
    return _ask_kind("watermark", WatermarkOptions, kinds, arguments, watermark_options.EXAMPLES)


def _parse_explain(arguments: list[str]) -> Any:
    """Returns what is to be explained, or, where a word says so, shown or rated."""
    kinds = {"show": ShowOptions, "evaluate": TrialOptions}
    kind = kinds.get(arguments[0]) if arguments else None
    if kind is None and arguments and not arguments[0].startswith("-"):
        raise UserError(f"explain takes no {arguments[0]!r}: give options, or show or evaluate")
    return ask(
        described(kind or ExplainOptions),
        prog=f"coopgen explain {arguments[0]}" if kind else "coopgen explain",
        arguments=arguments[1:] if kind else arguments,
        description=described(kind or ExplainOptions).__doc__ or "",
        examples="" if kind else explain_options.EXAMPLES,
    )


def _parse_augment(arguments: list[str]) -> AugmentOptions | SyntheticOptions:
    rates = arguments[:1] == ["evaluate"]
    kind = described(SyntheticOptions if rates else AugmentOptions)
    return ask(
        kind,
        prog="coopgen augment evaluate" if rates else "coopgen augment",
        arguments=arguments[rates:],
        description=kind.__doc__ or "",
        examples="" if rates else augment_options.EXAMPLES,
    )


def _ask_kind(
    command: str,
    kind: type[_Kind],
    kinds: dict[str, type],
    arguments: list[str],
    examples: str,
    hidden: Mapping[str, tuple[str, ...]] | None = None,
) -> _Kind:
    """Returns the options of a command that has others below it."""
    arguments = arguments or ["--help"]
    if arguments[0] not in (*kinds, "--help", "-h"):
        raise UserError(
            f"there is nothing called {arguments[0]} to {command}: give {' or '.join(kinds)}"
        )
    shown = [subcommand(name, one, (hidden or {}).get(name, ())) for name, one in kinds.items()]
    what = ask(
        functools.reduce(operator.or_, shown),
        prog=f"coopgen {command}",
        arguments=arguments,
        description=kind.__doc__ or "",
        examples=examples,
    )
    return kind(what)


# By name: help must not wait for the libraries that the work needs.
RUNS = {
    ModelsOptions: ("models", "list_models"),
    CompareOptions: ("compare", "run_compare"),
    PlannedOptions: ("plan", "run_plan"),
    TrainOptions: ("train", "run_train"),
    CaptionOptions: ("caption", "run_caption"),
    EvaluateOptions: ("evaluate", "run_evaluate"),
    WatermarkOptions: ("watermarking", "run_watermark"),
    ExplainOptions: ("explaining", "run_explain"),
    ShowOptions: ("explaining", "run_explain"),
    TrialOptions: ("explaining", "run_explain"),
    AugmentOptions: ("augment", "run_augment"),
    SyntheticOptions: ("augment_evaluation", "run_augment_evaluation"),
    GenerateOptions: ("generate", "run_generate"),
    MismatchOptions: ("mismatch", "run_mismatch"),
}


def _run(options: Any) -> None:
    for kind, (module, function) in RUNS.items():
        if isinstance(options, kind):
            getattr(import_module(f"coopgen_jax.cli.{module}"), function)(options)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"coopgen: warning: {message}", file=sys.stderr)
