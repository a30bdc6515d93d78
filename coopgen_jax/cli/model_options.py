"""Which language models a run writes by: one, or several whose logits are combined."""

from collections.abc import Callable
from typing import Any

from coopgen_jax.cli.options import GenerateOptions
from coopgen_jax.errors import UserError
from coopgen_jax.models.pretrained import steering
from coopgen_jax.models.pretrained.loaded_model import LoadedModel
from coopgen_jax.models.pretrained.steering import Steering


def check_combining(options: GenerateOptions) -> None:
    """Checks what can be known before a model is loaded.

    Raises:
      UserError: an option lacks another one that it belongs to.
    """
    if options.expert_weight is None and options.expert and not options.anti_expert:
        raise UserError(
            "--expert without --anti-expert is mixed with the model: give --expert-weight, its "
            "share, such as 0.5"
        )
    if options.expert_weight is not None and not (options.expert or options.anti_expert):
        raise UserError("--expert-weight needs --expert or --anti-expert, whose logits it weighs")
    if options.guidance is not None and options.negative_prompt is None:
        raise UserError("--guidance needs --negative-prompt, what the model is guided away from")
    if names_target(options) and options.wishes:
        raise UserError("{target} stands for a --target, and every --discriminator has its own")
    if names_target(options) and options.target is None:
        raise UserError("{target} stands for a --target, and there is none: name it")


def steering_options(options: GenerateOptions) -> Steering:
    """Returns what the options combine with the model."""
    return Steering(
        options.expert, options.anti_expert, options.expert_weight,
        options.negative_prompt, options.guidance, options.control_code,
    )  # fmt: skip


def names_target(options: GenerateOptions) -> bool:
    """Tells whether which models write depends on the target."""
    return steering_options(options).names_target


def combine_models(
    options: GenerateOptions, base: LoadedModel, load: Callable[..., LoadedModel]
) -> LoadedModel:
    """Returns the model that writes towards the target: the base, or it combined with others.

    Those are loaded by their names; one that is named twice is loaded once.

    Raises:
      UserError: a model cannot be loaded, or does not go with the base.
    """
    return steering_options(options).combine(base, _other(options, base, load), options.target)


def load_reference(
    options: GenerateOptions,
    base: LoadedModel,
    writer: LoadedModel,
    load: Callable[..., LoadedModel],
) -> LoadedModel | None:
    """Returns the model of --reference, None where nothing is to be read of one.

    Raises:
      UserError: it cannot be loaded, or does not go with the writer.
    """
    if options.reference is None or not options.settings.get("kl"):
        return None
    return steering.load_reference(options.reference, base, writer, _other(options, base, load))


def _other(options: GenerateOptions, base: LoadedModel, load: Callable[..., Any]) -> steering.Load:
    """Returns what loads a model by its name, the base not once more."""
    return lambda name: base if name == options.model else load(name, dtype=options.dtype)
